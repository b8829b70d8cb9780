// What the kernels ask of the GPU beyond plain CUDA C++: asynchronous copies, vector atomics, launches. The
// tests build the same kernels for the host, where tests/cuda/emulation.h stands in for all of it.
#pragma once

#ifdef EMBEDTRAIN_EMULATE
#include "emulation.h"
#else

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace embedtrain {

// The dynamic shared memory of a block.
#define EMBEDTRAIN_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

// Starts a copy of 16 bytes from global to shared memory, past the first-level cache (which does not see what
// other multiprocessors write). It comes after what this thread did before (PTX ISA, "asynchronous
// operations").
__device__ inline void copy_async(float4* to, const float4* from) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}

// Waits for the copies that this thread started; only this thread may then read them.
__device__ inline void wait_for_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// *row += delta, number by number, without loss when others do the same.
__device__ inline void atomic_add(float4* row, float4 delta) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(row), "f"(delta.x),
                 "f"(delta.y), "f"(delta.z), "f"(delta.w)
                 : "memory");
#else
    float* numbers = reinterpret_cast<float*>(row);
    atomicAdd(numbers, delta.x);
    atomicAdd(numbers + 1, delta.y);
    atomicAdd(numbers + 2, delta.z);
    atomicAdd(numbers + 3, delta.w);
#endif
}

// Brings the line of an address into the second-level cache. A hint.
__device__ inline void prefetch(const void* address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

inline void check(cudaError_t status) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(status) + " (" +
                                 cudaGetErrorName(status) + ")");
}

// Makes a device the current one for as long as this lives.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_));
        check(cudaSetDevice(device));
    }
    ~DeviceGuard() { cudaSetDevice(before_); }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

  private:
    int before_ = 0;
};

inline int multiprocessors(int device) {
    int count = 0;
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    return count;
}

// How many blocks of so many threads and bytes of shared memory a multiprocessor holds at once; 0: not even
// one.
template <class Function>
int resident_blocks(Function* kernel, int threads, size_t shared, int device) {
    int most = 0, blocks = 0;
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    if (shared > static_cast<size_t>(most)) return 0;
    check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared));
    return blocks;
}

inline void clear(void* memory, size_t bytes, cudaStream_t stream) {
    check(cudaMemsetAsync(memory, 0, bytes, stream));
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared, cudaStream_t stream,
            Parameters... arguments) {
    // clang-format off: it takes the brackets apart
    kernel<<<static_cast<unsigned>(blocks), threads, shared, stream>>>(arguments...);
    // clang-format on
    check(cudaGetLastError());
}

}  // namespace embedtrain

#endif
