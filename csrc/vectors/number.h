// Decimal numbers of vector files, to the nearest float.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace embedtrain {

// Any form strtof takes, but no hexadecimal; correctly rounded. False if the field is something else.
bool parse_number_slowly(std::string_view field, float& value);

namespace number {
inline bool is_digit(char c) {
    return static_cast<unsigned char>(c - '0') < 10;
}

// 10^0 to 10^22 are exact in a double.
inline constexpr double kPowersOfTen[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                          1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                          1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
}  // namespace number

// Parses the number at `p`, which ends at a space, a tab, or at `end`, and moves `p` to there. Correctly
// rounded. A number of at most 15 digits and a small exponent is a division or product of two exact doubles:
// one rounding (Clinger 1990). Rounding that to float is right unless the double fell on the middle of two
// floats.
inline bool parse_number(const char*& p, const char* end, float& value) {
    using namespace number;
    const char* const begin = p;
    const char* q = p;
    const bool negative = q != end && *q == '-';
    if (q != end && (*q == '-' || *q == '+')) ++q;
    std::uint64_t digits = 0;
    const char* const first = q;
    while (q != end && is_digit(*q)) digits = digits * 10 + static_cast<std::uint64_t>(*q++ - '0');
    std::int64_t count = q - first, exponent = 0;
    if (q != end && *q == '.') {
        const char* const fraction = ++q;
        while (q != end && is_digit(*q)) digits = digits * 10 + static_cast<std::uint64_t>(*q++ - '0');
        exponent = fraction - q;
        count -= exponent;
    }
    bool fast = count > 0 && count <= 15;
    if (fast && q != end && (*q == 'e' || *q == 'E')) {
        ++q;
        const bool down = q != end && *q == '-';
        if (q != end && (*q == '-' || *q == '+')) ++q;
        const char* const power = q;
        std::int64_t e = 0;
        while (q != end && is_digit(*q) && q - power < 4) e = e * 10 + (*q++ - '0');
        fast = q != power;
        exponent += down ? -e : e;
    }
    fast = fast && (q == end || *q == ' ' || *q == '\t') && exponent >= -22 && exponent <= 22;
    if (fast) {
        double exact = static_cast<double>(digits);
        exact = exponent < 0 ? exact / kPowersOfTen[-exponent] : exact * kPowersOfTen[exponent];
        std::uint64_t bits;
        std::memcpy(&bits, &exact, sizeof bits);
        // The 29 bits that a float lacks; the numbers near float's own limits have fewer, so leave them out.
        const bool middle = (bits & 0x1FFFFFFF) == 0x10000000;
        const bool normal = digits == 0 || (exact > 1.2e-38 && exact < 3.4e38);
        if (!middle && normal) {
            value = static_cast<float>(negative ? -exact : exact);
            p = q;
            return true;
        }
    }
    while (q != end && *q != ' ' && *q != '\t') ++q;
    p = q;
    return parse_number_slowly({begin, static_cast<std::size_t>(q - begin)}, value);
}

}  // namespace embedtrain
