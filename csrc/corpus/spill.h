// What does not fit in memory while a corpus is counted goes to files: provisional ids, and words with
// counts.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/buffer.h"
#include "corpus/file.h"
#include "corpus/parallel.h"
#include "corpus/progress.h"
#include "corpus/vocabulary.h"
#include "corpus/word_table.h"

namespace embedtrain {

// Tables of words that have left memory. Each is a "run": its words and counts, in the order of their hashes.
class WordRuns {
  public:
    static constexpr std::size_t kRanges = 256;  // of the hashes

    struct Run {
        std::size_t ids = 0;  // no id in it is as great
        std::int64_t words = 0;
        std::array<std::int64_t, kRanges + 1> at{};  // where the words of each range of hashes lie
        std::size_t changes = 0;                     // they follow the words

        std::int64_t bytes(std::size_t first_range = 0, std::size_t last_range = kRanges) const {
            return at[last_range] - at[first_range];
        }
    };

    explicit WordRuns(const std::string& folder);

    std::size_t size() const { return runs_.size(); }
    const Run& operator[](std::size_t i) const { return runs_[i]; }

    // Adds a table, whose ids are to be `first_id` higher, with changes among its ids.
    void add(WordTable& table, std::size_t first_id, const Changes& changes, const Threads& threads);
    // task(word, count) for the words in some ranges of hashes, their ids included.
    template <typename Task>
    void for_each(const Run& run, std::size_t first_range, std::size_t last_range, const Task& task) const {
        Reader reader(file_, run.at[first_range], run.at[last_range]);
        for (WordKey key; reader.next(key);) task(key, reader.count());
    }
    Changes changes(const Run& run) const;
    // That the words take in the file.
    std::int64_t bytes() const;

  private:
    class Reader {
      public:
        Reader(const File& file, std::int64_t from, std::int64_t to) : file_(file), next_(from), end_(to) {}
        // The word is valid until the next one.
        bool next(WordKey& key);
        std::int64_t count() const { return head_.count; }

      private:
        friend class WordRuns;
        struct Head {  // of a word; its bytes follow
            std::int64_t count;
            std::int32_t id;
            std::uint32_t length;
        };
        const char* take(std::size_t bytes);

        const File& file_;
        std::int64_t next_, end_;  // in the file, behind what the buffer holds
        std::string buffer_;
        std::size_t used_ = 0;
        Head head_{};
    };

    File file_;
    std::int64_t written_ = 0;
    std::vector<Run> runs_;
};

// The same words with their counts as in several runs, by their place in the vocabulary.
class RowTable {
  public:
    RowTable(const Buffer<CountedWord>& rows, const Threads& threads);
    // The final ids of a run's words.
    Buffer<std::int32_t> final_ids(const WordRuns& runs, const WordRuns::Run& run, const Threads& threads,
                                   Progress& progress) const;

  private:
    WordTable table_;  // the counts are the rows
};

// The runs with all words in lower case.
WordRuns lower(const WordRuns& runs, const std::string& folder, const Lower& lower_foreign,
               const Threads& threads, Progress& progress);

// Adds up the counts of all runs, a range of hashes at a time, with about `most_words` words in memory.
void add_up(const WordRuns& runs, std::size_t most_words, const Threads& threads, VocabularyChooser& chooser,
            Progress& progress);

}  // namespace embedtrain
