// Large arrays straight from the kernel.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace embedtrain {

// What large arrays ask the kernel for. Random access to millions of words is bound by the TLB without huge
// pages. What is used in order gains nothing by them, and waits longer for memory that the host of a virtual
// machine has taken back: the guest's free huge pages are what it takes (benchmarks/README.md).
enum class Pages { kHuge, kSmall };

// A zero-filled array of a trivial type. Pages cost nothing until touched, and freeing returns the memory at
// once.
template <typename T>
class Buffer {
    template <typename U>
    friend class Buffer;

  public:
    Buffer() = default;
    explicit Buffer(std::size_t size, Pages pages = Pages::kHuge) : size_(size), pages_(pages) {
        if (size == 0) return;
        if (size > (SIZE_MAX - 2 * kHuge) / sizeof(T)) throw std::bad_alloc();
        const std::size_t bytes = size * sizeof(T);
        // To begin at a huge page, and end with one, so that grow() tears none apart.
        mapped_ = bytes < kHuge ? round_up(bytes, kPage) : round_up(bytes, kHuge) + kHuge;
        base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base_ == MAP_FAILED) {
            base_ = nullptr;
            throw std::bad_alloc();
        }
        data_ = static_cast<T*>(base_);
        if (mapped_ >= 2 * kHuge) {
            data_ = reinterpret_cast<T*>(round_up(reinterpret_cast<std::uintptr_t>(base_), kHuge));
#if defined(MADV_HUGEPAGE)
            if (pages == Pages::kHuge)
                madvise(data_, static_cast<std::size_t>(end_of_mapping() - reinterpret_cast<char*>(data_)),
                        MADV_HUGEPAGE);
#endif
        }
    }
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        Buffer(std::move(other)).swap(*this);
        return *this;
    }
    ~Buffer() {
        if (base_ != nullptr) munmap(base_, mapped_);
    }

    // The elements stay, zeros come behind them. Their pages move, where the system can do that, so that
    // there are never two copies.
    void grow(std::size_t size) {
        Buffer larger(size, pages_);
#if defined(__linux__)
        if (mapped_ >= 2 * kHuge) {  // so both begin at a huge page
            char* const from = reinterpret_cast<char*>(data_);
            const std::size_t bytes = std::min(round_up(size_ * sizeof(T), kHuge),
                                               static_cast<std::size_t>(end_of_mapping() - from));
            if (mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, larger.data_) != MAP_FAILED) {
                // Another thread may have got the addresses of what moved.
                if (from > static_cast<char*>(base_))
                    munmap(base_, static_cast<std::size_t>(from - static_cast<char*>(base_)));
                if (end_of_mapping() > from + bytes)
                    munmap(from + bytes, static_cast<std::size_t>(end_of_mapping() - from - bytes));
                base_ = nullptr;
                swap(larger);
                return;
            }
        }
#endif
        if (size_ > 0) std::memcpy(larger.data_, data_, size_ * sizeof(T));
        swap(larger);
    }

    // Keeps the first elements and gives the memory of the others back.
    void shrink(std::size_t size) {
        size_ = size;
        if (base_ == nullptr) return;
        const std::size_t used =
            static_cast<std::size_t>(reinterpret_cast<char*>(data_ + size) - static_cast<char*>(base_));
        const std::size_t keep = std::max(round_up(used, kPage), kPage);
        if (keep < mapped_) {
            munmap(static_cast<char*>(base_) + keep, mapped_ - keep);
            mapped_ = keep;
        }
    }

    // The memory for so many elements of another type; what is in it stays.
    template <typename U>
    Buffer<U> reuse(std::size_t size) && {
        Buffer<U> other;
        other.base_ = std::exchange(base_, nullptr);
        other.mapped_ = mapped_;
        other.data_ = reinterpret_cast<U*>(data_);
        other.shrink(size);
        return other;
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    std::size_t size() const { return size_; }
    T* begin() { return data_; }
    T* end() { return data_ + size_; }
    const T* begin() const { return data_; }
    const T* end() const { return data_ + size_; }
    T& operator[](std::size_t i) { return data_[i]; }
    const T& operator[](std::size_t i) const { return data_[i]; }

  private:
    static constexpr std::size_t kHuge = std::size_t{2} << 20;
    static constexpr std::size_t kPage = std::size_t{64} << 10;  // the largest small page of any system

    static constexpr std::size_t round_up(std::size_t bytes, std::size_t unit) {
        return (bytes + unit - 1) / unit * unit;
    }
    char* end_of_mapping() const { return static_cast<char*>(base_) + mapped_; }

    void swap(Buffer& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(pages_, other.pages_);
        std::swap(base_, other.base_);
        std::swap(mapped_, other.mapped_);
    }

    T* data_ = nullptr;
    std::size_t size_ = 0;
    Pages pages_ = Pages::kHuge;
    void* base_ = nullptr;
    std::size_t mapped_ = 0;
};

}  // namespace embedtrain
