// How far a long piece of work is.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace embedtrain {

// Takes the share of the work that is done, at most 1. What it throws ends the work.
using Tell = std::function<void(double)>;

// Counts the bytes that threads have read and tells their share, ten times a second.
class Progress {
  public:
    Progress(const Tell& tell, std::int64_t bytes) : tell_(tell), bytes_(bytes) {}

    // Thread 0 is the one that started the work, and the only one that tells.
    void add(std::int64_t bytes, std::size_t thread) {
        done_.fetch_add(bytes, std::memory_order_relaxed);
        if (thread != 0 || !tell_) return;
        const auto now = Clock::now();
        if (now - told_ < std::chrono::milliseconds(100)) return;
        told_ = now;
        tell_(static_cast<double>(done_.load(std::memory_order_relaxed)) / static_cast<double>(bytes_));
    }

  private:
    using Clock = std::chrono::steady_clock;

    const Tell& tell_;
    const std::int64_t bytes_;
    std::atomic<std::int64_t> done_{0};
    Clock::time_point told_ = Clock::now();
};

}  // namespace embedtrain
