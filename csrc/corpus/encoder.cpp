#include "corpus/encoder.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "corpus/scan.h"
#include "corpus/utf8.h"

namespace embedtrain {

namespace {

constexpr std::size_t kPieceBytes = std::size_t{128} << 10;  // what a thread takes at a time
constexpr std::size_t kBlockIds = std::size_t{1} << 21;      // ids are kept in blocks of 8 MiB
constexpr std::int32_t kLineEnd = 0;                         // the provisional id of "\n"
constexpr std::int32_t kDropped = -1;                        // in the place of a final id
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_ascii(std::string_view text) {
    return std::none_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) < 0; });
}

int lowest_bit(std::uint64_t bits) {
    return __builtin_ctzll(bits);
}

std::uint64_t first_bits(int n) {
    return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
}

// The key of a word of at most 16 bytes, where 16 bytes can be read.
WordKey short_key(const char* word, std::uint32_t length) {
    struct Mask {
        std::uint64_t head, tail;
    };
    static constexpr auto kMasks = [] {
        struct {
            Mask of[WordKey::kInline + 1];
        } masks{};
        for (std::size_t n = 0; n <= WordKey::kInline; ++n) {
            for (std::size_t i = 0; i < n; ++i) {
                (i < 8 ? masks.of[n].head : masks.of[n].tail) |= std::uint64_t{0xFF} << (8 * (i % 8));
            }
        }
        return masks;
    }();
    std::uint64_t head, tail;
    std::memcpy(&head, word, 8);
    std::memcpy(&tail, word + 8, 8);
    return {head & kMasks.of[length].head, tail & kMasks.of[length].tail, length};
}

// Words waiting to be looked up: all their slots are prefetched before the first is read.
struct Batch {
    static constexpr std::size_t kSize = 256;
    struct Item {
        WordKey key;
        std::uint64_t hash;
        const char* text;
    };
    Item items[kSize];
    std::size_t size = 0;
};

}  // namespace

struct Encoder::Worker {
    struct Block {
        Buffer<std::int32_t> ids;
        std::size_t used = 0;
        std::atomic<std::int64_t> segments{0};
    };

    WordTable table;  // "\n" is its word kLineEnd: a line end is looked up as words are, without a branch
    std::deque<Block> blocks;
    const char* bad = nullptr;  // the first bad byte, in strict mode
    std::int64_t replaced = 0;  // tokens with NUL bytes; the others are found when their words are known
    std::int64_t invalid = 0;

    Worker() { table.find_or_insert(WordKey("\n")); }

    Block& block_for(std::size_t ids) {
        if (blocks.empty() || blocks.back().ids.size() - blocks.back().used < ids) {
            blocks.emplace_back().ids = Buffer<std::int32_t>(std::max(ids, kBlockIds));
        }
        return blocks.back();
    }

    // Looks the batch up and writes the ids. False: a bad byte in strict mode.
    bool flush(Batch& batch, std::int32_t*& out, bool strict) {
        for (std::size_t i = 0; i < batch.size; ++i) {
            const Batch::Item& item = batch.items[i];
            WordTable::Slot& slot = table.find(item.key, item.hash);
            if (__builtin_expect(slot.key.length == 0, 0)) {
                table.insert(slot, item.key);
                // Checked once per distinct word: text in any script is read at the speed of ASCII.
                if (strict && !is_ascii(item.key.text())) {
                    const std::size_t at = utf8_first_bad(item.key.text());
                    if (at < item.key.length) {
                        bad = item.text + at;
                        return false;
                    }
                }
            }
            ++slot.count;
            *out++ = slot.key.id;
        }
        batch.size = 0;
        table.reserve(Batch::kSize);  // now, so that the next batch prefetches the slots it will look up
        return true;
    }
};

template <typename T>
void Encoder::sort_in_parallel(T* begin, T* end) {
    const std::size_t parts = workers_.size();
    const auto border = [&](std::size_t part) {
        return begin + static_cast<std::size_t>(end - begin) * std::min(part, parts) / parts;
    };
    in_parallel(parts, [&](std::size_t part, std::size_t) { std::sort(border(part), border(part + 1)); });
    for (std::size_t width = 1; width < parts; width *= 2) {
        in_parallel((parts + 2 * width - 1) / (2 * width), [&](std::size_t pair, std::size_t) {
            const std::size_t first = pair * 2 * width;
            std::inplace_merge(border(first), border(first + width), border(first + 2 * width));
        });
    }
}

Encoder::Encoder(int workers, Errors errors) : errors_(errors), workers_(static_cast<std::size_t>(workers)) {}

Encoder::~Encoder() = default;

// Calls task(i, worker) for each i < tasks. A worker's tasks come in order.
template <typename Task>
void Encoder::in_parallel(std::size_t tasks, const Task& task) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto work = [&](std::size_t worker) {
        try {
            for (std::size_t i; (i = next.fetch_add(1)) < tasks;) task(i, worker);
        } catch (...) {
            const std::lock_guard lock(error_mutex);
            error = std::current_exception();
            next = tasks;
        }
    };
    std::vector<std::thread> threads;
    try {
        for (std::size_t worker = 1; worker < std::min(tasks, workers_.size()); ++worker)
            threads.emplace_back(work, worker);
    } catch (const std::system_error&) {  // the system has no more threads to give: those we have do it
    }
    work(0);
    for (std::thread& thread : threads) thread.join();
    if (error) std::rethrow_exception(error);
}

// Encodes the tokens and line ends that start in text[from, to). The text ends with white space.
void Encoder::encode_piece(Worker& worker, std::string_view text, std::size_t from, std::size_t to,
                           Segment& segment) {
    if (from > 0 && !is_space(text[from - 1])) {  // in the middle of a token of the piece before
        while (from < to && !is_space(text[from])) ++from;
    }
    Worker::Block& block = worker.block_for(to - from);
    segment.ids = block.ids.data() + block.used;
    segment.block = worker.blocks.size() - 1;
    ++block.segments;
    std::int32_t* out = segment.ids;
    const bool strict = errors_ == Errors::kStrict;

    // 16 bytes can be read from each byte of a window, also where the text ends.
    constexpr std::size_t kReadable = kScanBytes + WordKey::kInline;
    char last_window[kReadable];
    Batch batch;
    bool good = true;
    std::size_t at = from;  // no token is open here
    while (at < to && good) {
        const char* window = text.data() + at;
        if (text.size() - at < kReadable) {
            std::memset(last_window, ' ', kReadable);
            window = static_cast<char*>(std::memcpy(last_window, window, text.size() - at));
        }
        const ScanMasks masks = scan(window);
        const std::uint64_t word = ~masks.space;
        std::uint64_t starts = (word & ~(word << 1)) | masks.newline;
        int done = kScanBytes;
        if (word >> 63) {  // the last token goes on: the next window starts with it
            done = masks.space == 0 ? 0 : 64 - __builtin_clzll(masks.space);
            starts &= first_bits(done);
        }
        if (to - at < kScanBytes) starts &= first_bits(static_cast<int>(to - at));

        if (__builtin_expect(done == 0 || masks.nul != 0, 0)) {
            // One token at a time: a long one, or one that may hold NULs.
            if (starts != 0 || done == 0) {
                at += done == 0 ? 0 : static_cast<std::size_t>(lowest_bit(starts));
                std::size_t end = at + 1;
                if (text[at] != '\n') {
                    while (!is_space(text[end])) ++end;
                }
                good =
                    worker.flush(batch, out, strict) && encode_token(worker, text.substr(at, end - at), out);
                at = end;
            } else {
                at += static_cast<std::size_t>(done);
            }
            continue;
        }

        while (starts != 0) {
            const int i = lowest_bit(starts);
            starts &= starts - 1;
            // Distance to the next white space; a newline is a token of one byte.
            int length = lowest_bit(masks.space >> i);
            length += length == 0;
            Batch::Item& item = batch.items[batch.size++];
            item.text = text.data() + at + i;
            item.key = static_cast<std::size_t>(length) <= WordKey::kInline
                           ? short_key(window + i, static_cast<std::uint32_t>(length))
                           : WordKey(std::string_view(item.text, static_cast<std::size_t>(length)));
            item.hash = item.key.hash();
            worker.table.prefetch(item.hash);
        }
        at += static_cast<std::size_t>(done);
        if (batch.size + kScanBytes > Batch::kSize) good = worker.flush(batch, out, strict);
    }
    if (good) worker.flush(batch, out, strict);
    segment.size = out - segment.ids;
    block.used += static_cast<std::size_t>(segment.size);
}

// The slow way, for tokens of any length that may hold NULs. False: a bad byte in strict mode.
bool Encoder::encode_token(Worker& worker, std::string_view token, std::int32_t*& out) {
    std::string replacement;
    if (token.find('\0') != std::string_view::npos) {
        switch (errors_) {
            case Errors::kStrict:
                worker.bad = token.data() + utf8_first_bad(token);
                return false;
            case Errors::kReplace:
                ++worker.replaced;
                token = replacement = utf8_replace(token);
                break;
            case Errors::kSkip:
                ++worker.invalid;
                return true;
        }
    }
    Batch batch;
    WordKey key(token);
    batch.items[batch.size++] = {key, key.hash(), token.data()};
    return worker.flush(batch, out, errors_ == Errors::kStrict);
}

std::int64_t Encoder::newlines_seen() {
    std::int64_t sum = 0;
    for (Worker& worker : workers_) sum += worker.table.find_or_insert(WordKey("\n")).count;
    return sum;
}

// Encodes text that ends with white space, from `offset` in the file.
std::optional<BadByte> Encoder::encode_text(std::string_view text, std::int64_t offset) {
    const std::int64_t line = newlines_seen() - file_newlines_ + 1;
    const std::size_t pieces = (text.size() + kPieceBytes - 1) / kPieceBytes;
    const std::size_t first = segments_.size();
    segments_.resize(first + pieces);
    in_parallel(pieces, [&](std::size_t piece, std::size_t worker) {
        if (workers_[worker].bad != nullptr) return;
        const std::size_t from = piece * kPieceBytes;
        segments_[first + piece].worker = worker;
        encode_piece(workers_[worker], text, from, std::min(from + kPieceBytes, text.size()),
                     segments_[first + piece]);
    });
    // A worker stops at its first bad byte, and takes its pieces in order: the first of these is the first of
    // all.
    const char* bad = nullptr;
    for (const Worker& worker : workers_) {
        if (worker.bad != nullptr && (bad == nullptr || worker.bad < bad)) bad = worker.bad;
    }
    if (bad == nullptr) return std::nullopt;
    return BadByte{line + std::count(text.data(), bad, '\n'), offset + (bad - text.data()),
                   static_cast<unsigned char>(*bad)};
}

std::optional<BadByte> Encoder::encode_carry(std::int64_t end_offset) {
    std::string token = std::exchange(carry_, {});
    std::int64_t offset = end_offset - static_cast<std::int64_t>(token.size());
    if (offset == 0 && token.compare(0, kByteOrderMark.size(), kByteOrderMark) == 0) {
        token.erase(0, kByteOrderMark.size());
        offset += static_cast<std::int64_t>(kByteOrderMark.size());
    }
    if (token.empty()) return std::nullopt;
    token += ' ';
    return encode_text(token, offset);
}

std::optional<BadByte> Encoder::feed(std::string_view chunk) {
    if (chunk.empty()) return std::nullopt;
    const std::int64_t offset =
        std::exchange(file_bytes_, file_bytes_ + static_cast<std::int64_t>(chunk.size()));
    open_line_ = chunk.back() != '\n';
    std::size_t first = 0;
    if (offset == 0 || !carry_.empty()) {  // the token that is open, or may have a byte order mark before it
        first = static_cast<std::size_t>(std::find_if(chunk.begin(), chunk.end(), is_space) - chunk.begin());
        carry_.append(chunk.substr(0, first));
        if (first == chunk.size()) return std::nullopt;
        if (const auto bad = encode_carry(offset + static_cast<std::int64_t>(first))) return bad;
    }
    std::size_t last = chunk.size();
    while (last > first && !is_space(chunk[last - 1])) --last;
    carry_.assign(chunk.substr(last));
    return encode_text(chunk.substr(first, last - first), offset + static_cast<std::int64_t>(first));
}

std::optional<BadByte> Encoder::end_file() {
    auto bad = encode_carry(file_bytes_);
    if (open_line_) {
        Worker& worker = workers_[0];
        Worker::Block& block = worker.block_for(1);
        ++block.segments;
        std::int32_t* const id = block.ids.data() + block.used++;
        *id = kLineEnd;  // the sentence ends, though there is no newline
        segments_.push_back({id, 1, 0, worker.blocks.size() - 1, {}});
        ++unended_lines_;
    }
    file_newlines_ = newlines_seen();
    file_bytes_ = 0;
    open_line_ = false;
    return bad;
}

namespace {

// All distinct words with their counts in the whole corpus.
class Words {
  public:
    explicit Words(WordTable table) : table_(std::move(table)) {}

    // Ids given so far, also to words that have become others.
    std::size_t ids() const { return table_.ids(); }

    // Adds another table's words; gives the ids they have here.
    template <typename Parallel>
    void add(WordTable other, Buffer<std::int32_t>& new_ids, std::size_t threads, const Parallel& parallel) {
        const auto moved = [&](std::int32_t id, std::int32_t to) {
            new_ids[static_cast<std::size_t>(id)] = to;
        };
        constexpr std::size_t kLarge = std::size_t{1} << 16;
        if (other.size() < kLarge) {
            for (const WordTable::Slot& slot : other) {
                if (slot.key.length == 0) continue;
                WordTable::Slot& sum = table_.find_or_insert(slot.key);
                sum.count += slot.count;
                moved(slot.key.id, sum.key.id);
            }
            return;
        }
        // Words come in the order of their hash, as they lie. A table that had to grow meanwhile would be
        // full at one end and empty at the other, so its size is estimated first, from a sample.
        constexpr std::size_t kSampled = 64;
        std::size_t sampled = 0, unknown = 0;
        for (std::size_t i = 0; i < other.slots(); i += kSampled) {
            const WordKey& key = other.begin()[i].key;
            if (key.length == 0) continue;
            ++sampled;
            unknown += table_.find(key, key.hash()).key.length == 0;
        }
        table_.reserve(sampled == 0 ? other.size() : other.size() / sampled * unknown);
        table_.merge(std::move(other), 4 * threads, parallel, moved);
    }

    // Null if there is no such word.
    WordTable::Slot* find(std::string_view word) {
        const WordKey key(word);
        WordTable::Slot& slot = table_.find(key, key.hash());
        return slot.count == 0 ? nullptr : &slot;
    }

    // task(slot) for each word that occurs
    template <typename Task>
    void for_each(const Task& task) {
        for (WordTable::Slot& slot : table_) {
            if (slot.count > 0) task(slot);
        }
    }

    // Errors::kReplace and kSkip, a distinct word at a time.
    void mend(Errors errors, Encoded& result) {
        std::vector<Change> changes;
        for_each([&](WordTable::Slot& slot) {
            const std::string_view text = slot.key.text();
            if (is_ascii(text) || utf8_first_bad(text) == text.size()) return;
            (errors == Errors::kReplace ? result.replaced : result.invalid) += slot.count;
            changes.push_back({slot.key.id, std::exchange(slot.count, 0), std::nullopt});
            if (errors == Errors::kReplace) changes.back().word = utf8_replace(text);
        });
        apply(changes);
    }

    void lower(const Encoder::Lower& lower_foreign) {
        std::vector<Change> changes;
        std::vector<WordTable::Slot*> foreign;
        std::string foreign_words;
        const auto change_to = [&](WordTable::Slot& slot, std::string word) {
            if (word != slot.key.text()) {
                changes.push_back({slot.key.id, std::exchange(slot.count, 0), std::move(word)});
            }
        };
        for_each([&](WordTable::Slot& slot) {
            std::string word(slot.key.text());
            if (!is_ascii(word)) {
                foreign.push_back(&slot);
                foreign_words.append(word) += '\n';
                return;
            }
            for (char& c : word) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
            change_to(slot, std::move(word));
        });
        if (!foreign.empty()) {
            const std::string lowered = lower_foreign(foreign_words);
            if (std::count(lowered.begin(), lowered.end(), '\n') !=
                static_cast<std::ptrdiff_t>(foreign.size())) {
                throw std::invalid_argument("lower must give one word for each it takes");
            }
            std::size_t at = 0;
            for (WordTable::Slot* slot : foreign) {
                const std::size_t end = lowered.find('\n', at);
                change_to(*slot, lowered.substr(at, end - at));
                at = end + 1;
            }
        }
        apply(changes);
    }

    // Gives the words that have changed the final ids of what they became.
    void resolve(Buffer<std::int32_t>& final_ids) const {
        // The last change first: what a word became may have changed as well.
        for (auto change = became_.rbegin(); change != became_.rend(); ++change) {
            const auto [from, to] = *change;
            final_ids[static_cast<std::size_t>(from)] =
                to == kDropped ? kDropped : final_ids[static_cast<std::size_t>(to)];
        }
    }

  private:
    struct Change {
        std::int32_t id;
        std::int64_t count;
        std::optional<std::string> word;  // that it becomes; none: it is dropped
    };

    void apply(const std::vector<Change>& changes) {
        for (const Change& change : changes) {
            std::int32_t to = kDropped;
            if (change.word) {
                WordTable::Slot& slot = table_.find_or_insert(WordKey(*change.word));
                slot.count += change.count;
                to = slot.key.id;
            }
            became_.emplace_back(change.id, to);
        }
    }

    WordTable table_;
    std::vector<std::pair<std::int32_t, std::int32_t>> became_;  // from, to
};

// A word that may be in the vocabulary.
struct Candidate {
    std::int64_t count;
    std::uint64_t prefix;  // the first 8 bytes, so that most comparisons need no look at the word
    const WordKey* key;

    bool operator<(const Candidate& other) const {
        if (count != other.count) return count > other.count;
        if (prefix != other.prefix) return prefix < other.prefix;
        return key->text() < other.key->text();
    }
};

std::uint64_t first_bytes(const WordKey& key) {
    std::uint64_t bytes = key.head;
    if (key.is_long()) std::memcpy(&bytes, key.long_bytes(), 8);
    return __builtin_bswap64(bytes);  // the first byte counts most
}

}  // namespace

Encoded Encoder::finish(const Choice& choice) {
    Encoded result;
    result.lines = newlines_seen() + unended_lines_;
    for (Worker& worker : workers_) {
        worker.table.find_or_insert(WordKey("\n")).count = 0;
        result.replaced += worker.replaced;
        result.invalid += worker.invalid;
    }

    // All workers' words together. new_ids: of each worker, its provisional ids -> ids in words -> final ids.
    std::vector<Buffer<std::int32_t>> new_ids;
    for (const Worker& worker : workers_) new_ids.emplace_back(worker.table.size());
    for (std::size_t id = 0; id < new_ids[0].size(); ++id) new_ids[0][id] = static_cast<std::int32_t>(id);
    Words words(std::move(workers_[0].table));
    const auto parallel = [&](std::size_t tasks, const auto& task) {
        in_parallel(tasks, [&](std::size_t i, std::size_t) { task(i); });
    };
    for (std::size_t w = 1; w < workers_.size(); ++w) {
        words.add(std::move(workers_[w].table), new_ids[w], workers_.size(), parallel);
    }
    if (errors_ != Errors::kStrict) words.mend(errors_, result);
    if (choice.lower) words.lower(choice.lower);

    // The vocabulary.
    if (!choice.pad_word.empty()) {
        if (WordTable::Slot* pad = words.find(choice.pad_word)) result.padding = std::exchange(pad->count, 0);
    }
    result.tokens_read = result.invalid + result.padding;
    Buffer<Candidate> candidates(choice.vocabulary ? 0 : words.ids());
    std::size_t size = 0;
    words.for_each([&](WordTable::Slot& slot) {
        ++result.distinct_words;
        result.tokens_read += slot.count;
        result.largest_count = std::max(result.largest_count, slot.count);
        if (!choice.vocabulary && slot.count >= choice.min_count) {
            candidates[size++] = {slot.count, first_bytes(slot.key), &slot.key};
        }
    });
    Buffer<std::int32_t> final_ids(words.ids());
    std::fill(final_ids.begin(), final_ids.end(), kDropped);
    std::int64_t kept = 0;
    const auto keep = [&](std::int32_t id, std::int64_t count) {
        final_ids[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(result.counts.size());
        result.counts.push_back(count);
        kept += count;
    };
    if (choice.vocabulary) {
        result.words = *choice.vocabulary;
        for (std::string_view rest = *choice.vocabulary; !rest.empty();) {
            const std::string_view word = rest.substr(0, rest.find('\n'));
            rest.remove_prefix(std::min(word.size() + 1, rest.size()));
            if (const WordTable::Slot* slot = words.find(word)) {
                keep(slot->key.id, slot->count);
            } else {
                result.counts.push_back(0);
            }
        }
    } else {
        sort_in_parallel(candidates.begin(), candidates.begin() + size);
        size = static_cast<std::size_t>(std::min(static_cast<std::int64_t>(size), choice.max_words));
        result.counts.reserve(size);
        for (std::size_t i = 0; i < size; ++i) {
            keep(candidates[i].key->id, candidates[i].count);
            result.words.append(candidates[i].key->text()) += '\n';
        }
    }
    result.out_of_vocabulary = result.tokens_read - result.invalid - result.padding - kept;
    words.resolve(final_ids);
    in_parallel(workers_.size(), [&](std::size_t w, std::size_t) {
        for (std::int32_t& id : new_ids[w]) id = final_ids[static_cast<std::size_t>(id)];
    });

    // Provisional ids become final ones where they lie, then move together.
    in_parallel(segments_.size(), [&](std::size_t i, std::size_t) {
        Segment& segment = segments_[i];
        const std::int32_t* const map = new_ids[segment.worker].data();
        std::int64_t stay = 0;
        for (std::int64_t j = 0; j < segment.size; ++j) {
            // Line ends are told by the provisional id: a wrong guess of this branch must not wait for the
            // map's memory.
            if (segment.ids[j] == kLineEnd) segment.ends.push_back(stay);
            const std::int32_t id = map[segment.ids[j]];
            segment.ids[stay] = id;
            stay += id >= 0;
        }
        segment.size = stay;
    });
    std::vector<std::int64_t> starts;
    std::int64_t total = 0;
    std::size_t ends = 0;
    for (const Segment& segment : segments_) ends += segment.ends.size();
    result.offsets.reserve(ends + 1);
    result.offsets.push_back(0);
    for (Segment& segment : segments_) {
        for (const std::int64_t end : segment.ends) {
            if (total + end != result.offsets.back()) result.offsets.push_back(total + end);
        }
        segment.ends = {};
        starts.push_back(total);
        total += segment.size;
    }
    result.ids = Buffer<std::int32_t>(static_cast<std::size_t>(total));
    in_parallel(segments_.size(), [&](std::size_t i, std::size_t) {
        const Segment& segment = segments_[i];
        std::copy_n(segment.ids, segment.size, result.ids.data() + starts[i]);
        Worker::Block& block = workers_[segment.worker].blocks[segment.block];
        if (--block.segments == 0) block.ids = {};  // two copies of all ids never exist at once
    });
    return result;
}

}  // namespace embedtrain
