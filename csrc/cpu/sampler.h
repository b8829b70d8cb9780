// From the encoded corpus to windows: subsample, compact, draw widths and negatives, a batch of tokens at a
// time. Included by the kernel only; everything has internal linkage.
#pragma once

#include <cstdint>

#include "cpu/kernel.h"

namespace embedtrain {
namespace {

// Tokens per batch: large enough to fill the vectors and hide the ends, small enough to stay in the
// first-level cache.
constexpr int kBatchTokens = 512;
// Random numbers are drawn for this many counters at once (the compiler makes vectors of them).
constexpr int kDrawWidth = 16;

inline int64_t at_most(int64_t a, int64_t b) {
    return a < b ? a : b;
}
inline int64_t at_least(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// Philox for kDrawWidth positions at once. low, high: the halves of the positions.
inline void draw_many(const Block& block, const uint32_t* low, const uint32_t* high, uint32_t purpose,
                      uint32_t (*lanes)[kDrawWidth]) {
    const uint32_t key0 = static_cast<uint32_t>(block.seed), key1 = static_cast<uint32_t>(block.seed >> 32);
    const uint32_t epoch = block.epoch;
    for (int i = 0; i < kDrawWidth; ++i) {
        uint32_t c0 = low[i], c1 = high[i], c2 = epoch, c3 = purpose, k0 = key0, k1 = key1;
#pragma GCC unroll 10
        for (int round = 0; round < 10; ++round) {
            const uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * c0;
            const uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * c2;
            c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
            c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
            c1 = static_cast<uint32_t>(p1);
            c3 = static_cast<uint32_t>(p0);
            k0 += kPhiloxW0;
            k1 += kPhiloxW1;
        }
        lanes[0][i] = c0;
        lanes[1][i] = c1;
        lanes[2][i] = c2;
        lanes[3][i] = c3;
    }
}

// Cuts a work space into arrays. Without one it only measures (from an address that is never used).
class Arena {
  public:
    explicit Arena(void* base) : base_(base ? static_cast<char*>(base) : reinterpret_cast<char*>(64)) {}
    template <class T>
    T* take(int64_t count) {
        T* result = reinterpret_cast<T*>(base_ + used_);
        used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
        return result;
    }
    size_t used() const { return used_; }

  private:
    char* base_;
    size_t used_ = 0;
};

// The kept tokens of a batch with a margin of kept neighbours to each side, so that windows cross batch
// borders as if there were none. All arrays are indexed by kept token.
class Sampler {
  public:
    int first = 0, last = 0;  // the centres of the batch
    int kept = 0;             // all of them, margins included
    int32_t* word;
    int64_t* position;  // in block.ids
    int32_t* left;      // the window is left ... right, centre included (exclusive end)
    int32_t* right;
    uint8_t*
        repeats;  // the word may stand among the tokens that can share a window with this one, to its left
    int32_t* negatives;  // (kept, negative), filled for the centres

    Sampler(const Block& block, Arena& arena) : block_(block) {
        // No sentence gives more neighbours than it has.
        margin_ = static_cast<int>(at_most(block.window, block.longest_sentence));
        const int64_t capacity = kBatchTokens + 2 * static_cast<int64_t>(margin_) + kDrawWidth;
        // Words to the left of the first, matching none, so that mark_repeats() needs no bounds.
        const int lead = (2 * margin_ + kDrawWidth - 1) / kDrawWidth * kDrawWidth;
        word = arena.take<int32_t>(lead + capacity) + lead;
        lead_ = lead;
        repeats = arena.take<uint8_t>(capacity);
        position = arena.take<int64_t>(capacity);
        left = arena.take<int32_t>(capacity);
        right = arena.take<int32_t>(capacity);
        width_ = arena.take<int32_t>(capacity);
        negatives = arena.take<int32_t>((capacity + kDrawWidth) * block.negative);
        kept_ = arena.take<uint8_t>(kBatchTokens + kDrawWidth);
        token_width_ = arena.take<int32_t>(kBatchTokens + kDrawWidth);
    }

    void seek(int64_t begin, int64_t end) {
        for (int i = 1; i <= lead_; ++i) word[-i] = -1;
        cursor_ = begin;
        end_ = end;
        int64_t low = 0, high = block_.sentences;  // the last sentence that starts at or before begin
        while (high - low > 1) {
            const int64_t middle = (low + high) / 2;
            (block_.offsets[middle] <= begin ? low : high) = middle;
        }
        sentence_ = low;
    }

    // A token or a noise word is not in the vocabulary: nothing may be looked up by it.
    bool invalid = false;

    // The next batch of centres; false when there are no more tokens, or an invalid one. A batch may have no
    // centres.
    bool next() {
        if (cursor_ >= end_) return false;
        const int64_t begin = cursor_, end = at_most(end_, cursor_ + kBatchTokens);
        check(block_.ids + begin, end - begin);
        if (invalid) return false;
        draw_tokens(begin, end);
        kept = 0;
        take_left_margin(begin);
        first = kept;
        int64_t token = begin;
        int sentence_start = 0;  // first kept token of the sentence
        while (token < end) {
            while (block_.offsets[sentence_ + 1] <= token) ++sentence_;
            const int64_t sentence_end = block_.offsets[sentence_ + 1];
            const int64_t stop = at_most(sentence_end, end);
            for (; token < stop; ++token) {  // compaction without branches: always write, advance if kept
                word[kept] = block_.ids[token];
                position[kept] = token;
                width_[kept] = token_width_[token - begin];
                kept += kept_[token - begin];
            }
            last = kept;
            if (stop < sentence_end) take_right_margin(end, sentence_end);
            for (int i = sentence_start > first ? sentence_start : first; i < last; ++i) {
                const int width = width_[i];
                left[i] = i - width > sentence_start ? i - width : sentence_start;
                right[i] = i + width + 1 < kept ? i + width + 1 : kept;
            }
            sentence_start = last;
        }
        mark_repeats();
        draw_negatives();
        cursor_ = end;
        return !invalid;
    }

  private:
    void check(const int32_t* words, int64_t count) {
        const uint32_t vocabulary = static_cast<uint32_t>(block_.vocabulary);
        int outside = 0;
        for (int64_t i = 0; i < count; ++i) outside |= static_cast<uint32_t>(words[i]) >= vocabulary;
        invalid |= outside != 0;
    }

    void draw_tokens(int64_t begin, int64_t end) {
        uint32_t low[kDrawWidth], high[kDrawWidth], lanes[4][kDrawWidth];
        for (int64_t start = begin; start < end; start += kDrawWidth) {
            const uint64_t base = static_cast<uint64_t>(block_.first_position + start);
            for (int i = 0; i < kDrawWidth; ++i) {
                low[i] = static_cast<uint32_t>(base + i);
                high[i] = static_cast<uint32_t>((base + i) >> 32);
            }
            draw_many(block_, low, high, purpose_word(kToken), lanes);
            const int64_t count = at_most(kDrawWidth, end - start);
            for (int i = 0; i < count; ++i)
                kept_[start - begin + i] = is_kept(lanes[0][i], block_.keep[block_.ids[start + i]]);
            const uint32_t window = static_cast<uint32_t>(block_.window);
            for (int i = 0; i < kDrawWidth; ++i) {
                const uint32_t width = block_.shrink_window ? window_width(lanes[1][i], window) : window;
                // No window is wider than the margin: a sentence has no more to give.
                token_width_[start - begin + i] =
                    static_cast<int32_t>(width < static_cast<uint32_t>(margin_) ? width : margin_);
            }
        }
    }

    bool keeps(int64_t token) {
        check(block_.ids + token, 1);
        if (invalid) return false;
        const uint64_t at = static_cast<uint64_t>(block_.first_position + token);
        return is_kept(draw(block_.seed, block_.epoch, at, kToken).lane[0], block_.keep[block_.ids[token]]);
    }

    // The kept tokens of the same sentence before the batch, up to the margin, in order.
    void take_left_margin(int64_t begin) {
        while (block_.offsets[sentence_ + 1] <= begin) ++sentence_;
        const int64_t sentence_begin = block_.offsets[sentence_];
        for (int64_t token = begin - 1; token >= sentence_begin && kept < margin_; --token)
            if (keeps(token)) position[kept++] = token;
        for (int i = 0, j = kept - 1; i < j; ++i, --j) {
            const int64_t swap = position[i];
            position[i] = position[j];
            position[j] = swap;
        }
        for (int i = 0; i < kept; ++i) word[i] = block_.ids[position[i]];
    }

    void take_right_margin(int64_t end, int64_t sentence_end) {
        for (int64_t token = end; token < sentence_end && kept - last < margin_; ++token) {
            if (!keeps(token)) continue;
            word[kept] = block_.ids[token];
            position[kept++] = token;
        }
    }

    // Rounded up to whole vectors and across sentences, so a mark is a hint; whoever sees it compares.
    void mark_repeats() {
        for (int i = 0; i < kept; ++i) {
            int hits = 0;
            for (const int32_t* group = word + i - lead_; group < word + i; group += kDrawWidth)
                for (int j = 0; j < kDrawWidth; ++j) hits |= group[j] == word[i];
            repeats[i] = static_cast<uint8_t>(hits);
        }
    }

    void draw_negatives() {
        const int negative = block_.negative;
        const uint32_t vocabulary = static_cast<uint32_t>(block_.vocabulary);
        uint32_t low[kDrawWidth], high[kDrawWidth], lanes[4][kDrawWidth];
        uint64_t points[2][kDrawWidth];
        for (int start = first; start < last; start += kDrawWidth) {
            const int count = static_cast<int>(at_most(kDrawWidth, last - start));
            for (int i = 0; i < kDrawWidth; ++i) {
                const uint64_t at =
                    static_cast<uint64_t>(block_.first_position + position[start + (i < count ? i : 0)]);
                low[i] = static_cast<uint32_t>(at);
                high[i] = static_cast<uint32_t>(at >> 32);
            }
            for (int k = 0; k < negative; k += 2) {
                draw_many(block_, low, high, purpose_word(kNegative, static_cast<uint32_t>(k / 2)), lanes);
                for (int i = 0; i < kDrawWidth; ++i) {
                    points[0][i] = noise_point(lanes[0][i], lanes[1][i], vocabulary);
                    points[1][i] = noise_point(lanes[2][i], lanes[3][i], vocabulary);
                }
                for (int j = k; j < negative && j < k + 2; ++j)
                    for (int i = 0; i < count; ++i)
                        negatives[static_cast<int64_t>(start + i) * negative + j] =
                            static_cast<int32_t>(noise_word(points[j - k][i], block_.noise));
            }
        }
        check(negatives + static_cast<int64_t>(first) * negative,
              static_cast<int64_t>(last - first) * negative);
    }

    const Block& block_;
    int margin_, lead_;
    int64_t cursor_ = 0, end_ = 0, sentence_ = 0;
    int32_t* width_;        // by kept token
    uint8_t* kept_;         // by token of the batch
    int32_t* token_width_;  // by token of the batch
};

}  // namespace
}  // namespace embedtrain
