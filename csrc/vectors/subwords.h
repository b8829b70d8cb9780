// Vectors of words from their character n-grams: the models of fastText, floret and finalfusion.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace embedtrain {

struct Subwords {
    int min_n = 0, max_n = 0;  // characters of an n-gram; max_n 0: no n-grams
    std::int64_t buckets = 0;
    std::int64_t first_bucket = 0;  // row of bucket 0
    // An n-gram's row: fastText's by a 32-bit FNV-1a, finalfusion's by a 64-bit one over its characters;
    // floret's, and those of the whole word, hash_count (1 to 4) by MurmurHash3.
    enum class Hash { kFasttext, kFloret, kFinalfusion } hash = Hash::kFasttext;
    int hash_count = 1;
    std::uint32_t hash_seed = 0;
    std::string begin = "<", end = ">";  // put around the word
    bool lone_marks = false;             // begin or end alone is an n-gram
    bool end_of_line = false;            // "</s>" has n-grams like any word
};

// Appends the table rows of a word's n-grams, in the order in which the libraries add them up.
void subword_rows(const Subwords& subwords, std::string_view word, std::vector<std::int64_t>& rows);

// Writes for each word (of `words`, each ended by \n) the mean of its own row (`word_rows[i]`, -1: none) and
// the rows of its n-grams, and to `counts[i]` how many these are; zeros if there are none. `table`: float32
// (rows, dim), not necessarily aligned.
void compose(const Subwords& subwords, std::string_view words, const std::int64_t* word_rows,
             const char* table, std::int64_t rows, int dim, float* out, std::int32_t* counts);

// The dictionary of a fastText model: `entries` times word, NUL, int64 count, int8 type (0 word, 1 label).
struct FasttextDictionary {
    std::string words;  // each ended by \n
    std::vector<std::int64_t> counts;
    std::vector<std::int8_t> types;
    std::size_t bytes = 0;  // of it, in the file
};
FasttextDictionary read_fasttext_dictionary(std::string_view data, std::int64_t entries);

}  // namespace embedtrain
