// The fused skip-gram negative-sampling kernel: one source, compiled once per instruction set (kernel_*.cpp
// define EMBEDTRAIN_KERNEL, the vectors and their registers before they include it). docs/kernel.md explains
// it with a drawing.
//
// For a centre with contexts X (C, D) in the input table and targets Y (T, D) = {centre, negatives} in the
// output table:
//     S = X Yᵀ            dot products                      tile by tile, sums held in registers
//     G = rate (L - σ(S)) L = 1 for the centre, 0 for noise eight pairs at a time
//     x += g Y,  Y += gᵀ x   for each row x of X and g of G  one pass over the columns, each row read and
//     written once
// One context after the other meets targets that those before it have moved, as in word2vec.c; only G comes
// from the values before. A word that is drawn or seen twice counts twice: duplicates are merged, where the
// first of them stands, and their G multiplied. A wide window is trained in groups of kGroup contexts, each
// from the values that the one before left: more contexts at once would add up so many gradients of the same
// old values that training diverges.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/exchange_impl.h"
#include "cpu/kernel.h"
#include "cpu/sampler.h"
#include "cpu/simd.h"

namespace embedtrain {
namespace {

// kTileContexts contexts times kTileTargets targets are in registers at once: 4 x 6 sums of 32, 2 x 6 of 16.
constexpr int kTileTargets = 6;
constexpr int kTileContexts = kRegisters / 8;
constexpr int kUpdateVectors = kRegisters / 16;  // of columns at once in an update
constexpr int kPairLanes = 8;                    // a row of G: the targets of a tile, padded
// Rows of G that are computed at once, and numbers in them.
constexpr int kPairRows = kLanes<Vector> > kPairLanes ? kLanes<Vector> / kPairLanes : 1;
constexpr int kPairNumbers = kPairRows * kPairLanes;
constexpr int kLineFloats = 16;  // of a cache line; rows are padded to a multiple
constexpr int kAheadStep = 2;    // rows that are prefetched with one context
constexpr int kAhead = 2;        // centres between asking for a row and using it
constexpr int kTouched = 32;     // centres whose rows are touched at once

// Calls task with the number of a tile's targets as a constant. (Nearly always a full tile: comparing one
// number after the other is quicker than a jump by a table.)
template <int kMost = kTileTargets, class Task>
EMBEDTRAIN_INLINE void for_targets(int targets, const Task& task) {
    if constexpr (kMost > 1) {
        if (targets < kMost) return for_targets<kMost - 1>(targets, task);
    }
    task(std::integral_constant<int, kMost>{});
}

struct Pairs {  // of one tile of targets with kPairRows contexts; zero in the lanes that have none
    // -1 for the centre, +1 for noise: σ's argument is against * dot
    alignas(64) float against[kPairNumbers];
    alignas(64) float times[kPairNumbers];       // multiplicity of the target
    alignas(64) float last_times[kPairNumbers];  // the same with one context
    alignas(64) float gradient[kPairNumbers];    // multiplicity, negative for noise

    // targets: of the tile, whose first is the centre if it is the first tile.
    void fill(const int32_t* target_times, int targets, bool first) {
        for (int i = 0; i < kPairNumbers; ++i) {
            const int lane = i % kPairLanes;
            const float sign = lane >= targets ? 0.0f : first && lane == 0 ? -1.0f : 1.0f;
            against[i] = sign;
            times[i] = lane < targets ? static_cast<float>(target_times[lane]) : 0.0f;
            last_times[i] = i < kPairLanes ? times[i] : 0.0f;
            gradient[i] = -sign * times[i];
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
    float* g;                 // (tiles, kGroup, kPairLanes)
    float* fresh;             // (contexts, vector) new values of a column block, when there are several tiles
    float* const* ahead;      // rows to prefetch
    int ahead_count;          // a multiple of kAheadStep

    int targets_of(int tile) const {  // the last tile may have fewer than the others
        return tile == tiles - 1 ? targets - tile * kTileTargets : kTileTargets;
    }
};

// Σ log(1 + e) as the log of a product whose exponent is kept apart, and Σ max(0, z).
struct Loss {
    Vector product, hinge;
    int64_t exponent;
    int factors;

    void reset() {
        product = broadcast<Vector>(1.0f);
        hinge = Vector{};
        exponent = 0;
        factors = 0;
    }
    void multiply(Vector factor) {  // factors in [1, 2]
        make_room(1);
        product *= factor;
        ++factors;
    }
    // For so many factors.
    void make_room(int more) {
        if (factors + more > 120) renormalise();
    }
    void renormalise() {
        float lanes[kLanes<Vector>];
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
        for (int lane = 0; lane < kLanes<Vector>; ++lane)
            sum += std::log(static_cast<double>(product[lane])) + static_cast<double>(hinge[lane]);
        return sum;
    }
};

// ---- dot products: out[c * kPairLanes + t] = x[c] · y[t]; zeros in a row after an odd number, if two are
// stored at once

template <int Contexts, int Targets>
void dots(float* const* x, float* const* y, int columns, float* out) {
    Vector sums[Contexts][Targets] = {};
    for (int column = 0; column < columns; column += kLanes<Vector>) {
        Vector xs[Contexts];
#pragma GCC unroll 8
        for (int c = 0; c < Contexts; ++c) xs[c] = load<Vector>(x[c] + column);
#pragma GCC unroll 8
        for (int t = 0; t < Targets; ++t) {
            const Vector yt = in_register(load<Vector>(y[t] + column));
#pragma GCC unroll 8
            for (int c = 0; c < Contexts; ++c) sums[c][t] += xs[c] * yt;
        }
    }
#pragma GCC unroll 8
    for (int from = 0; from < Contexts; from += kPairRows) {
        Vector rows[kPairNumbers] = {};
#pragma GCC unroll 8
        for (int c = 0; c < kPairRows; ++c) {
            if (from + c == Contexts) break;
#pragma GCC unroll 8
            for (int t = 0; t < Targets; ++t) rows[c * kPairLanes + t] = sums[from + c][t];
        }
        store_sums(rows, out + from * kPairLanes);
    }
}

// ---- σ, loss and gradient: dots become G in place

// Of the pairs whose dot products are in a vector. z = against · dot: the loss of a pair is log(1 + e^z),
// which is max(0, z) + log(1 + e).
struct Terms {
    Vector gradient, e, hinge;  // e = exp(-|z|), hinge = max(0, z)

    Terms(const float* products, const Pairs& pairs, int lane, Vector rate) {
        const Vector one = broadcast<Vector>(1.0f), zero = {};
        const Vector z = load<Vector>(products) * load<Vector>(pairs.against + lane);
        e = exp_negative(absolute(z));
        const Vector numerator = z > zero ? one : e;  // σ(z) without overflow; NaN stays NaN through e
        gradient = numerator / (one + e) * (rate * load<Vector>(pairs.gradient + lane));
        hinge = z < zero ? zero : z;
    }
};

// Contexts or targets that stand for several.
inline void weighted_gradients(const Window& w, const Pairs& pairs, float* g, Loss& loss) {
    const Vector one = broadcast<Vector>(1.0f), zero = {}, rate = broadcast<Vector>(w.rate);
    for (int c = 0; c < w.contexts; c += kPairRows) {
        alignas(64) float x_times[kPairNumbers];
        int most = 0;  // the largest multiplicity of a pair
        for (int i = 0; i < kPairNumbers; ++i) {
            const int row = c + i / kPairLanes, times = row < w.contexts ? w.x_times[row] : 0;
            x_times[i] = static_cast<float>(times);
            most = static_cast<int>(at_least(most, int64_t{times} * w.most_times));
        }
        for (int lane = 0; lane < kPairNumbers; lane += kLanes<Vector>) {
            float* const row = g + c * kPairLanes + lane;
            const Terms terms(row, pairs, lane, rate);
            const Vector times = load<Vector>(x_times + lane) * load<Vector>(pairs.times + lane);
            store(row, terms.gradient * load<Vector>(x_times + lane));
            loss.hinge += terms.hinge * times;
            for (int i = 0; i < most; ++i)
                loss.multiply(one + (times > broadcast<Vector>(static_cast<float>(i)) ? terms.e : zero));
        }
    }
}

inline void gradients(const Window& w, const Pairs& pairs, float* g, Loss& loss) {
    if (w.weighted) return weighted_gradients(w, pairs, g, loss);
    const Vector one = broadcast<Vector>(1.0f), rate = broadcast<Vector>(w.rate);
    constexpr int kVectors = kPairNumbers / kLanes<Vector>;
    const int factors = (w.contexts + kPairRows - 1) / kPairRows * kVectors;
    loss.make_room(factors);
    loss.factors += factors;
    Vector product = loss.product, hinge = loss.hinge;  // in registers
    for (int c = 0; c < w.contexts; c += kPairRows) {
        const float* const times = c + kPairRows <= w.contexts ? pairs.times : pairs.last_times;
#pragma GCC unroll 2
        for (int lane = 0; lane < kPairNumbers; lane += kLanes<Vector>) {
            float* const row = g + c * kPairLanes + lane;
            const Terms terms(row, pairs, lane, rate);
            store(row, terms.gradient);
            hinge += terms.hinge;
            product *= one + terms.e * load<Vector>(times + lane);
        }
    }
    loss.product = product;
    loss.hinge = hinge;
}

template <int Targets>
void score_tile(const Window& w, const Pairs& pairs, float* const* y, int columns, float* g, Loss& loss) {
    int c = 0;
    for (; c + kTileContexts <= w.contexts; c += kTileContexts)
        dots<kTileContexts, Targets>(w.x + c, y, columns, g + c * kPairLanes);
    const int rest = w.contexts - c;
    if (rest == 1) dots<1, Targets>(w.x + c, y, columns, g + c * kPairLanes);
    if constexpr (kTileContexts == 4) {
        if (rest == 2) dots<2, Targets>(w.x + c, y, columns, g + c * kPairLanes);
        if (rest == 3) dots<3, Targets>(w.x + c, y, columns, g + c * kPairLanes);
    }
    gradients(w, pairs, g, loss);
}

// ---- updates

// The rows of a centre to come are asked for while this one is updated, the lines with these columns at a
// time, and those a few rows with each context, so that no burst fills the miss buffers. (Where a vector is
// less than a line it is a burst of one line of each row with every other vector: there, a test for each
// context costs more.)
template <int Vectors>
constexpr bool kWholeLines = Vectors * kLanes<Vector> >= kLineFloats;

template <int Vectors>
EMBEDTRAIN_INLINE int rows_to_prefetch(const Window& w, int column) {
    return kWholeLines<Vectors> || column % kLineFloats == 0 ? w.ahead_count : 0;
}

template <int Vectors>
EMBEDTRAIN_INLINE void prefetch_rows(const Window& w, int row, int column) {
    constexpr int lanes = Vectors * kLanes<Vector>;
#pragma GCC unroll 4
    for (int i = 0; i < kAheadStep; ++i) {
#pragma GCC unroll 2
        for (int part = 0; part < lanes; part += kLineFloats)
            __builtin_prefetch(w.ahead[row + i] + column + part, 1, 3);
    }
}

// Columns [column, column + Vectors * lanes) of all rows, when all targets fit one tile.
template <int Targets, int Vectors, class V = Vector>
EMBEDTRAIN_INLINE void update_columns(const Window& w, int column) {
    constexpr int lanes = kLanes<V>;
    // A context adds up one multiply-add after the other; two sums, if there are not two vectors anyway, wait
    // for each other half as long.
    constexpr int kChains = Vectors == 1 ? 2 : 1;
    float* rows[Targets];
    V y[Targets][Vectors];
#pragma GCC unroll 8
    for (int t = 0; t < Targets; ++t) {
        rows[t] = w.y[t] + column;
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) y[t][v] = load<V>(rows[t] + v * lanes);
    }
    const int rows_ahead = rows_to_prefetch<Vectors>(w, column);
    int ahead = 0;
    for (int c = 0; c < w.contexts; ++c) {
        if constexpr (kWholeLines<Vectors>) {
            if (ahead < rows_ahead) prefetch_rows<Vectors>(w, ahead, column);
            ahead += kAheadStep;
        }
        float* const row = w.x[c] + column;
        const float* const g = w.g + c * kPairLanes;
        V x[Vectors], sums[kChains][Vectors] = {};
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) sums[0][v] = x[v] = load<V>(row + v * lanes);
#pragma GCC unroll 8
        for (int t = 0; t < Targets; ++t) {
            const V gt = broadcast<V>(g[t]);
#pragma GCC unroll 2
            for (int v = 0; v < Vectors; ++v) {
                sums[t % kChains][v] += gt * y[t][v];
                y[t][v] += gt * x[v];
            }
        }
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) {
            if constexpr (kChains == 2) sums[0][v] += sums[1][v];
            store(row + v * lanes, sums[0][v]);
        }
    }
    for (; ahead < rows_ahead; ahead += kAheadStep) prefetch_rows<Vectors>(w, ahead, column);
#pragma GCC unroll 8
    for (int t = 0; t < Targets; ++t) {
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) store(rows[t] + v * lanes, y[t][v]);
    }
}

// The same for one of several tiles, a vector of columns: the contexts' new values wait in w.fresh until the
// last tile has read the old ones.
template <int Targets>
EMBEDTRAIN_INLINE void update_tile_columns(const Window& w, int tile, int column) {
    float* const* rows = w.y + tile * kTileTargets;
    Vector y[Targets];
#pragma GCC unroll 8
    for (int t = 0; t < Targets; ++t) y[t] = load<Vector>(rows[t] + column);
    for (int c = 0; c < w.contexts; ++c) {
        const float* g = w.g + (tile * kGroup + c) * kPairLanes;
        float* waiting = w.fresh + c * kLanes<Vector>;
        const Vector x = load<Vector>(w.x[c] + column);
        Vector sum = tile == 0 ? x : load<Vector>(waiting);
#pragma GCC unroll 8
        for (int t = 0; t < Targets; ++t) {
            const Vector gt = broadcast<Vector>(g[t]);
            sum += gt * y[t];
            y[t] += gt * x;
        }
        store(tile == w.tiles - 1 ? w.x[c] + column : waiting, sum);
    }
#pragma GCC unroll 8
    for (int t = 0; t < Targets; ++t) store(rows[t] + column, y[t]);
}

inline void update_tiles(const Window& w, int columns) {
    for (int column = 0; column < columns; column += kLanes<Vector>) {
        for (int i = 0; i < rows_to_prefetch<1>(w, column); i += kAheadStep) prefetch_rows<1>(w, i, column);
        for (int tile = 0; tile < w.tiles; ++tile) {
            for_targets(w.targets_of(tile), [&](auto targets) EMBEDTRAIN_ALWAYS_INLINE {
                update_tile_columns<targets>(w, tile, column);
            });
        }
    }
}

template <int Targets>
void update(const Window& w, int columns) {
    int column = 0;
    if constexpr (kUpdateVectors > 1) {
        for (; column + kLanes<Vector> < columns; column += kUpdateVectors * kLanes<Vector>)
            update_columns<Targets, kUpdateVectors>(w, column);
    }
    // Of a wide vector, which some processors take in two steps, half is enough for the last columns: D = 100
    // ends with 4.
    if constexpr (sizeof(Vector) > sizeof(F8)) {
        if (column < columns && columns - column <= kLanes<F8>)
            return update_columns<Targets, 1, F8>(w, column);
    }
    for (; column < columns; column += kLanes<Vector>) update_columns<Targets, 1>(w, column);
}

// ---- a centre

inline void compute(const Window& w, int columns, Loss& loss) {
    for (int tile = 0; tile < w.tiles; ++tile) {
        for_targets(w.targets_of(tile), [&](auto targets) EMBEDTRAIN_ALWAYS_INLINE {
            score_tile<targets>(w, w.pairs[tile], w.y + tile * kTileTargets, columns,
                                w.g + tile * kGroup * kPairLanes, loss);
        });
    }
    if (w.tiles > 1) return update_tiles(w, columns);
    for_targets(w.targets, [&](auto targets) EMBEDTRAIN_ALWAYS_INLINE { update<targets>(w, columns); });
}

// The rows of a table as a thread sees them: the first ones through its copies, if it has any (replicas.h).
class Rows {
  public:
    Rows(float* table, int64_t stride, const bool* locked, const Replica& copies, int most_uses)
        : table_(table), stride_(stride), locked_(locked), copies_(copies), most_uses_(most_uses) {}

    // The row to work on so many times. (No branch depends on whether it has a copy, which is anyone's guess:
    // words without share a count.)
    float* use(int32_t word, int uses = 1) {
        if (has_copies()) {
            uint8_t& left = copies_.left[has_copy(word) ? word : copies_.rows];
            if (left <= uses) renew(word, uses);
            left = static_cast<uint8_t>(left - uses);
        }
        return row(word);
    }

    // To be called before each centre: synchronises the rows that were due before the last one; their lines
    // have come from other threads' caches by now. So rows in use may change. Says whether others are due.
    bool synchronise_due() {
        if (due_count_ == 0) return false;
        for (int i = 0; i < arrived_; ++i) synchronise(due_[i]);
        for (int i = arrived_; i < due_count_; ++i) due_[i - arrived_] = due_[i];
        arrived_ = due_count_ -= arrived_;
        return due_count_ > 0;
    }

    // The row that use() gives.
    float* row(int32_t word) const { return (has_copy(word) ? copies_.copy : table_) + word * stride_; }

    // The same for kSlotStep words of a table without locked rows.
    EMBEDTRAIN_ALWAYS_INLINE void find_rows(const int32_t* words, float** rows) const {
        using Ids = int32_t __attribute__((vector_size(sizeof(DrawVector) / 2)));
        for (int i = 0; i < kSlotStep; i += kDraws) {
            const DrawVector word =
                __builtin_convertvector(*reinterpret_cast<const Ids*>(words + i), DrawVector);
            const DrawVector base = word < DrawVector{} + static_cast<uint64_t>(copies_.rows)
                                        ? DrawVector{} + reinterpret_cast<uint64_t>(copies_.copy)
                                        : DrawVector{} + reinterpret_cast<uint64_t>(table_);
            const DrawVector row =
                base + multiply_low(word, static_cast<uint32_t>(stride_ * int64_t{sizeof(float)}));
            std::memcpy(rows + i, &row, sizeof row);
        }
    }

    bool has_copies() const { return copies_.rows > 0; }

  private:
    // A locked row is never written, so there is nothing to synchronise.
    bool has_copy(int32_t word) const {
        return word < copies_.rows && (locked_ == nullptr || !locked_[word]);
    }

    // A copy is made, or asked to be synchronised, and may be used for some time.
    [[gnu::noinline]] void renew(int32_t word, int uses) {
        if (!has_copy(word)) {
            copies_.left[copies_.rows] = UINT8_MAX;
            return;
        }
        const int64_t offset = word * stride_;
        uint8_t &left = copies_.left[word], &limit = copies_.limit[word];
        if (left == 0) {
            copy(offset);
        } else {
            while (due_count_ == kMostDue) synchronise_due();
            due_[due_count_++] = offset;
            for (int64_t i = offset; i < offset + stride_; i += kLineFloats) {
                __builtin_prefetch(table_ + i, 1, 2);
                __builtin_prefetch(copies_.origin + i, 1, 2);
            }
            limit = static_cast<uint8_t>(at_least(1, at_most(2 * limit, most_uses_)));
        }
        left = static_cast<uint8_t>(at_least(limit, uses) + 1);
    }

    void copy(int64_t offset) {
        for (int64_t i = offset; i < offset + stride_; i += kLanes<Vector>) {
            const Vector row = load<Vector>(table_ + i);
            store(copies_.copy + i, row);
            store(copies_.origin + i, row);
        }
    }

    void synchronise(int64_t offset) {
        for (int64_t i = offset; i < offset + stride_; i += kLanes<Vector>) {
            const Vector learned = load<Vector>(copies_.copy + i) - load<Vector>(copies_.origin + i);
            const Vector row = load<Vector>(table_ + i) + learned;
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
    static constexpr int kMostDue = 64;
    int64_t due_[kMostDue];  // offsets of rows to synchronise
    int due_count_ = 0;
    int arrived_ = 0;  // the first of them
};

class Trainer {
  public:
    Trainer(const Block& block, void* workspace)
        : block_(block),
          touched_floats_(at_most(block.touched_lines * int64_t{kLineFloats}, block.stride)),
          arena_(workspace),
          sampler_(block, arena_),
          // A context is used, once it has entered, in all the windows it stands in: about W + 1 of them.
          input_(block.input, block.stride, block.locked, block.input_copies,
                 block.most_uses / (1 + block.window)),
          output_(block.output, block.stride, nullptr, block.output_copies, block.most_uses) {
        const int64_t targets = 1 + block.negative, tiles = (targets + kTileTargets - 1) / kTileTargets;
        y_word_ = arena_.take<int32_t>(targets);
        y_times_ = arena_.take<int32_t>(targets);
        plain_pairs_ = arena_.take<Pairs>(tiles);
        pairs_ = arena_.take<Pairs>(tiles);
        x_ = arena_.take<float*>(sampler_.capacity + 2 * kGroup);
        w_.g = arena_.take<float>(tiles * kGroup * kPairLanes);
        w_.fresh = arena_.take<float>(kGroup * kLanes<Vector>);
        rates_ = arena_.take<float>(kBatchTokens);
        rows_ = arena_.take<float*>(2 * kTouched * sampler_.slots);
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
        while (input_.synchronise_due() || output_.synchronise_due()) {
        }
        stats->invalid |= sampler_.invalid;
    }

    void train_span(int64_t begin, int64_t end, Stats* stats) {
        const int columns =
            block_.dim;  // the loops end with the vector that has the last one: rows are padded
        Loss loss;
        sampler_.seek(begin, end);
        while (sampler_.next()) {
            loss.reset();
            int entered = 0;  // contexts that have a row to work on
            find_rows(sampler_.first);
            for (int i = sampler_.first; i < sampler_.last; ++i) rates_[i - sampler_.first] = rate_of(i);
            for (int centre = sampler_.first; centre < sampler_.last; ++centre) {
                if ((centre - sampler_.first) % kTouched == 0) find_rows(centre + kTouched);
                input_.synchronise_due();
                output_.synchronise_due();
                const int64_t reach = at_most(sampler_.kept, centre + int64_t{1} + sampler_.margin);
                for (; entered < reach; ++entered) x_[entered] = input_.use(sampler_.word[entered]);
                look_ahead(centre);
                const int right = sampler_.right[centre];
                int next = sampler_.left[centre];
                stats->pairs += right - next - 1;
                if (right - next < 2) continue;  // alone
                collect_targets(centre);
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
                visit(receiver, {block_.first_position + sampler_.position[centre], context_position_, count,
                                 sampler_.negatives(centre), rate_of(centre)});
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
    EMBEDTRAIN_ALWAYS_INLINE int collect_contexts(int centre, int next, int right) {
        const int from = next;
        int count = 0;
        if (next < centre) next += count = copy_rows(next, centre, 0);
        if (next == centre) ++next;
        const int after = copy_rows(next, right, count);
        next += after;
        w_.contexts = count + after;
        w_.weighted = w_.most_times > 1;
        if (w_.weighted || sampler_.repeats_before[next] != sampler_.repeats_before[from])
            merge_contexts(centre, from);
        return next;
    }

    // Rows of the kept tokens from ... to, behind the first `count` of the group; returns how many there was
    // room for.
    EMBEDTRAIN_ALWAYS_INLINE int copy_rows(int from, int to, int count) {
        constexpr int kPart = 8;  // pointers are copied by so many, and what is too much is ignored
        const int rows = to - from < kGroup - count ? to - from : kGroup - count;
        for (int i = 0; i < rows; i += kPart)
            std::memcpy(w_.x + count + i, x_ + from + i, sizeof(float*) * kPart);
        if (block_.locked != nullptr) shield(from, rows, count);
        return rows;
    }

    // Locked words take part in the group with copies of their rows, whose updates are thrown away.
    void shield(int from, int rows, int count) {
        for (int i = 0; i < rows; ++i) {
            if (!block_.locked[sampler_.word[from + i]]) continue;
            float* const copy = throwaway_ + (count + i) * block_.stride;
            std::memcpy(copy, x_[from + i], sizeof(float) * static_cast<size_t>(block_.stride));
            w_.x[count + i] = copy;
        }
    }

    void merge_contexts(int centre, int from) {
        const int count = w_.contexts;
        const int32_t* const repeats = sampler_.repeats_before;
        int different = 0, first[kGroup];  // tokens that are the first of their word
        for (int c = 0, token = from; c < count; ++c, ++token) {
            if (token == centre) ++token;
            int same = different;
            if (repeats[token + 1] != repeats[token]) {
                same = 0;
                while (same < different && x_[first[same]] != x_[token]) ++same;
            }
            if (same < different) {
                ++w_.x_times[same];
                w_.weighted = true;
            } else {
                first[different] = token;
                w_.x[different] = w_.x[c];
                w_.x_times[different++] = 1;
            }
        }
        w_.contexts = different;
    }

    float** rows_of(int centre) const { return rows_ + centre % (2 * kTouched) * sampler_.slots; }

    // The rows of kTouched centres: their targets, and the context that enters the window of each. Some lines
    // of them are asked for at once, so that the addresses of many rows are translated side by side; a
    // prefetch by itself waits for that, and all that comes after it.
    // (Inlined, because a function that only prefetches is one without effects to GCC, which leaves it out.)
    EMBEDTRAIN_ALWAYS_INLINE void find_rows(int from) const {
        const int end = static_cast<int>(at_most(from + kTouched, sampler_.last));
        for (int centre = from; centre < end; ++centre) {
            const int32_t* const words = sampler_.targets(centre);
            float** const rows = rows_of(centre);
            for (int i = 0; i < sampler_.slots; i += kSlotStep) output_.find_rows(words + i, rows + i);
            const int entering = centre + sampler_.margin;
            if (entering < sampler_.kept) rows[1 + block_.negative] = input_.row(sampler_.word[entering]);
        }
        for (int centre = from; centre < end; ++centre) {
            float* const* const rows = rows_of(centre);
            const int count = 2 + block_.negative;
            const int step = sampler_.brings_noise[centre] ? 1 : 1 + block_.negative;
            if (touched_floats_ > kLineFloats) {
                for (int i = 0; i < count; i += step)
                    for (int64_t column = 0; column < touched_floats_; column += kLineFloats)
                        __builtin_prefetch(rows[i] + column, 0, 2);
            } else {
                for (int i = 0; i < count; i += step) __builtin_prefetch(rows[i], 0, 2);
            }
        }
    }

    EMBEDTRAIN_ALWAYS_INLINE void collect_targets(int centre) {
        w_.rate = rates_[centre - sampler_.first];
        w_.y = rows_of(centre);
        if (output_.has_copies()) {
            const int32_t* const words = sampler_.targets(centre);
            output_.use(words[0]);
            if (sampler_.brings_noise[centre])
                for (int k = 1; k <= block_.negative; ++k) output_.use(words[k], block_.noise_sharers);
        }
        if (!sampler_.duplicates[centre]) {
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
        w_.y[0] = output_.row(word);
        y_word_[0] = word;
        y_times_[0] = 1;
        w_.most_times = 1;
        for (int k = 0; k < block_.negative; ++k) {
            const int32_t noise = sampler_.negatives(centre)[k];
            if (noise == word) continue;  // as word2vec.c: a centre is not its own noise
            int same = 1;
            while (same < count && y_word_[same] != noise) ++same;
            if (same < count) {
                if (++y_times_[same] > w_.most_times) w_.most_times = y_times_[same];
            } else {
                y_word_[count] = noise;
                w_.y[count] = output_.row(noise);
                y_times_[count++] = 1;
            }
        }
        w_.targets = count;
        w_.pairs = pairs_;
        for (int t = 0; t < count; t += kTileTargets)
            pairs_[t / kTileTargets].fill(y_times_ + t, static_cast<int>(at_most(count - t, kTileTargets)),
                                          t == 0);
    }

    // What a later centre of the batch will need that this one does not.
    EMBEDTRAIN_ALWAYS_INLINE void look_ahead(int centre) {
        const int later = centre + kAhead;
        w_.ahead_count = 0;
        if (later >= sampler_.last) return;
        w_.ahead = rows_of(later);
        w_.ahead_count = (2 + block_.negative + kAheadStep - 1) / kAheadStep * kAheadStep;
    }

    const Block& block_;
    const int64_t touched_floats_;  // of a row
    Arena arena_;
    Sampler sampler_;
    Rows input_, output_;
    Window w_;
    Pairs *plain_pairs_, *pairs_;  // (tiles) of targets that are all different, and of this centre
    float** x_;                    // (kept) rows of the input table
    float* throwaway_;             // (kGroup, stride) of locked words, if there are any
    float** rows_;                 // (2 kTouched, slots) of this centre and those around it
    float* rates_;                 // (centres)
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
