#include "vectors/parser.h"

#include <locale.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "vectors/number.h"

namespace embedtrain {
namespace {

// So many successive rows of one other width are no accident.
constexpr std::int64_t kChangedRows = 10;
// A token, or a line of text, longer than this is not one.
constexpr std::size_t kMaxToken = std::size_t{1} << 16, kMaxLine = std::size_t{1} << 26;

bool is_separator(char c) {
    return c == ' ' || c == '\t';
}

bool is_number(const char* p, const char* end) {
    float value;
    return p != end && parse_number(p, end, value) && p == end;
}

// How many fields of the line, from the right, are numbers; the first field is the token whatever it is.
std::int64_t trailing_numbers(std::string_view line) {
    std::int64_t count = 0;
    const char *const begin = line.data(), *end = begin + line.size();
    while (end != begin) {
        const char* start = end;
        while (start != begin && !is_separator(start[-1])) --start;
        if (start == begin || !is_number(start, end)) break;
        ++count;
        end = start - 1;
    }
    return count;
}

}  // namespace

bool parse_number_slowly(std::string_view field, float& value) {
    char text[64];
    if (field.empty() || field.size() >= sizeof text) return false;
    for (const char c : field) {
        if (c == 'x' || c == 'X' || c == '(' || static_cast<unsigned char>(c) <= ' ') return false;
    }
    std::memcpy(text, field.data(), field.size());
    text[field.size()] = 0;
    // Not the program's locale, whose decimal point may be a comma.
    static const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
    char* end = nullptr;
    value = strtof_l(text, &end, c_locale);
    return end == text + field.size();
}

Parser::Status Parser::feed(std::string_view chunk) {
    buffer_.append(chunk);
    return run(false);
}

Parser::Status Parser::finish() {
    return run(true);
}

Parser::Status Parser::run(bool last) {
    if (status_ == Status::kMore) buffer_.erase(0, use(buffer_, last));
    if (status_ == Status::kMore) {
        if (rows_.refused())
            status_ = Status::kRefused;
        else if (rows_.enough())
            status_ = Status::kEnough;
    }
    return status_;
}

std::size_t TextParser::use(std::string_view text, bool last) {
    std::size_t used = 0;
    while (used < text.size() && status_ == Status::kMore && !rows_.refused() && !rows_.enough()) {
        const char* const begin = text.data() + used;
        const void* const found = std::memchr(begin, '\n', text.size() - used);
        if (found == nullptr && !last) {
            if (text.size() - used > kMaxLine) throw std::length_error("a line is longer than 64 MiB");
            break;
        }
        const std::size_t length = found != nullptr
                                       ? static_cast<std::size_t>(static_cast<const char*>(found) - begin)
                                       : text.size() - used;
        used += length + (found != nullptr);
        if (place_ > header_lines_) line({begin, length}, found == nullptr);
        if (status_ == Status::kMore && !rows_.refused()) ++place_;
    }
    if (last && status_ == Status::kMore && wrong_in_a_row_ > 1) status_ = Status::kChanged;
    return used;
}

void TextParser::line(std::string_view line, bool cut) {
    while (!line.empty() && (is_separator(line.back()) || line.back() == '\r')) line.remove_suffix(1);
    if (line.empty()) {
        rows_.note(kBlankLine, place_);
        return;
    }
    std::string_view token;
    const char* p = nullptr;
    if (!split(line, token, p)) {
        const std::int64_t width = trailing_numbers(line);
        if (cut) {
            rows_.skip(kCutOff, place_);
        } else if (width == 0) {
            rows_.skip(kNotANumber, place_);
        } else {
            rows_.skip(kWrongDimension, place_);
            wrong_in_a_row_ = width == wrong_width_ ? wrong_in_a_row_ + 1 : 1;
            wrong_width_ = width;
            if (wrong_in_a_row_ == 1) changed_at_ = place_;
            if (wrong_in_a_row_ == kChangedRows) status_ = Status::kChanged;
        }
        return;
    }
    wrong_in_a_row_ = 0;
    if (!rows_.take(token, place_)) return;
    const char* const end = line.data() + line.size();
    for (float& value : values_) {
        if (p == end || !is_separator(*p) || !parse_number(++p, end, value)) {
            rows_.note(cut ? kCutOff : kNotANumber, place_);
            return;
        }
    }
    rows_.put(values_.data(), place_);
}

// Where the token ends and the numbers begin (at their first separator). False if the line is not that wide.
bool TextParser::split(std::string_view line, std::string_view& token, const char*& numbers) const {
    const char *const begin = line.data(), *const end = begin + line.size();
    const auto dim = static_cast<std::int64_t>(values_.size());
    if (std::count(begin, end, ' ') == dim && std::find(begin, end, '\t') == end) {
        numbers = std::find(begin, end, ' ');
        token = {begin, static_cast<std::size_t>(numbers - begin)};
        return true;
    }
    const char* p = end;
    for (std::int64_t i = 0; i < dim; ++i) {
        const char* const field_end = p;
        while (p != begin && !is_separator(p[-1])) --p;
        // A field that is no number ends the numbers, too soon.
        if (p == begin || !is_number(p, field_end)) return false;
        --p;
    }
    // "word 0.1 0.2 0.3" with D = 2 is a row too wide, not the token "word 0.1"; "1 / 2" and ". . ." are
    // tokens.
    const char* field = std::find_if(begin, p, is_separator);
    bool wide = field != p;
    while (wide && field != p) {
        const char* const next = std::find_if(field + 1, p, is_separator);
        wide = is_number(field + 1, next) && std::find(field + 1, next, '.') != next;
        field = next;
    }
    if (wide) return false;
    numbers = p;
    token = {begin, static_cast<std::size_t>(p - begin)};
    return true;
}

std::size_t BinaryParser::use(std::string_view text, bool last) {
    const std::size_t row_bytes = values_.size() * sizeof(float);
    std::size_t used = 0;
    if (header_ > 0) {
        if (text.size() < static_cast<std::size_t>(header_)) return 0;
        used = static_cast<std::size_t>(header_);
        place_ += header_;
        header_ = 0;
    }
    while (status_ == Status::kMore && !rows_.refused() && !rows_.enough()) {
        if (done_ >= expected_) {  // the rest is not looked at
            status_ = Status::kEnough;
            break;
        }
        std::size_t at = used;
        while (at < text.size() && text[at] == '\n') ++at;
        place_ += static_cast<std::int64_t>(at - used);
        used = at;
        if (at == text.size()) break;
        const std::size_t space = text.substr(0, std::min(text.size(), at + kMaxToken)).find(' ', at);
        if (space == std::string_view::npos && text.size() - at > kMaxToken) {
            status_ = Status::kNoToken;
            break;
        }
        if (space == std::string_view::npos || text.size() - space - 1 < row_bytes) {
            if (last) {
                rows_.note(kCutOff, place_);
                used = text.size();
            }
            break;
        }
        ++done_;
        if (rows_.take(text.substr(at, space - at), place_)) {
            std::memcpy(values_.data(), text.data() + space + 1, row_bytes);
            rows_.put(values_.data(), place_);
        }
        if (rows_.refused()) break;
        const std::size_t next = space + 1 + row_bytes;
        place_ += static_cast<std::int64_t>(next - used);
        used = next;
    }
    return used;
}

}  // namespace embedtrain
