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

#include "cpu/exchange_impl.h"
#include "cpu/kernel.h"
#include "cpu/sampler.h"
#include "cpu/simd.h"

namespace embedtrain {
namespace {

// WideVector: for updates. PairVector: for dot products and σ; at most eight lanes, so that a context's six
// to eight dot products are one vector. kTileContexts contexts times kTileTargets targets are in registers at
// once.
constexpr int kTileTargets = 6;
constexpr int kPairLanes = 8;    // a row of G: the targets of a tile, padded
constexpr int kColumnBlock = 8;  // columns are computed in blocks of eight; rows are padded to sixteen
constexpr int kAhead = 3;        // centres between asking for a row and using it
constexpr int kTouched = 32;     // centres whose rows are touched at once
constexpr int64_t kCachedBytes = int64_t{64} << 20;  // a table beyond is for the most part in memory

struct Pairs {  // of one tile of targets, by lane; zero in the lanes that have none
    alignas(64) float against[kPairLanes];   // -1 for the centre, +1 for noise: σ's argument is against * dot
    alignas(64) float times[kPairLanes];     // multiplicity
    alignas(64) float gradient[kPairLanes];  // multiplicity, negative for noise

    // targets: of the tile, whose first is the centre if it is the first tile.
    void fill(const int32_t* target_times, int targets, bool first) {
        for (int lane = 0; lane < kPairLanes; ++lane) {
            const float sign = lane >= targets ? 0.0f : first && lane == 0 ? -1.0f : 1.0f;
            against[lane] = sign;
            times[lane] = lane < targets ? static_cast<float>(target_times[lane]) : 0.0f;
            gradient[lane] = -sign * times[lane];
        }
    }
};

// A centre with a group of its contexts, ready to compute.
struct Window {
    int contexts, targets, tiles;
    bool weighted;   // some multiplicity is not 1
    int most_times;  // the largest multiplicity of a target
    float rate;
    float* x[2 * kGroup];     // (contexts) rows of the input table, all different
    int32_t x_times[kGroup];  // (contexts), if weighted
    float** y;                // (targets) rows of the output table, all different; the first is the centre's
    const Pairs* pairs;       // (tiles)
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

// ---- σ, loss and gradient: dots become G in place

inline void gradients(const Window& w, const Pairs& pairs, int from, int to, float* g, Loss& loss) {
    constexpr int lanes = kLanes<PairVector>;
    const PairVector one = broadcast<PairVector>(1.0f), zero = {}, rate = broadcast<PairVector>(w.rate);
    for (int c = from; c < to; ++c) {
#pragma GCC unroll 2
        for (int lane = 0; lane < kPairLanes; lane += lanes) {
            float* row = g + c * kPairLanes + lane;
            const PairVector z = load<PairVector>(row) * load<PairVector>(pairs.against + lane);
            const PairVector e = exp_negative(absolute(z));
            const PairVector numerator =
                z > zero ? one : e;  // σ(z) without overflow; NaN stays NaN through e
            const PairVector gradient =
                numerator / (one + e) * (rate * load<PairVector>(pairs.gradient + lane));
            const PairVector hinge = z < zero ? zero : z;
            const PairVector times = load<PairVector>(pairs.times + lane);
            if (!w.weighted) {
                store(row, gradient);
                loss.hinge += hinge;
                loss.multiply(one + e * times);
            } else {
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

// The gradients of some contexts are computed while the processor is already at the dot products of the next.
template <int Contexts, int Targets>
EMBEDTRAIN_INLINE void score(const Window& w, const Pairs& pairs, float* const* y, int columns, int c,
                             float* g, Loss& loss) {
    dots<Contexts, Targets>(w.x + c, y, columns, g + c * kPairLanes);
    gradients(w, pairs, c, c + Contexts, g, loss);
}

template <int Targets>
void score_tile(const Window& w, const Pairs& pairs, float* const* y, int columns, float* g, Loss& loss) {
    int c = 0;
    for (; c + kTileContexts <= w.contexts; c += kTileContexts)
        score<kTileContexts, Targets>(w, pairs, y, columns, c, g, loss);
    const int rest = w.contexts - c;
    if (rest == 1) score<1, Targets>(w, pairs, y, columns, c, g, loss);
    if constexpr (kTileContexts == 4) {
        if (rest == 2) score<2, Targets>(w, pairs, y, columns, c, g, loss);
        if (rest == 3) score<3, Targets>(w, pairs, y, columns, c, g, loss);
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
                score_tile<1>(w, w.pairs[tile], y, columns, g, loss);
                break;
            case 2:
                score_tile<2>(w, w.pairs[tile], y, columns, g, loss);
                break;
            case 3:
                score_tile<3>(w, w.pairs[tile], y, columns, g, loss);
                break;
            case 4:
                score_tile<4>(w, w.pairs[tile], y, columns, g, loss);
                break;
            case 5:
                score_tile<5>(w, w.pairs[tile], y, columns, g, loss);
                break;
            default:
                score_tile<kTileTargets>(w, w.pairs[tile], y, columns, g, loss);
                break;
        }
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

// The rows of a table as a thread sees them: the first ones through its copies, if it has any (replicas.h).
class Rows {
  public:
    Rows(float* table, int64_t stride, const bool* locked, const Replica& copies, int most_uses)
        : table_(table), stride_(stride), locked_(locked), copies_(copies), most_uses_(most_uses) {}

    // The row to work on. It is synchronised when that is due; so rows in use may change.
    float* use(int32_t word) {
        const int64_t offset = word * stride_;
        if (!has_copy(word)) return table_ + offset;
        uint8_t &uses = copies_.uses[word], &limit = copies_.limit[word];
        if (uses == 0) {
            copy(offset);
        } else if (uses >= limit) {
            synchronise(offset);
            uses = 0;
            limit = static_cast<uint8_t>(at_least(1, at_most(2 * limit, most_uses_)));
        } else if (uses == limit - 1) {  // due next time
            for (int64_t i = offset; i < offset + stride_; i += 16) {
                __builtin_prefetch(table_ + i, 1, 2);
                __builtin_prefetch(copies_.origin + i, 1, 2);
            }
        }
        ++uses;
        return copies_.copy + offset;
    }

    // The row that use() will give.
    const char* address(int32_t word) const {
        return reinterpret_cast<const char*>((has_copy(word) ? copies_.copy : table_) + word * stride_);
    }

  private:
    // A locked row is never written, so there is nothing to synchronise.
    bool has_copy(int32_t word) const {
        return word < copies_.rows && (locked_ == nullptr || !locked_[word]);
    }

    void copy(int64_t offset) {
        for (int64_t i = offset; i < offset + stride_; i += kLanes<WideVector>) {
            const WideVector row = load<WideVector>(table_ + i);
            store(copies_.copy + i, row);
            store(copies_.origin + i, row);
        }
    }

    void synchronise(int64_t offset) {
        for (int64_t i = offset; i < offset + stride_; i += kLanes<WideVector>) {
            const WideVector learned =
                load<WideVector>(copies_.copy + i) - load<WideVector>(copies_.origin + i);
            const WideVector row = load<WideVector>(table_ + i) + learned;
            store(table_ + i, row);
            store(copies_.copy + i, row);
            store(copies_.origin + i, row);
        }
    }

    float* const table_;
    const int64_t stride_;
    const bool* const locked_;  // (V), or null
    const Replica copies_;
    const int most_uses_;
};

class Trainer {
  public:
    Trainer(const Block& block, void* workspace)
        : block_(block),
          beyond_caches_(block.vocabulary * block.stride * int64_t{sizeof(float)} > kCachedBytes),
          arena_(workspace),
          sampler_(block, arena_),
          // A context is used, once it has entered, in all the windows it stands in: about W + 1 of them.
          input_(block.input, block.stride, block.locked, block.input_copies,
                 block.most_uses / (1 + block.window)),
          output_(block.output, block.stride, nullptr, block.output_copies, block.most_uses) {
        const int64_t targets = 1 + block.negative, tiles = (targets + kTileTargets - 1) / kTileTargets;
        w_.y = arena_.take<float*>(targets);
        y_word_ = arena_.take<int32_t>(targets);
        y_times_ = arena_.take<int32_t>(targets);
        plain_pairs_ = arena_.take<Pairs>(tiles);
        pairs_ = arena_.take<Pairs>(tiles);
        x_ = arena_.take<float*>(sampler_.capacity + 2 * kGroup);
        w_.g = arena_.take<float>(tiles * kGroup * kPairLanes);
        w_.fresh = arena_.take<float>(kGroup * kLanes<WideVector>);
        w_.ahead = arena_.take<const char*>(targets + 1);
        throwaway_ = arena_.take<float>(block.locked == nullptr ? 0 : kGroup * block.stride);
        context_position_ = arena_.take<int64_t>(2 * at_most(block.window, block.longest_sentence));
    }
    size_t workspace_bytes() const { return arena_.used(); }

    void train(SpanSource next_span, void* spans, Stats* stats) {
        for (int t = 0; t <= block_.negative; ++t) y_times_[t] = 1;
        for (int t = 0; t <= block_.negative; t += kTileTargets)
            plain_pairs_[t / kTileTargets].fill(
                y_times_ + t, static_cast<int>(at_most(1 + block_.negative - t, kTileTargets)), t == 0);
        int64_t begin, end;
        while (next_span(spans, &begin, &end)) train_span(begin, end, stats);
        stats->invalid |= sampler_.invalid;
    }

    void train_span(int64_t begin, int64_t end, Stats* stats) {
        const int columns = (block_.dim + kColumnBlock - 1) / kColumnBlock * kColumnBlock;
        Loss loss;
        sampler_.seek(begin, end);
        while (sampler_.next()) {
            loss.reset();
            int entered = 0;  // contexts that have a row to work on
            if (beyond_caches_) touch_rows(sampler_.first);
            for (int centre = sampler_.first; centre < sampler_.last; ++centre) {
                if (beyond_caches_ && (centre - sampler_.first) % kTouched == 0)
                    touch_rows(centre + kTouched);
                const int64_t reach = at_most(sampler_.kept, centre + int64_t{1} + sampler_.margin);
                for (; entered < reach; ++entered) x_[entered] = input_.use(sampler_.word[entered]);
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
            }
            stats->centres += sampler_.last - sampler_.first;
            stats->loss += loss.total();
        }
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
                for (int k = 0; k < block_.negative; ++k) y_word_[k] = sampler_.negative(centre, k);
                visit(receiver, {block_.first_position + sampler_.position[centre], context_position_, count,
                                 y_word_, rate_of(centre)});
            }
        }
        return !sampler_.invalid;
    }

  private:
    float rate_of(int centre) const {
        return static_cast<float>(learning_rate(block_, sampler_.position[centre]));
    }

    // The next group of the window's contexts, from the kept token next on; returns where the group after it
    // starts.
    int collect_contexts(int centre, int next, int right) {
        const int from = next;
        int count = 0;
        if (next < centre) next += count = copy_rows(next, centre, 0);
        if (next == centre) ++next;
        const int after = copy_rows(next, right, count);
        next += after;
        w_.contexts = count + after;
        w_.weighted = w_.most_times > 1;
        if (w_.weighted || sampler_.repeats_before[next] != sampler_.repeats_before[from]) merge_contexts();
        return next;
    }

    // Rows of the kept tokens from ... to, behind the first `count` of the group; returns how many there was
    // room for.
    int copy_rows(int from, int to, int count) {
        constexpr int kPart =
            8;  // pointers are copied by so many, a vector or two, and what is too much ignored
        const int rows = to - from < kGroup - count ? to - from : kGroup - count;
        for (int i = 0; i < rows; i += kPart)
            std::memcpy(w_.x + count + i, x_ + from + i, sizeof(float*) * kPart);
        if (block_.locked != nullptr) shield(from, rows, count);
        return rows;
    }

    // Locked words take part in the group with copies of their rows, whose updates are thrown away. A word
    // that occurs twice has two; to the targets that is the same sum.
    void shield(int from, int rows, int count) {
        for (int i = 0; i < rows; ++i) {
            if (!block_.locked[sampler_.word[from + i]]) continue;
            float* const copy = throwaway_ + (count + i) * block_.stride;
            std::memcpy(copy, x_[from + i], sizeof(float) * static_cast<size_t>(block_.stride));
            w_.x[count + i] = copy;
        }
    }

    void merge_contexts() {
        const int count = w_.contexts;
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
        w_.contexts = different;
    }

    void collect_targets(int centre) {
        w_.rate = rate_of(centre);
        const int32_t word = sampler_.word[centre];
        w_.y[0] = output_.use(word);
        if (!sampler_.duplicates[centre]) {
            for (int k = 0; k < block_.negative; ++k) w_.y[1 + k] = output_.use(sampler_.negative(centre, k));
            w_.targets = 1 + block_.negative;
            w_.most_times = 1;
            w_.pairs = plain_pairs_;
        } else {
            merge_targets(centre);
        }
        w_.tiles = (w_.targets + kTileTargets - 1) / kTileTargets;
    }

    void merge_targets(int centre) {
        const int32_t word = sampler_.word[centre];
        int count = 1;
        y_word_[0] = word;
        y_times_[0] = 1;
        w_.most_times = 1;
        for (int k = 0; k < block_.negative; ++k) {
            const int32_t noise = sampler_.negative(centre, k);
            if (noise == word) continue;  // as word2vec.c: a centre is not its own noise
            int same = 1;
            while (same < count && y_word_[same] != noise) ++same;
            if (same < count) {
                if (++y_times_[same] > w_.most_times) w_.most_times = y_times_[same];
            } else {
                y_word_[count] = noise;
                w_.y[count] = output_.use(noise);
                y_times_[count++] = 1;
            }
        }
        w_.targets = count;
        w_.pairs = pairs_;
        for (int t = 0; t < count; t += kTileTargets)
            pairs_[t / kTileTargets].fill(y_times_ + t, static_cast<int>(at_most(count - t, kTileTargets)),
                                          t == 0);
    }

    // What a later centre of the batch will need that this one does not: its targets, and the context that
    // enters.
    void look_ahead(int centre) {
        const int later = centre + kAhead;
        w_.ahead_count = 0;
        if (later >= sampler_.last) return;
        int count = 0;
        w_.ahead[count++] = output_.address(sampler_.word[later]);
        for (int k = 0; k < block_.negative; ++k)
            w_.ahead[count++] = output_.address(sampler_.negative(later, k));
        const int entering = later + sampler_.margin;
        if (entering < sampler_.kept) w_.ahead[count++] = input_.address(sampler_.word[entering]);
        w_.ahead_count = count;
    }

    // One cache line of each row that some centres from this one on will need: so that the addresses of rows
    // in memory are translated many at a time. Even a prefetch waits for that, and all that comes after it.
    void touch_rows(int centre) const {
        const int end = static_cast<int>(at_most(centre + kTouched, sampler_.last));
        for (int c = centre; c < end; ++c) __builtin_prefetch(output_.address(sampler_.word[c]), 0, 2);
        for (int k = 0; k < block_.negative; ++k)
            for (int c = centre; c < end; ++c)
                __builtin_prefetch(output_.address(sampler_.negative(c, k)), 0, 2);
        const int entering = static_cast<int>(at_most(end + int64_t{sampler_.margin}, sampler_.kept));
        for (int i = centre + sampler_.margin; i < entering; ++i)
            __builtin_prefetch(input_.address(sampler_.word[i]), 0, 2);
    }

    const Block& block_;
    const bool beyond_caches_;  // the tables are too large for any cache
    Arena arena_;
    Sampler sampler_;
    Rows input_, output_;
    Window w_;
    Pairs *plain_pairs_, *pairs_;  // (tiles) of targets that are all different, and of this centre
    float** x_;                    // (kept) rows of the input table
    float* throwaway_;             // (kGroup, stride) of locked words, if there are any
    int32_t *y_word_, *y_times_;
    int64_t* context_position_;
};

size_t workspace_bytes(const Block& block) {
    return Trainer(block, nullptr).workspace_bytes();
}

void train(const Block& block, SpanSource next_span, void* spans, void* workspace, Stats* stats) {
    Trainer(block, workspace).train(next_span, spans, stats);
}

bool list_windows(const Block& block, int64_t begin, int64_t end, void* workspace, WindowVisitor visit,
                  void* receiver) {
    return Trainer(block, workspace).list_windows(begin, end, visit, receiver);
}

}  // namespace

const Kernel EMBEDTRAIN_KERNEL = {EMBEDTRAIN_KERNEL_NAME, workspace_bytes,  train,
                                  list_windows,           take_differences, replace_differences};

}  // namespace embedtrain
