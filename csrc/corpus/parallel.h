// A task list worked off by several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace embedtrain {

class Threads {
  public:
    explicit Threads(std::size_t count) : count_(count) {}

    std::size_t count() const { return count_; }

    // Calls task(i, thread) for each i < tasks; a thread takes its tasks in order. What a task throws is
    // thrown here, after all threads have stopped.
    template <typename Task>
    void run(std::size_t tasks, const Task& task) const {
        std::atomic<std::size_t> next{0};
        std::exception_ptr error;
        std::mutex error_mutex;
        const auto work = [&](std::size_t thread) {
            try {
                for (std::size_t i; (i = next.fetch_add(1)) < tasks;) task(i, thread);
            } catch (...) {
                const std::lock_guard lock(error_mutex);
                error = std::current_exception();
                next = tasks;
            }
        };
        std::vector<std::thread> threads;
        try {
            for (std::size_t thread = 1; thread < std::min(tasks, count_); ++thread)
                threads.emplace_back(work, thread);
        } catch (const std::system_error&) {  // the system has no more threads to give: those we have do it
        }
        work(0);
        for (std::thread& thread : threads) thread.join();
        if (error) std::rethrow_exception(error);
    }

    // The same in three steps: before(i, thread); then in_turn(i), for one task after the other, in their
    // order; then after(i, thread). A task may use in each step what all earlier ones have done in the step
    // before.
    template <typename Before, typename InTurn, typename After>
    void run_in_turn(std::size_t tasks, const Before& before, const InTurn& in_turn,
                     const After& after) const {
        std::mutex mutex;
        std::condition_variable moved;
        std::size_t turn = 0;
        bool failed = false;
        run(tasks, [&](std::size_t i, std::size_t thread) {
            try {
                before(i, thread);
                {
                    std::unique_lock lock(mutex);
                    moved.wait(lock, [&] { return turn == i || failed; });
                    if (failed) return;
                    in_turn(i, thread);
                    ++turn;
                }
                moved.notify_all();
                after(i, thread);
            } catch (...) {
                {
                    const std::lock_guard lock(mutex);
                    failed = true;  // nobody must wait for this one
                }
                moved.notify_all();
                throw;
            }
        });
    }

    template <typename T>
    void sort(T* begin, T* end) const {
        const auto border = [&](std::size_t part) {
            return begin + static_cast<std::size_t>(end - begin) * std::min(part, count_) / count_;
        };
        run(count_, [&](std::size_t part, std::size_t) { std::sort(border(part), border(part + 1)); });
        for (std::size_t width = 1; width < count_; width *= 2) {
            run((count_ + 2 * width - 1) / (2 * width), [&](std::size_t pair, std::size_t) {
                const std::size_t first = pair * 2 * width;
                std::inplace_merge(border(first), border(first + width), border(first + 2 * width));
            });
        }
    }

  private:
    std::size_t count_;
};

}  // namespace embedtrain
