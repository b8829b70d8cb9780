// Coverage-guided fuzzing without a fuzzing library: changes inputs at random and keeps those that reach new
// code. The code under test is compiled with -fsanitize-coverage=trace-pc (GCC and Clang), this file is not.
//
//     encoder SECONDS FOLDER     starts from the files in FOLDER, adds what it finds; seconds 0: runs these
//     only
//
// The targets are libFuzzer's: with Clang, -fsanitize=fuzzer takes this file's place. An input that fails is
// left in
// ./crash, whatever ended the process.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" void __sanitizer_set_death_callback(void (*callback)());

namespace {

constexpr std::size_t kPlaces = std::size_t{1} << 16;  // of the code
constexpr std::size_t kMaxBytes = 4096;
constexpr unsigned kHangSeconds = 10;

std::atomic<std::uint8_t> reached[kPlaces], known[kPlaces];
std::string input;

void save_input() {
    if (std::FILE* const file = std::fopen("crash", "wb")) {
        std::fwrite(input.data(), 1, input.size(), file);
        std::fclose(file);
    }
    static const char text[] = "the input is in ./crash\n";
    (void)!write(2, text, sizeof text - 1);
}

void die(int signal_number) {
    save_input();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

// Runs the input; says whether it reached a place that no other did, or one much more often.
bool run() {
    for (auto& place : reached) place.store(0, std::memory_order_relaxed);
    alarm(kHangSeconds);
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
    alarm(0);
    bool is_new = false;
    for (std::size_t i = 0; i < kPlaces; ++i) {
        const unsigned times = reached[i].load(std::memory_order_relaxed);
        const auto bits = static_cast<std::uint8_t>(times == 0   ? 0
                                                    : times < 2  ? 1
                                                    : times < 8  ? 2
                                                    : times < 64 ? 4
                                                                 : 8);
        const std::uint8_t old = known[i].load(std::memory_order_relaxed);
        if ((old | bits) != old) {
            known[i].store(old | bits, std::memory_order_relaxed);
            is_new = true;
        }
    }
    return is_new;
}

std::string changed(const std::vector<std::string>& corpus, std::mt19937_64& random) {
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % (n == 0 ? 1 : n)); };
    static const std::string pieces[] = {" ",
                                         "\n",
                                         "\t",
                                         "\r",
                                         std::string(1, '\0'),
                                         "\xEF\xBB\xBF",
                                         "\xC3\xA4",
                                         "\xFF",
                                         "1",
                                         "-",
                                         ".5",
                                         "e38",
                                         "nan",
                                         "inf",
                                         "<pad>",
                                         "aaaaaaaaaaaaaaaaa",
                                         "1 2\n"};
    std::string text = corpus[below(corpus.size())];
    for (std::size_t times = 1 + below(6); times > 0; --times) {
        const std::size_t at = below(text.size() + 1),
                          length = below(std::min<std::size_t>(text.size() - at, 64) + 1);
        switch (below(8)) {
            case 0:
                text.insert(at, 1, static_cast<char>(random()));
                break;
            case 1:
                text.insert(at, pieces[below(std::size(pieces))]);
                break;
            case 2:
                text.erase(at, length);
                break;
            case 3:
                if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << below(8));
                break;
            case 4:
                if (at < text.size()) text[at] = static_cast<char>(random());
                break;
            case 5:
                text.insert(at, text.substr(below(text.size() + 1), 64));
                break;
            case 6:
                text.insert(at, std::string(below(200), at < text.size() ? text[at] : 'a'));
                break;
            default: {
                const std::string& other = corpus[below(corpus.size())];
                text = text.substr(0, at) + other.substr(below(other.size() + 1));
            }
        }
    }
    if (text.size() > kMaxBytes) text.resize(kMaxBytes);
    return text;
}

}  // namespace

extern "C" void __sanitizer_cov_trace_pc() {
    const auto place =
        reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)) * 0x9E3779B97F4A7C15 >> 48;
    auto& times = reached[place % kPlaces];
    const std::uint8_t before = times.load(std::memory_order_relaxed);
    if (before < 255) times.store(static_cast<std::uint8_t>(before + 1), std::memory_order_relaxed);
}

int main(int argc, char** argv) {
    if (argc != 3) return std::fprintf(stderr, "usage: %s SECONDS FOLDER\n", argv[0]), 2;
    __sanitizer_set_death_callback(save_input);
    for (const int each : {SIGABRT, SIGALRM, SIGSEGV}) signal(each, die);
    std::vector<std::string> corpus;
    for (const auto& entry : std::filesystem::directory_iterator(argv[2])) {
        std::ifstream file(entry.path(), std::ios::binary);
        input.assign(std::istreambuf_iterator<char>(file), {});
        run();
        corpus.push_back(input);
    }
    const std::size_t given = corpus.size();
    if (corpus.empty()) corpus.emplace_back();
    std::mt19937_64 random(std::random_device{}());
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argv[1]));
    std::size_t runs = given;
    for (; std::chrono::steady_clock::now() < end; ++runs) {
        input = changed(corpus, random);
        if (!run()) continue;
        corpus.push_back(input);
        std::ofstream(std::string(argv[2]) + "/found-" + std::to_string(std::hash<std::string>()(input)),
                      std::ios::binary)
            << input;
    }
    std::size_t places = 0;
    for (const auto& place : known) places += place != 0;
    std::printf("%s: %zu runs, %zu inputs given, %zu kept, %zu places of the code reached\n", argv[0], runs,
                given, corpus.size(), places);
    return 0;
}
