// Trains a little of everything with the thread sanitizer watching (tests/test_cuda_kernel.py builds and runs
// it). In the emulation each CUDA thread is a thread to it, so an access to shared memory that no barrier
// orders is reported.
#include <cstdio>
#include <random>
#include <vector>

#include "../../csrc/cuda/sgns.cu"

using namespace embedtrain;

namespace {

double train(int dim, int window, int negative, int workers, int64_t tokens) {
    const int vocabulary = 50, stride = (dim + 15) / 16 * 16;
    std::mt19937 random(1);
    std::vector<float4> input(vocabulary * stride / 4), output(vocabulary * stride / 4);
    for (std::vector<float4>* table : {&input, &output})
        for (int row = 0; row < vocabulary; ++row)
            for (int column = 0; column < dim; ++column)
                reinterpret_cast<float*>(table->data())[row * stride + column] =
                    (static_cast<float>(random() % 1000) / 1000.0f - 0.5f) / static_cast<float>(dim);
    std::vector<int32_t> ids(tokens);
    for (int32_t& word : ids) word = static_cast<int32_t>(random() % vocabulary);
    const std::vector<int64_t> offsets = {0, tokens / 7, tokens / 3, tokens};
    std::vector<uint32_t> keep(vocabulary, UINT32_MAX / 4 * 3);
    std::vector<NoiseColumn> noise(vocabulary);
    for (int word = 0; word < vocabulary; ++word) noise[word] = {UINT32_MAX, static_cast<uint32_t>(word)};
    std::vector<double> stats(3);
    CudaBlock block = {};
    block.input = &input[0].x;
    block.output = &output[0].x;
    block.stride = stride;
    block.dim = dim;
    block.ids = ids.data();
    block.tokens = tokens;
    block.offsets = offsets.data();
    block.sentences = 3;
    block.begin = tokens / 5;  // with margins on both sides
    block.end = tokens * 4 / 5;
    block.keep = keep.data();
    block.noise = noise.data();
    block.vocabulary = vocabulary;
    block.seed = 1;
    block.window = window;
    block.negative = negative;
    block.noise_sharers = kMostNoiseSharers;
    block.shrink_window = true;
    block.alpha = 0.025;
    block.corpus_size = tokens;
    block.stats = stats.data();
    std::vector<float4> workspace(cuda_workspace_bytes(block) / sizeof(float4) + 1);
    cuda_train_block(block, workers, workspace.data(), 0, nullptr);
    return stats[0] / stats[1];
}

}  // namespace

int main() {
    emulation::host_threads = 2;
    emulation::resident = 2;
    std::printf("one warp: loss %.3f\n", train(20, 5, 5, 4, 60));
    std::printf("three warps: loss %.3f\n", train(300, 5, 5, 3, 30));
    std::printf("several groups: loss %.3f\n", train(140, 20, 7, 3, 60));
}
