// UTF-8 as RFC 3629 has it: no surrogates, no overlong forms, nothing above U+10FFFF.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace embedtrain {

inline bool is_ascii(std::string_view text) {
    return std::none_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) < 0; });
}

struct Utf8Sequence {
    std::size_t length;  // bytes, at least 1; of a bad sequence: the bytes that one U+FFFD stands for
    bool valid;
};

// The sequence that starts at text[at]. NUL is not text: it marks a binary file. A bad sequence is cut as
// Python's (and the Unicode standard's) "replace" does it: the longest start of something valid is one error.
inline Utf8Sequence utf8_sequence(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
    const unsigned char first = byte(0);
    if (first < 0x80) return {1, first != 0};
    if (first < 0xC2 || first > 0xF4) return {1, false};
    const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    for (std::size_t i = 1; i < length; ++i) {
        if (at + i == text.size() || byte(i) < low || byte(i) > high) return {i, false};
        low = 0x80;
        high = 0xBF;
    }
    return {length, true};
}

// Index of the first byte that is not part of valid text, or text.size().
inline std::size_t utf8_first_bad(std::string_view text) {
    std::size_t at = 0;
    while (at < text.size()) {
        const Utf8Sequence next = utf8_sequence(text, at);
        if (!next.valid) return at;
        at += next.length;
    }
    return at;
}

// The text with U+FFFD in the place of each bad sequence.
inline std::string utf8_replace(std::string_view text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const Utf8Sequence next = utf8_sequence(text, at);
        out.append(next.valid ? text.substr(at, next.length) : std::string_view("\xEF\xBF\xBD"));
        at += next.length;
    }
    return out;
}

}  // namespace embedtrain
