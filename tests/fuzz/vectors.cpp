// The parsers of vector files take any bytes, and give the same rows and findings in whatever chunks these
// come. The first four bytes of the input choose the parser, the chunks and the options.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "require.h"
#include "vectors/parser.h"
#include "vectors/rows.h"
#include "vectors/subwords.h"

using namespace embedtrain;

namespace {

struct Result {
    Parser::Status status;
    std::int64_t place, changed_at, read, size;
    std::string tokens, findings, numbers;
    std::vector<std::uint8_t> states;
};

Result parse(const std::string& text, const Rows::Options& options, bool wanted, bool binary,
             std::int64_t first, std::size_t chunk) {
    const std::int64_t fallback_row = 1;
    Rows rows(options, wanted ? "a\nb\n" : "", wanted ? "c\n" : "", &fallback_row);
    std::unique_ptr<Parser> parser;
    if (binary) {
        parser = std::make_unique<BinaryParser>(rows, first * 3, first);
    } else {
        parser = std::make_unique<TextParser>(rows, first % 2);
    }
    Result result{};
    result.status = Parser::Status::kMore;
    for (std::size_t at = 0; at < text.size() && result.status == Parser::Status::kMore; at += chunk) {
        const std::string copy = text.substr(at, chunk);
        result.status = parser->feed(copy);
    }
    if (result.status == Parser::Status::kMore) result.status = parser->finish();
    result.place = parser->place();
    result.changed_at = parser->changed_at();
    result.read = rows.read();
    result.size = rows.size();
    result.tokens = rows.added_tokens();
    result.states = rows.states();
    for (int i = 0; i < kDefects; ++i) {
        result.findings +=
            std::to_string(rows.findings()[i].count) + "@" + std::to_string(rows.findings()[i].first) + " ";
    }
    const auto bytes = static_cast<std::size_t>(rows.size()) * static_cast<std::size_t>(rows.dim()) *
                       number_size(options.type);
    const std::unique_ptr<void, void (*)(void*)> numbers(rows.release(), std::free);
    if (bytes > 0) result.numbers.assign(static_cast<const char*>(numbers.get()), bytes);
    if (options.type == NumberType::kFloat32) {
        for (std::size_t at = 0; at < bytes; at += sizeof(float)) {
            float number;
            std::memcpy(&number, result.numbers.data() + at, sizeof number);
            REQUIRE(std::isfinite(number));
        }
    }
    return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 4) return 0;
    const std::string text(reinterpret_cast<const char*>(data) + 4, size - 4);
    if (data[0] % 4 == 3) {
        try {
            const FasttextDictionary dictionary = read_fasttext_dictionary(text, data[1]);
            REQUIRE(dictionary.bytes <= text.size());
            REQUIRE(dictionary.counts.size() == data[1] && dictionary.types.size() == data[1]);
        } catch (const std::invalid_argument&) {  // said so: not a dictionary
        }
        Subwords subwords;
        subwords.min_n = 1 + data[2] % 4;
        subwords.max_n = subwords.min_n + data[2] / 64;
        subwords.buckets = 1 + data[3] % 100;
        subwords.hash_count = data[2] / 4 % 5;
        std::vector<std::int64_t> rows;
        subword_rows(subwords, text.substr(0, 200), rows);
        for (const std::int64_t row : rows) REQUIRE(row >= 0 && row < subwords.buckets);
        return 0;
    }
    Rows::Options options;
    options.dim = 1 + data[1] % 4;
    options.type = static_cast<NumberType>(data[1] / 4 % 3);
    options.grow = data[1] / 16 % 2 == 0;
    options.unit_norm = data[1] / 32 % 2 == 1;
    options.strict = data[1] / 64 % 2 == 1;
    if (data[2] % 4 == 0) options.limit = data[2] / 4;
    const bool wanted = data[2] % 2 == 1 || !options.grow, binary = data[0] % 4 == 2;
    const Result whole = parse(text, options, wanted, binary, data[2] / 8, text.size() + 1);
    const Result cut = parse(text, options, wanted, binary, data[2] / 8, 1 + data[3]);
    REQUIRE(cut.status == whole.status);
    REQUIRE(cut.place == whole.place);
    REQUIRE(cut.changed_at == whole.changed_at);
    REQUIRE(cut.read == whole.read);
    REQUIRE(cut.size == whole.size);
    REQUIRE(cut.tokens == whole.tokens);
    REQUIRE(cut.findings == whole.findings);
    REQUIRE(cut.numbers == whole.numbers);
    REQUIRE(cut.states == whole.states);
    return 0;
}
