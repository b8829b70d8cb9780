// What ranks exchange: differences between the rows of a table and what all ranks agreed on last, as
// bfloat16. Each is one pass over the rows, bound by memory. Compiled with the kernel, once per instruction
// set; the compiler vectorises the loops.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernel.h"

namespace embedtrain {
namespace {

// To nearest, ties to even.
inline uint16_t to_brain(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return static_cast<uint16_t>(x == x ? rounded : 0x7fc0u);  // the sum would turn some NaN into numbers
}

inline float to_float(uint16_t brain) {
    const uint32_t bits = static_cast<uint32_t>(brain) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline float* row_of(const ExchangedRows& rows, int64_t row) {
    const int64_t V = rows.vocabulary;
    return row < V ? rows.tables[0] + row * rows.stride : rows.tables[1] + (row - V) * rows.stride;
}

void take_differences(const ExchangedRows& rows, uint16_t* differences) {
    for (int64_t i = 0; i < rows.count; ++i) {
        const float* const row = row_of(rows, rows.rows[i]);
        const float* const base = rows.base + rows.rows[i] * rows.stride;
        uint16_t* const out = differences + i * rows.dim;
        for (int column = 0; column < rows.dim; ++column) out[column] = to_brain(row[column] - base[column]);
    }
}

void replace_differences(const ExchangedRows& rows, const uint16_t* differences, const uint16_t* sum,
                         const float* weight) {
    for (int64_t i = 0; i < rows.count; ++i) {
        float* const __restrict row = row_of(rows, rows.rows[i]);
        float* const __restrict base = rows.base + rows.rows[i] * rows.stride;
        const uint16_t *const own = differences + i * rows.dim, *const all = sum + i * rows.dim;
        for (int column = 0; column < rows.dim; ++column) {
            const float step = weight[i] * to_float(all[column]);
            base[column] += step;
            row[column] += step - to_float(own[column]);
        }
    }
}

}  // namespace
}  // namespace embedtrain
