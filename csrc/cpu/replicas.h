// What keeps threads that train the same tables out of each other's caches. Rows that several threads write
// to in place travel, cache line by cache line, from core to core; so every thread but the first works on
// copies of its own, and at times adds what it learned to the tables and takes over what the others learned.
// docs/kernel-measurements.md has the measurements.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "cpu/kernel.h"

namespace embedtrain {

struct AlignedDelete {
    void operator()(char* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using AlignedMemory = std::unique_ptr<char, AlignedDelete>;

inline AlignedMemory allocate_aligned(size_t bytes) {
    return AlignedMemory(static_cast<char*>(::operator new(bytes, std::align_val_t{64})));
}

class Replicas {
  public:
    // input, output: (rows, stride). The memory is reserved here and occupied as rows are used.
    Replicas(float* input, float* output, int64_t rows, int64_t stride, int workers);

    int workers() const { return static_cast<int>(of_worker_.size()) + 1; }
    // The copies of a worker, to be synchronised so often that training at this rate stays stable.
    void give(int worker, double rate, Block* block) const;
    // Until now the tables lack what the threads learned last; afterwards they have it, and there are no
    // copies.
    void synchronise();

  private:
    struct Worker {
        Replica input, output;
        AlignedMemory memory;
    };
    float *input_, *output_;
    int64_t stride_;
    std::vector<Worker> of_worker_;  // from the second on
};

}  // namespace embedtrain
