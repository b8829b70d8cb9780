// The kernel for any processor: 128-bit vectors (SSE2 on x86-64, NEON on arm64).
#include "cpu/simd.h"

#define EMBEDTRAIN_KERNEL kKernelPortable
#define EMBEDTRAIN_KERNEL_NAME "portable"

namespace embedtrain {
namespace {
using Vector = F4;
using DrawVector = U2;
#ifdef __aarch64__
constexpr int kTileContexts = 4;   // 4 x 6 sums of 32 registers
constexpr int kUpdateVectors = 2;  // of columns at once in an update
#else
constexpr int kTileContexts = 2;  // 2 x 6 sums of 16 registers
constexpr int kUpdateVectors = 1;
#endif
}  // namespace
}  // namespace embedtrain

#include "cpu/kernel_impl.h"
