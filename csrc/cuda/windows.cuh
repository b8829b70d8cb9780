// From a block of the corpus to its windows: subsample, compact, and find where each window begins and ends.
// Three small kernels before the training kernel; they touch about 30 bytes per token, training some
// thousand.
//
//   ids       a  b  c  d  e  f │ g  h  i ...          tokens begin ... end
//   mask      1  0  1  1  0  1 │ 1  1  0              one bit each: kept?
//   prefix    0                │ 4                    kept before, within 256 tokens;   tile_kept: before
//   these 256 words   [left margin]  a c d f g h ...  [right margin]     the kept ones, with W kept
//   neighbours outside the block centres                0 2 3 5 6 7                where each stands, and its
//   window in words
#pragma once

#include "cuda/platform.cuh"
#include "cuda/sgns.h"

namespace embedtrain {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kTileTokens = 256;  // tokens, and threads, of a block of these kernels

struct alignas(16) Centre {
    int32_t at;           // ids[begin + at]
    int32_t word;         // its word
    int32_t left, right;  // its window is words[left ... right), itself included
};

// What the kernels find out about a block; cleared before they start.
struct alignas(16) WindowCounts {
    int32_t kept;                       // centres
    int32_t left_margin, right_margin;  // kept neighbours outside the block
    int32_t invalid;                    // a word is not in the vocabulary, or the offsets do not fit
    int32_t next;                       // the first centre that no worker has taken yet
};

// Where all this lies in the work space.
struct WindowSet {
    WindowCounts* counts;
    uint32_t* mask;      // (tokens / 32)
    int32_t* prefix;     // (tokens / 32)
    int32_t* tile_kept;  // (tokens / 256 + 1)
    Centre* centres;     // (kept)
    int32_t* words;      // (margin + kept + margin); the block's first kept word is words[margin]
    int32_t* waiting;    // (margin) the right margin, before it is put there
    int32_t margin;      // kept neighbours that may be needed on each side
    size_t bytes;

    WindowSet(const CudaBlock& block, void* workspace) {
        const int64_t tokens = block.end - block.begin, tiles = (tokens + kTileTokens - 1) / kTileTokens;
        margin = static_cast<int32_t>(block.window < block.tokens ? block.window : block.tokens);
        char* base = static_cast<char*>(workspace);
        bytes = 0;
        const auto take = [&](int64_t size) {
            char* result = base + bytes;
            bytes += (static_cast<size_t>(size) + 15) / 16 * 16;
            return static_cast<void*>(result);
        };
        counts = static_cast<WindowCounts*>(take(sizeof(WindowCounts)));
        mask = static_cast<uint32_t*>(take(tiles * kTileTokens / 8));
        prefix = static_cast<int32_t*>(take(tiles * kTileTokens / 8));
        tile_kept = static_cast<int32_t*>(take((tiles + 1) * 4));
        centres = static_cast<Centre*>(take(tokens * static_cast<int64_t>(sizeof(Centre))));
        words = static_cast<int32_t*>(take((tokens + 2 * static_cast<int64_t>(margin)) * 4));
        waiting = static_cast<int32_t*>(take(static_cast<int64_t>(margin) * 4));
    }
};

__device__ inline int lane_index() {
    return static_cast<int>(threadIdx.x) % kWarp;
}

__device__ inline unsigned lanes_below() {
    return (1u << lane_index()) - 1;
}

__device__ inline Philox4 draw_token(const CudaBlock& block, int64_t token) {
    return draw(block.seed, block.epoch, static_cast<uint64_t>(block.first_position + token), kToken);
}

// Whether a token survives. A word that is not in the vocabulary does not, and is reported.
__device__ inline bool keeps(const CudaBlock& block, int64_t token, WindowCounts* counts) {
    const int32_t word = block.ids[token];
    if (static_cast<uint64_t>(static_cast<int64_t>(word)) >= static_cast<uint64_t>(block.vocabulary)) {
        atomicOr(&counts->invalid, 1);
        return false;
    }
    return is_kept(draw_token(block, token).lane[0], block.keep[word]);
}

// The last sentence that starts at or before a token; the token may lie in none of them.
__device__ inline int64_t sentence_of(const CudaBlock& block, int64_t token) {
    int64_t low = 0, high = block.sentences;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (block.offsets[middle] <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

__device__ inline bool sentence_fits(const CudaBlock& block, int64_t sentence, int64_t token) {
    const int64_t first = block.offsets[sentence], last = block.offsets[sentence + 1];
    return first >= 0 && first <= token && token < last && last <= block.tokens;
}

// The number of this thread among those of its block with take set, in the order of threads; total is how
// many they are. scratch: a number per warp, and one more.
__device__ inline int rank_in_block(bool take, int32_t* scratch, int* total) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
    const unsigned mask = __ballot_sync(kFullWarp, take);
    if (lane_index() == 0) scratch[warp] = __popc(mask);
    __syncthreads();
    int before = 0, all = 0;
    for (int i = 0; i < warps; ++i) {
        const int count = scratch[i];
        before += i < warp ? count : 0;
        all += count;
    }
    __syncthreads();  // before scratch is used again
    *total = all;
    return before + __popc(mask & lanes_below());
}

// mask, prefix, and how many of each 256 tokens are kept.
__global__ void __launch_bounds__(kTileTokens) keep_tokens(CudaBlock block, WindowSet set) {
    EMBEDTRAIN_SHARED(memory);
    int32_t* scratch = reinterpret_cast<int32_t*>(memory);
    const int64_t token = block.begin + static_cast<int64_t>(blockIdx.x) * kTileTokens + threadIdx.x;
    const bool kept = token < block.end && keeps(block, token, set.counts);
    const unsigned mask = __ballot_sync(kFullWarp, kept);
    int total;
    const int rank = rank_in_block(kept, scratch, &total);
    const int64_t group = (static_cast<int64_t>(blockIdx.x) * kTileTokens + threadIdx.x) / kWarp;
    if (lane_index() == 0) {
        set.mask[group] = mask;
        set.prefix[group] = rank;
    }
    if (threadIdx.x == 0) set.tile_kept[blockIdx.x] = total;
}

// Sums up tile_kept, in place: then it is how many are kept before a tile.
__device__ inline void sum_tiles(const CudaBlock& block, const WindowSet& set, int32_t* scratch) {
    const int64_t tiles = (block.end - block.begin + kTileTokens - 1) / kTileTokens;
    const int lane = lane_index(), warp = static_cast<int>(threadIdx.x) / kWarp;
    int32_t before = 0;
    for (int64_t first = 0; first < tiles; first += kTileTokens) {
        const int64_t tile = first + threadIdx.x;
        const int32_t own = tile < tiles ? set.tile_kept[tile] : 0;
        int32_t sum = own;  // of this warp, up to this lane
        for (int step = 1; step < kWarp; step *= 2) {
            const int32_t lower = __shfl_up_sync(kFullWarp, sum, step);
            if (lane >= step) sum += lower;
        }
        if (lane == kWarp - 1) scratch[warp] = sum;
        __syncthreads();
        int32_t all = 0;
        for (int i = 0; i < kTileTokens / kWarp; ++i) {
            sum += i < warp ? scratch[i] : 0;
            all += scratch[i];
        }
        __syncthreads();
        if (tile < tiles) set.tile_kept[tile] = before + sum - own;
        before += all;
    }
    if (threadIdx.x == 0) {
        set.tile_kept[tiles] = before;
        set.counts->kept = before;
    }
}

// The kept tokens of the first sentence before the block, nearest first, up to the margin.
__device__ inline void take_left_margin(const CudaBlock& block, const WindowSet& set, int32_t* scratch) {
    const int64_t sentence = sentence_of(block, block.begin);
    const int64_t first = sentence_fits(block, sentence, block.begin) ? block.offsets[sentence] : block.begin;
    int taken = 0;
    for (int64_t from = block.begin - 1; from >= first && taken < set.margin; from -= kTileTokens) {
        const int64_t token = from - threadIdx.x;
        const bool kept = token >= first && keeps(block, token, set.counts);
        int total;
        const int place = taken + rank_in_block(kept, scratch, &total);
        if (kept && place < set.margin) set.words[set.margin - 1 - place] = block.ids[token];
        taken += total;
    }
    if (threadIdx.x == 0) set.counts->left_margin = taken < set.margin ? taken : set.margin;
}

// The kept tokens of the last sentence behind the block, up to the margin. They wait, because it is not known
// yet how many are kept in the block.
__device__ inline void take_right_margin(const CudaBlock& block, const WindowSet& set, int32_t* scratch) {
    const int64_t sentence = sentence_of(block, block.end - 1);
    const int64_t last =
        sentence_fits(block, sentence, block.end - 1) ? block.offsets[sentence + 1] : block.end;
    int taken = 0;
    for (int64_t from = block.end; from < last && taken < set.margin; from += kTileTokens) {
        const int64_t token = from + threadIdx.x;
        const bool kept = token < last && keeps(block, token, set.counts);
        int total;
        const int place = taken + rank_in_block(kept, scratch, &total);
        if (kept && place < set.margin) set.waiting[place] = block.ids[token];
        taken += total;
    }
    if (threadIdx.x == 0) set.counts->right_margin = taken < set.margin ? taken : set.margin;
}

// Three blocks with a task each.
__global__ void __launch_bounds__(kTileTokens) sum_and_take_margins(CudaBlock block, WindowSet set) {
    EMBEDTRAIN_SHARED(memory);
    int32_t* scratch = reinterpret_cast<int32_t*>(memory);
    if (blockIdx.x == 0) sum_tiles(block, set, scratch);
    if (blockIdx.x == 1) take_left_margin(block, set, scratch);
    if (blockIdx.x == 2) take_right_margin(block, set, scratch);
}

// How many tokens of the block are kept before its i-th, i < end - begin.
__device__ inline int32_t kept_before(const WindowSet& set, int64_t i) {
    const unsigned lower = (1u << (i % kWarp)) - 1;
    return set.tile_kept[i / kTileTokens] + set.prefix[i / kWarp] + __popc(set.mask[i / kWarp] & lower);
}

__global__ void __launch_bounds__(kTileTokens) find_windows(CudaBlock block, WindowSet set) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kTileTokens + threadIdx.x;
    const int64_t token = block.begin + i;
    const int32_t kept = set.counts->kept, margin = set.margin;
    for (int64_t j = i; j < set.counts->right_margin; j += static_cast<int64_t>(gridDim.x) * kTileTokens)
        set.words[margin + kept + j] = set.waiting[j];
    if (token >= block.end || !(set.mask[i / kWarp] >> (i % kWarp) & 1)) return;
    const int32_t index = kept_before(set, i);
    const int64_t here = margin + index;
    const int64_t sentence = sentence_of(block, token);
    int64_t first = here, last = here + 1;  // of its sentence, in words
    if (sentence_fits(block, sentence, token)) {
        const int64_t from = block.offsets[sentence] - block.begin,
                      to = block.offsets[sentence + 1] - block.begin;
        first = from >= 0 ? margin + kept_before(set, from) : margin - set.counts->left_margin;
        last = margin + kept;
        if (to < block.end - block.begin) {
            last = margin + kept_before(set, to);
        } else if (to > block.end - block.begin) {
            last += set.counts->right_margin;
        }
    } else {
        atomicOr(&set.counts->invalid, 1);
    }
    const uint32_t window = static_cast<uint32_t>(block.window);
    const int64_t width =
        block.shrink_window ? window_width(draw_token(block, token).lane[1], window) : window;
    Centre centre;
    centre.at = static_cast<int32_t>(i);
    centre.word = block.ids[token];
    centre.left = static_cast<int32_t>(here - width > first ? here - width : first);
    centre.right = static_cast<int32_t>(here + width + 1 < last ? here + width + 1 : last);
    set.words[here] = centre.word;
    set.centres[index] = centre;
}

}  // namespace embedtrain
