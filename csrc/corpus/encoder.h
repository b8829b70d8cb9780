// Reads a corpus once: bytes -> words -> counts -> ids.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/buffer.h"
#include "corpus/word_table.h"

namespace embedtrain {

// What to do with a word whose bytes are not UTF-8 text.
enum class Errors {
    kStrict,   // stop
    kReplace,  // put U+FFFD for the bad bytes
    kSkip,     // leave the word out
};

// The first byte of a file that is not text.
struct BadByte {
    std::int64_t line;    // from 1
    std::int64_t offset;  // from 0, in the file
    unsigned char byte;
};

struct Encoded {
    std::string words;                 // the vocabulary, a word a line, most frequent first; ties by bytes
    std::vector<std::int64_t> counts;  // (V,)
    Buffer<std::int32_t> ids;          // (N,) index into words
    std::vector<std::int64_t>
        offsets;                   // (S + 1,) sentence s is ids[offsets[s] .. offsets[s + 1]); none is empty
    std::int64_t tokens_read = 0;  // before any was dropped
    std::int64_t lines = 0;
    std::int64_t distinct_words = 0;
    std::int64_t largest_count = 0;  // of any word
    std::int64_t replaced = 0;       // tokens with bytes replaced
    std::int64_t invalid = 0;        // tokens left out by Errors::kSkip
    std::int64_t padding = 0;        // tokens that are the pad word
    std::int64_t out_of_vocabulary = 0;
};

// Tokens are what ASCII white space separates, a sentence is a line and ends with its file. The bytes are fed
// in chunks of any size, are counted by several threads and become provisional ids at once; finish() chooses
// the vocabulary and turns these into the final ones. The result does not depend on the chunks or the number
// of threads.
class Encoder {
  public:
    // Lower-cases non-ASCII words: takes and gives them as UTF-8, a word a line.
    using Lower = std::function<std::string(const std::string&)>;

    struct Choice {
        std::int64_t min_count = 1;
        std::int64_t max_words = INT64_MAX;
        std::string_view pad_word;                   // kept out of the vocabulary; empty: none
        Lower lower;                                 // empty: words stay as they are
        std::optional<std::string_view> vocabulary;  // map to these words, one a line, instead of choosing
    };

    Encoder(int workers, Errors errors);
    ~Encoder();

    // The next bytes of the file. Errors::kStrict: gives the first bad byte; the encoder is of no use then.
    std::optional<BadByte> feed(std::string_view chunk);
    // The file has ended, and with it its last token and sentence.
    std::optional<BadByte> end_file();
    // All files have ended. The encoder is of no use afterwards.
    Encoded finish(const Choice& choice);

  private:
    struct Segment {  // the provisional ids of one piece of text
        std::int32_t* ids;
        std::int64_t size;
        std::size_t worker;
        std::size_t block;               // of the worker, holds the ids
        std::vector<std::int64_t> ends;  // positions in ids where a line ends, once they are final
    };
    struct Worker;

    void encode_piece(Worker& worker, std::string_view text, std::size_t from, std::size_t to,
                      Segment& segment);
    bool encode_token(Worker& worker, std::string_view token, std::int32_t*& out);
    std::optional<BadByte> encode_text(std::string_view text, std::int64_t offset);
    std::optional<BadByte> encode_carry(std::int64_t end_offset);
    std::int64_t newlines_seen();
    template <typename Task>
    void in_parallel(std::size_t tasks, const Task& task);
    template <typename T>
    void sort_in_parallel(T* begin, T* end);

    Errors errors_;
    std::vector<Worker> workers_;
    std::vector<Segment> segments_;   // in the order of the text
    std::string carry_;               // the start of a token that a chunk has cut
    std::int64_t file_bytes_ = 0;     // fed so far, of this file
    std::int64_t file_newlines_ = 0;  // before this file
    bool open_line_ = false;          // the file does not end with a newline so far
    std::int64_t unended_lines_ = 0;
};

}  // namespace embedtrain
