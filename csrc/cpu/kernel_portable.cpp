// The kernel for any processor: 128-bit vectors (SSE2 on x86-64, NEON on arm64).
#include "cpu/simd.h"

#define EMBEDTRAIN_KERNEL kKernelPortable
#define EMBEDTRAIN_KERNEL_NAME "portable"

namespace embedtrain {
namespace {
using Vector = F4;
using DrawVector = U2;
#ifdef __aarch64__
constexpr int kRegisters = 32;  // for vectors
#else
constexpr int kRegisters = 16;
#endif
}  // namespace
}  // namespace embedtrain

#include "cpu/kernel_impl.h"
