// A block of the encoded corpus and how to train on it: what host and CUDA code have in common.
#pragma once

#include <cstdint>

#include "sampling/draws.h"

namespace embedtrain {

struct TrainingBlock {
    float* input;   // (V, stride) word2vec.c's syn0: the embeddings
    float* output;  // (V, stride) word2vec.c's syn1neg
    int64_t stride;
    int dim;
    const int32_t* ids;  // (tokens)
    int64_t tokens;
    const int64_t* offsets;  // (sentences + 1), rising, sentence s is ids[offsets[s] ... offsets[s + 1])
    int64_t sentences;
    int64_t first_position;    // of ids[0] in the corpus
    const uint32_t* keep;      // (V) thresholds
    const NoiseColumn* noise;  // (V)
    int64_t vocabulary;
    uint64_t seed;
    uint32_t epoch;
    int window;
    int negative;
    int noise_sharers;  // positions that have the same noise words: 1, 2 ... kMostNoiseSharers
    bool shrink_window;
    double alpha;         // learning rate at position 0 of epoch 0
    double alpha_step;    // what it loses per position
    double min_alpha;     // and where it ends
    int64_t corpus_size;  // positions in an epoch
};

// Of the centre at ids[token]: linear in the position, over all epochs. Internal linkage, because it is
// compiled for several instruction sets.
EMBEDTRAIN_HOST_DEVICE static inline double learning_rate(const TrainingBlock& block, int64_t token) {
    const double step = static_cast<double>(block.epoch) * static_cast<double>(block.corpus_size) +
                        static_cast<double>(block.first_position + token);
    const double rate = block.alpha - block.alpha_step * step;
    return rate > block.min_alpha ? rate : block.min_alpha;
}

}  // namespace embedtrain
