// The fused skip-gram negative-sampling kernel: one source, compiled once per instruction set (kernel_*.cpp
// define EMBEDTRAIN_KERNEL, the vectors and the tile before they include it). docs/kernel.md explains it with
// a drawing.
//
// For a centre with contexts X (C, D) in the input table and targets Y (T, D) = {centre, negatives} in the
// output table:
//     S = X Yᵀ            dot products                      tile by tile, sums held in registers
//     G = rate (L - σ(S)) L = 1 for the centre, 0 for noise eight pairs at a time
//     Y += Gᵀ X,  X += G Y   both from the values before     one pass over the columns, each row read and
//     written once
// A word that is drawn or seen twice counts twice: duplicates are merged and their G multiplied, which is the
// same sum. A wide window is trained in groups of kGroup contexts, each from the values that the one before
// left: more contexts at once would add up so many gradients of the same old values that training diverges.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/kernel.h"
#include "cpu/sampler.h"
#include "cpu/simd.h"

namespace embedtrain {
namespace {

// WideVector: for updates. PairVector: for dot products and σ; at most eight lanes, so that a context's six
// to eight dot products are one vector. kTileContexts contexts times kTileTargets targets are in registers at
// once.
constexpr int kTileTargets = 6;
constexpr int kGroup = 16;       // contexts that are trained at once
constexpr int kPairLanes = 8;    // a row of G: the targets of a tile, padded
constexpr int kColumnBlock = 8;  // columns are computed in blocks of eight; rows are padded to sixteen
constexpr int kAhead = 3;        // centres between asking for a row and using it

struct Pairs {  // of one tile of targets, by lane; zero in the lanes that have none
    alignas(64) float against[kPairLanes];   // -1 for the centre, +1 for noise: σ's argument is against * dot
    alignas(64) float gradient[kPairLanes];  // rate times multiplicity; positive for the centre, negative for
                                             // noise
    alignas(64) float times[kPairLanes];     // multiplicity
};

// A centre with a group of its contexts, ready to compute.
struct Window {
    int contexts, targets, tiles;
    bool weighted;            // some multiplicity is not 1
    int most_times;           // the largest multiplicity of a target
    float* x[kGroup];         // (contexts) rows of the input table, all different
    int32_t x_times[kGroup];  // (contexts)
    float** y;                // (targets) rows of the output table, all different; the first is the centre's
    Pairs* pairs;             // (tiles)
    float* g;                 // (tiles, contexts, kPairLanes)
    float* fresh;        // (contexts, wide vector) new values of a column block, when there are several tiles
    const char** ahead;  // rows to prefetch
    int ahead_count;
};

// Σ log(1 + e) as the log of a product whose exponent is kept apart, and Σ max(0, z).
struct Loss {
    PairVector product, hinge;
    int64_t exponent;
    int factors;

    void reset() {
        product = broadcast<PairVector>(1.0f);
        hinge = PairVector{};
        exponent = 0;
        factors = 0;
    }
    void multiply(PairVector factor) {  // factors in [1, 2]
        product *= factor;
        if (++factors == 120) renormalise();
    }
    void renormalise() {
        float lanes[kLanes<PairVector>];
        std::memcpy(lanes, &product, sizeof lanes);
        for (float& lane : lanes) {
            uint32_t bits;
            std::memcpy(&bits, &lane, 4);
            if ((bits >> 23 & 0xff) == 0xff) continue;  // NaN and Inf stay, to be seen
            exponent += static_cast<int64_t>(bits >> 23 & 0xff) - 127;
            bits = (bits & 0x007fffff) | 127u << 23;
            std::memcpy(&lane, &bits, 4);
        }
        std::memcpy(&product, lanes, sizeof lanes);
        factors = 0;
    }
    double total() {
        double sum = static_cast<double>(exponent) * 0.6931471805599453;
        for (int lane = 0; lane < kLanes<PairVector>; ++lane)
            sum += std::log(static_cast<double>(product[lane])) + static_cast<double>(hinge[lane]);
        return sum;
    }
};

// ---- dot products: out[c * kPairLanes + t] = x[c] · y[t]

template <int Contexts, int Targets>
void dots(float* const* x, float* const* y, int columns, float* out) {
    PairVector sums[Contexts][Targets] = {};
    for (int column = 0; column < columns; column += kLanes<PairVector>) {
        PairVector xs[Contexts];
#pragma GCC unroll 8
        for (int c = 0; c < Contexts; ++c) xs[c] = load<PairVector>(x[c] + column);
#pragma GCC unroll 8
        for (int t = 0; t < Targets; ++t) {
            const PairVector yt = load<PairVector>(y[t] + column);
#pragma GCC unroll 8
            for (int c = 0; c < Contexts; ++c) sums[c][t] += xs[c] * yt;
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < Contexts; ++c) {
        PairVector row[kPairLanes] = {};
#pragma GCC unroll 8
        for (int t = 0; t < Targets; ++t) row[t] = sums[c][t];
        store_sums(row, out + c * kPairLanes);
    }
}

template <int Targets>
void dots_of_tile(const Window& w, float* const* y, int columns, float* out) {
    int c = 0;
    for (; c + kTileContexts <= w.contexts; c += kTileContexts)
        dots<kTileContexts, Targets>(w.x + c, y, columns, out + c * kPairLanes);
    const int rest = w.contexts - c;
    if (rest == 1) dots<1, Targets>(w.x + c, y, columns, out + c * kPairLanes);
    if constexpr (kTileContexts == 4) {
        if (rest == 2) dots<2, Targets>(w.x + c, y, columns, out + c * kPairLanes);
        if (rest == 3) dots<3, Targets>(w.x + c, y, columns, out + c * kPairLanes);
    }
}

// ---- σ, loss and gradient: dots become G in place

inline void gradients(const Window& w, const Pairs& pairs, float* g, Loss& loss) {
    constexpr int lanes = kLanes<PairVector>;
    const PairVector one = broadcast<PairVector>(1.0f), zero = {};
    for (int c = 0; c < w.contexts; ++c) {
#pragma GCC unroll 2
        for (int lane = 0; lane < kPairLanes; lane += lanes) {
            float* row = g + c * kPairLanes + lane;
            const PairVector z = load<PairVector>(row) * load<PairVector>(pairs.against + lane);
            const PairVector e = exp_negative(absolute(z));
            const PairVector numerator =
                z > zero ? one : e;  // σ(z) without overflow; NaN stays NaN through e
            const PairVector gradient = numerator / (one + e) * load<PairVector>(pairs.gradient + lane);
            const PairVector hinge = z < zero ? zero : z;
            if (!w.weighted) {
                store(row, gradient);
                loss.hinge += hinge;
                loss.multiply(one + e * load<PairVector>(pairs.times + lane));
            } else {
                const PairVector times = load<PairVector>(pairs.times + lane);
                const float x_times = static_cast<float>(w.x_times[c]);
                store(row, gradient * x_times);
                loss.hinge += hinge * times * x_times;
                for (int i = 0; i < w.x_times[c]; ++i)
                    for (int j = 0; j < w.most_times; ++j)
                        loss.multiply(one +
                                      (times > broadcast<PairVector>(static_cast<float>(j)) ? e : zero));
            }
        }
    }
}

// ---- updates

// Columns [column, column + lanes) of all rows, when all targets fit one tile.
template <class V, int Targets>
EMBEDTRAIN_INLINE void update_columns(const Window& w, int column) {
    V y[Targets], fresh[Targets];
#pragma GCC unroll 8
    for (int t = 0; t < Targets; ++t) fresh[t] = y[t] = load<V>(w.y[t] + column);
    for (int c = 0; c < w.contexts; ++c) {
        float* row = w.x[c] + column;
        const float* g = w.g + c * kPairLanes;
        const V x = load<V>(row);
        V sum = x;
#pragma GCC unroll 8
        for (int t = 0; t < Targets; ++t) {
            const V gt = broadcast<V>(g[t]);
            fresh[t] += gt * x;
            sum += gt * y[t];
        }
        store(row, sum);
    }
#pragma GCC unroll 8
    for (int t = 0; t < Targets; ++t) store(w.y[t] + column, fresh[t]);
}

// The same for one of several tiles: the contexts' new values wait in w.fresh until the last tile has read
// the old ones.
template <class V, int Targets>
EMBEDTRAIN_INLINE void update_tile_columns(const Window& w, int tile, int column) {
    float* const* rows = w.y + tile * kTileTargets;
    V y[Targets], fresh[Targets];
#pragma GCC unroll 8
    for (int t = 0; t < Targets; ++t) fresh[t] = y[t] = load<V>(rows[t] + column);
    for (int c = 0; c < w.contexts; ++c) {
        const float* g = w.g + (static_cast<int64_t>(tile) * w.contexts + c) * kPairLanes;
        float* waiting = w.fresh + c * kLanes<V>;
        const V x = load<V>(w.x[c] + column);
        V sum = tile == 0 ? x : load<V>(waiting);
#pragma GCC unroll 8
        for (int t = 0; t < Targets; ++t) {
            const V gt = broadcast<V>(g[t]);
            fresh[t] += gt * x;
            sum += gt * y[t];
        }
        store(tile == w.tiles - 1 ? w.x[c] + column : waiting, sum);
    }
#pragma GCC unroll 8
    for (int t = 0; t < Targets; ++t) store(rows[t] + column, fresh[t]);
}

template <class V>
void update_tiles(const Window& w, int column) {
    for (int tile = 0; tile < w.tiles; ++tile) {
        switch (w.targets - tile * kTileTargets) {
            case 1:
                update_tile_columns<V, 1>(w, tile, column);
                break;
            case 2:
                update_tile_columns<V, 2>(w, tile, column);
                break;
            case 3:
                update_tile_columns<V, 3>(w, tile, column);
                break;
            case 4:
                update_tile_columns<V, 4>(w, tile, column);
                break;
            case 5:
                update_tile_columns<V, 5>(w, tile, column);
                break;
            default:
                update_tile_columns<V, kTileTargets>(w, tile, column);
                break;
        }
    }
}

// The rows of a centre to come are asked for between the columns of this one, a cache line of each at a time,
// so that no burst fills the miss buffers.
inline void prefetch_column(const Window& w, int column) {
    for (int i = 0; i < w.ahead_count; ++i) __builtin_prefetch(w.ahead[i] + column * sizeof(float), 1, 3);
}

template <int Targets>
void update(const Window& w, int columns) {
    constexpr int wide = kLanes<WideVector>;
    int column = 0;
    for (; column + wide <= columns; column += wide) {
        if (column % 16 == 0) prefetch_column(w, column);
        if constexpr (Targets > 0) {
            update_columns<WideVector, Targets>(w, column);
        } else {
            update_tiles<WideVector>(w, column);
        }
    }
    for (; column < columns; column += kLanes<PairVector>) {
        if (column % 16 == 0) prefetch_column(w, column);
        if constexpr (Targets > 0) {
            update_columns<PairVector, Targets>(w, column);
        } else {
            update_tiles<PairVector>(w, column);
        }
    }
}

// ---- a centre

inline void compute(const Window& w, int columns, Loss& loss) {
    for (int tile = 0; tile < w.tiles; ++tile) {
        float* const* y = w.y + tile * kTileTargets;
        float* g = w.g + static_cast<int64_t>(tile) * w.contexts * kPairLanes;
        switch (w.targets - tile * kTileTargets) {
            case 1:
                dots_of_tile<1>(w, y, columns, g);
                break;
            case 2:
                dots_of_tile<2>(w, y, columns, g);
                break;
            case 3:
                dots_of_tile<3>(w, y, columns, g);
                break;
            case 4:
                dots_of_tile<4>(w, y, columns, g);
                break;
            case 5:
                dots_of_tile<5>(w, y, columns, g);
                break;
            default:
                dots_of_tile<kTileTargets>(w, y, columns, g);
                break;
        }
        gradients(w, w.pairs[tile], g, loss);
    }
    switch (w.tiles == 1 ? w.targets : 0) {
        case 1:
            return update<1>(w, columns);
        case 2:
            return update<2>(w, columns);
        case 3:
            return update<3>(w, columns);
        case 4:
            return update<4>(w, columns);
        case 5:
            return update<5>(w, columns);
        case 6:
            return update<6>(w, columns);
        default:
            return update<0>(w, columns);
    }
}

// A thread's own copies of the first rows of the output table. The rows of frequent words are noise in every
// other window of every thread; written in place, their cache lines would do little but travel from core to
// core. A copy is taken when its row is used, and after some uses what was learned in it is added to the row.
// Other threads' updates of the same row are late by no more than these uses, which must stay few (see
// dispatch.cpp).
class HotRows {
  public:
    HotRows(const Block& block, Arena& arena) : block_(block) {
        const int64_t size = block.hot_rows * block.stride;
        mine_ = arena.take<float>(size);
        taken_ = arena.take<float>(size);
        uses_ = arena.take<int32_t>(block.hot_rows);
    }

    void clear() {
        for (int32_t word = 0; word < block_.hot_rows; ++word) uses_[word] = 0;
    }

    // The row to work on.
    float* use(int32_t word) {
        const int64_t offset = word * block_.stride;
        if (word >= block_.hot_rows) return block_.output + offset;
        if (uses_[word]++ == 0) {
            for (int64_t i = 0; i < block_.stride; i += kLanes<WideVector>) {
                const WideVector row = load<WideVector>(block_.output + offset + i);
                store(mine_ + offset + i, row);
                store(taken_ + offset + i, row);
            }
        }
        return mine_ + offset;
    }

    // The window with these words is done.
    void release(const int32_t* words, int count) {
        for (int t = 0; t < count; ++t)
            if (words[t] < block_.hot_rows && uses_[words[t]] >= block_.hot_uses) bring_back(words[t]);
    }

    void release_all() {
        for (int32_t word = 0; word < block_.hot_rows; ++word)
            if (uses_[word] > 0) bring_back(word);
    }

  private:
    void bring_back(int32_t word) {
        const int64_t offset = word * block_.stride;
        for (int64_t i = offset; i < offset + block_.stride; i += kLanes<WideVector>) {
            const WideVector learned = load<WideVector>(mine_ + i) - load<WideVector>(taken_ + i);
            store(block_.output + i, load<WideVector>(block_.output + i) + learned);
        }
        uses_[word] = 0;
    }

    const Block& block_;
    float *mine_, *taken_;  // (hot_rows, stride) the copy, and what it was when it was taken
    int32_t* uses_;         // since it was taken; 0: there is none
};

class Trainer {
  public:
    Trainer(const Block& block, void* workspace)
        : block_(block), arena_(workspace), sampler_(block, arena_), hot_(block, arena_) {
        const int64_t targets = 1 + block.negative, tiles = (targets + kTileTargets - 1) / kTileTargets;
        w_.y = arena_.take<float*>(targets);
        y_word_ = arena_.take<int32_t>(targets);
        y_times_ = arena_.take<int32_t>(targets);
        w_.pairs = arena_.take<Pairs>(tiles);
        w_.g = arena_.take<float>(tiles * kGroup * kPairLanes);
        w_.fresh = arena_.take<float>(kGroup * kLanes<WideVector>);
        w_.ahead = arena_.take<const char*>(targets + 1);
        context_position_ = arena_.take<int64_t>(2 * at_most(block.window, block.longest_sentence));
    }
    size_t workspace_bytes() const { return arena_.used(); }

    void train(int64_t begin, int64_t end, Stats* stats) {
        const int columns = (block_.dim + kColumnBlock - 1) / kColumnBlock * kColumnBlock;
        Loss loss;
        sampler_.seek(begin, end);
        hot_.clear();
        while (sampler_.next()) {
            loss.reset();
            for (int centre = sampler_.first; centre < sampler_.last; ++centre) {
                const int right = sampler_.right[centre];
                int next = sampler_.left[centre];
                stats->pairs += right - next - 1;
                if (right - next < 2) continue;  // alone
                collect_targets(centre);
                look_ahead(centre);
                while (next < right) {
                    next = collect_contexts(centre, next, right);
                    if (w_.contexts == 0) break;
                    compute(w_, columns, loss);
                    w_.ahead_count = 0;
                }
                hot_.release(y_word_, w_.targets);
            }
            stats->centres += sampler_.last - sampler_.first;
            stats->loss += loss.total();
        }
        hot_.release_all();
        stats->invalid |= sampler_.invalid;
    }

    bool list_windows(int64_t begin, int64_t end, WindowVisitor visit, void* receiver) {
        sampler_.seek(begin, end);
        while (sampler_.next()) {
            for (int centre = sampler_.first; centre < sampler_.last; ++centre) {
                int count = 0;
                for (int i = sampler_.left[centre]; i < sampler_.right[centre]; ++i)
                    if (i != centre)
                        context_position_[count++] = block_.first_position + sampler_.position[i];
                if (count == 0) continue;
                visit(receiver, {block_.first_position + sampler_.position[centre], context_position_, count,
                                 negatives_of(centre), rate_of(centre)});
            }
        }
        return !sampler_.invalid;
    }

  private:
    const int32_t* negatives_of(int centre) const {
        return sampler_.negatives + static_cast<int64_t>(centre) * block_.negative;
    }

    // Linear in the position, over all epochs.
    float rate_of(int centre) const {
        const double step = static_cast<double>(block_.epoch) * static_cast<double>(block_.corpus_size) +
                            static_cast<double>(block_.first_position + sampler_.position[centre]);
        const double rate = block_.alpha - block_.alpha_step * step;
        return static_cast<float>(rate > block_.min_alpha ? rate : block_.min_alpha);
    }

    // The next group of the window's contexts, from the kept token next on; returns where the group after it
    // starts.
    int collect_contexts(int centre, int next, int right) {
        int count = 0, marks = 0;
        for (; next < right && count < kGroup; ++next) {
            if (next == centre) continue;
            w_.x[count] = block_.input + sampler_.word[next] * block_.stride;
            w_.x_times[count++] = 1;
            marks |= sampler_.repeats[next];
        }
        w_.weighted = w_.most_times > 1;
        w_.contexts = marks ? merge_contexts(count) : count;
        return next;
    }

    int merge_contexts(int count) {
        int different = 0;
        for (int c = 0; c < count; ++c) {
            int same = 0;
            while (same < different && w_.x[same] != w_.x[c]) ++same;
            if (same < different) {
                ++w_.x_times[same];
                w_.weighted = true;
            } else {
                w_.x[different] = w_.x[c];
                w_.x_times[different++] = 1;
            }
        }
        return different;
    }

    void collect_targets(int centre) {
        const int32_t* negatives = negatives_of(centre);
        const int32_t word = sampler_.word[centre];
        int count = 1;
        y_word_[0] = word;
        y_times_[0] = 1;
        for (int k = 0; k < block_.negative; ++k) {
            const int32_t noise = negatives[k];
            if (noise == word) continue;  // as word2vec.c: a centre is not its own noise
            int same = 1;
            while (same < count && y_word_[same] != noise) ++same;
            if (same < count) {
                ++y_times_[same];
            } else {
                y_word_[count] = noise;
                y_times_[count++] = 1;
            }
        }
        w_.targets = count;
        w_.tiles = (count + kTileTargets - 1) / kTileTargets;
        const float rate = rate_of(centre);
        w_.most_times = 1;
        for (int t = 0; t < count; ++t) {
            w_.y[t] = hot_.use(y_word_[t]);
            if (y_times_[t] > w_.most_times) w_.most_times = y_times_[t];
        }
        for (int tile = 0; tile < w_.tiles; ++tile) {
            Pairs& pairs = w_.pairs[tile];
            for (int lane = 0; lane < kPairLanes; ++lane) {
                const int t = tile * kTileTargets + lane;
                const bool used = lane < kTileTargets && t < count;
                const float times = used ? static_cast<float>(y_times_[t]) : 0.0f;
                pairs.against[lane] = used ? (t == 0 ? -1.0f : 1.0f) : 0.0f;
                pairs.gradient[lane] = (t == 0 ? rate : -rate) * times;
                pairs.times[lane] = times;
            }
        }
    }

    // What a later centre of the batch will need that this one does not: its targets, and the context that
    // enters.
    void look_ahead(int centre) {
        const int later = centre + kAhead;
        w_.ahead_count = 0;
        if (later >= sampler_.last) return;
        const int64_t row_bytes = block_.stride * static_cast<int64_t>(sizeof(float));
        const char* output = reinterpret_cast<const char*>(block_.output);
        const int32_t* negatives = negatives_of(later);
        w_.ahead[w_.ahead_count++] = output + sampler_.word[later] * row_bytes;
        for (int k = 0; k < block_.negative; ++k)
            w_.ahead[w_.ahead_count++] = output + negatives[k] * row_bytes;
        const int entering = later + block_.window;
        if (entering < sampler_.kept)
            w_.ahead[w_.ahead_count++] =
                reinterpret_cast<const char*>(block_.input) + sampler_.word[entering] * row_bytes;
    }

    const Block& block_;
    Arena arena_;
    Sampler sampler_;
    HotRows hot_;
    Window w_;
    int32_t *y_word_, *y_times_;
    int64_t* context_position_;
};

size_t workspace_bytes(const Block& block) {
    return Trainer(block, nullptr).workspace_bytes();
}

void train(const Block& block, int64_t begin, int64_t end, void* workspace, Stats* stats) {
    Trainer(block, workspace).train(begin, end, stats);
}

bool list_windows(const Block& block, int64_t begin, int64_t end, void* workspace, WindowVisitor visit,
                  void* receiver) {
    return Trainer(block, workspace).list_windows(begin, end, visit, receiver);
}

}  // namespace

const Kernel EMBEDTRAIN_KERNEL = {EMBEDTRAIN_KERNEL_NAME, workspace_bytes, train, list_windows};

}  // namespace embedtrain
