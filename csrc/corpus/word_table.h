// The hash table of distinct words: the one hot data structure of counting.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "corpus/buffer.h"

namespace embedtrain {

// A word, ready to be looked up. Words hold no NUL, so the zero-padded bytes of a short one say all.
struct WordKey {
    static constexpr std::size_t kInline = 16;

    std::uint64_t head = 0;    // bytes 0 to 7; of a word longer than 16 bytes: its hash
    std::uint64_t tail = 0;    // bytes 8 to 15; of a longer word: the address of its bytes
    std::uint32_t length = 0;  // bytes
    std::int32_t id = -1;      // in the table it was found in; no part of the key

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
            std::memcpy(bytes, word.data(), word.size());
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
        std::memcpy(&a, word.data() + word.size() - 16,
                    8);  // the last 16 bytes, overlapping: no loop over a rest
        std::memcpy(&b, word.data() + word.size() - 8, 8);
        return mix(a ^ hash ^ kSeedA, b ^ kSeedB) + hash;
    }
};

// Word -> (id, count). Open addressing with linear probing; a slot is half a cache line and holds words of up
// to 16 bytes whole, so that a lookup is one cache miss. Ids are 0, 1, 2 … in the order of insertion.
class WordTable {
  public:
    struct Slot {
        WordKey key;  // length 0: the slot is empty
        std::int64_t count;
    };
    static_assert(sizeof(Slot) == 32, "two slots fill a cache line");

    WordTable() : slots_(kFirstSize), shift_(64 - kFirstBits) {}

    std::size_t size() const { return size_; }
    // No id is as great. After a merge not all smaller ones are in use.
    std::size_t ids() const { return ids_; }
    std::size_t slots() const { return slots_.size(); }
    Slot* begin() { return slots_.begin(); }
    Slot* end() { return slots_.end(); }
    const Slot* begin() const { return slots_.begin(); }
    const Slot* end() const { return slots_.end(); }

    // The cache line of a word's first slot and, since more than every other search for a new word goes on,
    // the next.
    void prefetch(std::uint64_t hash) const {
        const Slot* const slot = slots_.data() + (hash >> shift_);
        __builtin_prefetch(slot, 1);
        __builtin_prefetch(slot + 2, 1);
    }

    // The word's slot, or the empty one to give to insert().
    Slot& find(const WordKey& key, std::uint64_t hash) {
        for (std::size_t i = hash >> shift_;; i = (i + 1) & (slots_.size() - 1)) {
            Slot& slot = slots_[i];
            if (same(slot.key, key) || slot.key.length == 0) return slot;
        }
    }

    // Fills the empty slot that find() gave; there must be room(1). Copies the bytes of a long word.
    void insert(Slot& slot, const WordKey& key) {
        check_ids(ids_ + 1);
        slot = {key, 0};
        slot.key.id = static_cast<std::int32_t>(ids_++);
        ++size_;
        if (key.is_long()) slot.key.tail = reinterpret_cast<std::uintptr_t>(keep(key.text()));
    }

    // Makes room for `more` words without a move of the slots.
    void reserve(std::size_t more) {
        while ((size_ + more) * 3 > slots_.size() * 2) grow();
    }

    Slot& find_or_insert(const WordKey& key) {
        reserve(1);
        Slot& slot = find(key, key.hash());
        if (slot.key.length == 0) insert(slot, key);
        return slot;
    }

    // Adds the words and counts of another large table, part by part of the range of hashes: parallel(parts,
    // task) calls task(part) for each, at the same time. moved(id, to) says what the ids of the other become
    // here. There must be room for the other's words that are new, nearly.
    template <typename Parallel, typename Moved>
    void merge(WordTable other, std::size_t parts, const Parallel& parallel, const Moved& moved) {
        check_ids(ids_ + other.ids_);
        struct Part {
            std::size_t added = 0;
            std::vector<const Slot*> left_over;
        };
        std::vector<Part> results(parts);
        parallel(parts, [&](std::size_t part) {
            // Borders fall between slots in tables of any size.
            const std::size_t first = (part << kFirstBits) / parts, last = ((part + 1) << kFirstBits) / parts;
            const std::size_t from = first << (64 - kFirstBits - other.shift_);
            const std::size_t to = last << (64 - kFirstBits - other.shift_);
            const std::size_t end = last << (64 - kFirstBits - shift_);
            for (std::size_t i = from;; ++i) {
                const Slot& slot = other.slots_[i & (other.slots_.size() - 1)];
                if (slot.key.length == 0) {
                    if (i >= to) break;
                    continue;
                }
                const std::uint64_t hash = slot.key.hash();
                if (hash >> other.shift_ < from || hash >> other.shift_ >= to) continue;  // of another part
                // No part reads or writes slots of another.
                std::size_t place = hash >> shift_;
                while (place < end && slots_[place].key.length != 0 && !same(slots_[place].key, slot.key))
                    ++place;
                if (place == end) {
                    results[part].left_over.push_back(&slot);
                } else if (slots_[place].key.length == 0) {
                    slots_[place] = slot;
                    slots_[place].key.id += static_cast<std::int32_t>(ids_);
                    ++results[part].added;
                    moved(slot.key.id, slots_[place].key.id);
                } else {
                    slots_[place].count += slot.count;
                    moved(slot.key.id, slots_[place].key.id);
                }
            }
        });
        for (const Part& part : results) size_ += part.added;
        ids_ += other.ids_;
        // The bytes of its long words live on here.
        for (auto& block : other.arena_) arena_.push_back(std::move(block));
        for (const Part& part : results) {
            for (const Slot* slot : part.left_over) {
                Slot& sum = find_or_insert(slot->key);
                sum.count += slot->count;
                moved(slot->key.id, sum.key.id);
            }
        }
    }

  private:
    static constexpr int kFirstBits = 12;
    static constexpr std::size_t kFirstSize = std::size_t{1} << kFirstBits;
    static constexpr std::size_t kArenaBlock = std::size_t{1} << 18;

    static void check_ids(std::size_t ids) {
        if (ids > std::size_t{1} + static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
            throw std::length_error("the corpus has more than 2,147,483,647 distinct words");
        }
    }

    static bool same(const WordKey& a, const WordKey& b) {
        if (a.head != b.head || a.length != b.length) return false;
        return a.tail == b.tail ||
               (b.is_long() && std::memcmp(a.long_bytes(), b.long_bytes(), b.length) == 0);
    }

    void grow() {
        // A slot's place is the top bits of the hash, so that this walks through old and new slots in order.
        Buffer<Slot> old = std::move(slots_);
        slots_ = Buffer<Slot>(old.size() * 2);
        --shift_;
        for (const Slot& slot : old) {
            if (slot.key.length != 0) find(slot.key, slot.key.hash()) = slot;
        }
    }

    const char* keep(std::string_view word) {
        if (word.size() > arena_left_) {
            const std::size_t block = word.size() > kArenaBlock / 8 ? word.size() : kArenaBlock;
            arena_.emplace_back(new char[block]);
            if (block != kArenaBlock)
                return static_cast<char*>(std::memcpy(arena_.back().get(), word.data(), block));
            arena_next_ = arena_.back().get();
            arena_left_ = block;
        }
        char* place = arena_next_;
        std::memcpy(place, word.data(), word.size());
        arena_next_ += word.size();
        arena_left_ -= word.size();
        return place;
    }

    Buffer<Slot> slots_;
    int shift_;  // 64 - log2(slots)
    std::size_t size_ = 0;
    std::size_t ids_ = 0;
    std::vector<std::unique_ptr<char[]>> arena_;
    char* arena_next_ = nullptr;
    std::size_t arena_left_ = 0;
};

}  // namespace embedtrain
