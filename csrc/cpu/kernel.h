// What a CPU kernel is given and what it offers. One kernel per instruction set; dispatch.cpp picks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sampling/draws.h"

namespace embedtrain {

// A block of the encoded corpus and how to train on it. Rows are 64-byte aligned; stride is a multiple of 16
// floats and the floats between dim and stride are zero, and stay so.
struct Block {
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
    bool shrink_window;
    double alpha;         // learning rate at position 0 of epoch 0
    double alpha_step;    // what it loses per position
    double min_alpha;     // and where it ends
    int64_t corpus_size;  // positions in an epoch
    // The rest is filled in by dispatch.cpp.
    int64_t longest_sentence = 0;  // of those that are trained on: bounds the work space
    int32_t hot_rows = 0;          // the first rows of the output table, of which each thread has copies
    int32_t hot_uses = 0;          // and brings them back after so many uses
};

// Sums over what was trained; loss / pairs is the mean of -log σ(x·y⁺) - Σ_K log σ(-x·y⁻).
struct Stats {
    double loss = 0;
    int64_t pairs = 0;     // (centre, context)
    int64_t centres = 0;   // tokens that survived the subsampling
    bool invalid = false;  // a token or a noise word was not in the vocabulary; training stopped there
};

// One centre with everything that was drawn for it, as list_windows() shows it. Positions are those of the
// corpus.
struct WindowView {
    int64_t centre;
    const int64_t* contexts;
    int context_count;
    const int32_t* negatives;  // (negative), the draws as they fell, before duplicates and the centre itself
                               // are taken out
    float rate;
};
using WindowVisitor = void (*)(void* receiver, const WindowView& window);

struct Kernel {
    const char* name;
    // Bytes of work space, 64-byte aligned, that a thread must bring.
    size_t (*workspace_bytes)(const Block& block);
    // Train the centres at ids[begin ... end), in order.
    void (*train)(const Block& block, int64_t begin, int64_t end, void* workspace, Stats* stats);
    // Show what train() would train on, without training; false if there is a word that is not in the
    // vocabulary.
    bool (*list_windows)(const Block& block, int64_t begin, int64_t end, void* workspace, WindowVisitor visit,
                         void* receiver);
};

extern const Kernel kKernelPortable;
#ifdef EMBEDTRAIN_X86
extern const Kernel kKernelAvx2;
extern const Kernel kKernelAvx512;
#endif

}  // namespace embedtrain
