#include "cpu/replicas.h"

#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"

namespace embedtrain {

namespace {

// Of each table; the vocabulary is in order of frequency, so that these are the first rows. Cores without a
// common cache gain by more copies, cores that share one lose a little by the room these take.
constexpr int64_t kCopiedBytes = int64_t{8} << 20;

// The updates of a row by all threads that have not seen each other, times the rate. Each thread sees its
// own, so what may go wrong is that all learn the same and the sum overshoots.
constexpr double kUnseenUpdates = 1.6;

// A row grows fast at first, each update building on the ones before; so a copy is synchronised after few
// updates, then after more and more. A context counts as used when its token is reached, for the W + 1
// windows it is in.
constexpr uint8_t kFirstInputLimit = 1, kFirstOutputLimit = 4;

// Adds what was learned in a thread's copies to the table.
void bring_back(float* table, int64_t stride, const Replica& replica) {
    for (int64_t row = 0; row < replica.rows; ++row) {
        if (replica.left[row] == 0) continue;
        replica.left[row] = 0;
        for (int64_t i = row * stride; i < (row + 1) * stride; ++i)
            table[i] += replica.copy[i] - replica.origin[i];
    }
}

}  // namespace

Replicas::Replicas(float* input, float* output, int64_t rows, int64_t stride, int workers)
    : input_(input), output_(output), stride_(stride), of_worker_(static_cast<size_t>(workers) - 1) {
    const int64_t copied =
        std::min<int64_t>(rows, kCopiedBytes / (stride * static_cast<int64_t>(sizeof(float))));
    const int64_t floats = copied * stride;
    const size_t rows_copied = static_cast<size_t>(copied);
    for (Worker& worker : of_worker_) {
        const size_t counts_bytes = 2 * (2 * rows_copied + 1);
        const size_t bytes = 4 * static_cast<size_t>(floats) * sizeof(float) + counts_bytes;
        worker.memory = allocate_aligned(bytes);
        advise_huge_pages(worker.memory.get(), bytes);
        float* const at = reinterpret_cast<float*>(worker.memory.get());
        uint8_t* const counts = reinterpret_cast<uint8_t*>(at + 4 * floats);
        uint8_t* const limits = counts + 2 * (copied + 1);
        std::memset(counts, 0, counts_bytes);
        worker.input = {at, at + floats, counts, limits, copied};
        worker.output = {at + 2 * floats, at + 3 * floats, counts + copied + 1, limits + copied, copied};
        std::memset(worker.input.limit, kFirstInputLimit, rows_copied);
        std::memset(worker.output.limit, kFirstOutputLimit, rows_copied);
    }
}

void Replicas::give(int worker, double rate, Block* block) const {
    if (worker == 0) return;
    const Worker& own = of_worker_[static_cast<size_t>(worker) - 1];
    block->input_copies = own.input;
    block->output_copies = own.output;
    const double most = kUnseenUpdates / (std::max(rate, 1e-9) * workers());
    block->most_uses = static_cast<int>(std::clamp(most, 1.0, 250.0));
}

void Replicas::synchronise() {
    for (const Worker& worker : of_worker_) {
        bring_back(input_, stride_, worker.input);
        bring_back(output_, stride_, worker.output);
    }
}

}  // namespace embedtrain
