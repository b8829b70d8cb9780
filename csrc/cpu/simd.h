// Vectors of floats by the compilers' vector extensions, so that one kernel source serves every instruction
// set. Included by the kernel only, inside a translation unit with its own flags; everything has internal
// linkage.
#pragma once

#include <cstdint>
#ifdef __SSE2__
#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of what its own header does
#endif
#include <immintrin.h>
#ifndef __clang__
#pragma GCC diagnostic pop
#endif
#endif

#if defined(__clang__) || __GNUC__ >= 12
#define EMBEDTRAIN_SHUFFLE(a, b, mask_type, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define EMBEDTRAIN_SHUFFLE(a, b, mask_type, ...) __builtin_shuffle(a, b, mask_type{__VA_ARGS__})
#endif

#define EMBEDTRAIN_ALWAYS_INLINE __attribute__((always_inline))
#define EMBEDTRAIN_INLINE static inline EMBEDTRAIN_ALWAYS_INLINE

namespace embedtrain {
namespace {

using F4 = float __attribute__((vector_size(16)));
using F8 = float __attribute__((vector_size(32)));
using F16 = float __attribute__((vector_size(64)));
using I4 = int32_t __attribute__((vector_size(16)));
using I8 = int32_t __attribute__((vector_size(32)));
using I16 = int32_t __attribute__((vector_size(64)));

using U2 = uint64_t __attribute__((vector_size(16)));
using U4 = uint64_t __attribute__((vector_size(32)));
using U8 = uint64_t __attribute__((vector_size(64)));

template <class V>
constexpr int kLanes = static_cast<int>(sizeof(V) / sizeof(float));

template <class V>
struct IntegersOf;
template <>
struct IntegersOf<F4> {
    using type = I4;
};
template <>
struct IntegersOf<F8> {
    using type = I8;
};
template <>
struct IntegersOf<F16> {
    using type = I16;
};

template <class V>
EMBEDTRAIN_INLINE V load(const float* p) {
    return *reinterpret_cast<const V*>(p);
}
template <class V>
EMBEDTRAIN_INLINE void store(float* p, V v) {
    *reinterpret_cast<V*>(p) = v;
}
template <class V>
EMBEDTRAIN_INLINE V broadcast(float x) {
    return x - V{};  // x + 0 would not be x for -0, and so cost an addition
}

// The same, but held in a register: GCC reads a vector that is used twice from memory twice, which costs more
// where loads are what is waited for.
template <class V>
EMBEDTRAIN_INLINE V in_register(V v) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__SSE2__)
    __asm__("" : "+x"(v));
#endif
    return v;
}

// The product of the lower half of each lane and m, in full. (Compilers do not find the instruction for it by
// themselves.)
#ifdef __AVX512F__
EMBEDTRAIN_INLINE U8 multiply_low(U8 a, uint32_t m) {
    return reinterpret_cast<U8>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(m)));
}
#endif
#ifdef __AVX2__
EMBEDTRAIN_INLINE U4 multiply_low(U4 a, uint32_t m) {
    return reinterpret_cast<U4>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(m)));
}
#endif
EMBEDTRAIN_INLINE U2 multiply_low(U2 a, uint32_t m) {
#ifdef __SSE2__
    return reinterpret_cast<U2>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi64x(m)));
#else
    return (a & 0xffffffffu) * m;
#endif
}
template <class V, class Integer>
EMBEDTRAIN_INLINE void store_low(V v, Integer* out) {
    for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(uint64_t)); ++i)
        out[i] = static_cast<Integer>(v[i]);
}

// Eight dot products from eight vectors of partial sums, in order: out[i] = Σ of the lanes of sums[i].
EMBEDTRAIN_INLINE F4 add_lanes(F4 a, F4 b, F4 c, F4 d) {
    const F4 ab = EMBEDTRAIN_SHUFFLE(a, b, I4, 0, 1, 4, 5) + EMBEDTRAIN_SHUFFLE(a, b, I4, 2, 3, 6, 7);
    const F4 cd = EMBEDTRAIN_SHUFFLE(c, d, I4, 0, 1, 4, 5) + EMBEDTRAIN_SHUFFLE(c, d, I4, 2, 3, 6, 7);
    return EMBEDTRAIN_SHUFFLE(ab, cd, I4, 0, 2, 4, 6) + EMBEDTRAIN_SHUFFLE(ab, cd, I4, 1, 3, 5, 7);
}
EMBEDTRAIN_INLINE F8 add_halves(F8 a, F8 b) {
    return EMBEDTRAIN_SHUFFLE(a, b, I8, 0, 1, 2, 3, 8, 9, 10, 11) +
           EMBEDTRAIN_SHUFFLE(a, b, I8, 4, 5, 6, 7, 12, 13, 14, 15);
}
EMBEDTRAIN_INLINE void store_sums(const F4* sums, float* out) {
    store(out, add_lanes(sums[0], sums[1], sums[2], sums[3]));
    store(out + 4, add_lanes(sums[4], sums[5], sums[6], sums[7]));
}
EMBEDTRAIN_INLINE void store_sums(const F8* sums, float* out) {
    // The steps after the first stay within 128-bit lanes (one instruction each); hence the order of the
    // pairs.
    const F8 a = add_halves(sums[0], sums[4]), b = add_halves(sums[1], sums[5]);
    const F8 c = add_halves(sums[2], sums[6]), d = add_halves(sums[3], sums[7]);
    const F8 ab = EMBEDTRAIN_SHUFFLE(a, b, I8, 0, 1, 8, 9, 4, 5, 12, 13) +
                  EMBEDTRAIN_SHUFFLE(a, b, I8, 2, 3, 10, 11, 6, 7, 14, 15);
    const F8 cd = EMBEDTRAIN_SHUFFLE(c, d, I8, 0, 1, 8, 9, 4, 5, 12, 13) +
                  EMBEDTRAIN_SHUFFLE(c, d, I8, 2, 3, 10, 11, 6, 7, 14, 15);
    store(out, EMBEDTRAIN_SHUFFLE(ab, cd, I8, 0, 2, 8, 10, 4, 6, 12, 14) +
                   EMBEDTRAIN_SHUFFLE(ab, cd, I8, 1, 3, 9, 11, 5, 7, 13, 15));
}

// Sixteen, of as many vectors of sixteen lanes.
EMBEDTRAIN_INLINE F16 add_quarters(F16 a, F16 b, F16 c, F16 d) {
    const F16 ab =
        EMBEDTRAIN_SHUFFLE(a, b, I16, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
        EMBEDTRAIN_SHUFFLE(a, b, I16, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const F16 cd =
        EMBEDTRAIN_SHUFFLE(c, d, I16, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
        EMBEDTRAIN_SHUFFLE(c, d, I16, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    return EMBEDTRAIN_SHUFFLE(ab, cd, I16, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           EMBEDTRAIN_SHUFFLE(ab, cd, I16, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
EMBEDTRAIN_INLINE F16 add_neighbours(F16 a, F16 b) {
    return EMBEDTRAIN_SHUFFLE(a, b, I16, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
           EMBEDTRAIN_SHUFFLE(a, b, I16, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
}
EMBEDTRAIN_INLINE void store_sums(const F16* sums, float* out) {
    const F16 a = add_quarters(sums[0], sums[4], sums[8], sums[12]);
    const F16 b = add_quarters(sums[1], sums[5], sums[9], sums[13]);
    const F16 c = add_quarters(sums[2], sums[6], sums[10], sums[14]);
    const F16 d = add_quarters(sums[3], sums[7], sums[11], sums[15]);
    store(out, add_neighbours(add_neighbours(a, b), add_neighbours(c, d)));
}

// e^-x for x >= 0, relative error below 2e-7 (2^f on [-1/2, 1/2] by its Taylor series to f^6, the whole part
// of the exponent by integer addition); below 1e-38 it stays there.
template <class V>
EMBEDTRAIN_INLINE V exp_negative(V x) {
    using I = typename IntegersOf<V>::type;
    V t = x * broadcast<V>(-1.44269504088896341f);
    t = t < broadcast<V>(-126.0f) ? broadcast<V>(-126.0f) : t;  // NaN passes through
    const V magic = broadcast<V>(12582912.0f);                  // 1.5 * 2^23: the sum's low bits are round(t)
    const V rounded = t + magic;
    const V f = t - (rounded - magic);
    V p = broadcast<V>(1.5403530393381608e-4f);
    p = p * f + broadcast<V>(1.3333558146428443e-3f);
    p = p * f + broadcast<V>(9.6181291076284772e-3f);
    p = p * f + broadcast<V>(5.5504108664821580e-2f);
    p = p * f + broadcast<V>(2.4022650695910071e-1f);
    p = p * f + broadcast<V>(6.9314718055994531e-1f);
    p = p * f + broadcast<V>(1.0f);
    return reinterpret_cast<V>(reinterpret_cast<I>(p) + (reinterpret_cast<I>(rounded) << 23));
}

template <class V>
EMBEDTRAIN_INLINE V absolute(V x) {
    using I = typename IntegersOf<V>::type;
    return reinterpret_cast<V>(reinterpret_cast<I>(x) & 0x7fffffff);
}

}  // namespace
}  // namespace embedtrain
