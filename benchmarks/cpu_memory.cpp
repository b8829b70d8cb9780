// What rows that come from memory cost beside arithmetic, by when they are asked for.
//
//     c++ -O2 -march=native benchmarks/cpu_memory.cpp -o cpu_memory && ./cpu_memory 1400
//
// A "centre" does the arithmetic of a window in registers and adds to three random rows of 448 bytes in a
// table of so many MB (huge pages), as the kernel does with a large vocabulary (docs/kernel.md). Their rows
// are asked for three centres before.
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

namespace {

constexpr int kRows = 3, kLines = 7, kCentres = 400000, kAhead = 3, kTouched = 32, kWork = 9;
constexpr std::size_t kHuge = std::size_t{2} << 20;
using Vector = float __attribute__((vector_size(64)));

enum Order { kArithmeticOnly, kMemoryOnly, kRowByRow, kSpread, kTouchedBefore };
constexpr const char* kNames[] = {"arithmetic alone", "rows alone, a line of each at a time",
                                  "both, a row at once", "both, a line of each row at a time",
                                  "both, and a line of each row of 32 centres before"};

Vector factors[64];

void work(Vector* sums) {
    for (int i = 0; i < kWork; ++i) {
        for (int j = 0; j < 8; ++j) sums[j] += sums[j] * factors[(8 * i + j) % 64];
    }
}

double nanoseconds(Order order, char* table, std::size_t rows) {
    std::uint64_t state = 88172645463325252;
    const auto random_row = [&] {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return table + state % rows * kLines * 64;
    };
    static char* ring[2 * kTouched][kRows];  // rows by centre
    for (auto& centre : ring) {
        for (char*& row : centre) row = random_row();
    }
    Vector sums[8] = {};
    const auto start = std::chrono::steady_clock::now();
    for (int centre = 0; centre < kCentres; ++centre) {
        if (order == kTouchedBefore && centre % kTouched == 0) {
            for (int i = 0; i < kTouched; ++i) {
                for (char*& row : ring[(centre + kAhead + 1 + i) % (2 * kTouched)])
                    __builtin_prefetch(row = random_row(), 0, 2);
            }
        }
        char** const ahead = ring[(centre + kAhead) % (2 * kTouched)];
        char** const now = ring[centre % (2 * kTouched)];
        if (order != kTouchedBefore) {
            for (int i = 0; i < kRows; ++i) ahead[i] = random_row();
        }
        for (int line = 0; line < kLines; ++line) {
            if (order == kRowByRow && line < kRows) {
                for (int i = 0; i < kLines; ++i) __builtin_prefetch(ahead[line] + 64 * i, 1, 3);
            } else if (order != kArithmeticOnly && order != kRowByRow) {
                for (int i = 0; i < kRows; ++i) __builtin_prefetch(ahead[i] + 64 * line, 1, 3);
            }
            if (order != kMemoryOnly) work(sums);
            if (order == kArithmeticOnly) continue;
            for (int i = 0; i < kRows; ++i) *reinterpret_cast<Vector*>(now[i] + 64 * line) += 1.0f;
        }
    }
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
    volatile float used = sums[0][0] + sums[7][15];
    static_cast<void>(used);
    return taken.count() / kCentres;
}

}  // namespace

int main(int argc, char** argv) {
    const std::size_t bytes = static_cast<std::size_t>(argc > 1 ? std::atoi(argv[1]) : 1400) << 20;
    char* const mapped = static_cast<char*>(
        mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (mapped == MAP_FAILED) return std::perror("mmap"), 1;
    char* const table =
        reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(mapped) + kHuge - 1) / kHuge * kHuge);
    madvise(table, bytes, MADV_HUGEPAGE);
    for (std::size_t i = 0; i < bytes; i += 4096) table[i] = 0;
    for (int round = 0; round < 3; ++round) {
        for (const Order order : {kArithmeticOnly, kMemoryOnly, kRowByRow, kSpread, kTouchedBefore})
            std::printf("%-50s %4.0f ns a centre\n", kNames[order],
                        nanoseconds(order, table, bytes / (kLines * 64)));
    }
}
