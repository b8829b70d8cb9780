// Finds white space in 64 bytes of text at a time.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace embedtrain {

inline bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

constexpr int kScanBytes = 64;

// Bit i speaks of byte i.
struct ScanMasks {
    std::uint64_t space = 0;    // ASCII white space: space \t \n \v \f \r, as bytes.split() has it
    std::uint64_t newline = 0;  // \n
    std::uint64_t nul = 0;      // \0
};

// Eight bytes at a time in a 64-bit register; the top bit of each byte is its answer.
inline ScanMasks scan_portable(const char* text) {
    constexpr std::uint64_t kOnes = 0x0101010101010101, kTop = 0x80 * kOnes, kLow = 0x7F * kOnes;
    // No carry crosses a byte, so the answers are exact, not only up to the first hit.
    const auto equals = [](std::uint64_t x, std::uint64_t byte) {
        x ^= byte * kOnes;
        return ~(((x & kLow) + kLow) | x) & kTop;
    };
    // Gathers the top bits of the eight bytes into one byte.
    const auto gather = [](std::uint64_t x) { return ((x >> 7) * 0x0102040810204080) >> 56; };
    ScanMasks masks;
    for (int i = 0; i < kScanBytes; i += 8) {
        std::uint64_t x;
        std::memcpy(&x, text + i, 8);
        const std::uint64_t low = x & kLow;
        const std::uint64_t at_least_tab = low + (0x80 - 0x09) * kOnes,
                            above_return = low + (0x80 - 0x0E) * kOnes;
        const std::uint64_t control = at_least_tab & ~above_return & ~x & kTop;
        masks.space |= gather(equals(x, ' ') | control) << i;
        masks.newline |= gather(equals(x, '\n')) << i;
        masks.nul |= gather(equals(x, 0)) << i;
    }
    return masks;
}

#if defined(__SSE2__)  // every x86-64 has it
inline ScanMasks scan(const char* text) {
    ScanMasks masks;
    for (int i = 0; i < kScanBytes; i += 16) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + i));
        const auto bits = [i](__m128i match) {
            return static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_epi8(match))) << i;
        };
        const __m128i from_tab = _mm_sub_epi8(x, _mm_set1_epi8('\t'));
        const __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(from_tab, _mm_set1_epi8('\r' - '\t')), from_tab);
        masks.space |= bits(_mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8(' ')), control));
        masks.newline |= bits(_mm_cmpeq_epi8(x, _mm_set1_epi8('\n')));
        masks.nul |= bits(_mm_cmpeq_epi8(x, _mm_setzero_si128()));
    }
    return masks;
}
#else
inline ScanMasks scan(const char* text) {
    return scan_portable(text);
}
#endif

}  // namespace embedtrain
