// The hash table of distinct words: the one hot data structure of counting.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "corpus/buffer.h"
#include "corpus/parallel.h"

namespace embedtrain {

// A word, ready to be looked up. Words hold no NUL, so the zero-padded bytes of a short one say all.
struct WordKey {
    static constexpr std::size_t kInline = 16;

    std::uint64_t head = 0;    // bytes 0 to 7; of a word longer than 16 bytes: its hash
    std::uint64_t tail = 0;    // bytes 8 to 15; of a longer word: the address of its bytes
    std::uint32_t length = 0;  // bytes
    std::int32_t id = 0;       // for who needs one beside the key; no part of it

    WordKey() = default;
    WordKey(std::uint64_t head_, std::uint64_t tail_, std::uint32_t length_)
        : head(head_), tail(tail_), length(length_) {}
    // A long word's key points into `word`, which must outlive it.
    explicit WordKey(std::string_view word) {
        if (word.size() > kMaxLength) throw std::length_error("a word is longer than 2 GiB; is this text?");
        length = static_cast<std::uint32_t>(word.size());
        if (word.size() > kInline) {
            head = hash_bytes(word);
            tail = reinterpret_cast<std::uintptr_t>(word.data());
        } else {
            char bytes[kInline] = {};
            std::copy(word.begin(), word.end(), bytes);
            std::memcpy(&head, bytes, 8);
            std::memcpy(&tail, bytes + 8, 8);
        }
    }

    bool is_long() const { return length > kInline; }
    const char* long_bytes() const {
        return reinterpret_cast<const char*>(static_cast<std::uintptr_t>(tail));
    }
    // The bytes: of a short word they are those inside this key.
    std::string_view text() const {
        return {is_long() ? long_bytes() : reinterpret_cast<const char*>(this), length};
    }
    std::uint64_t hash() const { return is_long() ? head : mix(head ^ kSeedA, tail ^ kSeedB); }

    bool operator==(const WordKey& other) const {
        if (head != other.head || length != other.length) return false;
        return tail == other.tail ||
               (is_long() && std::memcmp(long_bytes(), other.long_bytes(), length) == 0);
    }
    // By bytes.
    bool operator<(const WordKey& other) const {
        if (is_long() || other.is_long()) return text() < other.text();
        const std::uint64_t a = __builtin_bswap64(head), b = __builtin_bswap64(other.head);
        return a != b ? a < b : __builtin_bswap64(tail) < __builtin_bswap64(other.tail);
    }

  private:
    static constexpr std::size_t kMaxLength = std::numeric_limits<std::int32_t>::max();
    static constexpr std::uint64_t kSeedA = 0x9E3779B97F4A7C15, kSeedB = 0xC2B2AE3D27D4EB4F;

    // Both halves of the 128-bit product, folded: every input bit reaches every output bit.
    static std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
        __extension__ using Wide = unsigned __int128;
        const Wide product = static_cast<Wide>(a) * b;
        return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
    }
    static std::uint64_t hash_bytes(std::string_view word) {
        std::uint64_t hash = word.size() * kSeedA;
        std::uint64_t a, b;
        for (std::size_t at = 0; at + 16 < word.size(); at += 16) {
            std::memcpy(&a, word.data() + at, 8);
            std::memcpy(&b, word.data() + at + 8, 8);
            hash = mix(a ^ hash ^ kSeedA, b ^ kSeedB) + hash;
        }
        // The last 16 bytes, overlapping: no loop over a rest.
        std::memcpy(&a, word.data() + word.size() - 16, 8);
        std::memcpy(&b, word.data() + word.size() - 8, 8);
        return mix(a ^ hash ^ kSeedA, b ^ kSeedB) + hash;
    }
};

// Copies of the bytes of long words.
class Arena {
  public:
    WordKey keep(WordKey key) {
        if (key.is_long()) key.tail = reinterpret_cast<std::uintptr_t>(copy(key.text()));
        return key;
    }
    std::size_t bytes() const { return bytes_; }

  private:
    static constexpr std::size_t kBlock = std::size_t{1} << 18;

    const char* copy(std::string_view word) {
        if (word.size() > left_) {
            const std::size_t size = word.size() > kBlock / 8 ? word.size() : kBlock;
            blocks_.emplace_back(new char[size]);
            bytes_ += size;
            if (size != kBlock)
                return static_cast<char*>(std::memcpy(blocks_.back().get(), word.data(), size));
            next_ = blocks_.back().get();
            left_ = size;
        }
        char* const place = next_;
        std::memcpy(place, word.data(), word.size());
        next_ += word.size();
        left_ -= word.size();
        return place;
    }

    std::vector<std::unique_ptr<char[]>> blocks_;
    char* next_ = nullptr;
    std::size_t left_ = 0, bytes_ = 0;
};

// Word -> (id, count), filled by several threads at once. Ids are about in the order of insertion.
//
// Open addressing with linear probing over slots of 8 bytes: half of the hash, and the id. Equal halves
// nearly always mean equal words, so that a search reads one line of the slots and one of the entries, which
// hold words of up to 16 bytes whole. Entries never move; the frequent words, which come early in a text, lie
// together. A slot's place is the top bits of the hash: the table is in the order of the hashes.
//
// A slot is written once, from empty to a complete entry (compare and swap), so that searches need no lock.
// The table grows between the threads' work: they stop when it is full().
class WordTable {
  public:
    struct Entry {
        WordKey key;  // length 0: not in use
        std::atomic<std::int64_t> count;
    };
    static_assert(sizeof(Entry) == 32, "two entries fill a cache line");

    static constexpr std::size_t kWordBytes = sizeof(Entry);
    static constexpr std::size_t kFirstSlots = std::size_t{1} << 12;
    static constexpr std::size_t kRoom = 256;  // words that a thread may insert between two looks at full()

    // What one thread needs to insert words.
    class alignas(128) Writer {  // no two share a cache line, nor the pair that is fetched together
        friend class WordTable;
        std::size_t next = 0, end = 0;  // ids to give
        std::size_t inserted = 0;       // not yet in the table's size_
        Arena arena;
    };

    // There may be as many writers as threads.
    explicit WordTable(std::size_t threads, std::size_t slots = kFirstSlots)
        : blocks_(kMaxIds / kBlockEntries), writers_(threads) {
        while (slots < 4 * threads * kRoom) slots *= 2;
        set_slots(Buffer<AtomicSlot>(slots));
    }

    Writer& writer(std::size_t thread) { return writers_[thread]; }

    std::size_t slots() const { return slots_.size(); }
    // No id is as great, and not all smaller ones are in use.
    std::size_t ids() const { return ids_; }
    Entry& operator[](std::size_t id) { return blocks_[id / kBlockEntries][id % kBlockEntries]; }
    const Entry& operator[](std::size_t id) const { return blocks_[id / kBlockEntries][id % kBlockEntries]; }

    void prefetch(std::uint64_t hash) const { __builtin_prefetch(slots_.data() + (hash >> shift_)); }

    // Finds for each token the first word whose half of the hash is the same, which is nearly always the
    // token, and prefetches its entry; or an entry that equals no word. Tokens have a key, a hash and an
    // entry.
    template <typename Token>
    void guess(Token* tokens, std::size_t size) {
        const AtomicSlot* const slots = slots_.data();
        Entry* const* const blocks = blocks_.data();
        const std::size_t mask = mask_;
        const int shift = shift_;
        for (std::size_t i = 0; i < size; ++i) {
            Token& token = tokens[i];
            const Slot tag = token.hash >> 32;
            std::size_t at = token.hash >> shift;
            Slot slot;
            while ((slot = load(slots[at])) >> 32 != tag && slot != 0) at = (at + 1) & mask;
            const std::int32_t id = token.key.id = id_of(slot);
            const auto place = static_cast<std::size_t>(std::max(id, 0));
            token.entry = id < 0 ? &none_ : blocks[place / kBlockEntries] + place % kBlockEntries;
            __builtin_prefetch(token.entry);
        }
    }

    // The word's id, or -1.
    std::int32_t find(const WordKey& key, std::uint64_t hash) const {
        const Slot tag = hash >> 32;
        for (std::size_t i = hash >> shift_;; i = (i + 1) & mask_) {
            const Slot slot = load(slots_[i]);
            if (slot == 0) return -1;
            if (slot >> 32 == tag && (*this)[static_cast<std::size_t>(id_of(slot))].key == key)
                return id_of(slot);
        }
    }
    std::int32_t find(const WordKey& key) const { return find(key, key.hash()); }

    // The word's id; a new word is inserted (the table must not be full), with a copy of its bytes.
    std::int32_t find_or_insert(Writer& writer, const WordKey& key, std::uint64_t hash) {
        const Slot tag = hash >> 32;
        Slot mine = 0;
        for (std::size_t i = hash >> shift_;;) {
            Slot slot = load(slots_[i]);
            if (slot == 0) {
                if (mine == 0) {
                    if (writer.next == writer.end) take_ids(writer);
                    (*this)[writer.next].key = writer.arena.keep(key);
                    // What follows waits until this is stored, so the lines of entries to come are fetched
                    // now.
                    if (writer.next + kEntriesAhead < writer.end)
                        __builtin_prefetch(&(*this)[writer.next + kEntriesAhead], 1);
                    mine = tag << 32 | (writer.next + 1);
                }
                if (slots_[i].compare_exchange_strong(slot, mine, std::memory_order_acq_rel,
                                                      std::memory_order_acquire)) {
                    ++writer.inserted;
                    return static_cast<std::int32_t>(writer.next++);
                }  // another thread was faster, and slot is now what it wrote
            }
            if (slot >> 32 == tag && (*this)[static_cast<std::size_t>(id_of(slot))].key == key) {
                if (mine != 0) (*this)[writer.next].key = {};
                return id_of(slot);
            }
            i = (i + 1) & mask_;
        }
    }

    // The same while no other thread uses the table; it grows by itself.
    std::int32_t find_or_insert_alone(const WordKey& key, std::uint64_t hash) {
        if (full(writers_[0])) grow(Threads(1));
        return find_or_insert(writers_[0], key, hash);
    }
    std::int32_t find_or_insert_alone(const WordKey& key) { return find_or_insert_alone(key, key.hash()); }

    // Says whether the threads must stop, for the table to grow.
    bool full(Writer& writer) {
        if (writer.inserted != 0)
            size_.fetch_add(std::exchange(writer.inserted, 0), std::memory_order_relaxed);
        return size_.load(std::memory_order_relaxed) > limit_;
    }

    // Doubles the slots. No other thread may use the table meanwhile.
    void grow(const Threads& threads) {
        if (slots_.size() > (std::size_t{1} << 31)) throw_too_many();
        old_slots_.push_back(std::exchange(slots_, {}));
        const Buffer<AtomicSlot>& old = old_slots_.back();
        set_slots(Buffer<AtomicSlot>(old.size() * 2));
        // Each thread moves the words of a range of hashes.
        const std::size_t parts = old.size() < kLarge ? 1 : std::min(kLarge, 16 * threads.count());
        std::vector<std::vector<Slot>> beyond(parts);
        threads.run(parts, [&](std::size_t part, std::size_t) {
            const std::size_t end = 2 * (old.size() * (part + 1) / parts);  // where the next part begins
            walk(old, part, parts, [&](Slot slot) {
                std::size_t at = home(slot);
                while (at < end && load(slots_[at]) != 0) ++at;
                if (at < end) {
                    slots_[at].store(slot, std::memory_order_relaxed);
                } else {
                    beyond[part].push_back(slot);
                }
            });
        });
        for (const std::vector<Slot>& part : beyond) {
            for (const Slot slot : part) {
                std::size_t at = home(slot);
                while (load(slots_[at]) != 0) at = (at + 1) & mask_;
                slots_[at].store(slot, std::memory_order_relaxed);
            }
        }
        spare_blocks_ = old.size() * sizeof(Slot) / (kBlockEntries * sizeof(Entry));
        if (spare_blocks_ == 0) old_slots_.clear();
    }

    // task(id, entry, thread) for each word that occurs, by all threads.
    template <typename Task>
    void for_each(const Threads& threads, const Task& task) {
        constexpr std::size_t kPart = 8192;
        threads.run((ids_ + kPart - 1) / kPart, [&](std::size_t part, std::size_t thread) {
            for (std::size_t id = part * kPart; id < std::min(ids_, (part + 1) * kPart); ++id) {
                Entry& entry = (*this)[id];
                if (entry.count.load(std::memory_order_relaxed) > 0)
                    task(static_cast<std::int32_t>(id), entry, thread);
            }
        });
    }

    // task(id, entry) for the words whose hash is in the part-th of so many equal ranges, in the order of the
    // hashes, nearly.
    template <typename Task>
    void for_each_in_range(std::size_t part, std::size_t parts, const Task& task) const {
        walk(slots_, part, parts, [&](Slot slot) {
            const std::int32_t id = id_of(slot);
            task(id, (*this)[static_cast<std::size_t>(id)]);
        });
    }

    // While no other thread uses the table:
    std::size_t words() const {
        std::size_t sum = size_;
        for (const Writer& writer : writers_) sum += writer.inserted;
        return sum;
    }
    std::size_t bytes() const {
        std::size_t sum = slots_.size() * sizeof(Slot) + words() * sizeof(Entry);
        for (const Writer& writer : writers_) sum += writer.arena.bytes();
        return sum;
    }
    // Their memory has room for an int32 for each id. The table is of no use afterwards.
    Buffer<std::atomic<std::uint64_t>> release_slots() { return std::move(slots_); }
    // Words that a table of so many slots takes before it is full, and the memory it has then, without the
    // bytes of long words.
    static constexpr std::size_t most_words(std::size_t slots, std::size_t threads) {
        return slots / 3 * 2 - threads * kRoom;
    }
    static constexpr std::size_t most_bytes(std::size_t slots) {
        return slots * sizeof(Slot) + slots / 3 * 2 * sizeof(Entry);
    }

  private:
    // Hash, top half << 32 | id + 1; 0: empty.
    using Slot = std::uint64_t;
    using AtomicSlot = std::atomic<Slot>;

    static constexpr std::size_t kLarge = std::size_t{1} << 16;  // slots, for several threads to grow
    static constexpr std::size_t kIdsTaken = 512;                // by a writer at a time
    static constexpr std::size_t kEntriesAhead = 8;  // between one that is written and one fetched
    static constexpr std::size_t kBlockEntries = std::size_t{1} << 16;  // of 2 MiB: a huge page
    static constexpr std::size_t kMaxIds = std::size_t{1} << 31;

    static Slot load(const AtomicSlot& slot) { return slot.load(std::memory_order_acquire); }
    static std::int32_t id_of(Slot slot) { return static_cast<std::int32_t>(slot & 0xFFFFFFFF) - 1; }
    std::size_t home(Slot slot) const { return slot >> 32 << 32 >> shift_; }

    [[noreturn]] static void throw_too_many() {
        throw std::length_error("the corpus has more than 2,147,483,647 distinct words");
    }

    void set_slots(Buffer<AtomicSlot> slots) {
        slots_ = std::move(slots);
        mask_ = slots_.size() - 1;
        shift_ = 64 - __builtin_ctzll(slots_.size());
        limit_ = most_words(slots_.size(), writers_.size());
    }

    // task(slot) for the slots of a part of the range of hashes. Those at the borders may lie in the next
    // part.
    template <typename Task>
    static void walk(const Buffer<AtomicSlot>& slots, std::size_t part, std::size_t parts, const Task& task) {
        const std::size_t mask = slots.size() - 1;
        const int shift = 64 - __builtin_ctzll(slots.size());
        const std::size_t from = slots.size() * part / parts, to = slots.size() * (part + 1) / parts;
        for (std::size_t i = from;; ++i) {
            const std::size_t at = i & mask;
            const Slot slot = load(slots[at]);
            if (slot == 0) {
                if (i >= to) break;
                continue;
            }
            const std::size_t home = slot >> 32 << 32 >> shift;
            const bool pushed_from_the_end = home > at;
            if (home >= from && home < to && pushed_from_the_end == (i != at)) task(slot);
        }
    }

    void take_ids(Writer& writer) {
        const std::lock_guard lock(ids_mutex_);
        if (ids_ == kMaxIds) throw_too_many();
        if (ids_ % kBlockEntries == 0) {
            blocks_[ids_ / kBlockEntries] = new_block();
        }
        writer.next = ids_;
        writer.end = ids_ += kIdsTaken;
    }

    // Zeros. Memory that slots have left is taken before any that the system has to find and to clear.
    Entry* new_block() {
        if (spare_blocks_ == 0) {
            entries_.emplace_back(kBlockEntries);
            return entries_.back().data();
        }
        AtomicSlot* const spare =
            old_slots_.back().data() + --spare_blocks_ * kBlockEntries * (sizeof(Entry) / sizeof(Slot));
        return static_cast<Entry*>(std::memset(static_cast<void*>(spare), 0, kBlockEntries * sizeof(Entry)));
    }

    Buffer<AtomicSlot> slots_;
    std::size_t mask_ = 0, limit_ = 0;
    int shift_ = 0;          // 64 - log2(slots)
    Buffer<Entry*> blocks_;  // the entries by id / kBlockEntries, at addresses that never change
    std::vector<Buffer<Entry>> entries_;
    std::vector<Buffer<AtomicSlot>> old_slots_;
    std::size_t spare_blocks_ = 0;  // that the last of them has room for
    std::vector<Writer> writers_;
    std::atomic<std::size_t> size_{0};
    std::mutex ids_mutex_;
    std::size_t ids_ = 0;
    Entry none_{};  // of no word
};

}  // namespace embedtrain
