#include "sampling/tables.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace embedtrain {

namespace {

constexpr double kTwo32 = 4294967296.0;

// The threshold t for which (t + 1) / 2^32 is nearest to the probability. Never 0: the rarest chance is
// 2^-32.
uint32_t threshold_for(double probability) {
    const double steps = std::nearbyint(probability * kTwo32) - 1;
    return static_cast<uint32_t>(std::min(std::max(steps, 0.0), kTwo32 - 1));
}

}  // namespace

void alias_table(const int64_t* counts, int64_t vocabulary, double exponent, NoiseColumn* table) {
    std::vector<double> mass(static_cast<size_t>(vocabulary));
    double total = 0;
    for (int64_t word = 0; word < vocabulary; ++word) {
        // A word that never occurs is no noise, whatever the exponent.
        mass[word] = counts[word] > 0 ? std::pow(static_cast<double>(counts[word]), exponent) : 0.0;
        total += mass[word];
    }
    std::vector<uint32_t> small, large;
    for (int64_t word = 0; word < vocabulary; ++word) {
        mass[word] *= static_cast<double>(vocabulary) / total;
        (mass[word] < 1 ? small : large).push_back(static_cast<uint32_t>(word));
    }
    while (!small.empty() && !large.empty()) {
        const uint32_t under = small.back(), over = large.back();
        small.pop_back();
        table[under] = {threshold_for(mass[under]), over};
        mass[over] -= 1 - mass[under];
        if (mass[over] < 1) {
            large.pop_back();
            small.push_back(over);
        }
    }
    // What is left is full but for rounding.
    for (const auto& rest : {small, large})
        for (const uint32_t word : rest) table[word] = {UINT32_MAX, word};
}

void keep_thresholds(const int64_t* counts, int64_t vocabulary, double sample, uint32_t* thresholds) {
    double total = 0;
    for (int64_t word = 0; word < vocabulary; ++word) total += static_cast<double>(counts[word]);
    for (int64_t word = 0; word < vocabulary; ++word) {
        const double ratio =
            sample * total / static_cast<double>(counts[word]);  // sample / f; +inf for a count of 0
        const double probability = std::sqrt(ratio) + ratio;     // = (sqrt(f/s) + 1) * s/f
        thresholds[word] = sample <= 0 || probability >= 1 ? UINT32_MAX : threshold_for(probability);
    }
}

void draw_negatives(const NoiseColumn* table, int64_t vocabulary, uint64_t seed, uint32_t epoch,
                    int64_t first_position, int64_t n, int negative, int32_t* negatives) {
    for (int64_t i = 0; i < n; ++i) {
        for (int k = 0; k < negative; ++k) {
            const Philox4 bits =
                draw(seed, epoch, static_cast<uint64_t>(first_position + i), kNegative, k / 2);
            const uint32_t* pair = bits.lane + (k & 1) * 2;
            negatives[i * negative + k] = static_cast<int32_t>(
                noise_word(noise_point(pair[0], pair[1], static_cast<uint32_t>(vocabulary)), table));
        }
    }
}

void draw_tokens(const int32_t* ids, const uint32_t* thresholds, uint64_t seed, uint32_t epoch,
                 int64_t first_position, int64_t n, int window, bool* kept, int32_t* widths) {
    for (int64_t i = 0; i < n; ++i) {
        const Philox4 bits = draw(seed, epoch, static_cast<uint64_t>(first_position + i), kToken);
        kept[i] = is_kept(bits.lane[0], thresholds[ids[i]]);
        widths[i] = static_cast<int32_t>(window_width(bits.lane[1], static_cast<uint32_t>(window)));
    }
}

void initial_weights(float* table, int64_t first_row, int64_t rows, int dim, int64_t stride, uint64_t seed) {
    for (int64_t row = 0; row < rows; ++row) {
        for (int column = 0; column < dim; column += 4) {
            const Philox4 bits = draw(seed, 0, static_cast<uint64_t>(first_row + row), kInitial, column / 4);
            for (int lane = 0; lane < 4 && column + lane < dim; ++lane) {
                const double uniform = (static_cast<double>(bits.lane[lane]) + 0.5) / kTwo32;
                table[row * stride + column + lane] = static_cast<float>((uniform - 0.5) / dim);
            }
        }
    }
}

}  // namespace embedtrain
