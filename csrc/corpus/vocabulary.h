// From counted words to a vocabulary.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "corpus/buffer.h"
#include "corpus/parallel.h"
#include "corpus/word_table.h"

namespace embedtrain {

// What to do with a word whose bytes are not UTF-8 text.
enum class Errors {
    kStrict,   // stop
    kReplace,  // put U+FFFD for the bad bytes
    kSkip,     // leave the word out
};

// Lower-cases non-ASCII words: takes and gives them as UTF-8, a word a line.
using Lower = std::function<std::string(const std::string&)>;

// Which words are to be the vocabulary.
struct Choice {
    std::int64_t min_count = 1;
    std::int64_t max_words = INT64_MAX;
    std::string_view pad_word;                   // kept out of the vocabulary; empty: none
    Lower lower;                                 // empty: words stay as they are
    std::optional<std::string_view> vocabulary;  // take these words, one a line, instead of choosing
};

struct Vocabulary {
    std::string words;                 // a word a line, most frequent first; ties by bytes
    std::vector<std::int64_t> counts;  // (V,)
    // Of all words, the pad word left out:
    std::int64_t distinct_words = 0;
    std::int64_t tokens = 0;
    std::int64_t largest_count = 0;
    std::int64_t padding = 0;  // tokens that are the pad word
};

// A word with its count; the more frequent comes first, then by bytes.
struct CountedWord {
    std::int64_t count;
    WordKey key;
    bool operator<(const CountedWord& other) const {
        return count != other.count ? count > other.count : key < other.key;
    }
};

constexpr std::int32_t kDropped = -1;  // in the place of the final id of a word outside the vocabulary

// Words that have become others: (id, id of what it became, or kDropped), in this order.
using Changes = std::vector<std::pair<std::int32_t, std::int32_t>>;

// Errors::kReplace and kSkip, a distinct word at a time; adds up the tokens concerned.
void mend(WordTable& table, Errors errors, Changes& changes, std::int64_t& replaced, std::int64_t& invalid);
// Puts words into lower case, the non-ASCII ones many at a time.
class LowerCase {
  public:
    // use(word, the same in lower case, count)
    using Use = std::function<void(const WordKey&, const WordKey&, std::int64_t)>;

    LowerCase(const Lower& lower_foreign, Use use) : lower_foreign_(lower_foreign), use_(std::move(use)) {}
    void add(const WordKey& key, std::int64_t count);
    void finish();

  private:
    static constexpr std::size_t kBatchBytes = std::size_t{1} << 20;
    struct Foreign {
        WordKey key;
        std::int64_t count;
    };

    const Lower& lower_foreign_;
    Use use_;
    std::string word_, foreign_words_;
    std::vector<Foreign> foreign_;
    Arena arena_;
};

// Replaces the words by lower-case ones.
void lower(WordTable& table, const Lower& lower_foreign, Changes& changes);
// Gives the words that have changed the final ids of what they became.
void resolve(const Changes& changes, Buffer<std::int32_t>& final_ids);

// Chooses a vocabulary among words that are added by several threads.
class VocabularyChooser {
  public:
    VocabularyChooser(const Choice& choice, const Threads& threads);

    // The count of a word in the whole corpus; each thread has a number of its own.
    void add(std::size_t thread, const WordKey& key, std::int64_t count);
    // All words are added.
    Vocabulary finish();
    // The words by row, after finish(); their ids are those they were added with, -1: never added.
    const Buffer<CountedWord>& rows() const { return rows_; }

  private:
    struct alignas(128) Part {           // of a thread
        Buffer<CountedWord> candidates;  // and room for more
        std::size_t size = 0;
        Arena arena;  // of their long words
        Vocabulary totals;
    };

    void trim(Part& part) const;

    const Choice& choice_;
    const Threads& threads_;
    WordKey pad_;
    std::unique_ptr<WordTable> given_;  // the counts are the rows
    std::vector<Part> parts_;
    Buffer<CountedWord> rows_;
};

}  // namespace embedtrain
