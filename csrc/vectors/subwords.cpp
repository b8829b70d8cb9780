#include "vectors/subwords.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace embedtrain {
namespace {

bool continues_character(char c) {
    return (c & 0xC0) == 0x80;
}

// FNV-1a with the bytes sign-extended, as fastText has it.
std::uint32_t fasttext_hash(std::string_view text) {
    std::uint32_t hash = 2166136261;
    for (const char c : text) {
        hash ^= static_cast<std::uint32_t>(static_cast<std::int8_t>(c));
        hash *= 16777619;
    }
    return hash;
}

// finalfusion's: FNV-1a, 64 bits, of the number of characters (8 bytes) and the characters (4 bytes each).
std::uint64_t finalfusion_hash(std::string_view text) {
    std::uint64_t hash = 0xCBF29CE484222325;
    const auto add = [&](std::uint64_t value, int bytes) {
        for (int i = 0; i < bytes; ++i) hash = (hash ^ (value >> 8 * i & 0xFF)) * 0x100000001B3;
    };
    add(static_cast<std::uint64_t>(
            std::count_if(text.begin(), text.end(), [](char c) { return !continues_character(c); })),
        8);
    for (std::size_t at = 0; at < text.size();) {
        const auto lead = static_cast<unsigned char>(text[at++]);
        std::uint32_t character = lead < 0x80   ? lead
                                  : lead < 0xE0 ? lead & 0x1F
                                  : lead < 0xF0 ? lead & 0x0F
                                                : lead & 0x07;
        for (; at < text.size() && continues_character(text[at]); ++at)
            character = character << 6 | (static_cast<unsigned char>(text[at]) & 0x3F);
        add(character, 4);
    }
    return hash;
}

std::uint64_t rotate(std::uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

std::uint64_t finish(std::uint64_t x) {
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD;
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53;
    return x ^ x >> 33;
}

// MurmurHash3_x64_128 (Austin Appleby, public domain), as four 32-bit numbers.
void murmur_hash(std::string_view text, std::uint32_t seed, std::uint32_t out[4]) {
    constexpr std::uint64_t c1 = 0x87C37B91114253D5, c2 = 0x4CF5AD432745937F;
    std::uint64_t h[2] = {seed, seed};
    std::size_t at = 0;
    for (; at + 16 <= text.size(); at += 16) {
        std::uint64_t k[2];
        std::memcpy(k, text.data() + at, 16);
        h[0] = (rotate(h[0] ^ rotate(k[0] * c1, 31) * c2, 27) + h[1]) * 5 + 0x52DCE729;
        h[1] = (rotate(h[1] ^ rotate(k[1] * c2, 33) * c1, 31) + h[0]) * 5 + 0x38495AB5;
    }
    std::uint64_t k[2] = {0, 0};
    std::memcpy(k, text.data() + at, text.size() - at);
    h[1] ^= rotate(k[1] * c2, 33) * c1;
    h[0] ^= rotate(k[0] * c1, 31) * c2;
    h[0] ^= text.size();
    h[1] ^= text.size();
    h[0] += h[1];
    h[1] += h[0];
    h[0] = finish(h[0]);
    h[1] = finish(h[1]);
    h[0] += h[1];
    h[1] += h[0];
    std::memcpy(out, h, 16);
}

void hash_rows(const Subwords& subwords, std::string_view text, std::vector<std::int64_t>& rows) {
    const auto buckets = static_cast<std::uint64_t>(subwords.buckets);
    const auto take = [&](std::uint64_t hash) {
        rows.push_back(subwords.first_bucket + static_cast<std::int64_t>(hash % buckets));
    };
    if (subwords.hash == Subwords::Hash::kFasttext) return take(fasttext_hash(text));
    if (subwords.hash == Subwords::Hash::kFinalfusion) return take(finalfusion_hash(text));
    std::uint32_t hashes[4];
    murmur_hash(text, subwords.hash_seed, hashes);
    for (int i = 0; i < subwords.hash_count; ++i) take(hashes[i]);
}

}  // namespace

void subword_rows(const Subwords& subwords, std::string_view word, std::vector<std::int64_t>& rows) {
    if (subwords.buckets < 1) return;
    std::string padded = subwords.begin;
    padded.append(word).append(subwords.end);
    const std::string_view text = padded;
    if (subwords.hash == Subwords::Hash::kFloret) hash_rows(subwords, text, rows);
    for (std::size_t start = 0; start < text.size(); ++start) {
        if (continues_character(text[start])) continue;
        std::size_t end = start;
        for (int n = 1; n <= subwords.max_n && end < text.size(); ++n) {
            do ++end;
            while (end < text.size() && continues_character(text[end]));
            const bool mark = !subwords.lone_marks && n == 1 && (start == 0 || end == text.size());
            if (n >= subwords.min_n && !mark) hash_rows(subwords, text.substr(start, end - start), rows);
        }
    }
}

void compose(const Subwords& subwords, std::string_view words, const std::int64_t* word_rows,
             const char* table, std::int64_t rows, int dim, float* out, std::int32_t* counts) {
    std::vector<std::int64_t> parts;
    const auto width = static_cast<std::size_t>(dim);
    while (!words.empty()) {
        const std::size_t end = words.find('\n');
        if (end == std::string_view::npos) throw std::invalid_argument("each word must end with a newline");
        const std::string_view word = words.substr(0, end);
        words.remove_prefix(end + 1);
        parts.clear();
        if (*word_rows >= 0) parts.push_back(*word_rows);
        if (subwords.end_of_line || word != "</s>") subword_rows(subwords, word, parts);
        std::fill_n(out, width, 0.0f);
        for (const std::int64_t part : parts) {
            if (part >= rows) throw std::out_of_range("the table has too few rows for its n-grams");
            const char* const row = table + static_cast<std::size_t>(part) * width * sizeof(float);
            for (std::size_t i = 0; i < width; ++i) {
                float value;
                std::memcpy(&value, row + i * sizeof value, sizeof value);
                out[i] += value;
            }
        }
        if (!parts.empty()) {
            const float share = 1.0f / static_cast<float>(parts.size());
            for (std::size_t i = 0; i < width; ++i) out[i] *= share;
        }
        *counts++ = static_cast<std::int32_t>(parts.size());
        ++word_rows;
        out += width;
    }
}

FasttextDictionary read_fasttext_dictionary(std::string_view data, std::int64_t entries) {
    constexpr std::size_t kTail = sizeof(std::int64_t) + 1;
    FasttextDictionary dictionary;
    for (std::int64_t i = 0; i < entries; ++i) {
        const std::string_view rest = data.substr(dictionary.bytes);
        const std::size_t end = rest.find('\0');
        if (end == std::string_view::npos || rest.size() - end - 1 < kTail) {
            throw std::invalid_argument("the file is cut off in its dictionary, at word " +
                                        std::to_string(i + 1) + " of " + std::to_string(entries));
        }
        const std::string_view word = rest.substr(0, end);
        if (word.find('\n') != std::string_view::npos)
            throw std::invalid_argument("a word holds a line break");
        dictionary.words.append(word).push_back('\n');
        std::int64_t count;
        std::memcpy(&count, rest.data() + end + 1, sizeof count);
        dictionary.counts.push_back(count);
        dictionary.types.push_back(static_cast<std::int8_t>(rest[end + kTail]));
        dictionary.bytes += end + 1 + kTail;
    }
    return dictionary;
}

}  // namespace embedtrain
