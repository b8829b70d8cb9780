#include "corpus/spill.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace embedtrain {

namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 18;

std::size_t power_of_two(std::size_t at_least) {
    std::size_t power = 1;
    while (power < at_least) power *= 2;
    return power;
}

}  // namespace

WordRuns::WordRuns(const std::string& folder) : file_(folder + "/words.spill") {
    file_.unlink();
}

void WordRuns::add(WordTable& table, std::size_t first_id, const Changes& changes, const Threads& threads) {
    Run run;
    run.ids = first_id + table.ids();
    if (run.ids > std::size_t{1} << 31) throw std::length_error("too many words are in memory at once");
    run.changes = changes.size();
    std::vector<std::string> parts(threads.count());
    std::vector<std::int64_t> words(threads.count());
    for (std::size_t range = 0; range < kRanges; range += threads.count()) {
        const std::size_t ranges = std::min(threads.count(), kRanges - range);
        threads.run(ranges, [&](std::size_t i, std::size_t) {
            parts[i].clear();
            table.for_each_in_range(range + i, kRanges, [&](std::int32_t id, const WordTable::Entry& entry) {
                if (entry.count == 0) return;
                const Reader::Head head{entry.count, static_cast<std::int32_t>(first_id) + id,
                                        entry.key.length};
                parts[i].append(reinterpret_cast<const char*>(&head), sizeof head).append(entry.key.text());
                ++words[i];
            });
        });
        for (std::size_t i = 0; i < ranges; ++i) {
            run.at[range + i] = written_;
            if (!parts[i].empty()) file_.write(parts[i].data(), parts[i].size(), written_);
            written_ += static_cast<std::int64_t>(parts[i].size());
        }
    }
    run.at[kRanges] = written_;
    for (const std::int64_t each : words) run.words += each;
    const std::size_t bytes = changes.size() * sizeof(Changes::value_type);
    file_.write(changes.data(), bytes, written_);
    written_ += static_cast<std::int64_t>(bytes);
    runs_.push_back(run);
}

Changes WordRuns::changes(const Run& run) const {
    Changes changes(run.changes);
    file_.read(changes.data(), changes.size() * sizeof(Changes::value_type), run.at[kRanges]);
    return changes;
}

std::int64_t WordRuns::bytes() const {
    std::int64_t sum = 0;
    for (const Run& run : runs_) sum += run.bytes();
    return sum;
}

const char* WordRuns::Reader::take(std::size_t bytes) {
    if (buffer_.size() - used_ < bytes) {
        buffer_.erase(0, std::exchange(used_, 0));
        const std::size_t held = buffer_.size();
        const auto more = static_cast<std::size_t>(
            std::min(static_cast<std::int64_t>(std::max(bytes - held, kReadBytes)), end_ - next_));
        buffer_.resize(held + more);
        file_.read(buffer_.data() + held, more, next_);
        next_ += static_cast<std::int64_t>(more);
    }
    return buffer_.data() + std::exchange(used_, used_ + bytes);
}

bool WordRuns::Reader::next(WordKey& key) {
    if (next_ == end_ && used_ == buffer_.size()) return false;
    std::memcpy(&head_, take(sizeof head_), sizeof head_);
    key = WordKey(std::string_view(take(head_.length), head_.length));
    key.id = head_.id;
    return true;
}

RowTable::RowTable(const Buffer<CountedWord>& rows, const Threads& threads)
    : table_(threads.count(), power_of_two(2 * (rows.size() + (threads.count() + 1) * WordTable::kRoom))) {
    constexpr std::size_t kPart = 8192;
    threads.run((rows.size() + kPart - 1) / kPart, [&](std::size_t part, std::size_t thread) {
        for (std::size_t row = part * kPart; row < std::min(rows.size(), (part + 1) * kPart); ++row) {
            const WordKey& key = rows[row].key;
            if (key.id < 0) continue;  // given, but not in the corpus
            const std::int32_t id = table_.find_or_insert(table_.writer(thread), key, key.hash());
            table_[static_cast<std::size_t>(id)].count = static_cast<std::int64_t>(row);
        }
    });
}

Buffer<std::int32_t> RowTable::final_ids(const WordRuns& runs, const WordRuns::Run& run,
                                         const Threads& threads, Progress& progress) const {
    Buffer<std::int32_t> final_ids(run.ids);
    std::fill(final_ids.begin(), final_ids.end(), kDropped);
    threads.run(WordRuns::kRanges, [&](std::size_t range, std::size_t thread) {
        runs.for_each(run, range, range + 1, [&](const WordKey& word, std::int64_t) {
            const std::int32_t id = table_.find(word);
            if (id < 0) return;
            const std::int64_t row = table_[static_cast<std::size_t>(id)].count;
            final_ids[static_cast<std::size_t>(word.id)] = static_cast<std::int32_t>(row);
        });
        progress.add(run.bytes(range, range + 1), thread);
    });
    resolve(runs.changes(run), final_ids);
    return final_ids;
}

WordRuns lower(const WordRuns& runs, const std::string& folder, const Lower& lower_foreign,
               const Threads& threads, Progress& progress) {
    WordRuns lowered(folder);
    for (std::size_t i = 0; i < runs.size(); ++i) {
        const WordRuns::Run& run = runs[i];
        // Words come in the order of their hashes. A table that had to grow meanwhile would be full at one
        // end and empty at the other.
        WordTable table(1, power_of_two(2 * (static_cast<std::size_t>(run.words) + 2 * WordTable::kRoom)));
        Changes changes = runs.changes(run);
        LowerCase lower_case(lower_foreign, [&](const WordKey& key, const WordKey& word, std::int64_t count) {
            const auto id = static_cast<std::size_t>(table.find_or_insert_alone(word));
            table[id].count += count;
            changes.emplace_back(key.id, static_cast<std::int32_t>(run.ids + id));
        });
        for (std::size_t range = 0; range < WordRuns::kRanges; ++range) {
            runs.for_each(run, range, range + 1,
                          [&](const WordKey& key, std::int64_t count) { lower_case.add(key, count); });
            progress.add(run.bytes(range, range + 1), 0);
        }
        lower_case.finish();
        lowered.add(table, run.ids, changes, threads);
    }
    return lowered;
}

void add_up(const WordRuns& runs, std::size_t most_words, const Threads& threads, VocabularyChooser& chooser,
            Progress& progress) {
    std::size_t words = 0;
    for (std::size_t i = 0; i < runs.size(); ++i) words += static_cast<std::size_t>(runs[i].words);
    // Each thread has the words of one part of the hashes in memory. Where even the smallest parts are too
    // large for that, fewer threads work.
    std::size_t parts = std::min(WordRuns::kRanges, power_of_two(4 * threads.count()));
    while (parts < WordRuns::kRanges && words / parts > most_words / threads.count()) parts *= 2;
    const std::size_t at_once = std::max<std::size_t>(1, most_words / (words / parts + 1));
    const Threads workers(std::min(threads.count(), at_once));
    workers.run(parts, [&](std::size_t part, std::size_t thread) {
        WordTable table(1, power_of_two(std::min(2 * (words / parts), most_words)));
        const std::size_t ranges = WordRuns::kRanges / parts, from = part * ranges, to = from + ranges;
        for (std::size_t i = 0; i < runs.size(); ++i) {
            runs.for_each(runs[i], from, to, [&](const WordKey& word, std::int64_t count) {
                // All words of a range share the top bits of their hash, which say the place in a table.
                const std::uint64_t other_hash = word.hash() << 32 | word.hash() >> 32;
                table[static_cast<std::size_t>(table.find_or_insert_alone(word, other_hash))].count += count;
            });
            progress.add(runs[i].bytes(from, to), thread);
        }
        for (std::size_t id = 0; id < table.ids(); ++id) {
            if (table[id].count > 0) {
                WordKey key = table[id].key;
                key.id = 0;
                chooser.add(thread, key, table[id].count);
            }
        }
    });
}

}  // namespace embedtrain
