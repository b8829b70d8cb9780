// From random bits to decisions: keep a token, the width of a window, a noise word. Shared by host and CUDA
// code.
#pragma once

#include <cstdint>

#include "sampling/philox.h"

namespace embedtrain {

// One column of the alias table (Walker 1977): with probability (threshold + 1) / 2^32 the word of the column
// itself, otherwise its alias.
struct NoiseColumn {
    uint32_t threshold;
    uint32_t alias;
};

// Keep with probability (threshold + 1) / 2^32; see keep_thresholds() in tables.h.
EMBEDTRAIN_HOST_DEVICE static inline bool is_kept(uint32_t bits, uint32_t threshold) {
    return bits <= threshold;
}

// Uniform over 1 ... window, by multiplication instead of division (Lemire 2019, without the rejection: the
// bias is below window / 2^32).
EMBEDTRAIN_HOST_DEVICE static inline uint32_t window_width(uint32_t bits, uint32_t window) {
    return 1 + static_cast<uint32_t>((static_cast<uint64_t>(bits) * window) >> 32);
}

// So many positions, kNoiseApart from each other, have the same noise words (embedtrain/ops.py says how
// many): the rows of noise are few enough then to stay in a cache, and hardly any context meets the same
// noise word again. docs/kernel.md has what that brings, and what it would cost to share more.
constexpr int kNoiseApart = 128, kMostNoiseSharers = 4;

// The first of the positions that have the noise of this one. sharers: a power of two.
EMBEDTRAIN_HOST_DEVICE static inline uint64_t noise_position(uint64_t position, int sharers) {
    return position & ~static_cast<uint64_t>((sharers - 1) * kNoiseApart);
}

// 64 random bits times V is a fixed-point number: its whole part is the column, its fraction the coin.
EMBEDTRAIN_HOST_DEVICE static inline uint64_t noise_point(uint32_t high, uint32_t low, uint32_t vocabulary) {
    return static_cast<uint64_t>(high) * vocabulary + ((static_cast<uint64_t>(low) * vocabulary) >> 32);
}

EMBEDTRAIN_HOST_DEVICE static inline uint32_t noise_word(uint64_t point, const NoiseColumn* table) {
    const uint32_t column = static_cast<uint32_t>(point >> 32);
    const NoiseColumn entry = table[column];
    return static_cast<uint32_t>(point) <= entry.threshold ? column : entry.alias;
}

}  // namespace embedtrain
