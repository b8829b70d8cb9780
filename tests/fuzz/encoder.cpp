// The encoder gives for any bytes what a few lines of plain code give; and the same in any chunks, with any
// number of threads, in memory and in files. The first four bytes of the input choose these.
#include "corpus/encoder.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "corpus/utf8.h"
#include "require.h"

using namespace embedtrain;

namespace {

struct Expected {
    std::vector<std::string> words;
    std::vector<std::int64_t> counts, offsets{0};
    std::vector<std::int32_t> ids;
    std::int64_t lines = 0, replaced = 0, invalid = 0, padding = 0, tokens = 0;
};

Expected encode_plainly(std::string text, Errors errors, const Choice& choice) {
    Expected result;
    result.lines = std::count(text.begin(), text.end(), '\n') + (!text.empty() && text.back() != '\n');
    if (text.compare(0, 3, "\xEF\xBB\xBF") == 0) text.erase(0, 3);
    std::vector<std::vector<std::string>> sentences(1);
    for (std::size_t at = 0; at < text.size();) {
        if (text[at] == '\n') sentences.emplace_back();
        std::size_t end = at;
        while (end < text.size() && std::string(" \t\n\v\f\r").find(text[end]) == std::string::npos) ++end;
        if (end > at) {
            std::string word = text.substr(at, end - at);
            const bool bad = utf8_first_bad(word) < word.size();
            if (bad && errors == Errors::kReplace) word = utf8_replace(word);
            (errors == Errors::kReplace ? result.replaced : result.invalid) += bad;
            if (!bad || errors == Errors::kReplace) sentences.back().push_back(word);
        }
        at = std::max(end, at + 1);
    }
    std::map<std::string, std::int64_t> counts;
    for (const auto& sentence : sentences) {
        for (const std::string& word : sentence) ++counts[word];
    }
    result.padding = counts[std::string(choice.pad_word)];
    counts.erase(std::string(choice.pad_word));
    for (const auto& [word, count] : counts) {
        result.tokens += count;
        if (count >= choice.min_count) result.words.push_back(word);
    }
    std::stable_sort(result.words.begin(), result.words.end(),
                     [&](const std::string& a, const std::string& b) { return counts[a] > counts[b]; });
    if (static_cast<std::int64_t>(result.words.size()) > choice.max_words)
        result.words.resize(static_cast<std::size_t>(choice.max_words));
    std::map<std::string, std::int32_t> rows;
    for (const std::string& word : result.words) {
        rows.emplace(word, static_cast<std::int32_t>(rows.size()));
        result.counts.push_back(counts[word]);
    }
    for (const auto& sentence : sentences) {
        for (const std::string& word : sentence) {
            if (const auto row = rows.find(word); row != rows.end()) result.ids.push_back(row->second);
        }
        if (static_cast<std::int64_t>(result.ids.size()) > result.offsets.back())
            result.offsets.push_back(static_cast<std::int64_t>(result.ids.size()));
    }
    return result;
}

template <typename T>
std::vector<T> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    std::vector<T> values(bytes.size() / sizeof(T));
    std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(values.data()));
    return values;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 4) return 0;
    const std::string text(reinterpret_cast<const char*>(data) + 4, size - 4);
    const std::size_t chunk = data[0] % 8 == 0 ? 1 + data[0] / 8 : std::size_t{data[0]} * 16;
    const Errors errors = static_cast<Errors>(data[1] % 3);
    const int workers = data[1] % 5 == 0 ? 2 : 1;  // threads cost more than all else here
    const std::size_t spill_every = data[2] % 4 == 0 ? 1 + data[2] / 64 : 0;
    Choice choice;
    choice.min_count = 1 + data[3] % 3;
    if (data[3] % 4 == 0) choice.max_words = data[3] / 32;
    if (data[3] % 8 < 4) choice.pad_word = "<pad>";

    const std::string folder = "/tmp/embedtrain-fuzz-" + std::to_string(getpid());
    std::unique_ptr<Encoder> encoder;
    if (spill_every != 0) {
        std::filesystem::create_directory(folder);
        encoder = std::make_unique<Encoder>(workers, errors, folder, 1);
    } else {
        encoder = std::make_unique<Encoder>(workers, errors);
    }
    std::optional<BadByte> bad;
    std::size_t chunks = 0;
    for (std::size_t at = 0; at < text.size() && !bad; at += chunk) {
        const std::vector<char> copy(
            text.begin() + static_cast<std::ptrdiff_t>(at),
            text.begin() + static_cast<std::ptrdiff_t>(std::min(at + chunk, text.size())));
        bad = encoder->feed({copy.data(), copy.size()});  // a copy: a byte read beyond it is noticed
        if (spill_every != 0 && !bad && ++chunks % spill_every == 0 && chunks <= 3 * spill_every)
            encoder->spill();
    }
    if (!bad) bad = encoder->end_file();
    const std::size_t first_bad = utf8_first_bad(text);
    if (errors == Errors::kStrict && first_bad < text.size()) {
        REQUIRE(bad.has_value());
        REQUIRE(bad->offset == static_cast<std::int64_t>(first_bad));
        REQUIRE(bad->byte == static_cast<unsigned char>(text[first_bad]));
        REQUIRE(bad->line == std::count(text.begin(), text.begin() + bad->offset, '\n') + 1);
    } else {
        REQUIRE(!bad.has_value());
        const Encoded encoded = encoder->finish(choice);
        const Expected expected = encode_plainly(text, errors, choice);
        std::string words;
        for (const std::string& word : expected.words) words.append(word) += '\n';
        REQUIRE(encoded.words == words);
        REQUIRE(encoded.counts == expected.counts);
        const std::vector<std::int32_t> ids = spill_every != 0
                                                  ? read_file<std::int32_t>(folder + "/ids.bin")
                                                  : std::vector(encoded.ids.begin(), encoded.ids.end());
        REQUIRE(ids == expected.ids);
        REQUIRE((spill_every != 0 ? read_file<std::int64_t>(folder + "/offsets.bin") : encoded.offsets) ==
                expected.offsets);
        REQUIRE(encoded.lines == expected.lines);
        REQUIRE(encoded.replaced == expected.replaced);
        REQUIRE(encoded.invalid == expected.invalid);
        REQUIRE(encoded.padding == expected.padding);
        REQUIRE(encoded.tokens == expected.tokens);
    }
    encoder = nullptr;
    if (spill_every != 0) std::filesystem::remove_all(folder);
    return 0;
}
