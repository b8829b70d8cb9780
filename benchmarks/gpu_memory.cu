// How fast a GPU reads rows of a table and adds to them, at random: the two things that training does.
//   nvcc -O3 -std=c++17 -arch=native -I csrc -o gpu_memory benchmarks/gpu_memory.cu && ./gpu_memory
// Prints a line of JSON for each case. A warp works on a row at a time, four rows in flight, as the training
// kernel does.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "cuda/platform.cuh"

using namespace embedtrain;

namespace {

constexpr int kThreads = 128, kRows = 4;

enum Work { kGather, kVectorAdd, kScalarAdd, kGatherAndAdd };
const char* const kNames[] = {"gather", "add, vectors", "add, scalars", "gather and add"};

template <Work kWork>
__global__ void work_on_rows(float* table, int64_t stride, int columns, const int32_t* rows, int64_t count,
                             float* sink) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    const int64_t warps = static_cast<int64_t>(gridDim.x) * blockDim.x / 32;
    float sum = 0;
    for (int64_t i = warp * kRows; i + kRows <= count; i += warps * kRows) {
        float* row[kRows];
        for (int j = 0; j < kRows; ++j) row[j] = table + rows[i + j] * stride;
        for (int column = 4 * lane; column < columns; column += 128) {
            float4 values[kRows] = {};
            if (kWork == kGather || kWork == kGatherAndAdd) {
                for (int j = 0; j < kRows; ++j)
                    values[j] = __ldcg(reinterpret_cast<float4*>(row[j] + column));
            }
            for (int j = 0; j < kRows; ++j) {
                sum += values[j].x + values[j].w;
                const float tiny = 1e-30f * values[j].y + 1e-30f;
                if (kWork == kVectorAdd || kWork == kGatherAndAdd)
                    atomic_add(reinterpret_cast<float4*>(row[j] + column),
                               make_float4(tiny, tiny, tiny, tiny));
            }
        }
        if (kWork == kScalarAdd) {
            for (int j = 0; j < kRows; ++j)
                for (int column = lane; column < columns; column += 32) atomicAdd(row[j] + column, 1e-30f);
        }
    }
    if (sum == 12345.0f) *sink = sum;  // so that the reads are not optimised away
}

template <Work kWork>
void measure(float* table, int vocabulary, int64_t stride, int dim, const int32_t* rows, int64_t count,
             const char* addresses, float* sink) {
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, work_on_rows<kWork>, kThreads, 0));
    blocks *= multiprocessors(0);
    cudaEvent_t start, stop;
    check(cudaEventCreate(&start));
    check(cudaEventCreate(&stop));
    std::vector<float> times;
    for (int round = 0; round < 6; ++round) {
        check(cudaEventRecord(start));
        work_on_rows<kWork><<<blocks, kThreads>>>(table, stride, dim, rows, count, sink);
        check(cudaGetLastError());
        check(cudaEventRecord(stop));
        check(cudaEventSynchronize(stop));
        float milliseconds;
        check(cudaEventElapsedTime(&milliseconds, start, stop));
        if (round > 0) times.push_back(milliseconds);
    }
    std::sort(times.begin(), times.end());
    const double seconds = times[times.size() / 2] / 1e3;
    std::printf(
        "{\"work\": \"%s\", \"addresses\": \"%s\", \"vocabulary\": %d, \"dim\": %d, \"rows_per_second\": "
        "%.4g, "
        "\"bytes_per_second\": %.4g}\n",
        kNames[kWork], addresses, vocabulary, dim, static_cast<double>(count) / seconds,
        static_cast<double>(count) * dim * 4 / seconds);
    std::fflush(stdout);
}

}  // namespace

int main() {
    constexpr int64_t count = 1 << 23;
    int32_t* rows = nullptr;
    float* sink = nullptr;
    check(cudaMalloc(&rows, count * sizeof(int32_t)));
    check(cudaMalloc(&sink, sizeof(float)));
    std::vector<int32_t> host(count);
    for (const int vocabulary : {50'000, 1'000'000}) {
        for (const int dim : {100, 300}) {
            const int64_t stride = (dim + 15) / 16 * 16;
            float* table = nullptr;
            check(cudaMalloc(&table, vocabulary * stride * sizeof(float)));
            check(cudaMemset(table, 0, vocabulary * stride * sizeof(float)));
            for (const bool zipf : {false, true}) {
                // As noise is drawn: in proportion to count^0.75, with counts by Zipf's law.
                std::vector<double> sums(vocabulary);
                double total = 0;
                for (int word = 0; word < vocabulary; ++word)
                    sums[word] = total += zipf ? std::pow(word + 2.7, -0.75) : 1.0;
                std::mt19937_64 random(1);
                std::uniform_real_distribution<double> uniform(0, total);
                for (int32_t& row : host)
                    row = static_cast<int32_t>(std::min<int64_t>(
                        std::upper_bound(sums.begin(), sums.end(), uniform(random)) - sums.begin(),
                        vocabulary - 1));
                check(cudaMemcpy(rows, host.data(), count * sizeof(int32_t), cudaMemcpyHostToDevice));
                const char* const addresses = zipf ? "zipf" : "uniform";
                measure<kGather>(table, vocabulary, stride, dim, rows, count, addresses, sink);
                measure<kVectorAdd>(table, vocabulary, stride, dim, rows, count, addresses, sink);
                measure<kScalarAdd>(table, vocabulary, stride, dim, rows, count, addresses, sink);
                measure<kGatherAndAdd>(table, vocabulary, stride, dim, rows, count, addresses, sink);
            }
            check(cudaFree(table));
        }
    }
}
