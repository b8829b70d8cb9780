// From the encoded corpus to windows: subsample, compact, draw widths and negatives, a batch of tokens at a
// time. Included by the kernel only; everything has internal linkage.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernel.h"
#include "cpu/simd.h"

namespace embedtrain {
namespace {

// Tokens per batch: those that share noise words; large enough to fill the vectors and hide the ends, small
// enough to stay in the first-level cache.
constexpr int kBatchTokens = kNoiseApart * kMostNoiseSharers;
// Arrays are worked on in steps of so many elements, whole vectors for every instruction set.
constexpr int kGroup = 16;  // contexts that are trained at once
constexpr int kStep = 16;
constexpr int kSlotStep = 8;  // the same for those of a single centre
constexpr int kDraws =
    static_cast<int>(sizeof(DrawVector) / sizeof(uint64_t));  // positions drawn for at once

using Slots = int32_t __attribute__((vector_size(4 * kSlotStep)));
EMBEDTRAIN_INLINE int32_t any(Slots slots) {
    uint64_t halves[sizeof slots / sizeof(uint64_t)], all = 0;
    std::memcpy(halves, &slots, sizeof slots);
    for (const uint64_t half : halves) all |= half;
    return all != 0;
}

// Some elements as one vector of the instruction set (GCC takes larger ones apart to compare them), wherever
// they are. kStep is a multiple of their number.
using Words = IntegersOf<Vector>::type;
using UnsignedWords = uint32_t __attribute__((vector_size(sizeof(Words))));
constexpr int kWords = kLanes<Vector>;
EMBEDTRAIN_INLINE Words load_words(const int32_t* p) {
    Words v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline int64_t at_most(int64_t a, int64_t b) {
    return a < b ? a : b;
}
inline int64_t at_least(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// The keys of the rounds of Philox, in all lanes: made once, because to make them takes as many instructions
// as to use them.
struct RoundKeys {
    DrawVector low[10], high[10];

    void fill(uint64_t seed) {
        uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
        for (int round = 0; round < 10; ++round) {
            low[round] = DrawVector{} + k0;
            high[round] = DrawVector{} + k1;
            k0 += kPhiloxW0;
            k1 += kPhiloxW1;
        }
    }
};

// Philox4x32-10 (sampling/philox.h) for a vector of positions. Only the lower half of each 64-bit lane
// counts: what multiplies takes no notice of the upper one, so that nothing needs to be packed or unpacked
// between the rounds.
struct Draws {
    DrawVector lane[4];
};
EMBEDTRAIN_INLINE Draws draw_many(const RoundKeys& keys, uint32_t epoch, DrawVector position,
                                  uint32_t purpose) {
    DrawVector c0 = position, c1 = position >> 32;
    DrawVector c2 = DrawVector{} + epoch, c3 = DrawVector{} + purpose;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const DrawVector p0 = multiply_low(c0, kPhiloxM0), p1 = multiply_low(c2, kPhiloxM1);
        c0 = (p1 >> 32) ^ c1 ^ keys.low[round];
        c2 = (p0 >> 32) ^ c3 ^ keys.high[round];
        c1 = p1;
        c3 = p0;
    }
    return {{c0, c1, c2, c3}};
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
    // (kept + 1) how many words before this one may stand among the tokens to their left that can share a
    // window.
    int32_t* repeats_before;
    int32_t* duplicates;  // not zero: the centre and its noise words are not all different
    bool* brings_noise;   // the centre is the first with a context in this batch that has its noise words
    int margin;           // no window reaches further to either side
    int64_t capacity;     // of the arrays
    int slots;            // of a centre's targets, a multiple of kSlotStep

    Sampler(const Block& block, Arena& arena) : block_(block) {
        // No sentence gives more neighbours than it has.
        margin = static_cast<int>(at_most(block.window, block.longest_sentence));
        capacity = kBatchTokens + 2 * static_cast<int64_t>(margin) + 2 * kStep;
        reach_ = static_cast<int>(at_most(2 * static_cast<int64_t>(margin), kGroup));
        // Words to the left of the first, matching none, so that mark_repeats() needs no bounds.
        const int lead = kGroup;
        word = arena.take<int32_t>(lead + capacity) + lead;
        lead_ = lead;
        repeats_before = arena.take<int32_t>(capacity + 1);
        position = arena.take<int64_t>(capacity);
        left = arena.take<int32_t>(capacity);
        right = arena.take<int32_t>(capacity);
        width_ = arena.take<int32_t>(capacity);
        drawn_ = arena.take<int32_t>(int64_t{kStep} * block.negative);
        keys_ = arena.take<RoundKeys>(1);
        points_ = arena.take<uint64_t>(2 * int64_t{kStep} * block.negative);
        slots = (1 + block.negative + kSlotStep) / kSlotStep * kSlotStep;
        targets_ = arena.take<int32_t>(kBatchTokens * int64_t{slots});
        noise_ = arena.take<int32_t>(kBatchTokens * int64_t{slots});
        repeated_ = arena.take<int32_t>(kBatchTokens);
        duplicates = arena.take<int32_t>(capacity);
        brings_noise = arena.take<bool>(capacity);
        brought_ = arena.take<bool>(kBatchTokens);
        bits_ = arena.take<uint32_t>(kBatchTokens + kStep);
        kept_ = arena.take<uint8_t>(kBatchTokens + kStep);
        token_width_ = arena.take<int32_t>(kBatchTokens + kStep);
    }

    void seek(int64_t begin, int64_t end) {
        for (int i = 1; i <= lead_; ++i) word[-i] = -1;
        keys_->fill(block_.seed);
        cursor_ = begin;
        end_ = end;
        int64_t low = 0, high = block_.sentences;  // the last sentence that starts at or before begin
        while (high - low > 1) {
            const int64_t middle = (low + high) / 2;
            (block_.offsets[middle] <= begin ? low : high) = middle;
        }
        sentence_ = low;
    }

    // A centre, its noise words, and other words, at least one.
    const int32_t* targets(int centre) const { return targets_ + int64_t{centre - first} * slots; }
    const int32_t* negatives(int centre) const { return targets(centre) + 1; }

    // A token or a noise word is not in the vocabulary: nothing may be looked up by it.
    bool invalid = false;

    // The next batch of centres; false when there are no more tokens, or an invalid one. A batch may have no
    // centres.
    bool next() {
        if (cursor_ >= end_) return false;
        const int64_t begin = cursor_, in_batch = (block_.first_position + begin) % kBatchTokens;
        const int64_t end = at_most(end_, begin + kBatchTokens - in_batch);
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
            take_kept(token, stop, begin);
            token = stop;
            last = kept;
            if (stop < sentence_end) take_right_margin(end, sentence_end);
            set_limits(sentence_start > first ? sentence_start : first, sentence_start);
            sentence_start = last;
        }
        mark_repeats();
        for (int set = 0; set < kBatchTokens; set += kNoiseApart * block_.noise_sharers)
            draw_negatives(block_.first_position + begin - in_batch, set);
        list_targets();
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

    // Compaction without branches: always write, advance if kept. (What a loop
    // needs of this object is held in locals, here and below: for all the compiler knows, a store to an array
    // might change it.)
    void take_kept(int64_t token, int64_t stop, int64_t begin) {
        const int32_t *const ids = block_.ids + begin, *const widths = token_width_;
        const uint8_t* const is_kept = kept_;
        int32_t *const words = word, *const kept_widths = width_;
        int64_t* const positions = position;
        int64_t count = kept;
        for (int64_t i = token - begin; i < stop - begin; ++i) {
            words[count] = ids[i];
            positions[count] = begin + i;
            kept_widths[count] = widths[i];
            count += is_kept[i];
        }
        kept = static_cast<int>(count);
    }

    // Of the windows of the centres from ... last, in a sentence whose kept tokens begin at sentence_start.
    void set_limits(int from, int sentence_start) {
        const int32_t* const widths = width_;
        int32_t *const lefts = left, *const rights = right;
        const int end = last, all = kept;
        for (int i = from; i < end; ++i) {
            const int low = i - widths[i], high = i + widths[i] + 1;
            lefts[i] = low > sentence_start ? low : sentence_start;
            rights[i] = high < all ? high : all;
        }
    }

    void draw_tokens(int64_t begin, int64_t end) {
        const int64_t count = end - begin;
        const uint32_t epoch = block_.epoch;
        DrawVector position = positions_from(block_.first_position + begin);
        for (int64_t i = 0; i < count; i += kDraws, position += kDraws) {
            const Draws draws = draw_many(*keys_, epoch, position, purpose_word(kToken));
            store_low(draws.lane[0], bits_ + i);
            if (block_.shrink_window)
                store_low(1 + (multiply_low(draws.lane[1], static_cast<uint32_t>(block_.window)) >> 32),
                          token_width_ + i);
        }
        const int32_t* ids = block_.ids + begin;
        const uint32_t *const keep = block_.keep, *const bits = bits_;
        uint8_t* const kept = kept_;
        for (int64_t i = 0; i < count; ++i) kept[i] = is_kept(bits[i], keep[ids[i]]);
        // No window is wider than the margin: a sentence has no more to give.
        int32_t* const widths = token_width_;
        const int32_t widest = margin;
        const bool shrink = block_.shrink_window;
        for (int64_t i = 0; i < count; ++i) widths[i] = !shrink || widths[i] > widest ? widest : widths[i];
    }

    // In the corpus, from a first one on.
    static DrawVector positions_from(int64_t at) {
        DrawVector positions;
        for (int i = 0; i < kDraws; ++i) positions[i] = static_cast<uint64_t>(at + i);
        return positions;
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
        for (int64_t token = begin - 1; token >= sentence_begin && kept < margin; --token)
            if (keeps(token)) position[kept++] = token;
        for (int i = 0, j = kept - 1; i < j; ++i, --j) {
            const int64_t swap = position[i];
            position[i] = position[j];
            position[j] = swap;
        }
        for (int i = 0; i < kept; ++i) word[i] = block_.ids[position[i]];
    }

    void take_right_margin(int64_t end, int64_t sentence_end) {
        for (int64_t token = end; token < sentence_end && kept - last < margin; ++token) {
            if (!keeps(token)) continue;
            word[kept] = block_.ids[token];
            position[kept++] = token;
        }
    }

    // Regardless of sentences, so a mark is a hint; whoever sees it compares.
    void mark_repeats() {
        const int32_t* const words = word;
        int32_t* const before = repeats_before;
        const int count = kept, reach = reach_;
        int32_t sum = before[0] = 0;
        for (int i = 0; i < count; i += kWords) {
            const Words here = load_words(words + i);
            Words found = {};
            for (int distance = 1; distance <= reach; ++distance)
                found |= here == load_words(words + i - distance);
            for (int j = 0; j < kWords; ++j) before[i + j + 1] = sum -= found[j];
        }
    }

    // kNoiseApart sets of noise words, from `first_set` on, for the batch that starts at a position. For
    // kStep sets at a time, where in the noise table they look, and then the words of the kStep before: so
    // the columns are on their way for a while before they are read.
    void draw_negatives(int64_t start, int first_set) {
        const int end = first_set + kNoiseApart, negative = block_.negative, width = slots;
        const NoiseColumn* const columns = block_.noise;
        int32_t* const drawn = drawn_;
        UnsignedWords most = {};
        draw_points(start, first_set);
        for (int i = first_set; i < end; i += kStep) {
            if (i + kStep < end) draw_points(start, i + kStep);
            const uint64_t* const points = points_of(i);
            int32_t* const own = noise_ + i * width;
            for (int k = 0; k < negative; ++k) {
                int32_t *const out = drawn + k * kStep, *const slot = own + 1 + k;
                const uint64_t* const at = points + k * kStep;
#pragma GCC unroll 16
                for (int j = 0; j < kStep; ++j)
                    out[j] = slot[j * width] = static_cast<int32_t>(noise_word(at[j], columns));
            }
            for (int j = 0; j < kStep; ++j) own[j * width] = -1;
            for (int k = 1 + negative; k < width; ++k)
                for (int j = 0; j < kStep; ++j) own[j * width + k] = drawn[j];
            for (int j = 0; j < kStep; j += kWords) {
                Words found = {};
                for (int k = 0; k < negative; ++k) {
                    const Words noise = load_words(drawn + k * kStep + j);
                    const UnsignedWords number = reinterpret_cast<UnsignedWords>(noise);
                    most = number > most ? number : most;
                    for (int other = 0; other < k; ++other)
                        found |= noise == load_words(drawn + other * kStep + j);
                }
                std::memcpy(repeated_ + i + j, &found, sizeof found);
            }
        }
        const uint32_t vocabulary = static_cast<uint32_t>(block_.vocabulary);
        for (int j = 0; j < kWords; ++j) invalid |= most[j] >= vocabulary;
    }

    // Gives each centre its noise.
    void list_targets() {
        const int width = slots, end = last, sharers = block_.noise_sharers;
        const int64_t first_position = block_.first_position;
        const int64_t* const positions = position;
        const int32_t *const words = word, *const noise = noise_, *const repeated = repeated_;
        const int32_t *const lefts = left, *const rights = right;
        int32_t *own = targets_, *const same = duplicates;
        bool *const brings = brings_noise, *const brought = brought_;
        std::memset(brought, 0, kBatchTokens);
        for (int i = first; i < end; ++i, own += width) {
            const uint64_t at = static_cast<uint64_t>(first_position + positions[i]);
            const int64_t set = static_cast<int64_t>(noise_position(at, sharers) % kBatchTokens);
            const int32_t centre = words[i];
            Slots found = {};
            for (int k = 0; k < width; k += kSlotStep) {
                Slots some;
                std::memcpy(&some, noise + set * width + k, sizeof some);
                std::memcpy(own + k, &some, sizeof some);
                found |= some == Slots{} + centre;
            }
            own[0] = centre;
            same[i] = repeated[set] | any(found);
            const bool alone = rights[i] - lefts[i] < 2;
            brings[i] = !alone & !brought[set];
            brought[set] |= !alone;
        }
    }

    // Where in the noise table the kStep sets from `set` on look (negative, kStep), until two steps later.
    uint64_t* points_of(int set) const {
        return points_ + set / kStep % 2 * (int64_t{kStep} * block_.negative);
    }

    void draw_points(int64_t start, int set) {
        uint64_t* const points = points_of(set);
        const int negative = block_.negative;
        const uint32_t vocabulary = static_cast<uint32_t>(block_.vocabulary), epoch = block_.epoch;
        const NoiseColumn* const columns = block_.noise;
        const RoundKeys& keys = *keys_;
        for (int i = 0; i < kStep; i += kDraws) {
            const DrawVector at = positions_from(start + set + i);
            for (int k = 0; k < negative; k += 2) {
                const uint32_t purpose = purpose_word(kNegative, static_cast<uint32_t>(k / 2));
                const Draws draws = draw_many(keys, epoch, at, purpose);
                for (int j = 0; j < 2 && k + j < negative; ++j) {
                    uint64_t* const out = points + (k + j) * kStep + i;
                    const DrawVector point = multiply_low(draws.lane[2 * j], vocabulary) +
                                             (multiply_low(draws.lane[2 * j + 1], vocabulary) >> 32);
                    std::memcpy(out, &point, sizeof point);
#pragma GCC unroll 8
                    for (int d = 0; d < kDraws; ++d) __builtin_prefetch(columns + (out[d] >> 32));
                }
            }
        }
    }

    const Block& block_;
    int lead_, reach_;
    uint32_t* bits_;  // by token of the batch: decides whether it is kept
    int64_t cursor_ = 0, end_ = 0, sentence_ = 0;
    int32_t* targets_;  // (kBatchTokens, slots) of the centres, from the first on
    // (kBatchTokens, slots) the sets of noise words, each where the first position stands that has it: -1,
    // the words, and the first of them again.
    int32_t* noise_;
    int32_t* repeated_;  // (kBatchTokens) not zero: the words of the set are not all different
    bool* brought_;      // (kBatchTokens) a centre has the set
    RoundKeys* keys_;
    uint64_t* points_;      // (2, negative, kStep) columns and coins
    int32_t* drawn_;        // (negative, kStep) noise words
    int32_t* width_;        // by kept token
    uint8_t* kept_;         // by token of the batch
    int32_t* token_width_;  // by token of the batch
};

}  // namespace
}  // namespace embedtrain
