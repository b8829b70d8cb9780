// CUDA on the host, for tests: every thread of a block is a fiber, so that the sources of the kernels run,
// slowly and in an order that can be chosen, where there is no GPU.
//
// Stricter than the hardware where it can be: shared memory starts as NaN and ends where it was said to;
// copies arrive when they are waited for and no sooner; all lanes of a warp must come to the same collective,
// with a full mask; a barrier that a thread misses is reported. Under the thread sanitizer each fiber is a
// thread of its own, and barriers, shuffles and votes are what orders them: it finds what compute-sanitizer's
// racecheck would.
//
// Fibers switch at collectives only. With several resident blocks they take turns, so that windows train at
// once.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define EMBEDTRAIN_SHARED(name) unsigned char* name = ::emulation::current->block->shared.get()
#define threadIdx (::emulation::current->thread_index)
#define blockIdx (::emulation::current->block->index)
#define blockDim (::emulation::current->block->size)
#define gridDim (::emulation::current->block->grid)

struct Index {
    unsigned x;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
using cudaStream_t = void*;

namespace emulation {

// How kernels are run; set before a launch.
inline int host_threads = 1;  // that share the blocks of a grid
inline int resident = 1;      // blocks that a host thread runs at once
inline unsigned order = 0;    // of the fibers: 0 rising, 1 falling, else the seed of a random order
constexpr size_t kStack = 64 << 10;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulation: %s\n", what);
    std::abort();
}

// While one lives, the thread sanitizer does not look: the emulation's own bookkeeping is no part of the
// kernels.
struct Unwatched {
    Unwatched() { begin(); }
    ~Unwatched() { end(); }
#if defined(__SANITIZE_THREAD__)
    static void begin() {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    static void end() {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
#else
    static void begin() {}
    static void end() {}
#endif
};

// Where threads of a warp or a block meet. Two sets of values: a thread that hurries on to the next meeting
// does not disturb those that still read this one's.
struct Meeting {
    int members = 0;
    std::atomic<int> arrived{0};
    std::atomic<unsigned> generation{0};
    std::atomic<int> kind{0};
    uint64_t values[2][32];
};

struct Block {
    Index index, size, grid;
    std::unique_ptr<unsigned char[]> shared;
    Meeting barrier;
    std::unique_ptr<Meeting[]> warps;
};

struct Copy {
    float4* to;
    float4 value;
};

struct Fiber {
    Index thread_index;
    Block* block = nullptr;
    Meeting* warp = nullptr;
    std::vector<Copy> copies;  // started and not waited for
    std::unique_ptr<char[]> stack;
    class Scheduler* scheduler = nullptr;
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    const void* bottom = nullptr;
    size_t size = 0;
#endif
#if defined(__SANITIZE_THREAD__)
    void* tsan = nullptr;
#endif
};

inline thread_local Fiber* current = nullptr;

#if defined(__x86_64__)
// Saves the registers that a call must keep on this stack, and takes those of another stack.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.weak emulation_switch
.type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulation_switch, .-emulation_switch
)");
#endif

// The fibers of one host thread.
class Scheduler {
  public:
    explicit Scheduler(std::function<void()> kernel) : kernel_(std::move(kernel)), random_(order) {
#if defined(__SANITIZE_THREAD__)
        main_.tsan = __tsan_get_current_fiber();
#endif
    }
    ~Scheduler() {
        for (auto& fiber : fibers_) stacks().push_back(std::move(fiber->stack));
    }

    // Runs some blocks to their ends.
    void run(const std::vector<std::unique_ptr<Block>>& blocks) {
        const size_t threads = blocks.front()->size.x;
        while (fibers_.size() < blocks.size() * threads) {
            auto fiber = std::make_unique<Fiber>();
            if (stacks().empty()) stacks().emplace_back(new char[kStack]);
            fiber->stack = std::move(stacks().back());
            stacks().pop_back();
            fiber->scheduler = this;
            fibers_.push_back(std::move(fiber));
        }
        alive_.clear();
        for (size_t i = 0; i < blocks.size() * threads; ++i) {
            Fiber& fiber = *fibers_[i];
            fiber.block = blocks[i / threads].get();
            fiber.thread_index.x = static_cast<unsigned>(i % threads);
            fiber.warp = &fiber.block->warps[fiber.thread_index.x / 32];
            prepare(fiber);
            alive_.push_back(&fiber);
        }
        idle_ = 0;
        at_ = order == 1 ? alive_.size() - 1 : 0;
#if defined(__SANITIZE_THREAD__)
        __tsan_release(&main_);
#endif
        {
            const Unwatched unwatched;
            go(&main_, alive_[at_]);
        }
#if defined(__SANITIZE_THREAD__)
        __tsan_acquire(&main_);
        for (auto& fiber : fibers_) {
            if (fiber->tsan) __tsan_destroy_fiber(fiber->tsan);
            fiber->tsan = nullptr;
        }
#endif
        current = nullptr;
    }

    // The running fiber waits: another one's turn.
    void yield() {
        const Unwatched unwatched;
        if (++idle_ > 64 * alive_.size())
            fail("deadlock: a barrier or collective that some threads do not reach");
        Fiber* const from = current;
        Fiber* const to = next();
        if (to != from) go(from, to);
    }
    void progress() {
        const Unwatched unwatched;
        idle_ = 0;
    }

    void finish() {
#if defined(__SANITIZE_THREAD__)
        __tsan_release(&main_);
#endif
        Unwatched::begin();  // go() ends it
        Fiber* const from = current;
        if (!from->copies.empty()) fail("a thread ends with copies that it did not wait for");
        idle_ = 0;
        alive_.erase(alive_.begin() + static_cast<std::ptrdiff_t>(at_));
        if (alive_.empty()) {
            go(from, &main_, true);
        } else {
            at_ = at_ % alive_.size();
            go(from, next(), true);
        }
        fail("a fiber that ended runs again");
    }

  private:
    static std::vector<std::unique_ptr<char[]>>& stacks() {
        static thread_local std::vector<std::unique_ptr<char[]>> unused;
        return unused;
    }

    Fiber* next() {
        if (order == 0) {
            at_ = (at_ + 1) % alive_.size();
        } else if (order == 1) {
            at_ = (at_ + alive_.size() - 1) % alive_.size();
        } else {
            random_ = random_ * 6364136223846793005u + 1442695040888963407u;
            at_ = (random_ >> 33) % alive_.size();
        }
        return alive_[at_];
    }

    static void enter() {
        Scheduler* scheduler;
        {
            const Unwatched unwatched;
            arrive(current);
            scheduler = current->scheduler;
        }
#if defined(__SANITIZE_THREAD__)
        __tsan_acquire(&scheduler->main_);
#endif
        scheduler->kernel_();
        scheduler->finish();
    }

    void prepare(Fiber& fiber) {
#if defined(__SANITIZE_THREAD__)
        fiber.tsan = __tsan_create_fiber(0);
#endif
#if defined(__SANITIZE_ADDRESS__)
        fiber.bottom = fiber.stack.get();
        fiber.size = kStack;
        fiber.fake_stack = nullptr;
        __asan_unpoison_memory_region(fiber.stack.get(), kStack);  // what the last kernel left
#endif
#if defined(__x86_64__)
        // Not all at the same offset of a page, or the stacks would fight for the same sets of the caches.
        const size_t shift = fiber.thread_index.x % 64 * 576;
        uintptr_t top = reinterpret_cast<uintptr_t>(fiber.stack.get() + kStack - shift) & ~uintptr_t{15};
        void** words = reinterpret_cast<void**>(top) - 8;  // six registers, the return address, alignment
        std::fill(words, words + 8, nullptr);
        words[6] = reinterpret_cast<void*>(&Scheduler::enter);
        fiber.stack_pointer = words;
#else
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStack;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, &Scheduler::enter, 0);
#endif
    }

    static void arrive([[maybe_unused]] Fiber* here) {
#if defined(__SANITIZE_ADDRESS__)
        const void* bottom;
        size_t size;
        __sanitizer_finish_switch_fiber(here->fake_stack, &bottom, &size);
        if (here->scheduler->came_from_main_) {
            here->scheduler->main_.bottom = bottom;
            here->scheduler->main_.size = size;
            here->scheduler->came_from_main_ = false;
        }
#endif
    }

    void go(Fiber* from, Fiber* to, [[maybe_unused]] bool for_good = false) {
        current = to;
        main_.scheduler = this;
#if defined(__SANITIZE_ADDRESS__)
        came_from_main_ = from == &main_;
        __sanitizer_start_switch_fiber(for_good ? nullptr : &from->fake_stack, to->bottom, to->size);
#endif
#if defined(__x86_64__)
        void** const save = &from->stack_pointer;
        void* const stack = to->stack_pointer;
#endif
#if defined(__SANITIZE_THREAD__)
        void* const tsan = to->tsan;
        if (for_good) Unwatched::end();
        __tsan_switch_to_fiber(tsan, __tsan_switch_to_fiber_no_sync);  // no order follows from taking turns
#endif
#if defined(__x86_64__)
        emulation_switch(save, stack);
#else
        swapcontext(&from->context, &to->context);
#endif
        arrive(from);
    }

    std::function<void()> kernel_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<Fiber*> alive_;
    size_t at_ = 0, idle_ = 0;
    uint64_t random_;
    Fiber main_;
    bool came_from_main_ = false;
};

// All members of a meeting come; each leaves a value and may then read those of the others.
inline const uint64_t* meet(Meeting& meeting, int kind, int slot, uint64_t value) {
    const unsigned generation = meeting.generation.load(std::memory_order_acquire);
    uint64_t* const values = meeting.values[generation % 2];
    if (slot >= 0) values[slot] = value;
    int expected = 0;
    if (!meeting.kind.compare_exchange_strong(expected, kind) && expected != kind)
        fail("threads of one warp or block are at different collectives");
    if (meeting.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == meeting.members) {
        meeting.arrived.store(0, std::memory_order_relaxed);
        meeting.kind.store(0, std::memory_order_relaxed);
        meeting.generation.store(generation + 1, std::memory_order_release);
        current->scheduler->progress();
    } else {
        while (meeting.generation.load(std::memory_order_acquire) == generation) current->scheduler->yield();
    }
    return values;
}

enum Kind { kShuffle = 1, kBallot, kMatch, kWarpBarrier, kBlockBarrier };

inline int lane() {
    return static_cast<int>(current->thread_index.x % 32);
}

template <class T>
T exchange(unsigned mask, T value, int from) {
    static_assert(sizeof(T) <= 8);
    if (mask != 0xffffffffu) fail("a collective of a part of a warp");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const uint64_t* const values = meet(*current->warp, kShuffle, lane(), bits);
    std::memcpy(&value, &values[from], sizeof value);
    return value;
}

}  // namespace emulation

inline void __syncthreads() {
    emulation::meet(emulation::current->block->barrier, emulation::kBlockBarrier, -1, 0);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    if (mask != 0xffffffffu) emulation::fail("a barrier of a part of a warp");
    emulation::meet(*emulation::current->warp, emulation::kWarpBarrier, -1, 0);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
    return emulation::exchange(mask, value, from % 32);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return emulation::exchange(mask, value, emulation::lane() ^ bits);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int step) {
    return emulation::exchange(mask, value,
                               emulation::lane() >= step ? emulation::lane() - step : emulation::lane());
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
    if (mask != 0xffffffffu) emulation::fail("a vote of a part of a warp");
    const uint64_t* const votes =
        emulation::meet(*emulation::current->warp, emulation::kBallot, emulation::lane(), vote);
    unsigned result = 0;
    for (int i = 0; i < 32; ++i) result |= static_cast<unsigned>(votes[i]) << i;
    return result;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
    static_assert(sizeof(T) <= 8);
    if (mask != 0xffffffffu) emulation::fail("a match of a part of a warp");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const uint64_t* const values =
        emulation::meet(*emulation::current->warp, emulation::kMatch, emulation::lane(), bits);
    unsigned result = 0;
    for (int i = 0; i < 32; ++i) result |= static_cast<unsigned>(values[i] == bits) << i;
    return result;
}
inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

template <class T>
T atomicAdd(T* address, T value) {
    T before, after;
    __atomic_load(address, &before, __ATOMIC_RELAXED);
    do after = before + value;
    while (!__atomic_compare_exchange(address, &before, &after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return before;
}
inline int32_t atomicOr(int32_t* address, int32_t bits) {
    return __atomic_fetch_or(address, bits, __ATOMIC_RELAXED);
}
// Rows are read while others add to them: number by number, as the GPU does.
inline float4 __ldcg(const float4* address) {
    float4 row;
    const float* from = &address->x;
    float* to = &row.x;
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) emulation::fail("a vector that is not aligned");
    for (int i = 0; i < 4; ++i) __atomic_load(from + i, to + i, __ATOMIC_RELAXED);
    return row;
}

namespace embedtrain {

inline void copy_async(float4* to, const float4* from) {
    emulation::current->copies.push_back({to, __ldcg(from)});
}
inline void wait_for_copies() {
    for (const emulation::Copy& copy : emulation::current->copies) *copy.to = copy.value;
    emulation::current->copies.clear();
}
inline void atomic_add(float4* row, float4 delta) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulation::fail("a vector that is not aligned");
    atomicAdd(&row->x, delta.x);
    atomicAdd(&row->y, delta.y);
    atomicAdd(&row->z, delta.z);
    atomicAdd(&row->w, delta.w);
}
inline void prefetch(const void*) {}

class DeviceGuard {
  public:
    explicit DeviceGuard(int) {}
};

inline int multiprocessors(int) {
    return 2;
}

// As on sm_90: 227 KiB, 32 blocks.
template <class Function>
int resident_blocks(Function*, int, size_t shared, int) {
    return static_cast<int>(std::min<size_t>(32, (227 << 10) / (shared + 1024)));
}

inline void clear(void* memory, size_t bytes, cudaStream_t) {
    std::memset(memory, 0, bytes);
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared, cudaStream_t,
            Parameters... arguments) {
    if (threads % 32 != 0) emulation::fail("a block with a part of a warp");
    std::atomic<int64_t> next{0};
    const auto work = [&] {
        emulation::Scheduler scheduler([&] { kernel(arguments...); });
        for (;;) {
            const int64_t first = next.fetch_add(emulation::resident);
            if (first >= blocks) break;
            std::vector<std::unique_ptr<emulation::Block>> running;
            for (int64_t i = first; i < std::min(first + emulation::resident, blocks); ++i) {
                auto block = std::make_unique<emulation::Block>();
                block->index.x = static_cast<unsigned>(i);
                block->size.x = static_cast<unsigned>(threads);
                block->grid.x = static_cast<unsigned>(blocks);
                block->shared.reset(new unsigned char[shared]);
                std::memset(block->shared.get(), 0xff, shared);
                block->barrier.members = threads;
                block->warps = std::make_unique<emulation::Meeting[]>(threads / 32);
                for (int warp = 0; warp < threads / 32; ++warp) block->warps[warp].members = 32;
                running.push_back(std::move(block));
            }
            scheduler.run(running);
        }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < emulation::host_threads; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
}

}  // namespace embedtrain
