// Reads a corpus once: bytes -> words -> counts -> ids.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/buffer.h"
#include "corpus/ids.h"
#include "corpus/parallel.h"
#include "corpus/progress.h"
#include "corpus/vocabulary.h"
#include "corpus/word_table.h"

namespace embedtrain {

// The first byte of a file that is not text.
struct BadByte {
    std::int64_t line;    // from 1
    std::int64_t offset;  // from 0, in the file
    unsigned char byte;
};

struct Encoded : Vocabulary {
    Buffer<std::int32_t> ids;  // (N,) index into words
    std::vector<std::int64_t>
        offsets;  // (S + 1,) sentence s is ids[offsets[s] .. offsets[s + 1]); none is empty
    std::int64_t lines = 0;
    std::int64_t tokens_read = 0;  // before any was dropped
    std::int64_t out_of_vocabulary = 0;
    std::int64_t replaced = 0;  // tokens with bytes replaced
    std::int64_t invalid = 0;   // tokens left out by Errors::kSkip
};

// Tokens are what ASCII white space separates, a sentence is a line and ends with its file. The bytes are fed
// in chunks of any size, are counted by several threads and become provisional ids at once; finish() chooses
// the vocabulary and turns these into the final ones. The result does not depend on the chunks or the number
// of threads.
class Encoder {
  public:
    Encoder(int workers, Errors errors);
    // Keeps to a folder what does not fit in about `memory_bytes`; the vocabulary is beyond these, and a few
    // MB a thread. What finish() gives is the same, but ids and offsets are in the folder, as ids.bin and
    // offsets.bin: the numbers as they lie in memory, complete when finish() returns. Throws FileError.
    Encoder(int workers, Errors errors, const std::string& folder, std::int64_t memory_bytes);
    ~Encoder();

    // The next bytes of the file. Errors::kStrict: gives the first bad byte; the encoder is of no use then.
    std::optional<BadByte> feed(std::string_view chunk);
    // The file has ended, and with it its last token and sentence.
    std::optional<BadByte> end_file();
    // As if memory were full. For the tests.
    void spill();
    // All files have ended. The encoder is of no use afterwards. `tell` is called by this thread.
    Encoded finish(const Choice& choice, const Tell& tell = {});

    // Where it keeps files; empty: nowhere.
    std::string folder() const;

  private:
    struct Piece;
    struct Worker;
    struct Spill;

    void new_table();
    void encode_piece(std::size_t thread, std::string_view text, Piece& piece);
    bool encode_token(std::size_t thread, std::string_view token, std::int32_t*& out);
    std::optional<BadByte> encode_text(std::string_view text, std::int64_t offset);
    std::optional<BadByte> encode_step(std::string_view text, std::int64_t offset);
    std::optional<BadByte> encode_carry(std::int64_t end_offset);
    std::int64_t newlines_seen() const;
    void add_up_counts();
    void make_final(const std::function<Buffer<std::int32_t>(std::size_t)>& final_ids_of_run, Encoded& result,
                    Progress& progress);

    Errors errors_;
    Threads threads_;
    std::unique_ptr<WordTable> table_;
    std::vector<Worker> workers_;
    Ids ids_;                             // provisional until they are made final in place
    std::vector<std::int64_t> run_ends_;  // behind the ids of each table that was spilled
    std::string carry_;                   // the start of a token that a chunk has cut
    std::int64_t file_bytes_ = 0;         // fed so far, of this file
    std::int64_t file_newlines_ = 0;      // before this file
    bool open_line_ = false;              // the file does not end with a newline so far
    std::int64_t newlines_ = 0;           // that the workers have forgotten
    std::int64_t unended_lines_ = 0;
    struct {
        std::int64_t replaced = 0, invalid = 0;  // tokens, by their words; the workers have those with NULs
    } mended_;
    std::unique_ptr<Spill> spill_;  // null: all stays in memory
};

}  // namespace embedtrain
