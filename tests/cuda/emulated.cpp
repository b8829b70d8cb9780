// The CUDA sources, compiled for the host, behind plain C functions for ctypes (tests/cuda/__init__.py).
#include <exception>
#include <string>

#include "../../csrc/cuda/sgns.cu"

using namespace embedtrain;

namespace {

thread_local std::string error;

template <class Function>
int guarded(Function function) {
    try {
        function();
        return 0;
    } catch (const std::exception& exception) {
        error = exception.what();
        return 1;
    }
}

}  // namespace

extern "C" {
const char* emulated_error() {
    return error.c_str();
}
void emulated_configure(int host_threads, int resident, unsigned order) {
    emulation::host_threads = host_threads;
    emulation::resident = resident;
    emulation::order = order;
}
size_t emulated_block_bytes() {
    return sizeof(CudaBlock);
}
int emulated_workspace_bytes(const CudaBlock* block, size_t* bytes) {
    return guarded([&] { *bytes = cuda_workspace_bytes(*block); });
}
int emulated_default_workers(int dim, int window, int negative, int* workers) {
    return guarded([&] { *workers = cuda_default_workers(dim, window, negative, 0); });
}
int emulated_train_block(const CudaBlock* block, int workers, void* workspace) {
    return guarded([&] { cuda_train_block(*block, workers, workspace, 0, nullptr); });
}
// Where the windows lie: counts, centres, words (addresses), margin.
int emulated_find_windows(const CudaBlock* block, void* workspace, const void** where, int* margin) {
    return guarded([&] {
        cuda_find_windows(*block, workspace, 0, nullptr);
        const WindowSet set(*block, workspace);
        where[0] = set.counts;
        where[1] = set.centres;
        where[2] = set.words;
        *margin = set.margin;
    });
}
int emulated_initial_weights(float* table, int64_t first_row, int64_t rows, int dim, int64_t stride,
                             uint64_t seed) {
    return guarded([&] { cuda_initial_weights(table, first_row, rows, dim, stride, seed, 0, nullptr); });
}
}
