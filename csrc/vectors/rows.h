// Where the rows of a vector file go: which of them are kept, at which place, and in which type.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace embedtrain {

enum class NumberType { kFloat32, kFloat16, kBfloat16 };

inline std::size_t number_size(NumberType type) {
    return type == NumberType::kFloat32 ? 4 : 2;
}

// What can be wrong with a row. embedtrain/reading.py has the words for them, in this order.
enum Defect : int {
    kDuplicate,       // its token had a row before: the first is kept
    kInvalidUtf8,     // its token is not UTF-8, or holds NUL
    kBadToken,        // its token is empty or holds a line break
    kNotFinite,       // it holds NaN or infinity
    kWrongDimension,  // it has more or fewer numbers than the others
    kNotANumber,      // where a number should be is something else
    kBlankLine,
    kCutOff,  // the file ends within it
    kDefects,
};

struct Finding {
    std::int64_t count = 0;
    std::int64_t first = 0;  // place of the first: line of a text file, byte of a binary one
};

// Tokens and their numbers, from 0 in the order they came: open addressing over one string of all of them.
class TokenTable {
  public:
    TokenTable() : offsets_{0}, slots_(1024, -1) {}

    std::int64_t size() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }
    std::string_view operator[](std::int64_t i) const {
        const auto at = static_cast<std::size_t>(i);
        return {bytes_.data() + offsets_[at], offsets_[at + 1] - offsets_[at]};
    }
    std::int64_t find(std::string_view token) const { return slots_[slot_of(token)]; }
    // The token's number, whether it is new or not.
    std::int64_t add(std::string_view token);

  private:
    std::size_t slot_of(std::string_view token) const;

    std::string bytes_;
    std::vector<std::size_t> offsets_;
    std::vector<std::int64_t> slots_;  // a power of two; -1: free
};

class Rows {
  public:
    struct Options {
        int dim = 0;
        NumberType type = NumberType::kFloat32;
        bool grow = true;         // false: only the tokens given to the constructor get rows
        bool unit_norm = false;   // scale rows to length 1
        bool strict = false;      // the first defect is the end
        std::int64_t limit = -1;  // read so many rows of the file; -1: all
    };

    // `tokens`: those of the first rows, each ended by \n, zeros until the file gives them. Row
    // `fallback_rows[i]` takes the vector of the i-th of `fallback_tokens` if the file has none for its own
    // token.
    Rows(const Options& options, std::string_view tokens, std::string_view fallback_tokens,
         const std::int64_t* fallback_rows);

    int dim() const { return options_.dim; }
    bool strict() const { return options_.strict; }
    // No more rows are wanted.
    bool enough() const { return options_.limit >= 0 && read_ >= options_.limit; }
    std::int64_t read() const { return read_; }

    // One more row of the file, of this token; says whether anybody wants its numbers: then comes put().
    bool take(std::string_view token, std::int64_t place);
    void skip(Defect defect, std::int64_t place) {
        ++read_;
        note(defect, place);
    }
    void put(const float* values, std::int64_t place);
    void note(Defect defect, std::int64_t place);

    const Finding* findings() const { return findings_; }
    // A defect happened and the reading is strict: nothing more is to be read.
    bool refused() const { return options_.strict && defective_; }

    std::int64_t size() const { return tokens_.size(); }
    // The tokens of the rows that the file added, each ended by \n.
    std::string added_tokens() const;
    const std::vector<std::uint8_t>& states() const { return states_; }
    // (size, dim) numbers, to be freed with std::free.
    void* release();

    enum State : std::uint8_t { kEmpty, kByFallback, kExact };

  private:
    void write(std::int64_t row, const float* values);
    void reserve(std::int64_t rows);

    Options options_;
    TokenTable tokens_, fallback_;
    std::vector<std::vector<std::int64_t>> fallback_rows_;
    std::vector<std::uint8_t> states_;
    std::unique_ptr<void, void (*)(void*)> numbers_{nullptr, std::free};
    std::int64_t capacity_ = 0, initial_ = 0, read_ = 0;
    std::int64_t wanted_exact_ = -1, wanted_fallback_ = -1;  // what take() found for put()
    std::string pending_;                                    // the token that put() is to add
    std::vector<float> scaled_;
    Finding findings_[kDefects];
    bool defective_ = false;
};

// Nearest, ties to even.
std::uint16_t to_float16(float value);

}  // namespace embedtrain
