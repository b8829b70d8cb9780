// Philox4x32-10, the counter-based random generator of Salmon et al., "Parallel random numbers: as easy as 1,
// 2, 3" (SC11).
//
// Every draw of a training run is a pure function of (seed, epoch, position, purpose), so what is sampled
// depends neither on threads, blocks and restarts nor on the backend. Shared by host and CUDA code.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define EMBEDTRAIN_HOST_DEVICE __host__ __device__
#else
#define EMBEDTRAIN_HOST_DEVICE
#endif

namespace embedtrain {

// What a draw is for; part of the counter, so that no two purposes share numbers.
enum Purpose : uint32_t {
    kToken = 0,     // lane 0: keep or drop the token; lane 1: the width of its window
    kNegative = 1,  // lanes 0-1 and 2-3: two noise words; draw j of a position is in counter index j / 2
    kInitial = 2,   // position = row of the input table, index = column / 4: four initial weights
};

struct Philox4 {
    uint32_t lane[4];
};

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;

// Internal linkage (static): the CPU kernels compile this once per instruction set, and the linker must not
// merge them.
EMBEDTRAIN_HOST_DEVICE static inline Philox4 philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                                                    uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * c0;
        const uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * c2;
        const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c1 = static_cast<uint32_t>(p1);
        c3 = static_cast<uint32_t>(p0);
        c0 = n0;
        c2 = n2;
        k0 += kPhiloxW0;
        k1 += kPhiloxW1;
    }
    return {{c0, c1, c2, c3}};
}

// The last word of the counter: eight bits of purpose, 24 bits of index.
EMBEDTRAIN_HOST_DEVICE static inline uint32_t purpose_word(Purpose purpose, uint32_t index = 0) {
    return static_cast<uint32_t>(purpose) | index << 8;
}

EMBEDTRAIN_HOST_DEVICE static inline Philox4 draw(uint64_t seed, uint32_t epoch, uint64_t position,
                                                  Purpose purpose, uint32_t index = 0) {
    return philox(static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), epoch,
                  purpose_word(purpose, index), static_cast<uint32_t>(seed),
                  static_cast<uint32_t>(seed >> 32));
}

}  // namespace embedtrain
