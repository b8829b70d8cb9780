#include "corpus/encoder.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "corpus/scan.h"
#include "corpus/spill.h"
#include "corpus/utf8.h"

namespace embedtrain {

namespace {

constexpr std::size_t kPieceBytes = std::size_t{128} << 10;  // what a thread takes at a time
constexpr std::size_t kStepBytes = std::size_t{8} << 20;     // what all take, before their ids move together
constexpr std::int32_t kLineEnd = 0;                         // the provisional id of "\n"
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

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

// A token to be looked up.
struct Token {
    WordKey key;  // its id and the entry are guesses, until it is looked up
    std::uint64_t hash;
    WordTable::Entry* entry;
    const char* text;
};

constexpr std::size_t kBatch = WordTable::kRoom;

}  // namespace

// Stretch of the text of which a thread encodes the tokens and line ends that start in [from, to).
struct Encoder::Piece {
    std::size_t from, to;
    struct Segment {  // ids
        const std::int32_t* begin;
        std::int64_t size;
    };
    std::vector<Segment> segments;  // more than one if the table had to grow meanwhile
};

struct alignas(128) Encoder::Worker {
    // The words with small ids, which are the most frequent ones, are counted by each thread for itself: the
    // processors would pass their counts back and forth.
    static constexpr std::size_t kOwnCounts = std::size_t{1} << 14;

    std::vector<std::int64_t> counts = std::vector<std::int64_t>(kOwnCounts + 1);  // the last is of no word
    Buffer<std::int32_t> ids;                                                      // of this step
    std::size_t used = 0;
    const char* bad = nullptr;  // the first bad byte of the piece, in strict mode
    std::int64_t replaced = 0;  // tokens with NUL bytes; the others are found when their words are known
    std::int64_t invalid = 0;

    // Looks tokens up, at most kBatch, and writes their ids: all entries are prefetched before the first is
    // read. False: a bad byte in strict mode.
    bool look_up(WordTable& table, WordTable::Writer& writer, Token* tokens, std::size_t size, bool strict,
                 std::int32_t*& out) {
        table.guess(tokens, size);
        std::int64_t* const own_counts = counts.data();
        std::atomic<std::int64_t>* shared[kBatch];  // counts
        std::size_t shared_size = 0;
        std::int32_t* ids_out = out;
        for (std::size_t i = 0; i < size; ++i) {
            Token& token = tokens[i];
            if (__builtin_expect(!(token.entry->key == token.key), 0)) {
                // Checked once per distinct word: text in any script is read at the speed of ASCII. A bad one
                // never gets into the table, so that every thread finds its own.
                if (strict && !is_ascii(token.key.text()) && table.find(token.key, token.hash) < 0) {
                    const std::size_t at = utf8_first_bad(token.key.text());
                    if (at < token.key.length) {
                        bad = token.text + at;
                        return false;
                    }
                }
                token.key.id = table.find_or_insert(writer, token.key, token.hash);
                token.entry = &table[static_cast<std::size_t>(token.key.id)];
            }
            const std::int32_t id = token.key.id;
            *ids_out++ = id;
            // Without a branch, which would often be guessed wrong.
            const bool own = static_cast<std::size_t>(id) < kOwnCounts;
            ++own_counts[own ? static_cast<std::size_t>(id) : kOwnCounts];
            shared[shared_size] = &token.entry->count;
            shared_size += !own;
        }
        out = ids_out;
        for (std::size_t i = 0; i < shared_size; ++i) shared[i]->fetch_add(1, std::memory_order_relaxed);
        return true;
    }
};

// What an encoder has in files.
struct Encoder::Spill {
    std::string folder;
    WordRuns words;
    std::size_t table_bytes;  // the table leaves memory before it has more,
    std::size_t table_words;  // or more words
    std::size_t step_bytes;   // of text, encoded in one go: it never fills a table

    Spill(const std::string& folder_, std::size_t memory_bytes, std::size_t threads)
        : folder(folder_), words(folder) {
        table_bytes = memory_bytes / 2;
        std::size_t slots = WordTable::kFirstSlots;
        while (slots < 4 * threads * WordTable::kRoom) slots *= 2;
        while (WordTable::most_bytes(2 * slots) <= table_bytes) slots *= 2;
        table_bytes = std::max(table_bytes, WordTable::most_bytes(slots));
        table_words = WordTable::most_words(slots, threads);
        step_bytes = std::min(table_words, kStepBytes);
    }
};

Encoder::Encoder(int workers, Errors errors)
    : errors_(errors), threads_(static_cast<std::size_t>(workers)), workers_(threads_.count()) {
    new_table();
}

Encoder::Encoder(int workers, Errors errors, const std::string& folder, std::int64_t memory_bytes)
    : Encoder(workers, errors) {
    ids_ = Ids(folder + "/ids.bin");
    spill_ = std::make_unique<Spill>(folder, static_cast<std::size_t>(memory_bytes), threads_.count());
}

Encoder::~Encoder() = default;

std::string Encoder::folder() const {
    return spill_ ? spill_->folder : "";
}

void Encoder::new_table() {
    table_ = std::make_unique<WordTable>(threads_.count());
    table_->find_or_insert_alone(
        WordKey("\n"));  // kLineEnd: a line end is looked up as words are, without a branch
}

// The text ends with white space. Stops early if the table is full, or at a bad byte.
void Encoder::encode_piece(std::size_t thread, std::string_view text, Piece& piece) {
    Worker& worker = workers_[thread];
    WordTable& table = *table_;
    WordTable::Writer& writer = table.writer(thread);
    const bool strict = errors_ == Errors::kStrict;
    if (table.full(writer)) return;
    std::size_t at = piece.from;
    if (at > 0 && !is_space(text[at - 1])) {  // in the middle of a token of the piece before
        while (at < piece.to && !is_space(text[at])) ++at;
    }
    std::int32_t* const ids = worker.ids.data() + worker.used;
    std::int32_t* out = ids;

    // 16 bytes can be read from each byte of a window, also where the text ends.
    constexpr std::size_t kReadable = kScanBytes + WordKey::kInline;
    char last_window[kReadable];
    Token tokens[kBatch];
    std::size_t size = 0;
    // False: stop.
    const auto look_up = [&] {
        const bool good = worker.look_up(table, writer, tokens, std::exchange(size, 0), strict, out);
        return good && !table.full(writer);
    };
    bool go_on = true;
    while (at < piece.to && go_on) {  // no token is open here
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
        if (piece.to - at < kScanBytes) starts &= first_bits(static_cast<int>(piece.to - at));

        if (__builtin_expect(done == 0 || masks.nul != 0, 0)) {
            // One token at a time: a long one, or one that may hold NULs.
            if (starts != 0 || done == 0) {
                if (size != 0 && !(go_on = look_up())) break;
                at += done == 0 ? 0 : static_cast<std::size_t>(lowest_bit(starts));
                std::size_t end = at + 1;
                if (text[at] != '\n') {
                    while (!is_space(text[end])) ++end;
                }
                go_on = encode_token(thread, text.substr(at, end - at), out);
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
            Token& token = tokens[size++];
            token.text = text.data() + at + i;
            token.key = static_cast<std::size_t>(length) <= WordKey::kInline
                            ? short_key(window + i, static_cast<std::uint32_t>(length))
                            : WordKey(std::string_view(token.text, static_cast<std::size_t>(length)));
            token.hash = token.key.hash();
            table.prefetch(token.hash);
        }
        at += static_cast<std::size_t>(done);
        if (size + kScanBytes > kBatch) go_on = look_up();
    }
    if (size != 0) go_on = look_up();
    piece.from = std::min(at, piece.to);
    piece.segments.push_back({ids, out - ids});
    worker.used += static_cast<std::size_t>(out - ids);
}
// The slow way, for tokens of any length that may hold NULs. False: stop, at a bad byte or a full table.
bool Encoder::encode_token(std::size_t thread, std::string_view token, std::int32_t*& out) {
    Worker& worker = workers_[thread];
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
    const WordKey key(token);
    Token one{key, key.hash(), nullptr, token.data()};
    WordTable::Writer& writer = table_->writer(thread);
    return worker.look_up(*table_, writer, &one, 1, errors_ == Errors::kStrict, out) && !table_->full(writer);
}

std::int64_t Encoder::newlines_seen() const {
    std::int64_t sum = newlines_;
    for (const Worker& worker : workers_) sum += worker.counts[kLineEnd];
    return sum;
}

// Encodes text that ends with white space, from `offset` in the file.
std::optional<BadByte> Encoder::encode_text(std::string_view text, std::int64_t offset) {
    const std::size_t step = spill_ ? spill_->step_bytes : kStepBytes;
    while (!text.empty()) {
        std::size_t size = std::min(text.size(), step);
        const std::size_t most_ids = size + 1;  // the step may end within a token, which is to be the last
        while (!is_space(text[size - 1])) ++size;
        for (Worker& worker : workers_) {
            worker.used = 0;
            if (worker.ids.size() < most_ids) worker.ids = Buffer<std::int32_t>(most_ids, Pages::kSmall);
        }
        if (spill_) {
            const std::size_t more_words = most_ids / 2 + 1;  // a word takes two bytes, with its space
            const std::size_t bytes = table_->bytes() + more_words * WordTable::kWordBytes + size;
            if (table_->words() + more_words > spill_->table_words || bytes > spill_->table_bytes) spill();
        }
        if (const auto bad = encode_step(text.substr(0, size), offset)) return bad;
        text.remove_prefix(size);
        offset += static_cast<std::int64_t>(size);
    }
    return std::nullopt;
}

std::optional<BadByte> Encoder::encode_step(std::string_view text, std::int64_t offset) {
    const std::int64_t line = newlines_seen() - file_newlines_ + 1;
    std::vector<Piece> pieces;
    for (std::size_t from = 0; from < text.size(); from += kPieceBytes) {
        pieces.push_back({from, std::min(from + kPieceBytes, text.size()), {}});
    }
    std::atomic<const char*> first_bad{text.data() + text.size()};
    const auto unfinished = [&](const Piece& piece) {
        return piece.from < piece.to && text.data() + piece.from < first_bad.load(std::memory_order_relaxed);
    };
    std::vector<Piece*> open;
    for (Piece& piece : pieces) open.push_back(&piece);
    while (true) {
        threads_.run(open.size(), [&](std::size_t i, std::size_t thread) {
            if (!unfinished(*open[i])) return;
            encode_piece(thread, text, *open[i]);
            if (const char* const bad = std::exchange(workers_[thread].bad, nullptr)) {
                open[i]->from = open[i]->to;
                const char* first = first_bad;
                while (bad < first && !first_bad.compare_exchange_weak(first, bad)) {
                }
            }
        });
        open.erase(
            std::remove_if(open.begin(), open.end(), [&](Piece* piece) { return !unfinished(*piece); }),
            open.end());
        if (open.empty()) break;
        table_->grow(threads_);
    }
    const char* const bad = first_bad;
    if (bad != text.data() + text.size()) {
        return BadByte{line + std::count(text.data(), bad, '\n'), offset + (bad - text.data()),
                       static_cast<unsigned char>(*bad)};
    }
    std::vector<std::int64_t> places;
    for (const Piece& piece : pieces) {
        std::int64_t size = 0;
        for (const Piece::Segment& segment : piece.segments) size += segment.size;
        places.push_back(ids_.append(size));
    }
    threads_.run(pieces.size(), [&](std::size_t i, std::size_t) {
        std::int64_t place = places[i];
        for (const Piece::Segment& segment : pieces[i].segments) {
            ids_.write(segment.begin, segment.size, place);
            place += segment.size;
        }
    });
    return std::nullopt;
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
    if (open_line_) {  // the sentence ends, though there is no newline
        ids_.write(&kLineEnd, 1, ids_.append(1));
        ++unended_lines_;
    }
    file_newlines_ = newlines_seen();
    file_bytes_ = 0;
    open_line_ = false;
    return bad;
}

// The workers' own counts go to the table.
void Encoder::add_up_counts() {
    newlines_ = newlines_seen();
    for (Worker& worker : workers_) {
        worker.counts[kLineEnd] = 0;
        for (std::size_t id = 0; id < std::min(Worker::kOwnCounts, table_->ids()); ++id) {
            (*table_)[id].count += std::exchange(worker.counts[id], 0);
        }
    }
}

void Encoder::spill() {
    if (!spill_) throw std::logic_error("there is no folder to spill to");
    add_up_counts();
    Changes changes;
    if (errors_ != Errors::kStrict) mend(*table_, errors_, changes, mended_.replaced, mended_.invalid);
    spill_->words.add(*table_, 0, changes, threads_);
    run_ends_.push_back(ids_.size());
    new_table();
}

Encoded Encoder::finish(const Choice& choice, const Tell& tell) {
    Encoded result;
    result.lines = newlines_seen() + unended_lines_;
    VocabularyChooser chooser(choice, threads_);
    Buffer<std::int32_t> final_ids;
    const bool runs = spill_ && spill_->words.size() > 0;
    if (runs) spill();
    // Words that were spilled are read to put them in lower case, to add them up and to find their ids.
    Progress progress(tell, ids_.size() * static_cast<std::int64_t>(sizeof(std::int32_t)) +
                                (runs ? (choice.lower ? 3 : 2) * spill_->words.bytes() : 0));
    if (runs) {
        table_ = nullptr;
        if (choice.lower)
            spill_->words = lower(spill_->words, spill_->folder, choice.lower, threads_, progress);
        add_up(spill_->words, spill_->table_words, threads_, chooser, progress);
        static_cast<Vocabulary&>(result) = chooser.finish();
    } else {
        add_up_counts();
        Changes changes;
        if (errors_ != Errors::kStrict) mend(*table_, errors_, changes, mended_.replaced, mended_.invalid);
        if (choice.lower) lower(*table_, choice.lower, changes);
        table_->for_each(threads_, [&](std::int32_t id, const WordTable::Entry& entry, std::size_t thread) {
            WordKey key = entry.key;
            key.id = id;
            chooser.add(thread, key, entry.count.load(std::memory_order_relaxed));
        });
        static_cast<Vocabulary&>(result) = chooser.finish();
        final_ids = table_->release_slots().reuse<std::int32_t>(table_->ids());
        table_ = nullptr;
        std::fill(final_ids.begin(), final_ids.end(), kDropped);
        for (std::size_t row = 0; row < chooser.rows().size(); ++row) {
            const std::int32_t id = chooser.rows()[row].key.id;
            if (id >= 0) final_ids[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(row);
        }
        resolve(changes, final_ids);
    }
    result.replaced = mended_.replaced;
    result.invalid = mended_.invalid;
    for (const Worker& worker : workers_) {
        result.replaced += worker.replaced;
        result.invalid += worker.invalid;
    }
    result.tokens_read = result.invalid + result.padding + result.tokens;
    result.out_of_vocabulary =
        std::accumulate(result.counts.begin(), result.counts.end(), result.tokens, std::minus<>());

    if (runs) {
        const RowTable rows(chooser.rows(), threads_);
        make_final(
            [&](std::size_t run) {
                return rows.final_ids(spill_->words, spill_->words[run], threads_, progress);
            },
            result, progress);
    } else {
        run_ends_.push_back(ids_.size());
        make_final([&](std::size_t) { return std::move(final_ids); }, result, progress);
    }
    return result;
}

// Provisional ids become final ones where they lie, some of them at a time: what is written never overtakes
// what is read.
void Encoder::make_final(const std::function<Buffer<std::int32_t>(std::size_t)>& final_ids_of_run,
                         Encoded& result, Progress& progress) {
    constexpr std::int64_t kPart = 1 << 15;  // ids: a part stays in a second-level cache
    constexpr std::int64_t kAhead = 64;      // final ids are asked for so early
    struct Part {                            // of a thread
        Buffer<std::int32_t> ids = Buffer<std::int32_t>(kPart);
        std::int64_t size = 0, place = 0;
        Buffer<std::int32_t> ends = Buffer<std::int32_t>(kPart);  // places in ids where a line ends
        std::int64_t lines = 0;
    };
    std::vector<Part> parts(threads_.count());
    std::optional<File> file;
    if (spill_) file.emplace(spill_->folder + "/offsets.bin");
    std::vector<std::int64_t>& offsets = result.offsets;
    std::int64_t kept = 0, last_offset = 0, offsets_written = 0;
    if (!file) offsets.reserve(static_cast<std::size_t>(result.lines) + 1);
    offsets.push_back(0);
    const auto write_offsets = [&] {
        file->write(offsets.data(), offsets.size() * sizeof(std::int64_t), offsets_written);
        offsets_written += static_cast<std::int64_t>(offsets.size() * sizeof(std::int64_t));
        offsets.clear();
    };
    std::int64_t run_begin = 0;
    for (std::size_t run = 0; run < run_ends_.size(); run_begin = run_ends_[run++]) {
        const Buffer<std::int32_t> final_ids = final_ids_of_run(run);
        const std::int64_t run_end = run_ends_[run];
        const auto look_up = [&](std::size_t i, std::size_t thread) {
            Part& part = parts[thread];
            const std::int64_t from = run_begin + static_cast<std::int64_t>(i) * kPart,
                               size = std::min(kPart, run_end - from);
            const std::int32_t* const ids = ids_.read(part.ids.data(), size, from);
            std::int32_t *const out = part.ids.data(), *const ends = part.ends.data();
            std::int64_t stay = 0, lines = 0;
            for (std::int64_t j = 0; j < size; ++j) {
                if (j + kAhead < size) __builtin_prefetch(final_ids.data() + ids[j + kAhead]);
                // Without a branch, which would be guessed wrong at every line end.
                ends[lines] = static_cast<std::int32_t>(stay);
                lines += ids[j] == kLineEnd;
                const std::int32_t id = final_ids[static_cast<std::size_t>(ids[j])];
                out[stay] = id;
                stay += id >= 0;
            }
            part.size = stay;
            part.lines = lines;
            progress.add(size * static_cast<std::int64_t>(sizeof(std::int32_t)), thread);
        };
        const auto find_place = [&](std::size_t, std::size_t thread) {
            Part& part = parts[thread];
            for (std::int64_t line = 0; line < part.lines; ++line) {
                const std::int64_t end = kept + part.ends[static_cast<std::size_t>(line)];
                if (end != last_offset) offsets.push_back(last_offset = end);
            }
            part.place = kept;
            kept += part.size;
            if (file && offsets.size() > kPart) write_offsets();
        };
        // All that stood where a part is written has been read by then.
        const auto write = [&](std::size_t, std::size_t thread) {
            const Part& part = parts[thread];
            ids_.write(part.ids.data(), part.size, part.place);
        };
        threads_.run_in_turn(static_cast<std::size_t>((run_end - run_begin + kPart - 1) / kPart), look_up,
                             find_place, write);
    }
    if (file) write_offsets();
    ids_.shrink(kept);
    result.ids = ids_.release();
}

}  // namespace embedtrain
