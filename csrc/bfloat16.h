// Floats as bfloat16, the upper half of their bits. Of internal linkage, because it is compiled for several
// instruction sets.
#pragma once

#include <cstdint>
#include <cstring>

namespace embedtrain {

// To nearest, ties to even.
static inline std::uint16_t to_bfloat16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return static_cast<std::uint16_t>(value == value ? rounded : 0x7FC0u);  // some NaN would round to numbers
}

static inline float from_bfloat16(std::uint16_t half) {
    const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace embedtrain
