// The kernel for x86-64 with AVX-512 (F, VL, BW, DQ).
#include "cpu/simd.h"

#define EMBEDTRAIN_KERNEL kKernelAvx512
#define EMBEDTRAIN_KERNEL_NAME "avx512"

namespace embedtrain {
namespace {
using Vector = F16;
using DrawVector = U8;
constexpr int kRegisters = 32;  // for vectors
}  // namespace
}  // namespace embedtrain

#include "cpu/kernel_impl.h"
