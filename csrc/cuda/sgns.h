// Skip-gram with negative sampling on the GPU, as the rest of the core sees it: the same samples and the same
// arithmetic as on the CPU (cpu/kernel.h). Calls enqueue work on a stream and return.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sampling/block.h"

namespace embedtrain {

// Limits of the kernels: a row is spread over at most 8 warps of 32 lanes of 4 numbers; a warp draws two
// noise words per lane.
constexpr int kCudaMaxDim = 1024, kCudaMaxNegative = 64;

// A block for the CUDA kernels. All pointers are to the device's memory. Rows start
// on 16 bytes; stride is a multiple of 4 floats, and the floats between dim and the next multiple of 4 are
// zero and stay so.
struct CudaBlock : TrainingBlock {
    int64_t begin, end;  // train the centres at ids[begin ... end)
    // (V) what the updates of a row are multiplied by, so that many windows in flight do not overshoot;
    // null: 1. A row with 0 is never written.
    const float* input_damping;
    const float* output_damping;
    double* stats;  // (3), added to: loss, pairs, centres. The loss becomes NaN if a word or noise word is
                    // not in the vocabulary or the offsets do not fit; with a bad word or bad offsets nothing
                    // is trained.
};

// Bytes of device memory that cuda_train_block() works in, aligned to 16. What is in them is of no use
// afterwards.
size_t cuda_workspace_bytes(const CudaBlock& block);

// The block of threads that a worker is, and its shared memory.
struct CudaWorker {
    int threads;
    size_t shared_bytes;
};
CudaWorker cuda_worker(int dim, int window, int negative);

// How many workers (windows trained at once) suit the device. Throws std::invalid_argument if a worker does
// not fit it.
int cuda_default_workers(int dim, int window, int negative, int device);

// Train, with so many workers; one takes the centres in order and gives the same bits each time. stream is a
// cudaStream_t. Throws std::invalid_argument for sizes that the kernels cannot hold and std::runtime_error
// with the runtime's words if it refuses.
void cuda_train_block(const CudaBlock& block, int workers, void* workspace, int device, void* stream);

// Only what comes before training: which windows there are. For tests; the layout of the work space is that
// of WindowSet in windows.cuh.
void cuda_find_windows(const CudaBlock& block, void* workspace, int device, void* stream);

// As initial_weights() in sampling/tables.h, to the bit.
void cuda_initial_weights(float* table, int64_t first_row, int64_t rows, int dim, int64_t stride,
                          uint64_t seed, int device, void* stream);

}  // namespace embedtrain
