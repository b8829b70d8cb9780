#include "corpus/vocabulary.h"

#include <algorithm>
#include <stdexcept>

#include "corpus/utf8.h"

namespace embedtrain {

namespace {

// Adds the count of a word to that of another, which it becomes.
void become(WordTable& table, std::size_t from, const WordKey& key, Changes& changes) {
    const std::int64_t count = table[from].count.exchange(0);
    const std::int32_t to = table.find_or_insert_alone(key);
    table[static_cast<std::size_t>(to)].count += count;
    changes.emplace_back(static_cast<std::int32_t>(from), to);
}

}  // namespace

void mend(WordTable& table, Errors errors, Changes& changes, std::int64_t& replaced, std::int64_t& invalid) {
    for (std::size_t id = 0, end = table.ids(); id < end; ++id) {
        const WordTable::Entry& entry = table[id];
        const std::int64_t count = entry.count;
        const std::string_view text = entry.key.text();
        if (count == 0 || is_ascii(text) || utf8_first_bad(text) == text.size()) continue;
        if (errors == Errors::kReplace) {
            replaced += count;
            become(table, id, WordKey(utf8_replace(text)), changes);
        } else {
            invalid += table[id].count.exchange(0);
            changes.emplace_back(static_cast<std::int32_t>(id), kDropped);
        }
    }
}

void lower(WordTable& table, const Lower& lower_foreign, Changes& changes) {
    LowerCase lower_case(lower_foreign, [&](const WordKey& key, const WordKey& lowered, std::int64_t) {
        if (!(key == lowered)) become(table, static_cast<std::size_t>(key.id), lowered, changes);
    });
    for (std::size_t id = 0, end = table.ids(); id < end; ++id) {
        if (table[id].count == 0) continue;
        WordKey key = table[id].key;
        key.id = static_cast<std::int32_t>(id);
        lower_case.add(key, table[id].count);
    }
    lower_case.finish();
}

void resolve(const Changes& changes, Buffer<std::int32_t>& final_ids) {
    // The last change first: what a word became may have changed as well.
    for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
        const auto [from, to] = *change;
        final_ids[static_cast<std::size_t>(from)] =
            to == kDropped ? kDropped : final_ids[static_cast<std::size_t>(to)];
    }
}

void LowerCase::add(const WordKey& key, std::int64_t count) {
    const std::string_view text = key.text();
    if (!is_ascii(text)) {
        foreign_.push_back({arena_.keep(key), count});
        foreign_words_.append(text) += '\n';
        if (foreign_words_.size() >= kBatchBytes) finish();
        return;
    }
    word_.assign(text);
    for (char& c : word_) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
    use_(key, WordKey(word_), count);
}

void LowerCase::finish() {
    if (foreign_.empty()) return;
    const std::string lowered = lower_foreign_(foreign_words_);
    if (std::count(lowered.begin(), lowered.end(), '\n') != static_cast<std::ptrdiff_t>(foreign_.size())) {
        throw std::invalid_argument("lower must give one word for each it takes");
    }
    std::size_t at = 0;
    for (const Foreign& foreign : foreign_) {
        const std::size_t end = lowered.find('\n', at);
        use_(foreign.key, WordKey(std::string_view(lowered).substr(at, end - at)), foreign.count);
        at = end + 1;
    }
    foreign_.clear();
    foreign_words_.clear();
    arena_ = {};
}

VocabularyChooser::VocabularyChooser(const Choice& choice, const Threads& threads)
    : choice_(choice), threads_(threads), pad_(choice.pad_word), parts_(threads.count()) {
    if (!choice.vocabulary) return;
    given_ = std::make_unique<WordTable>(1);
    std::string_view rest = *choice.vocabulary;
    const bool ends_open = !rest.empty() && rest.back() != '\n';
    rows_ =
        Buffer<CountedWord>(static_cast<std::size_t>(std::count(rest.begin(), rest.end(), '\n')) + ends_open);
    for (std::size_t row = 0; row < rows_.size(); ++row) {
        const WordKey word(rest.substr(0, rest.find('\n')));
        rest.remove_prefix(std::min(word.length + std::size_t{1}, rest.size()));
        rows_[row].key = word;
        rows_[row].key.id = -1;
        const auto id = static_cast<std::size_t>(given_->find_or_insert_alone(word));
        if ((*given_)[id].count == 0) (*given_)[id].count = static_cast<std::int64_t>(row) + 1;
    }
}

void VocabularyChooser::add(std::size_t thread, const WordKey& key, std::int64_t count) {
    Part& part = parts_[thread];
    if (pad_.length != 0 && key == pad_) {
        part.totals.padding += count;
        return;
    }
    ++part.totals.distinct_words;
    part.totals.tokens += count;
    part.totals.largest_count = std::max(part.totals.largest_count, count);
    if (given_) {
        const std::int32_t id = given_->find(key);
        if (id < 0) return;
        const auto row = static_cast<std::size_t>((*given_)[static_cast<std::size_t>(id)].count - 1);
        rows_[row].count = count;
        rows_[row].key.id = key.id;
    } else if (count >= choice_.min_count) {
        constexpr std::size_t kSpare = 1 << 16;
        if (part.size == part.candidates.size()) part.candidates.grow(std::max(2 * part.size, kSpare));
        part.candidates[part.size++] = {count, part.arena.keep(key)};
        // Never many more than can be chosen.
        if (static_cast<std::int64_t>(part.size / 2) - static_cast<std::int64_t>(kSpare) > choice_.max_words)
            trim(part);
    }
}

void VocabularyChooser::trim(Part& part) const {
    CountedWord* const begin = part.candidates.begin();
    CountedWord* const end = begin + std::min(static_cast<std::int64_t>(part.size), choice_.max_words);
    std::nth_element(begin, end, begin + part.size);
    part.size = static_cast<std::size_t>(end - begin);
    Arena arena;
    for (CountedWord* candidate = begin; candidate != end; ++candidate)
        candidate->key = arena.keep(candidate->key);
    part.arena = std::move(arena);
}

Vocabulary VocabularyChooser::finish() {
    Vocabulary result;
    std::size_t size = 0;
    for (const Part& part : parts_) {
        result.distinct_words += part.totals.distinct_words;
        result.tokens += part.totals.tokens;
        result.largest_count = std::max(result.largest_count, part.totals.largest_count);
        result.padding += part.totals.padding;
        size += part.size;
    }
    if (given_) {
        result.words = *choice_.vocabulary;
    } else {
        rows_ = std::move(parts_[0].candidates);
        if (size > rows_.size()) rows_.grow(size);
        size = parts_[0].size;
        for (std::size_t i = 1; i < parts_.size(); ++i) {
            const Buffer<CountedWord> more = std::move(parts_[i].candidates);
            std::copy_n(more.begin(), parts_[i].size, rows_.begin() + size);
            size += parts_[i].size;
        }
        threads_.sort(rows_.begin(), rows_.begin() + size);
        rows_.shrink(static_cast<std::size_t>(std::min(static_cast<std::int64_t>(size), choice_.max_words)));
        std::size_t bytes = 0;
        for (const CountedWord& word : rows_) bytes += word.key.length + 1;
        result.words.reserve(bytes);
        for (const CountedWord& word : rows_) result.words.append(word.key.text()) += '\n';
    }
    result.counts.reserve(rows_.size());
    for (const CountedWord& word : rows_) result.counts.push_back(word.count);
    return result;
}

}  // namespace embedtrain
