// The kernel for x86-64 with AVX2 and FMA.
#include "cpu/simd.h"

#define EMBEDTRAIN_KERNEL kKernelAvx2
#define EMBEDTRAIN_KERNEL_NAME "avx2"

namespace embedtrain {
namespace {
using Vector = F8;
using DrawVector = U4;
constexpr int kRegisters = 16;  // for vectors
}  // namespace
}  // namespace embedtrain

#include "cpu/kernel_impl.h"
