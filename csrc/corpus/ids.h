// The ids of a corpus, in memory or in a file.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "corpus/buffer.h"
#include "corpus/file.h"

namespace embedtrain {

class Ids {
  public:
    Ids() = default;
    explicit Ids(const std::string& path) : file_(path) {}

    std::int64_t size() const { return size_; }

    // Appends so many ids, to be written; gives the place of the first.
    std::int64_t append(std::int64_t ids) {
        const std::int64_t first = std::exchange(size_, size_ + ids);
        const auto needed = static_cast<std::size_t>(size_);
        if (!file_ && needed > memory_.size()) {
            memory_.grow(std::max({needed, memory_.size() / 4 * 5, kFirstSize}));
        }
        return first;
    }

    // Several threads may write and read at different places.
    void write(const std::int32_t* ids, std::int64_t size, std::int64_t at) {
        if (file_) {
            file_->write(ids, static_cast<std::size_t>(size) * sizeof *ids, at * kBytes);
        } else {
            std::copy_n(ids, size, memory_.data() + at);
        }
    }
    // Where the ids are to be read, `buffer` if need be.
    const std::int32_t* read(std::int32_t* buffer, std::int64_t size, std::int64_t at) const {
        if (!file_) return memory_.data() + at;
        file_->read(buffer, static_cast<std::size_t>(size) * sizeof *buffer, at * kBytes);
        return buffer;
    }

    void shrink(std::int64_t size) {
        size_ = size;
        if (file_) {
            file_->truncate(size * kBytes);
        } else {
            memory_.shrink(static_cast<std::size_t>(size));
        }
    }
    Buffer<std::int32_t> release() { return std::move(memory_); }

  private:
    static constexpr std::int64_t kBytes = sizeof(std::int32_t);
    static constexpr std::size_t kFirstSize = std::size_t{1} << 19;  // 2 MiB: grow() moves its pages

    std::int64_t size_ = 0;
    Buffer<std::int32_t> memory_{0, Pages::kSmall};
    std::optional<File> file_;
};

}  // namespace embedtrain
