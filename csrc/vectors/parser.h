// Files of vectors, a token and its numbers per row, fed in chunks of any size.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "vectors/rows.h"

namespace embedtrain {

class Parser {
  public:
    enum class Status {
        kMore,     // feed on
        kEnough,   // the limit is reached
        kRefused,  // a defect, and the reading is strict
        kChanged,  // from row `changed_at` on, rows have another number of numbers
        kNoToken,  // binary: no space after a token; this is no file of vectors
    };

    explicit Parser(Rows& rows) : rows_(rows), values_(static_cast<std::size_t>(rows.dim())) {}
    virtual ~Parser() = default;

    Status feed(std::string_view chunk);
    // The file has ended.
    Status finish();

    // Of the row where it stopped, or would go on: line of a text file, byte of a binary one.
    std::int64_t place() const { return place_; }
    std::int64_t changed_at() const { return changed_at_; }

  protected:
    // Uses complete rows of `text` and returns the bytes used; with `last`, all of it.
    virtual std::size_t use(std::string_view text, bool last) = 0;

    Rows& rows_;
    std::vector<float> values_;
    std::int64_t place_ = 1, changed_at_ = 0;
    Status status_ = Status::kMore;

  private:
    Status run(bool last);

    std::string buffer_;
};

// word2vec text, GloVe text, fastText's .vec: a row is a line "token number … number". A token may hold
// spaces, so the numbers are cut from the right. Separators are a space or a tab; space at the end of a line
// and CR are no part of it.
class TextParser : public Parser {
  public:
    using Parser::Parser;
    // Lines to pass over at the start: 1 if there is a header.
    TextParser(Rows& rows, std::int64_t header_lines) : Parser(rows), header_lines_(header_lines) {}

  protected:
    std::size_t use(std::string_view text, bool last) override;

  private:
    void line(std::string_view line, bool cut);
    bool split(std::string_view line, std::string_view& token, const char*& numbers) const;

    std::int64_t header_lines_ = 0;
    std::int64_t wrong_in_a_row_ = 0, wrong_width_ = 0;
};

// word2vec binary: token, space, D little-endian float32; a newline after them, before the next token, is
// passed over.
class BinaryParser : public Parser {
  public:
    // `expected`: rows by the header. What follows them is not looked at. `start`: bytes of the header.
    BinaryParser(Rows& rows, std::int64_t expected, std::int64_t start)
        : Parser(rows), expected_(expected), header_(start) {
        place_ = 0;
    }

  protected:
    std::size_t use(std::string_view text, bool last) override;

  private:
    std::int64_t expected_, header_, done_ = 0;
};

}  // namespace embedtrain
