#include "vectors/rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>

#include "bfloat16.h"
#include "corpus/utf8.h"

namespace embedtrain {
namespace {

// Calls f(token) for each token that \n ends.
template <class Function>
void for_each_line(std::string_view lines, Function f) {
    while (!lines.empty()) {
        const std::size_t end = lines.find('\n');
        if (end == std::string_view::npos) throw std::invalid_argument("each token must end with a newline");
        f(lines.substr(0, end));
        lines.remove_prefix(end + 1);
    }
}

}  // namespace

std::size_t TokenTable::slot_of(std::string_view token) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = std::hash<std::string_view>()(token) & mask;
    while (slots_[slot] >= 0 && (*this)[slots_[slot]] != token) slot = (slot + 1) & mask;
    return slot;
}

std::int64_t TokenTable::add(std::string_view token) {
    const std::size_t slot = slot_of(token);
    if (slots_[slot] >= 0) return slots_[slot];
    const std::int64_t number = size();
    bytes_.append(token);
    offsets_.push_back(bytes_.size());
    slots_[slot] = number;
    if (static_cast<std::size_t>(number) * 2 > slots_.size()) {
        slots_.assign(slots_.size() * 2, -1);
        for (std::int64_t i = 0; i <= number; ++i) slots_[slot_of((*this)[i])] = i;
    }
    return number;
}

Rows::Rows(const Options& options, std::string_view tokens, std::string_view fallback_tokens,
           const std::int64_t* fallback_rows)
    : options_(options) {
    if (options.dim < 1) throw std::invalid_argument("dim must be at least 1");
    for_each_line(tokens, [&](std::string_view token) { tokens_.add(token); });
    initial_ = tokens_.size();
    states_.assign(static_cast<std::size_t>(initial_), kEmpty);
    reserve(initial_);
    for_each_line(fallback_tokens, [&](std::string_view token) {
        const auto number = static_cast<std::size_t>(fallback_.add(token));
        if (number == fallback_rows_.size()) fallback_rows_.emplace_back();
        if (*fallback_rows < 0 || *fallback_rows >= initial_) throw std::out_of_range("no such fallback row");
        fallback_rows_[number].push_back(*fallback_rows++);
    });
    if (options.unit_norm) scaled_.resize(static_cast<std::size_t>(options.dim));
}

void Rows::note(Defect defect, std::int64_t place) {
    Finding& finding = findings_[defect];
    if (finding.count++ == 0) finding.first = place;
    defective_ = true;
}

bool Rows::take(std::string_view token, std::int64_t place) {
    ++read_;
    wanted_exact_ = wanted_fallback_ = -1;
    if (token.empty() || token.find_first_of("\n\r") != std::string_view::npos) {
        note(kBadToken, place);
        return false;
    }
    if (utf8_first_bad(token) != token.size()) {
        note(kInvalidUtf8, place);
        return false;
    }
    const std::int64_t row = tokens_.find(token);
    if (row >= 0 && states_[static_cast<std::size_t>(row)] == kExact) {
        note(kDuplicate, place);
        return false;
    }
    wanted_exact_ = row;
    wanted_fallback_ = fallback_.find(token);
    if (row < 0 && options_.grow) {
        // Only put() gives it a row: its numbers may turn out to be bad.
        pending_.assign(token);
        return true;
    }
    return row >= 0 || wanted_fallback_ >= 0;
}

void Rows::put(const float* values, std::int64_t place) {
    // A sum of squares, or of anything, is finite only if all its terms are; 0 * x is NaN for those that are
    // not.
    float probe = 0;
    for (int i = 0; i < options_.dim; ++i) probe += 0.0f * values[i];
    if (probe != 0) {
        note(kNotFinite, place);
        return;
    }
    if (options_.unit_norm) {
        double squares = 0;
        for (int i = 0; i < options_.dim; ++i) squares += static_cast<double>(values[i]) * values[i];
        const double scale = squares > 0 ? 1 / std::sqrt(squares) : 0;
        for (int i = 0; i < options_.dim; ++i)
            scaled_[static_cast<std::size_t>(i)] = static_cast<float>(values[i] * scale);
        values = scaled_.data();
    }
    std::int64_t row = wanted_exact_;
    if (row < 0 && options_.grow) {
        row = tokens_.size();
        reserve(row + 1);
        tokens_.add(pending_);
        states_.push_back(kEmpty);
    }
    if (row >= 0) {
        write(row, values);
        states_[static_cast<std::size_t>(row)] = kExact;
    }
    if (wanted_fallback_ >= 0) {
        for (const std::int64_t other : fallback_rows_[static_cast<std::size_t>(wanted_fallback_)]) {
            std::uint8_t& state = states_[static_cast<std::size_t>(other)];
            if (state != kEmpty) continue;
            write(other, values);
            state = kByFallback;
        }
    }
}

void Rows::write(std::int64_t row, const float* values) {
    const auto dim = static_cast<std::size_t>(options_.dim);
    const std::size_t first = static_cast<std::size_t>(row) * dim;
    if (options_.type == NumberType::kFloat32) {
        std::memcpy(static_cast<float*>(numbers_.get()) + first, values, dim * sizeof(float));
        return;
    }
    auto* const to = static_cast<std::uint16_t*>(numbers_.get()) + first;
    const auto convert = options_.type == NumberType::kFloat16 ? to_float16 : to_bfloat16;
    std::transform(values, values + dim, to, convert);
}

void Rows::reserve(std::int64_t rows) {
    if (rows <= capacity_) return;
    const std::size_t row_bytes = static_cast<std::size_t>(options_.dim) * number_size(options_.type);
    // For large blocks realloc moves pages, not bytes, and pages that are not written to cost nothing.
    const std::int64_t capacity =
        capacity_ == 0 ? rows : std::max<std::int64_t>(rows, capacity_ + capacity_ / 2);
    const std::size_t bytes = static_cast<std::size_t>(capacity) * row_bytes;
    if (bytes / row_bytes != static_cast<std::size_t>(capacity)) throw std::bad_alloc();
    if (capacity_ == 0) {  // rows that the file does not give are zeros
        numbers_.reset(std::calloc(std::max<std::size_t>(bytes, 1), 1));
        if (!numbers_) throw std::bad_alloc();
    } else {
        void* const moved = std::realloc(numbers_.get(), bytes);
        if (moved == nullptr) throw std::bad_alloc();
        static_cast<void>(numbers_.release());
        numbers_.reset(moved);
    }
    capacity_ = capacity;
}

std::string Rows::added_tokens() const {
    std::string lines;
    for (std::int64_t i = initial_; i < tokens_.size(); ++i) {
        lines.append(tokens_[i]);
        lines.push_back('\n');
    }
    return lines;
}

void* Rows::release() {
    const std::size_t bytes = static_cast<std::size_t>(tokens_.size()) *
                              static_cast<std::size_t>(options_.dim) * number_size(options_.type);
    void* const numbers = numbers_.release();
    capacity_ = 0;
    if (numbers == nullptr) return std::calloc(1, 1);
    void* const fitted = std::realloc(numbers, std::max<std::size_t>(bytes, 1));
    return fitted == nullptr ? numbers : fitted;
}

std::uint16_t to_float16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
    const std::uint32_t size = bits & 0x7FFFFFFF;
    if (size >= 0x477FF000) return sign | 0x7C00;  // 65520 and above round to infinity
    if (size < 0x38800000) {                       // below 2^-14 steps are 2^-24
        float magnitude;
        std::memcpy(&magnitude, &size, sizeof magnitude);
        return sign | static_cast<std::uint16_t>(std::nearbyint(magnitude * 0x1p24f));
    }
    return sign | static_cast<std::uint16_t>((size - 0x38000000 + 0xFFF + ((size >> 13) & 1)) >> 13);
}

}  // namespace embedtrain
