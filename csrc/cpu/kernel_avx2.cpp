// The kernel for x86-64 with AVX2 and FMA.
#include "cpu/simd.h"

#define EMBEDTRAIN_KERNEL kKernelAvx2
#define EMBEDTRAIN_KERNEL_NAME "avx2"

namespace embedtrain {
namespace {
using Vector = F8;
using DrawVector = U4;
constexpr int kTileContexts = 2;   // 2 x 6 sums of 16 registers
constexpr int kUpdateVectors = 1;  // of columns at once in an update
}  // namespace
}  // namespace embedtrain

#include "cpu/kernel_impl.h"
