"""Turns a corpus into ids, once: what is counted, kept and dropped is decided here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedtrain import arrow, finding, remote, sources
from embedtrain.cache import Cache, Entry, default_root, map_array
from embedtrain.errors import EmbedtrainError
from embedtrain.finding import Found
from embedtrain.memory import available_memory
from embedtrain.options import Options
from embedtrain.parts import Part, Stretches, cut, merge_vocabulary, share
from embedtrain.rows import SPACE_WITHIN, Rows
from embedtrain.sources import OnBytes, Source
from embedtrain.vocabulary import PAD, Vocabulary

if TYPE_CHECKING:
    from embedtrain.distributed import Ranks

OnShare = Callable[[float], None]

_CHUNK_BYTES = 8 << 20
_PIECE_TOKENS = 1 << 20  # worked on at a time, where it need not be all
_TOKENIZER_CHUNK_BYTES = 1 << 20  # an encoding takes a hundred bytes per token until its ids are taken from it
_MOST_MEMORY = 1 << 30  # for what is counted and encoded, if it can go to disk
_GLANCE_BYTES = 64 << 10
_DIGEST_POSITIONS = 1 << 20
_MARGIN = 1 << 12  # tokens beside what a rank trains that may be context of it, at least
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WORD = re.compile(rb"[^ \t\n\r\v\f]+")


@dataclass(frozen=True, eq=False)
class Corpus:
    """The encoded corpus: all that training needs of it.

    :param ids: int32 (N,), index into ``vocabulary.words``. A corpus on disk is mapped, and can only be read.
    :param offsets: int64 (S + 1,), sentence s is ``ids[offsets[s]:offsets[s + 1]]``. None is empty.
    :param vocabulary: with a tokenizer, all its tokens by id; those that are not trained have count 0.
    :param sources: what was read.
    :param tokens_read: before anything was dropped.
    :param lines: of all files (or the number of token lists).
    :param dropped: tokens by reason: ``out_of_vocabulary`` (rarer than min_count, beyond max_vocab, not in read_vocab),
        ``invalid_utf8``, ``pad_token``; only those that happened.
    :param replaced: tokens with bytes replaced by U+FFFD.
    :param fingerprint: SHA-256 of words, counts, ids and offsets; equal ones train equally.
    :param tokenizer_json: the text of the tokenizer's file.
    :param part: of several ranks: which part ``ids`` and ``offsets`` are. All else is of the whole corpus.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    vocabulary: Vocabulary
    sources: tuple[Found, ...]
    tokens_read: int
    lines: int
    dropped: dict[str, int]
    replaced: int
    fingerprint: str
    tokenizer_json: str | None = None
    part: Part | None = None

    @property
    def size(self) -> int:
        """Positions of the whole corpus (N)."""
        return len(self.ids) if self.part is None else self.part.size

    @property
    def sentences(self) -> int:
        """Sentences of the whole corpus (S)."""
        return len(self.offsets) - 1 if self.part is None else self.part.sentences


def encode(
    corpus: str | os.PathLike[str] | Iterable[Any],
    options: Options,
    on_bytes: OnBytes = lambda done, total: None,
    note: Callable[[str], None] = lambda line: None,
    ranks: Ranks | None = None,
    on_share: OnShare = lambda share: None,
) -> Corpus:
    """Read a corpus once and encode it.

    In a file, a token is what ASCII white space separates and a sentence is a line, of any length. gzip, bz2, xz and
    zstd files are known by their first bytes, and so are files of ids (:mod:`embedtrain.sequences`), Parquet and Arrow.

    :param corpus: a path, several paths (:func:`embedtrain.finding.find` says what they may be), a table of pyarrow, a
        dataset of the datasets library, or an iterable of sentences, each a list of words; these words may hold spaces.
    :param options: min_count, max_vocab, lowercase, errors, tokenizer, read_vocab, column, cache, cache_dir and workers
        are of use here.
    :param on_bytes: progress of files: (bytes read, bytes in all or None), of the compressed ones as they are stored.
    :param note: called with lines about what was taken, left out and kept.
    :param ranks: read a part of the files only, and return the share that this rank trains on. It is held in memory.
    :param on_share: progress of what follows the reading of text, if it takes long: the share that is done, 0 to 1.
    :raises EmbedtrainError: what is wrong with the corpus, and where.
    """
    table = corpus if arrow.is_table(corpus) else None
    paths = _paths(corpus) if table is None else None
    vocabulary = None
    if options.read_vocab is not None:
        read = Vocabulary.read(options.read_vocab)
        counts = dict(zip(read.words, read.counts.tolist(), strict=True))
        counts.pop(PAD, None)
        vocabulary = Vocabulary.most_frequent(counts, options.min_count, options.max_vocab)
        if len(vocabulary) < 2:
            raise EmbedtrainError(
                f"{options.read_vocab}: {len(vocabulary) or 'no'} word has a count of min-count ({options.min_count}) "
                "or more, at least 2 are needed"
            )
    if table is not None:
        name = f"{type(table).__module__.partition('.')[0]}.{type(table).__name__}"
        # What datasets calls a fingerprint depends on the data and on all that was done to it.
        version = getattr(table, "_fingerprint", None)
        found: tuple[Found, ...] = (Found(name, (Source(name, None, kind="arrow", version=version),)),)
    elif paths is not None:
        found = tuple(map(finding.find, paths))
    else:
        with Cache(options.cache_dir or default_root(), None, note) as cache, cache.explained():
            sentences: Any = corpus
            return _encode_sentences(sentences, options, vocabulary, cache.folder, ranks)
    for each in found:
        if line := finding.describe(each):
            note(line)
    rows = Rows(table, options.column, strict=options.errors == "strict", text_only=options.tokenizer is not None)
    for file in _files(found):
        if file.kind in ("text", "npy", "npz"):
            rows.agree(file, "text" if file.kind == "text" else "ids")

    if ranks is not None:
        return _encode_part(found, options, vocabulary, rows, on_bytes, note, ranks, on_share)
    key = _key(found, options)
    with Cache(options.cache_dir or default_root(), key, note) as cache:
        if (entry := cache.find(lambda entry: _is_right(entry, options.workers))) is not None:
            return _from_entry(entry, found)
        keep = options.cache and options.cache_dir is not None
        budget = memory_budget()
        with cache.explained():
            if options.tokenizer is not None:
                encoded = _encode_by_tokenizer(found, options, options.tokenizer, rows, on_bytes, cache.folder, None)
            else:
                folder = None
                if keep or not _surely_fits(_files(found), budget):
                    try:
                        folder = cache.folder()
                    except EmbedtrainError as error:
                        if keep:
                            raise
                        note(f"{error}. The corpus is encoded in memory")
                encoded = _encode_files(found, options, vocabulary, rows, on_bytes, folder, None, on_share)
        for what, count in rows.left_out.items():
            note(f"left out {count:,} {what}")
        if not keep and encoded.ids.nbytes + encoded.offsets.nbytes <= budget:
            return replace(encoded, ids=_in_memory(encoded.ids), offsets=_in_memory(encoded.offsets))
        unchanged = key is None or paths is None or key == _key(tuple(map(finding.find, paths)), options)
        if not unchanged:
            note("the corpus changed while it was read, so its encoding is not kept")
        return _from_entry(cache.put(_to_entry(encoded), _LARGE, keep=unchanged), found)


def _encode_part(
    found: tuple[Found, ...],
    options: Options,
    vocabulary: Vocabulary | None,
    rows: Rows,
    on_bytes: OnBytes,
    note: Callable[[str], None],
    ranks: Ranks,
    on_share: OnShare,
) -> Corpus:
    """Encode a part of the files; what is chosen and reported is of all."""
    if options.cache_dir is not None:
        note("several ranks read the corpus each time: --cache-dir keeps what one process has encoded")
    parts, part = (ranks.local_size, ranks.local_rank) if options.local_shard else (ranks.size, ranks.rank)
    own = (Found(_names(found), cut(_files(found), parts, part)),)
    if options.tokenizer is not None:
        with Cache(options.cache_dir or default_root(), None, note) as cache, cache.explained():
            encoded = _encode_by_tokenizer(own, options, options.tokenizer, rows, on_bytes, cache.folder, ranks)
    else:
        encoded = _encode_files(own, options, vocabulary, rows, on_bytes, None, ranks, on_share)
    left_out: Counter[str] = Counter()
    for some in ranks.gather(dict(rows.left_out)):
        left_out.update(some)
    for what, count in left_out.items():
        note(f"left out {count:,} {what}")
    if options.local_shard:
        of_machines = ranks.gather(found if ranks.local_rank == 0 else ())
        found = tuple(each for machine in of_machines for each in machine)
    return replace(encoded, sources=found)


def memory_budget() -> float:
    """Return the bytes that an encoded corpus may take in memory: a quarter of what is there for this process."""
    available = available_memory()
    return math.inf if available is None else available / 4


def _surely_fits(files: Sequence[Source], budget: float) -> bool:
    """Say whether a corpus takes no more than so much memory, by the size of its files."""
    # A token of a text takes 2 bytes or more, and becomes 4, or 12 alone on its line. Compression may be good.
    sizes = [math.inf if file.size is None else file.size * (4 if file.plain else 100) for file in files]
    return sum(sizes) <= budget


def _in_memory(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array if array.flags.writeable else array.copy()


def _files(found: Iterable[Found]) -> list[Source]:
    return [file for each in found for file in each.files]


# --- the encoded corpus on disk ------------------------------------------------------------------------------------

_LARGE = frozenset({"ids", "offsets"})


def _key(found: Iterable[Found], options: Options) -> dict[str, Any] | None:
    """Return what the encoded corpus depends on; None if it is not to be kept, or cannot be told from another."""
    files = _files(found)
    if not options.cache or any(file.version is None for file in files):
        return None
    tokenizer, vocabulary = options.tokenizer, options.read_vocab
    names = [file.name if remote.is_url(file.name) else os.path.abspath(file.name) for file in files]  # noqa: PTH100
    return {
        "sources": [[name, file.kind, file.size, file.version] for name, file in zip(names, files, strict=True)],
        "options": {
            name: getattr(options, name) for name in ("min_count", "max_vocab", "lowercase", "errors", "column")
        },
        "tokenizer": None if tokenizer is None else [_digest(tokenizer), metadata.version("tokenizers")],
        "read_vocab": None if vocabulary is None else _digest(vocabulary),
        "unicode": unicodedata.unidata_version,
    }


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None  # who reads it next says so


def _to_entry(corpus: Corpus) -> Entry:
    facts = {name: getattr(corpus, name) for name in ("tokens_read", "lines", "dropped", "replaced", "fingerprint")}
    return Entry(
        {"ids": corpus.ids, "offsets": corpus.offsets, "counts": corpus.vocabulary.counts},
        {"words": corpus.vocabulary.words, "tokenizer": corpus.tokenizer_json},
        facts,
    )


def _from_entry(entry: Entry, found: tuple[Found, ...]) -> Corpus:
    return Corpus(
        entry.arrays["ids"],
        entry.arrays["offsets"],
        Vocabulary(entry.values["words"], entry.arrays["counts"].copy()),
        sources=found,
        tokenizer_json=entry.values["tokenizer"],
        **entry.facts,
    )


def _is_right(entry: Entry, workers: int) -> bool:
    vocabulary = Vocabulary(entry.values["words"], entry.arrays["counts"])
    fingerprint = _fingerprint(vocabulary, entry.arrays["ids"], entry.arrays["offsets"], workers)
    return bool(fingerprint == entry.facts["fingerprint"])


def _paths(corpus: object) -> list[str] | None:
    """Return the files to read, or None if the corpus is an iterable of sentences."""
    if isinstance(corpus, (str, os.PathLike)):
        return [os.fspath(corpus)]
    if not isinstance(corpus, Iterable) or isinstance(corpus, (bytes, bytearray)):
        raise EmbedtrainError(
            f"the corpus must be a path, a list of paths, or an iterable of lists of words, not {type(corpus).__name__}"
        )
    if isinstance(corpus, Sequence) and all(isinstance(item, (str, os.PathLike)) for item in corpus):
        if not corpus:
            raise EmbedtrainError("the corpus is an empty list")
        return [os.fspath(item) for item in corpus]
    return None


# --- files, words separated by white space: native ----------------------------------------------------------------


def _encode_files(
    found: tuple[Found, ...],
    options: Options,
    vocabulary: Vocabulary | None,
    rows: Rows,
    on_bytes: OnBytes,
    folder: Path | None,
    ranks: Ranks | None,
    on_share: OnShare,
) -> Corpus:
    """Encode files: in memory, or into a folder and in bounded memory."""
    from embedtrain.native import core

    memory = int(max(min(memory_budget(), _MOST_MEMORY), 1))
    encoder = core.Encoder(options.workers, options.errors, None if folder is None else str(folder), memory)
    size = 0
    choose = vocabulary is None and ranks is not None  # among the words of all ranks: until then, all are kept
    try:
        for source, chunk in sources.read(_files(found), on_bytes, _CHUNK_BYTES, rows):
            size += len(chunk)
            bad = encoder.feed(chunk) if chunk else encoder.end_file()
            if bad is not None:
                raise _not_text(source, *bad)
        words = None if vocabulary is None else _lines(vocabulary.words)
        if words is not None and rows.category == "tokens":
            words = words.replace(b" ", SPACE_WITHIN.encode())
        lower = (lambda text: text.decode().lower().encode()) if options.lowercase else None
        min_count, max_vocab = (1, None) if choose else (options.min_count, options.max_vocab)
        result = encoder.finish(min_count, max_vocab, PAD, lower, words, on_share)
    except ValueError as error:  # too many or too long words
        raise EmbedtrainError(f"{_names(found)}: {error}") from error
    if size == 0 and ranks is None:
        raise EmbedtrainError(f"{_names(found)} is empty")
    if vocabulary is None:
        text = result["words"].decode()
        if rows.category == "tokens":
            text = text.replace(SPACE_WITHIN, " ")
        vocabulary = Vocabulary(text.split("\n")[:-1], result["counts"])
    ids, offsets, largest_count = result["ids"], result["offsets"], result["largest_count"]
    out_of_vocabulary = result["out_of_vocabulary"]
    if folder is not None:  # they are files
        ids, offsets = map_array(Path(ids), np.dtype(np.int32)), map_array(Path(offsets), np.dtype(np.int64))
    if choose and ranks is not None:
        own, tokens = vocabulary, len(ids)
        vocabulary, largest_count = merge_vocabulary(own.words, own.counts, options.min_count, options.max_vocab, ranks)
        row_of = {word: row for row, word in enumerate(vocabulary.words)}
        new_ids = np.fromiter((row_of.get(word, -1) for word in own.words), np.int32, len(own))
        ids, offsets = _renumbered(ids, offsets[1:], new_ids, folder)
        out_of_vocabulary = tokens - len(ids)
    dropped = {
        "out_of_vocabulary": out_of_vocabulary,
        "invalid_utf8": result["invalid"],
        "pad_token": result["padding"],
    }
    return _finished(
        ids, offsets, vocabulary, found, options, ranks,
        tokens_read=result["tokens_read"], lines=result["lines"] + rows.empty, dropped=dropped,
        replaced=result["replaced"], largest_count=largest_count,
    )  # fmt: skip


def _not_text(source: Source, line: int, offset: int, byte: int) -> EmbedtrainError:
    if source.begin:
        line, offset = line + _newlines_before(source), offset + source.begin
    where = f"{source.name}: line {line}, byte {offset}: 0x{byte:02x}"
    if byte == 0:
        return EmbedtrainError(f"{where}: this looks like a binary file; give UTF-8 text, plain or compressed")
    return EmbedtrainError(f"{where} is not UTF-8 text; convert the file, or pass --errors replace or --errors skip")


def _newlines_before(source: Source) -> int:
    with Path(source.name).open("rb") as file:
        count = done = 0
        while done < source.begin and (block := file.read(min(source.begin - done, _CHUNK_BYTES))):
            count += block.count(b"\n")
            done += len(block)
    return count


# --- lists of words ------------------------------------------------------------------------------------------------


def _encode_sentences(
    sentences: Iterable[Any],
    options: Options,
    vocabulary: Vocabulary | None,
    folder: Callable[[], Path],
    ranks: Ranks | None,
) -> Corpus:
    if options.tokenizer is not None:
        raise EmbedtrainError("tokenizer cuts raw text into tokens: give it text files, not lists of words")
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    number_of = numbers.__getitem__
    tokens = _Tokens(folder)
    for number, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            raise EmbedtrainError(
                f"sentence {number} is a string, {sentence[:40]!r}; give a list of words, e.g. sentence.split()"
            )
        try:
            tokens.ids.extend(map(number_of, sentence))
        except TypeError as error:  # not iterable, or an item that is not hashable and so no string
            raise EmbedtrainError(f"sentence {number} is not a list of words: {error}") from error
        tokens.end_sentence()
    ids, line_ends = tokens.finish()
    _check_words(numbers, ids, line_ends)

    counts = dict(zip(map(str, numbers), _counted(ids, len(numbers)).tolist(), strict=True))
    spelled = list(counts)
    if options.lowercase:
        spelled = [word.lower() for word in spelled]
        merged: defaultdict[str, int] = defaultdict(int)
        for word, count in zip(spelled, counts.values(), strict=True):
            merged[word] += count
        counts = merged
    padding = counts.pop(PAD, 0)
    largest_count = max(counts.values(), default=0)
    shared = ranks if options.local_shard else None  # otherwise each rank is given all of them
    if vocabulary is None and shared is not None:
        seen = np.fromiter(counts.values(), np.int64, len(counts))
        vocabulary, largest_count = merge_vocabulary(list(counts), seen, options.min_count, options.max_vocab, shared)
    elif vocabulary is None:
        vocabulary = Vocabulary.most_frequent(counts, options.min_count, options.max_vocab)
    rows = {word: row for row, word in enumerate(vocabulary.words)}
    new_ids = np.fromiter((rows.get(word, -1) for word in spelled), np.int32, len(spelled))
    kept, offsets = _renumbered(ids, line_ends, new_ids, tokens.folder)
    encoded = _finished(
        kept, offsets, vocabulary, (Found("lists of words", (Source("lists of words", None),)),), options, shared,
        tokens_read=len(ids), lines=len(line_ends), replaced=0, largest_count=largest_count,
        dropped={"out_of_vocabulary": len(ids) - len(kept) - padding, "pad_token": padding},
    )  # fmt: skip
    if ranks is not None and shared is None and len(set(ranks.gather(encoded.fingerprint))) > 1:
        raise EmbedtrainError(
            "the ranks were given different sentences; give all the same ones, or each its own with local_shard"
        )
    return encoded


def _check_words(numbers: dict[Any, int], ids: npt.NDArray[np.int32], ends: npt.NDArray[np.int64]) -> None:
    """Refuse tokens that could not be written to a vocabulary and read back."""
    try:
        text = "\n".join(numbers)
        text.encode()
        if "" not in numbers and "\r" not in text and text.count("\n") == max(len(numbers) - 1, 0):
            return
    except (TypeError, UnicodeEncodeError):
        pass
    for word, number in numbers.items():
        if not isinstance(word, str):
            problem = f"is {word!r}, not a string"
        elif not word:
            problem = "is empty"
        elif "\n" in word or "\r" in word:
            problem = f"holds a line break: {word[:40]!r}"
        elif any("\ud800" <= character <= "\udfff" for character in word):
            problem = f"is not valid Unicode, it holds a lone surrogate: {word[:40]!r}"
        else:
            continue
        position = int(np.flatnonzero(ids == number)[0])
        sentence = int(np.searchsorted(ends, position, side="right"))
        token = position - (int(ends[sentence - 1]) if sentence else 0)
        raise EmbedtrainError(f"sentence {sentence}, token {token} {problem}")


# --- text through a tokenizer --------------------------------------------------------------------------------------


def _encode_by_tokenizer(
    found: tuple[Found, ...],
    options: Options,
    path: Path,
    rows: Rows,
    on_bytes: OnBytes,
    folder: Callable[[], Path],
    ranks: Ranks | None,
) -> Corpus:
    from tokenizers import Tokenizer

    try:
        tokenizer_json = path.read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except OSError as error:
        raise EmbedtrainError(f"{path}: the tokenizer cannot be read ({error.strerror})") from error
    except Exception as error:  # what from_str raises has no narrower type
        raise EmbedtrainError(f"{path}: this is no tokenizer.json of Hugging Face tokenizers ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    text = _TextReader(options.errors)
    tokens = _Tokens(folder)
    with _tokenizer_threads(options.workers):
        for lines in text.read(_files(found), rows, on_bytes):
            try:
                encodings = tokenizer.encode_batch_fast(lines, add_special_tokens=False)
            except Exception as error:  # nor has this
                raise EmbedtrainError(f"{path}: this tokenizer cannot cut the text ({error})") from error
            for encoding in encodings:
                tokens.ids.extend(encoding.ids)
                tokens.end_sentence()
    if text.size == 0 and ranks is None:
        raise EmbedtrainError(f"{_names(found)} is empty")

    named = {row: word for word, row in tokenizer.get_vocab(with_added_tokens=True).items()}
    words = [named.get(row, f"<unused-{row}>") for row in range(max(named, default=-1) + 1)]
    ids, ends = tokens.finish()
    counts = _counted(ids, len(words))
    pad, _ = special_tokens(tokenizer_json)
    padding = 0 if pad is None else int(counts[pad])
    if ranks is not None:
        counts = np.sum(ranks.gather(counts), axis=0)
    trained = counts >= options.min_count
    if pad is not None:
        trained[pad] = False
    kept, offsets = _renumbered(ids, ends, np.where(trained, np.arange(len(words)), -1), tokens.folder)
    dropped = {
        "out_of_vocabulary": len(ids) - len(kept) - padding,
        "invalid_utf8": text.skipped,
        "pad_token": padding,
    }
    return _finished(
        kept, offsets, Vocabulary(words, np.where(trained, counts, 0)), found, options, ranks,
        tokens_read=len(ids) + text.skipped, lines=text.lines, dropped=dropped, replaced=text.replaced,
        largest_count=int(counts.max(initial=0)), tokenizer_json=tokenizer_json,
    )  # fmt: skip


class _TextReader:
    """Reads files as lines of text, for a tokenizer, with the rules of ``errors`` for the words in them."""

    def __init__(self, errors: str) -> None:
        self.size = 0  # bytes
        self.lines = 0
        self.replaced = 0  # words
        self.skipped = 0
        self._errors = errors

    def read(self, files: Sequence[Source], rows: Rows, on_bytes: OnBytes) -> Iterator[list[str]]:
        """Yield the lines, many at a time."""
        open_line: list[bytes] = []
        line = offset = 0  # of the file, before open_line
        for source, chunk in sources.read(files, on_bytes, _TOKENIZER_CHUNK_BYTES, rows):
            self.size += len(chunk)
            data = bytes(chunk)
            cut = data.rfind(b"\n") + 1
            if data and not cut:
                open_line.append(data)
                continue
            block = b"".join((*open_line, data[:cut]))
            open_line = [data[cut:]] if data[cut:] else []
            if block:
                lines = self._decoded(block, source, line, offset).replace("\r\n", "\n").split("\n")
                if not lines[-1]:
                    lines.pop()
                self.lines += len(lines)
                line += len(lines)
                offset += len(block)
                yield lines
            if not data:
                line = offset = 0

    def _decoded(self, block: bytes, source: Source, line: int, offset: int) -> str:
        if offset == 0 and block.startswith(_BYTE_ORDER_MARK):
            block = block[len(_BYTE_ORDER_MARK) :]
            offset = len(_BYTE_ORDER_MARK)
        bad = _first_bad(block)
        if bad is None:
            return block.decode()
        if self._errors == "strict":
            raise _not_text(source, line + block.count(b"\n", 0, bad) + 1, offset + bad, block[bad])
        return _WORD.sub(self._mended, block).decode()

    def _mended(self, match: re.Match[bytes]) -> bytes:
        word = match[0]
        if _first_bad(word) is None:
            return word
        if self._errors == "skip":
            self.skipped += 1
            return b""
        self.replaced += 1
        return word.decode(errors="replace").replace("\0", "\ufffd").encode()


def _first_bad(text: bytes) -> int | None:
    """Index of the first byte that is not UTF-8 text, where NUL is none."""
    nul = text.find(b"\0")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start if nul < 0 else min(nul, error.start)
    return nul if nul >= 0 else None


@contextlib.contextmanager
def _tokenizer_threads(workers: int) -> Iterator[None]:
    """Tell the tokenizers library how many threads to use, unless the user has; its only way is the environment."""
    wanted = {"TOKENIZERS_PARALLELISM": str(workers > 1).lower(), "RAYON_NUM_THREADS": str(workers)}
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


# --- all -----------------------------------------------------------------------------------------------------------


class _Tokens:
    """Tokens as they come, by numbers that are not their ids yet. Those that do not fit into memory are put on disk.

    :param folder: makes the folder for them.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self.ids = array("i")
        """To be extended; what is on disk already is not in it."""
        self.folder: Path | None = None
        """None: all is in memory."""
        self._ends = array("q")
        self._before = 0  # on disk
        self._make_folder = folder
        self._most = memory_budget()

    def end_sentence(self) -> None:
        """Say that a sentence ends with what was added last."""
        self._ends.append(self._before + len(self.ids))
        if 4 * len(self.ids) + 8 * len(self._ends) > self._most:
            self._spill()

    def finish(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return all numbers, (N,), and where the sentences end, (S,)."""
        if self.folder is None:
            return _array(self.ids, np.int32), _array(self._ends, np.int64)
        self._spill()
        paths = self._paths(self.folder)
        arrays = [map_array(path, np.dtype(dtype)) for path, dtype in zip(paths, (np.int32, np.int64), strict=True)]
        for path in paths:
            path.unlink()  # stays as long as it is mapped
        return arrays[0], arrays[1]

    def _spill(self) -> None:
        if self.folder is None:
            self.folder = self._make_folder()
        for path, values in zip(self._paths(self.folder), (self.ids, self._ends), strict=True):
            with path.open("ab") as file:
                values.tofile(file)
        self._before += len(self.ids)
        del self.ids[:], self._ends[:]

    @staticmethod
    def _paths(folder: Path) -> list[Path]:
        return [folder / "numbers.bin", folder / "ends.bin"]


def _array(values: array[int], dtype: type[Any]) -> npt.NDArray[Any]:
    return np.frombuffer(values, dtype) if values else np.empty(0, dtype)


def _counted(ids: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.int64]:
    """Count each of ``size`` ids."""
    counts = np.zeros(size, np.int64)
    for begin in range(0, len(ids), _PIECE_TOKENS):  # numpy copies what it counts
        counts += np.bincount(ids[begin : begin + _PIECE_TOKENS], minlength=size)
    return counts


def _renumbered(
    ids: npt.NDArray[np.int32], ends: npt.NDArray[np.int64], new_ids: npt.NDArray[Any], folder: Path | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Give tokens their new ids, drop those with -1 and the sentences left empty; returns ids and offsets.

    :param folder: where ids and offsets are put; None: in memory.
    """
    new_ids = new_ids.astype(np.int32, copy=False)
    made_ids: list[npt.NDArray[Any]] = [np.empty(0, np.int32)]
    made_offsets: list[npt.NDArray[Any]] = [np.zeros(1, np.int64)]
    paths = [] if folder is None else [folder / "ids.bin", folder / "offsets.bin"]
    kept = offset = 0
    for begin in range(0, len(ids), _PIECE_TOKENS):
        piece = new_ids[ids[begin : begin + _PIECE_TOKENS]]
        is_kept = piece >= 0
        kept_before = np.append(0, np.cumsum(is_kept)) + kept
        first, last = np.searchsorted(ends, [begin, begin + len(piece)], side="right")
        offsets = np.unique(kept_before[ends[first:last] - begin])
        made_ids.append(piece[is_kept])
        made_offsets.append(offsets[offsets > offset])
        kept, offset = int(kept_before[-1]), max(offset, int(offsets[-1]) if len(offsets) else 0)
        for path, made in zip(paths, (made_ids, made_offsets), strict=bool(paths)):
            with path.open("ab") as file:
                np.concatenate(made).tofile(file)
            made.clear()
    if paths:
        return map_array(paths[0], np.dtype(np.int32)), map_array(paths[1], np.dtype(np.int64))
    return np.concatenate(made_ids), np.concatenate(made_offsets)


def _finished(
    ids: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    found: tuple[Found, ...],
    options: Options,
    ranks: Ranks | None,
    *,
    tokens_read: int,
    lines: int,
    dropped: dict[str, int],
    replaced: int,
    largest_count: int,
    tokenizer_json: str | None = None,
) -> Corpus:
    """Refuse a corpus from which nothing can be learned; otherwise put all together."""
    if ranks is not None:
        tokens_read, lines, replaced = (sum(ranks.gather(number)) for number in (tokens_read, lines, replaced))
        dropped = {reason: sum(ranks.gather(count)) for reason, count in dropped.items()}
    dropped = {reason: count for reason, count in dropped.items() if count}
    name = _names(found)
    if tokens_read == 0:
        raise EmbedtrainError(f"{name}: has no words, only white space")
    if largest_count == 0:
        raise EmbedtrainError(f"{name}: no words are left, all were dropped ({', '.join(dropped)})")
    trained = int(np.count_nonzero(vocabulary.counts))
    if options.read_vocab is not None:
        if tokens_read == sum(dropped.values()):
            raise EmbedtrainError(f"{name}: none of its words is in the vocabulary {options.read_vocab}")
    elif trained == 0:
        raise EmbedtrainError(
            f"{name}: no word occurs min-count ({options.min_count}) times (the most frequent one: "
            f"{largest_count}); lower --min-count or give more text"
        )
    elif trained == 1:
        only = vocabulary.words[int(np.flatnonzero(vocabulary.counts)[0])]
        raise EmbedtrainError(
            f"{name}: only one word, {only[:40]!r}, occurs min-count ({options.min_count}) times: there is nothing to "
            "contrast it with; lower --min-count or give more text"
        )
    part = None
    if ranks is None:
        fingerprint = _fingerprint(vocabulary, ids, offsets, options.workers)
    else:
        part, digests = _own_part(ids, offsets, options, vocabulary, ranks)
        fingerprint = _whole_fingerprint(vocabulary, digests)
    return Corpus(
        ids, offsets, vocabulary, found, tokens_read, lines, dropped, replaced, fingerprint, tokenizer_json, part
    )


def _fingerprint(
    vocabulary: Vocabulary, ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], workers: int
) -> str:
    with ThreadPoolExecutor(workers) as threads:
        return _whole_fingerprint(vocabulary, _digests(threads, ids, offsets[:-1]))


def _whole_fingerprint(vocabulary: Vocabulary, digests: Iterable[bytes]) -> str:
    counts = np.ascontiguousarray(vocabulary.counts).tobytes()
    return hashlib.sha256(b"".join([_lines(vocabulary.words), counts, *digests])).hexdigest()


def _digests(
    threads: ThreadPoolExecutor, ids: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], first: int = 0
) -> Iterator[bytes]:
    """Start to hash ids and sentences in stretches of a fixed number of positions, which threads and ranks share.

    :param starts: the positions in the corpus at which sentences start. :param first: that of ``ids[0]``.
    """

    def digest(begin: int) -> bytes:
        some = ids[begin : begin + _DIGEST_POSITIONS]
        low, high = np.searchsorted(starts, (first + begin, first + begin + len(some)))
        hashed = hashlib.sha256(np.ascontiguousarray(some).data)
        hashed.update(np.ascontiguousarray(starts[low:high]).data)
        return hashed.digest()

    return threads.map(digest, range(0, len(ids), _DIGEST_POSITIONS))  # hashlib does not hold the interpreter


def _own_part(
    ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], options: Options, vocabulary: Vocabulary, ranks: Ranks
) -> tuple[Part, list[bytes]]:
    """Return which part of the corpus this rank has read, and the digests of the whole."""
    import torch  # not at the top: it takes a second to import

    from embedtrain import ops
    from embedtrain.touches import kept_share

    sizes, sentences = ranks.gather(len(ids)), sum(ranks.gather(len(offsets) - 1))
    first, size = sum(sizes[: ranks.rank]), sum(sizes)
    # Each hashes an equal share, in the stretches of a fixed length that one process would.
    borders = np.minimum(-(-size // ranks.size) * np.arange(ranks.size + 1), size)
    borders[1:-1] = np.minimum(-(-borders[1:-1] // _DIGEST_POSITIONS) * _DIGEST_POSITIONS, size)
    wanted = [Stretches(borders[rank : rank + 1], borders[rank + 1 : rank + 2]) for rank in range(ranks.size)]
    stretch, starts = share(ids, offsets[:-1], first, wanted, ranks)
    with ThreadPoolExecutor(options.workers) as threads:
        own = list(_digests(threads, stretch, starts, int(borders[ranks.rank])))
    # A window needs W kept neighbours on either side, or the end of the sentence: far more than are ever needed.
    counts = torch.from_numpy(vocabulary.counts)
    kept = kept_share(counts, ops.keep_thresholds(counts, options.sample))
    margin = _MARGIN + int(4 * options.window / max(kept, 1e-6))
    return Part(first, size, sentences, margin), [digest for some in ranks.gather(own) for digest in some]


def _lines(words: Iterable[str]) -> bytes:
    return "\n".join((*words, "")).encode()


def _names(found: Sequence[Found]) -> str:
    return found[0].name if len(found) == 1 else f"{found[0].name} and {len(found) - 1} more"


def glance(path: Path) -> str:
    """Return size and a short hash of the beginning and the end of a file: tells different ones apart, mostly.

    :raises EmbedtrainError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_GLANCE_BYTES))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _GLANCE_BYTES, 0))
            digest.update(file.read())
    except OSError as error:
        raise EmbedtrainError(f"{path}: cannot be read ({error.strerror})") from error
    return f"of {size:,} bytes ({digest.hexdigest()[:8]})"


def special_tokens(tokenizer_json: str) -> tuple[int | None, int | None]:
    """Return the ids of a tokenizer's padding and unknown tokens, each None if it has none.

    Padding is what the tokenizer pads with or, where that is not set, a token named ``<pad>`` or ``[PAD]``.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    padding = tokenizer.padding["pad_id"] if tokenizer.padding else None
    if padding is None:
        padding = next((row for name in (PAD, "[PAD]") if (row := tokenizer.token_to_id(name)) is not None), None)
    model = json.loads(tokenizer_json)["model"]
    unknown = model.get("unk_id")  # Unigram
    if unknown is None and model.get("unk_token") is not None:
        unknown = tokenizer.token_to_id(model["unk_token"])
    return padding, unknown
