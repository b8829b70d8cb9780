// What a CPU kernel is given and what it offers. One kernel per instruction set; dispatch.cpp picks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sampling/block.h"

namespace embedtrain {

// A thread's copies of the first rows of a table.
struct Replica {
    float* copy = nullptr;    // (rows, stride)
    float* origin = nullptr;  // (rows, stride) what the table had when the copy was made or last synchronised
    // (rows + 1) one more than the uses until it is due to be synchronised; 0: there is no copy. The last
    // counts for all rows that have none.
    uint8_t* left = nullptr;
    uint8_t* limit = nullptr;  // (rows) the uses from one time to the next; doubled, up to Block::most_uses
    int64_t rows = 0;
};

// A block for a CPU kernel. Rows are 64-byte aligned; stride is a multiple of 16
// floats and the floats between dim and stride are zero, and stay so.
struct Block : TrainingBlock {
    const bool* locked = nullptr;  // (V) words whose row of the input table is not written; null: none
    // Filled in by dispatch.cpp.
    int64_t longest_sentence = 0;  // of those that are trained on: bounds the work space
    Replica input_copies, output_copies;
    int most_uses = 1;      // of a copy, until it is synchronised
    int touched_lines = 1;  // of a row that is fetched to the second-level cache some centres ahead
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

// Gives the next span of ids to train on; false when there is none.
using SpanSource = bool (*)(void* spans, int64_t* begin, int64_t* end);

// Rows that ranks exchange (embedtrain/exchange.py), of both tables: row V + i is row i of the output table.
struct ExchangedRows {
    float* tables[2];     // (V, stride) input, output
    float* base;          // (2 V, stride) what all ranks agreed on last
    int64_t vocabulary;   // V
    int64_t stride;       // floats
    const int64_t* rows;  // (count) all different
    int64_t count;
    int dim;
};

struct Kernel {
    const char* name;
    // Bytes of work space, 64-byte aligned, that a thread must bring.
    size_t (*workspace_bytes)(const Block& block);
    // Train the centres of one span after the other, in order.
    void (*train)(const Block& block, SpanSource next_span, void* spans, void* workspace, Stats* stats);
    // Show what train() would train on, without training; false if there is a word that is not in the
    // vocabulary.
    bool (*list_windows)(const Block& block, int64_t begin, int64_t end, void* workspace, WindowVisitor visit,
                         void* receiver);
    // differences (count, dim) = table - base, as bfloat16, rounded to nearest, ties to even.
    void (*take_differences)(const ExchangedRows& rows, uint16_t* differences);
    // With step = weight * sum, which is of all ranks' differences: base += step, and in the table the step
    // takes the place of this rank's own differences. What was not sent, because of the rounding or because
    // it was learned since, stays in the table. weight: (count).
    void (*replace_differences)(const ExchangedRows& rows, const uint16_t* differences, const uint16_t* sum,
                                const float* weight);
};

extern const Kernel kKernelPortable;
#ifdef EMBEDTRAIN_X86
extern const Kernel kKernelAvx2;
extern const Kernel kKernelAvx512;
#endif

}  // namespace embedtrain
