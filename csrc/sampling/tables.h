// The tables behind the draws, made once from the word counts, and the draws themselves in bulk (for tests
// and for anyone's own training loop; the training kernel has its own vectorised path to the same numbers).
#pragma once

#include <cstdint>

#include "sampling/draws.h"

namespace embedtrain {

// noise ∝ count^exponent as an alias table (Vose 1991), exact to 2^-32 per column. counts: (V), table: (V).
void alias_table(const int64_t* counts, int64_t vocabulary, double exponent, NoiseColumn* table);

// Probability of keeping one occurrence, as word2vec.c has it: (sqrt(f / sample) + 1) * sample / f, f = count
// / total; written as thresholds for is_kept(). sample = 0 keeps everything. counts: (V), thresholds: (V).
void keep_thresholds(const int64_t* counts, int64_t vocabulary, double sample, uint32_t* thresholds);

// negatives: (n, K), row i for position first_position + i.
void draw_negatives(const NoiseColumn* table, int64_t vocabulary, uint64_t seed, uint32_t epoch,
                    int64_t first_position, int64_t n, int negative, int32_t* negatives);

// kept: (n) of 0 / 1, widths: (n) of 1 ... window, for the tokens ids[i] at position first_position + i.
void draw_tokens(const int32_t* ids, const uint32_t* thresholds, uint64_t seed, uint32_t epoch,
                 int64_t first_position, int64_t n, int window, bool* kept, int32_t* widths);

// Rows first_row ... first_row + rows of the input table, uniform in ±0.5 / D. table: (rows, stride).
void initial_weights(float* table, int64_t first_row, int64_t rows, int dim, int64_t stride, uint64_t seed);

}  // namespace embedtrain
