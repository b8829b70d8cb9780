// The kernel for any processor: 128-bit vectors (SSE2 on x86-64, NEON on arm64).
#include "cpu/simd.h"

#define EMBEDTRAIN_KERNEL kKernelPortable
#define EMBEDTRAIN_KERNEL_NAME "portable"

namespace embedtrain {
namespace {
using Vector = F4;
using DrawVector = U2;
constexpr int kTileContexts = 2;   // 2 x 6 sums of 16 registers
constexpr int kUpdateVectors = 1;  // of columns at once in an update
}  // namespace
}  // namespace embedtrain

#include "cpu/kernel_impl.h"
