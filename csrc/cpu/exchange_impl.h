// What ranks exchange: differences between the rows of a table and what all ranks agreed on last, as
// bfloat16. Each is one pass over the rows, bound by memory. Compiled with the kernel, once per instruction
// set; the compiler vectorises the loops.
#pragma once

#include <cstdint>

#include "bfloat16.h"
#include "cpu/kernel.h"

namespace embedtrain {
namespace {

inline float* row_of(const ExchangedRows& rows, int64_t row) {
    const int64_t V = rows.vocabulary;
    return row < V ? rows.tables[0] + row * rows.stride : rows.tables[1] + (row - V) * rows.stride;
}

void take_differences(const ExchangedRows& rows, uint16_t* differences) {
    for (int64_t i = 0; i < rows.count; ++i) {
        const float* const row = row_of(rows, rows.rows[i]);
        const float* const base = rows.base + rows.rows[i] * rows.stride;
        uint16_t* const out = differences + i * rows.dim;
        for (int column = 0; column < rows.dim; ++column)
            out[column] = to_bfloat16(row[column] - base[column]);
    }
}

void replace_differences(const ExchangedRows& rows, const uint16_t* differences, const uint16_t* sum,
                         const float* weight) {
    for (int64_t i = 0; i < rows.count; ++i) {
        float* const __restrict row = row_of(rows, rows.rows[i]);
        float* const __restrict base = rows.base + rows.rows[i] * rows.stride;
        const uint16_t *const own = differences + i * rows.dim, *const all = sum + i * rows.dim;
        for (int column = 0; column < rows.dim; ++column) {
            const float step = weight[i] * from_bfloat16(all[column]);
            base[column] += step;
            row[column] += step - from_bfloat16(own[column]);
        }
    }
}

}  // namespace
}  // namespace embedtrain
