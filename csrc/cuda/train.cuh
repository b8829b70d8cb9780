// The training kernel. docs/kernel.md explains it with a drawing.
//
// A block of threads is a worker: it takes a run of centres, one after the other, until none are left. Each
// thread owns four columns of every row (a float4): it alone of its worker reads, updates and writes them, so
// a worker is sequential without barriers. Threads meet only to add up dot products.
//
// For a centre with a group of contexts X (C, D) and targets Y (T, D), as on the CPU:
//     S = X Yᵀ                   tiles of 5 x 6 dot products, added across the lanes all at once
//
//     G = rate (L - σ(S))        a pair per lane
//
//     x += g Y,  Y += gᵀ x       for each row x of X and g of G: added to the tables by vector atomics
//
// G comes from the values before; each context meets targets that those before it have moved. Of a word that
// is drawn or seen twice the first one counts twice, and the other not at all.
#pragma once

#include <cmath>

#include "cuda/platform.cuh"
#include "cuda/sgns.h"
#include "cuda/windows.cuh"

namespace embedtrain {

constexpr int kGroup = 16;                          // contexts that are trained at once
constexpr int kTileContexts = 5, kTileTargets = 6;  // 30 dot products: with two zeros, one for each lane
constexpr int kTilePitch = 8;                       // numbers between the rows of a tile of G
constexpr int kMostThreads = kCudaMaxDim / 4;
constexpr int kShortestRun = 4, kLongestRun = 128;  // centres that a worker takes at once

struct Target {
    int32_t word;
    float damping;
    float times;  // that it was drawn; 0 if it was before
};

// How the shared memory of a worker is laid out.
struct WorkerLayout {
    int threads, warps, tiles, contexts;
    // Offsets; the contexts' rows are at 0, and behind them, if there are several tiles, what they are moved
    // by.
    size_t gradients, partials, targets, run, bytes;

    __host__ __device__ WorkerLayout(int dim, int window, int negative) {
        warps = (dim + 4 * kWarp - 1) / (4 * kWarp);
        threads = warps * kWarp;
        tiles = (negative + kTileTargets) / kTileTargets;  // of 1 + negative targets
        contexts = 2 * static_cast<int64_t>(window) < kGroup ? 2 * window : kGroup;
        gradients = static_cast<size_t>(contexts) * threads * sizeof(float4) * (tiles > 1 ? 2 : 1);
        partials = gradients + static_cast<size_t>(contexts) * tiles * kTilePitch * sizeof(float);
        targets = partials + (warps > 1 ? 2 * static_cast<size_t>(warps) * kWarp * sizeof(float) : 0);
        run = targets + 2 * static_cast<size_t>(warps) * (1 + negative) * sizeof(Target);
        bytes = run + 16;
    }
};

__device__ inline float dot(float4 a, float4 b) {
    return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

__device__ inline void add_product(float4& sum, float factor, float4 row) {
    sum.x += factor * row.x;
    sum.y += factor * row.y;
    sum.z += factor * row.z;
    sum.w += factor * row.w;
}

__device__ inline float4 difference(float4 a, float4 b) {
    return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w);
}

__device__ inline float4 scaled(float4 row, float factor) {
    return make_float4(row.x * factor, row.y * factor, row.z * factor, row.w * factor);
}

// Adds up 32 numbers across the warp at once; lane i gets the sum of values[i]. 31 shuffles, where one number
// at a time would take 160: at each step a lane keeps one half of the numbers and gives the other to the lane
// it is paired with.
template <int kHalf = kWarp / 2>
__device__ inline float sum_across_lanes(float (&values)[kWarp]) {
    const bool upper = lane_index() & kHalf;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
        const float give = upper ? values[i] : values[i + kHalf];
        const float keep = upper ? values[i + kHalf] : values[i];
        values[i] = keep + __shfl_xor_sync(kFullWarp, give, kHalf);
    }
    if constexpr (kHalf > 1) return sum_across_lanes<kHalf / 2>(values);
    return values[0];
}

__device__ inline double sum_of_lanes(double value) {
    for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
    return value;
}

// A worker. Its methods are called by all threads of the block together.
class Worker {
  public:
    __device__ Worker(const CudaBlock& block, const WindowSet& set, unsigned char* memory)
        : block_(block), set_(set), layout_(block.dim, block.window, block.negative) {
        warp_ = static_cast<int>(threadIdx.x) / kWarp;
        column_ = 4 * static_cast<int>(threadIdx.x);
        owns_ = column_ < block.dim;
        rows_ = reinterpret_cast<float4*>(memory) + threadIdx.x;
        gradients_ = reinterpret_cast<float*>(memory + layout_.gradients);
        partials_ = reinterpret_cast<float*>(memory + layout_.partials);
        targets_ = reinterpret_cast<Target*>(memory + layout_.targets) + 2 * warp_ * (1 + block.negative);
        run_ = reinterpret_cast<int32_t*>(memory + layout_.run);
        // Threads beyond the last column take part with zeros.
        for (int c = 0; c < layout_.contexts; ++c) rows_[c * layout_.threads] = make_float4(0, 0, 0, 0);
    }

    __device__ void train() {
        const int32_t kept = set_.counts->kept;
        int32_t run = kept / (8 * static_cast<int32_t>(gridDim.x));
        run = run < kShortestRun ? kShortestRun : run > kLongestRun ? kLongestRun : run;
        for (;;) {
            if (threadIdx.x == 0) *run_ = atomicAdd(&set_.counts->next, run);
            __syncthreads();
            const int32_t first = *run_;
            __syncthreads();
            if (first >= kept) break;
            const int32_t last = first + run < kept ? first + run : kept;
            Centre centre = set_.centres[first];
            int count = draw_targets(centre, targets_);
            for (int32_t index = first; index < last; ++index) {
                const Centre current = centre;
                const int current_count = count;
                Target* const targets = targets_ + (index - first) % 2 * (1 + block_.negative);
                if (index + 1 < last) {  // the next one's rows are on their way while this one is computed
                    Target* const later = targets_ + (index + 1 - first) % 2 * (1 + block_.negative);
                    centre = set_.centres[index + 1];
                    count = draw_targets(centre, later);
                    for (int t = 0; t < count; ++t) prefetch(row(block_.output, later[t].word));
                    prefetch(row(block_.input, set_.words[centre.right - 1]));
                }
                train_window(index, current, targets, current_count);
            }
        }
        report();
    }

  private:
    __device__ float* row(float* table, int32_t word) const {
        return table + static_cast<int64_t>(word) * block_.stride + column_;
    }
    __device__ float4 load(const float* address) const {
        return owns_ ? __ldcg(reinterpret_cast<const float4*>(address)) : make_float4(0, 0, 0, 0);
    }
    __device__ void add(float* address, float4 delta, float factor) const {
        // With a factor of 0 nothing is added, because even that would turn -0 into 0.
        if (owns_ && factor != 0) atomic_add(reinterpret_cast<float4*>(address), scaled(delta, factor));
    }

    // Fills the list of a window's targets: the centre and its noise words, but for those that are the
    // centre. Each warp has a list of its own. Returns how many there are.
    __device__ int draw_targets(const Centre& centre, Target* targets) {
        const int lane = lane_index();
        const uint32_t vocabulary = static_cast<uint32_t>(block_.vocabulary);
        uint32_t words[2] = {};
        if (2 * lane < block_.negative) {
            const uint64_t position =
                noise_position(static_cast<uint64_t>(block_.first_position + block_.begin + centre.at),
                               block_.noise_sharers);
            const Philox4 bits =
                draw(block_.seed, block_.epoch, position, kNegative, static_cast<uint32_t>(lane));
            words[0] = noise_word(noise_point(bits.lane[0], bits.lane[1], vocabulary), block_.noise);
            if (2 * lane + 1 < block_.negative)
                words[1] = noise_word(noise_point(bits.lane[2], bits.lane[3], vocabulary), block_.noise);
        }
        if (lane == 0) targets[0] = {centre.word, damping(block_.output_damping, centre.word), 1};
        int count = 1;
        for (int j = 0; j < 2; ++j) {
            const bool drawn = 2 * lane + j < block_.negative;
            const bool known = words[j] < vocabulary;
            if (drawn && !known) loss_ = static_cast<double>(NAN);
            const bool take = drawn && known && words[j] != static_cast<uint32_t>(centre.word);
            const unsigned mask = __ballot_sync(kFullWarp, take);
            const int32_t word = static_cast<int32_t>(words[j]);
            if (take)
                targets[count + __popc(mask & lanes_below())] = {word, damping(block_.output_damping, word),
                                                                 1};
            count += __popc(mask);
        }
        __syncwarp();
        for (int t = 1 + lane; t < count; t += kWarp) {
            int times = 0;
            bool first = true;
            for (int other = 1; other < count; ++other) {
                const bool same = targets[other].word == targets[t].word;
                times += same;
                first &= !same || other >= t;
            }
            targets[t].times = first ? static_cast<float>(times) : 0;
        }
        __syncwarp();
        return count;
    }

    __device__ static float damping(const float* factors, int32_t word) {
        return factors ? factors[word] : 1.0f;
    }

    __device__ void train_window(int32_t index, const Centre& centre, const Target* targets, int count) {
        ++centres_;
        pairs_ += centre.right - centre.left - 1;
        const float rate = static_cast<float>(learning_rate(block_, block_.begin + centre.at));
        const int32_t here = set_.margin + index;
        int32_t next = centre.left;
        for (;;) {
            next += next == here;
            const int32_t left = centre.right - next - (next < here);  // without the centre itself
            if (left <= 0) break;
            const int contexts = left < layout_.contexts ? left : layout_.contexts;
            // A lane knows one context.
            const int lane = lane_index();
            int32_t at = next + (lane < contexts ? lane : contexts - 1);
            at += next < here && at >= here;
            word_ = set_.words[at];
            word_damping_ = damping(block_.input_damping, word_);
            const unsigned same = __match_any_sync(kFullWarp, word_) & ((1u << contexts) - 1);
            word_times_ = (same & lanes_below()) == 0 ? static_cast<float>(__popc(same)) : 0;
            train_group(targets, count, contexts, rate);
            next += contexts + (next < here && next + contexts > here);
        }
    }

    __device__ void train_group(const Target* targets, int count, int contexts, float rate) {
        for (int c = 0; c < contexts; ++c) {
            float* const from = row(block_.input, __shfl_sync(kFullWarp, word_, c));
            if (owns_) copy_async(rows_ + c * layout_.threads, reinterpret_cast<const float4*>(from));
        }
        const int tiles = (count + kTileTargets - 1) / kTileTargets;
        float4 y[kTileTargets];
        int step = 0;
        for (int tile = 0; tile < tiles; ++tile) {
            load_tile(targets, count, tile, y);
            if (tile == 0) wait_for_copies();
            for (int first = 0; first < contexts; first += kTileContexts, ++step) {
                float sums[kWarp];
#pragma unroll
                for (int i = 0; i < kTileContexts; ++i) {
                    const float4 x =
                        first + i < contexts ? rows_[(first + i) * layout_.threads] : make_float4(0, 0, 0, 0);
#pragma unroll
                    for (int t = 0; t < kTileTargets; ++t) sums[i * kTileTargets + t] = dot(x, y[t]);
                }
                sums[30] = sums[31] = 0;
                float score = sum_across_lanes(sums);
                bool mine = true;  // this warp goes on with the score
                if (layout_.warps > 1) {
                    float* const partials = partials_ + step % 2 * layout_.threads;
                    partials[threadIdx.x] = score;
                    __syncthreads();
                    mine = step % layout_.warps == warp_;
                    score = 0;
                    for (int i = 0; mine && i < layout_.warps; ++i)
                        score += partials[i * kWarp + lane_index()];
                }
                if (mine) finish_pair(score, first, tile, contexts, targets, count, rate);
            }
        }
        wait_for_gradients();
        update(targets, count, tiles, contexts, y);
        __syncwarp();  // all are done with the gradients and the list of targets; soon both are written again
    }

    __device__ void load_tile(const Target* targets, int count, int tile, float4 (&y)[kTileTargets]) const {
#pragma unroll
        for (int t = 0; t < kTileTargets; ++t) {
            const int target = tile * kTileTargets + t;
            y[t] = target < count ? load(row(block_.output, targets[target].word)) : make_float4(0, 0, 0, 0);
        }
    }

    // σ, loss and gradient of the lane's pair.
    __device__ void finish_pair(float score, int first, int tile, int contexts, const Target* targets,
                                int count, float rate) {
        const int c = first + lane_index() / kTileTargets, t = lane_index() % kTileTargets;
        const int target = tile * kTileTargets + t;
        const float context_times = __shfl_sync(kFullWarp, word_times_, c);
        if (lane_index() >= kTileContexts * kTileTargets || c >= contexts) return;
        float gradient = 0;
        if (target < count) {
            const float z = target == 0 ? -score : score;  // the pair's loss is log(1 + e^z)
            const float e = expf(-fabsf(z));
            const float sigmoid =
                (z > 0 ? 1.0f : e) / (1.0f + e);  // without overflow; NaN stays NaN through e
            gradient = (target == 0 ? rate : -rate) * sigmoid * (context_times * targets[target].times);
            loss_ += static_cast<double>((z < 0 ? 0.0f : z) + log1pf(e));
        }
        gradients_[(c * layout_.tiles + tile) * kTilePitch + t] = gradient;
    }

    __device__ void wait_for_gradients() const {
        if (layout_.warps > 1) {
            __syncthreads();
        } else {
            __syncwarp();
        }
    }

    __device__ void load_gradients(int c, int tile, float (&g)[kTileTargets]) const {
        const float* const from = gradients_ + (c * layout_.tiles + tile) * kTilePitch;
        const float4 low = *reinterpret_cast<const float4*>(from);
        g[0] = low.x, g[1] = low.y, g[2] = low.z, g[3] = low.w;
        g[4] = from[4], g[5] = from[5];
    }

    __device__ void add_to_context(int c, float4 delta) const {
        const int32_t word = __shfl_sync(kFullWarp, word_, c);
        const float factor = __shfl_sync(kFullWarp, word_damping_, c);
        add(row(block_.input, word), delta, factor);
    }

    // y: the last tile of targets. The others are read again; none of them has been written before. What
    // moves a context is added up over the tiles, all of which need it as it was.
    __device__ void update(const Target* targets, int count, int tiles, int contexts,
                           float4 (&y)[kTileTargets]) const {
        float4* const moves = rows_ + layout_.contexts * layout_.threads;
        for (int tile = tiles - 1;; --tile) {
            float4 moved[kTileTargets];
#pragma unroll
            for (int t = 0; t < kTileTargets; ++t) moved[t] = y[t];
            for (int c = 0; c < contexts; ++c) {
                float g[kTileTargets];
                load_gradients(c, tile, g);
                const float4 x = rows_[c * layout_.threads];
                float4 dx = tile == tiles - 1 ? make_float4(0, 0, 0, 0) : moves[c * layout_.threads];
#pragma unroll
                for (int t = 0; t < kTileTargets; ++t) {
                    add_product(dx, g[t], moved[t]);
                    add_product(moved[t], g[t], x);
                }
                if (tile == 0) {
                    add_to_context(c, dx);
                } else {
                    moves[c * layout_.threads] = dx;
                }
            }
#pragma unroll
            for (int t = 0; t < kTileTargets; ++t) {
                const int target = tile * kTileTargets + t;
                if (target < count)
                    add(row(block_.output, targets[target].word), difference(moved[t], y[t]),
                        targets[target].damping);
            }
            if (tile == 0) break;
            load_tile(targets, count, tile - 1, y);
        }
    }

    __device__ void report() {
        const double loss = sum_of_lanes(loss_);
        if (lane_index() == 0) atomicAdd(block_.stats, loss);
        if (threadIdx.x == 0) {
            atomicAdd(block_.stats + 1, static_cast<double>(pairs_));
            atomicAdd(block_.stats + 2, static_cast<double>(centres_));
        }
    }

    const CudaBlock& block_;
    const WindowSet& set_;
    const WorkerLayout layout_;
    int warp_, column_;
    bool owns_;  // columns of the rows
    // (contexts, threads) of which this thread has a column: the contexts before the update. With several
    // tiles as much again: what the contexts are moved by.
    float4* rows_;
    float* gradients_;  // (contexts, tiles, kTilePitch)
    float* partials_;   // (2, warps, lanes) dot products of a warp's columns, twice, so that one barrier is
                        // enough
    Target* targets_;   // (2, 1 + negative) of this warp: for this window and the next
    int32_t* run_;      // the first of the centres that were taken
    int32_t word_ = 0;  // of the context that the lane knows
    float word_damping_ = 1, word_times_ = 1;
    double loss_ = 0;
    int64_t pairs_ = 0, centres_ = 0;
};

__global__ void __launch_bounds__(kMostThreads) train_windows(CudaBlock block, WindowSet set) {
    EMBEDTRAIN_SHARED(memory);
    if (set.counts->invalid) {
        if (blockIdx.x == 0 && threadIdx.x == 0) atomicAdd(block.stats, static_cast<double>(NAN));
        return;
    }
    Worker(block, set, memory).train();
}

}  // namespace embedtrain
