#include "cpu/dispatch.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>

namespace embedtrain {

namespace {

// Spans shrink towards the end of a block, so that the threads finish together; a span is never too short to
// be worth its margins.
constexpr int64_t kShortestSpan = 1024, kLongestSpan = 16384;

// Hands out [begin, end) in order.
class Spans {
  public:
    Spans(int64_t begin, int64_t end, int workers) : next_(begin), end_(end), workers_(workers) {}

    static bool take(void* self, int64_t* begin, int64_t* end) {
        return static_cast<Spans*>(self)->take(begin, end);
    }

  private:
    bool take(int64_t* begin, int64_t* end) {
        int64_t start = next_.load(std::memory_order_relaxed);
        while (start < end_) {
            int64_t length = (end_ - start) / (4 * workers_);
            length = length < kShortestSpan ? kShortestSpan : length > kLongestSpan ? kLongestSpan : length;
            const int64_t stop = start + length < end_ ? start + length : end_;
            if (next_.compare_exchange_weak(start, stop, std::memory_order_relaxed)) {
                *begin = start;
                *end = stop;
                return true;
            }
        }
        return false;
    }

    std::atomic<int64_t> next_;
    const int64_t end_;
    const int workers_;
};

constexpr int64_t kCachedBytes = int64_t{64} << 20;  // a table beyond is for the most part in memory

// From memory, Intel's cores fetch rows quickest by many lines of each at once, AMD's (Zen 3) by one, and one
// is enough for rows in the caches. docs/kernel-measurements.md has the figures.
int touched_lines(const Block& block) {
    const int64_t table_bytes = block.vocabulary * block.stride * static_cast<int64_t>(sizeof(float));
    if (table_bytes <= kCachedBytes) return 1;
#ifdef EMBEDTRAIN_X86
    __builtin_cpu_init();
    if (__builtin_cpu_is("intel")) return 12;
#endif
    return 1;
}

// Less than this is not worth a thread of its own.
constexpr int64_t kSharedNumbers = 1 << 18;

// Calls work(first, some) for parts of the rows, each in a thread of its own.
template <class Work>
void share_out(const ExchangedRows& rows, int workers, const Work& work) {
    const auto outside = [&](int64_t row) { return row < 0 || row >= 2 * rows.vocabulary; };
    if (std::any_of(rows.rows, rows.rows + rows.count, outside))
        throw std::invalid_argument("rows must be from 0 to " + std::to_string(2 * rows.vocabulary - 1));
    const int64_t parts = std::clamp<int64_t>(rows.count * rows.dim / kSharedNumbers, 1, workers);
    std::vector<std::thread> threads;
    const auto part = [&](int64_t number) {
        const int64_t first = rows.count * number / parts;
        ExchangedRows some = rows;
        some.rows += first;
        some.count = rows.count * (number + 1) / parts - first;
        work(first, some);
    };
    for (int64_t number = 1; number < parts; ++number) threads.emplace_back(part, number);
    part(0);
    for (std::thread& thread : threads) thread.join();
}

// Leave only the sentences with a token in [begin, end), and find the longest of them. What is left is
// checked, so that whoever searches it later stays within it; the other offsets may be anything.
void narrow(Block& block, int64_t begin, int64_t end) {
    const int64_t* const last = block.offsets + block.sentences;
    const int64_t* const first = std::upper_bound(block.offsets, last, begin) - 1;
    const int64_t* sentence = first;
    int64_t longest = 0, covered = begin;
    for (; sentence >= block.offsets && sentence < last && covered < end; ++sentence) {
        if (sentence[0] < 0 || sentence[0] > covered || sentence[1] <= sentence[0] ||
            sentence[1] > block.tokens)
            break;
        longest = std::max(longest, sentence[1] - sentence[0]);
        covered = sentence[1];
    }
    if (covered < end)
        throw std::invalid_argument("offsets must rise from 0 to the number of ids, without empty sentences");
    block.offsets = first;
    block.sentences = sentence - first;
    block.longest_sentence = longest;
}

[[noreturn]] void throw_unknown_word() {
    throw std::invalid_argument("ids and noise must be words of the vocabulary (rows of the tables)");
}

std::string names(const std::vector<const Kernel*>& kernels) {
    std::string all;
    for (const Kernel* each : kernels) all += (all.empty() ? "" : ", ") + std::string(each->name);
    return all;
}

}  // namespace

std::vector<const Kernel*> available_kernels() {
    std::vector<const Kernel*> found;
#ifdef EMBEDTRAIN_X86
    __builtin_cpu_init();
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        found.push_back(&kKernelAvx512);
    if (avx2) found.push_back(&kKernelAvx2);
#endif
    found.push_back(&kKernelPortable);
    return found;
}

const Kernel& kernel() {
    const std::vector<const Kernel*> kernels = available_kernels();
    const char* wanted = std::getenv("EMBEDTRAIN_ISA");
    if (wanted == nullptr || *wanted == '\0') return *kernels.front();
    for (const Kernel* each : kernels)
        if (std::string(each->name) == wanted) return *each;
    throw std::runtime_error("EMBEDTRAIN_ISA asks for " + std::string(wanted) +
                             ", but this processor and build run " + names(kernels) +
                             "; set it to one of these, or unset it");
}

Stats train_block(Block block, int64_t begin, int64_t end, const Replicas& replicas) {
    if (begin >= end) return {};
    narrow(block, begin, end);
    block.touched_lines = touched_lines(block);
    const int workers = replicas.workers();
    const Kernel& chosen = kernel();
    Spans spans(begin, end, workers);
    std::vector<Stats> stats(static_cast<size_t>(workers));
    std::vector<AlignedMemory> workspaces;
    for (int i = 0; i < workers; ++i) workspaces.push_back(allocate_aligned(chosen.workspace_bytes(block)));
    const auto work = [&](int worker) {
        // Of its own, on its own stack: what a thread reads or writes in every window shares no cache line.
        Block own = block;
        replicas.give(worker, learning_rate(block, begin), &own);
        Stats sum;
        chosen.train(own, Spans::take, &spans, workspaces[worker].get(), &sum);
        stats[worker] = sum;
    };
    std::vector<std::thread> threads;
    for (int worker = 1; worker < workers; ++worker) threads.emplace_back(work, worker);
    work(0);
    for (std::thread& thread : threads) thread.join();
    Stats sum;
    for (const Stats& each : stats) {
        sum.loss += each.loss;
        sum.pairs += each.pairs;
        sum.centres += each.centres;
        sum.invalid |= each.invalid;
    }
    if (sum.invalid) throw_unknown_word();
    return sum;
}

void list_windows(Block block, int64_t begin, int64_t end, WindowVisitor visit, void* receiver) {
    if (begin >= end) return;
    narrow(block, begin, end);
    const Kernel& chosen = kernel();
    const AlignedMemory workspace = allocate_aligned(chosen.workspace_bytes(block));
    if (!chosen.list_windows(block, begin, end, workspace.get(), visit, receiver)) throw_unknown_word();
}

void take_differences(const ExchangedRows& rows, uint16_t* differences, int workers) {
    share_out(rows, workers, [&](int64_t first, const ExchangedRows& some) {
        kernel().take_differences(some, differences + first * rows.dim);
    });
}

void replace_differences(const ExchangedRows& rows, const uint16_t* differences, const uint16_t* sum,
                         const float* weight, int workers) {
    share_out(rows, workers, [&](int64_t first, const ExchangedRows& some) {
        kernel().replace_differences(some, differences + first * rows.dim, sum + first * rows.dim,
                                     weight + first);
    });
}

void advise_huge_pages(void* address, size_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t kHuge = 2u << 20;
    const uintptr_t start = (reinterpret_cast<uintptr_t>(address) + kHuge - 1) / kHuge * kHuge;
    const uintptr_t stop = (reinterpret_cast<uintptr_t>(address) + bytes) / kHuge * kHuge;
    if (stop > start) madvise(reinterpret_cast<void*>(start), stop - start, MADV_HUGEPAGE);
#else
    (void)address, (void)bytes;
#endif
}

}  // namespace embedtrain
