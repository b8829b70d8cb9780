// The CPU path as the rest of the core sees it: which kernel, which threads.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernel.h"
#include "cpu/replicas.h"

namespace embedtrain {

// Kernels that this processor can run, the best first.
std::vector<const Kernel*> available_kernels();

// The kernel in use: the best, or the one that the environment variable EMBEDTRAIN_ISA names (portable, avx2,
// avx512). Throws std::runtime_error with a sentence if that one cannot run here.
const Kernel& kernel();

// Train the centres at ids[begin ... end), lock-free (Hogwild, Niu et al. 2011), with the threads of
// `replicas`, which must have been made for the tables of this block. One thread takes the centres in order.
// Throws std::invalid_argument for offsets that are not rising or do not cover the span, and for tokens that
// are not in the vocabulary: nothing outside the arrays is read or written, whatever is in them.
Stats train_block(Block block, int64_t begin, int64_t end, const Replicas& replicas);

// Show what train_block() trains on.
void list_windows(Block block, int64_t begin, int64_t end, WindowVisitor visit, void* receiver);

// What the kernel offers for exchanges, by so many threads. Throws std::invalid_argument for rows that are
// not in the tables.
void take_differences(const ExchangedRows& rows, uint16_t* differences, int workers);
void replace_differences(const ExchangedRows& rows, const uint16_t* differences, const uint16_t* sum,
                         const float* weight, int workers);

// Ask the system for huge pages behind [address, address + bytes), before they are touched. A hint: never
// fails.
void advise_huge_pages(void* address, size_t bytes);

}  // namespace embedtrain
