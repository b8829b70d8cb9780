#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/platform.cuh"
#include "cuda/sgns.h"
#include "cuda/train.cuh"
#include "cuda/windows.cuh"

namespace embedtrain {

namespace {

// Workers per multiprocessor, where so many fit: enough to hide most of the time that rows take to arrive,
// and no more, because what a window learns is late for all others that are being trained (docs/kernel.md).
constexpr int kWorkersPerMultiprocessor = 16;

// Throws unless a worker fits the device; returns how many fit a multiprocessor.
int workers_that_fit(int dim, int window, int negative, int device) {
    if (dim > kCudaMaxDim || negative > kCudaMaxNegative)
        throw std::invalid_argument("on CUDA, dim must be at most " + std::to_string(kCudaMaxDim) +
                                    " and negative at most " + std::to_string(kCudaMaxNegative));
    const WorkerLayout layout(dim, window, negative);
    const int fit = resident_blocks(train_windows, layout.threads, layout.bytes, device);
    if (fit == 0)
        throw std::invalid_argument("a window needs " + std::to_string(layout.bytes) +
                                    " bytes of shared memory, more than this GPU has; lower dim or negative");
    return fit;
}

void check_size(const CudaBlock& block) {
    const int64_t margin = std::min<int64_t>(block.window, block.tokens);
    if (block.end - block.begin + 2 * margin > INT32_MAX)
        throw std::invalid_argument("on CUDA, a block must have less than 2^31 tokens, margins included");
}

void find(const CudaBlock& block, const WindowSet& set, cudaStream_t stream) {
    const int64_t tiles = (block.end - block.begin + kTileTokens - 1) / kTileTokens;
    constexpr size_t scratch = (kTileTokens / kWarp) * sizeof(int32_t);
    clear(set.counts, sizeof(WindowCounts), stream);
    launch(keep_tokens, tiles, kTileTokens, scratch, stream, block, set);
    launch(sum_and_take_margins, 3, kTileTokens, scratch, stream, block, set);
    launch(find_windows, tiles, kTileTokens, 0, stream, block, set);
}

// Four numbers each.
__global__ void fill_initial_weights(float* table, int64_t first_row, int64_t rows, int dim, int64_t stride,
                                     uint64_t seed) {
    const int fours = (dim + 3) / 4;
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * fours;
         i += step) {
        const int64_t row = i / fours;
        const int column = static_cast<int>(i % fours) * 4;
        const Philox4 bits = draw(seed, 0, static_cast<uint64_t>(first_row + row), kInitial,
                                  static_cast<uint32_t>(column / 4));
        for (int lane = 0; lane < 4 && column + lane < dim; ++lane) {
            const double uniform = (static_cast<double>(bits.lane[lane]) + 0.5) / 4294967296.0;
            table[row * stride + column + lane] = static_cast<float>((uniform - 0.5) / dim);
        }
    }
}

}  // namespace

size_t cuda_workspace_bytes(const CudaBlock& block) {
    check_size(block);
    return WindowSet(block, nullptr).bytes;
}

CudaWorker cuda_worker(int dim, int window, int negative) {
    const WorkerLayout layout(dim, window, negative);
    return {layout.threads, layout.bytes};
}

int cuda_default_workers(int dim, int window, int negative, int device) {
    const DeviceGuard guard(device);
    return std::min(workers_that_fit(dim, window, negative, device), kWorkersPerMultiprocessor) *
           multiprocessors(device);
}

void cuda_find_windows(const CudaBlock& block, void* workspace, int device, void* stream) {
    check_size(block);
    if (block.begin >= block.end) return;
    const DeviceGuard guard(device);
    find(block, WindowSet(block, workspace), static_cast<cudaStream_t>(stream));
}

void cuda_train_block(const CudaBlock& block, int workers, void* workspace, int device, void* stream) {
    check_size(block);
    if (block.begin >= block.end) return;
    const DeviceGuard guard(device);
    workers_that_fit(block.dim, block.window, block.negative, device);
    const WindowSet set(block, workspace);
    const WorkerLayout layout(block.dim, block.window, block.negative);
    find(block, set, static_cast<cudaStream_t>(stream));
    launch(train_windows, workers, layout.threads, layout.bytes, static_cast<cudaStream_t>(stream), block,
           set);
}

void cuda_initial_weights(float* table, int64_t first_row, int64_t rows, int dim, int64_t stride,
                          uint64_t seed, int device, void* stream) {
    if (rows <= 0 || dim <= 0) return;
    const DeviceGuard guard(device);
    constexpr int threads = 256;
    const int64_t blocks = std::min<int64_t>((rows * ((dim + 3) / 4) + threads - 1) / threads, 8192);
    launch(fill_initial_weights, blocks, threads, 0, static_cast<cudaStream_t>(stream), table, first_row,
           rows, dim, stride, seed);
}

}  // namespace embedtrain
