"""The formats of files and folders of vectors: how each is recognised and read.

Text and word2vec's binary stream through the native parser (csrc/vectors). The others hold their numbers as one array,
which is mapped into memory where the file lies there uncompressed, and streamed into the same native rows.

Shapes: V words, D numbers each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from embedtrain import sources
from embedtrain.errors import EmbedtrainError
from embedtrain.native import core
from embedtrain.reading import DEFECTS, NGRAMS, ReadOptions
from embedtrain.sources import OnBytes, Source
from embedtrain.vocabulary import PAD, UNK
from embedtrain.wanted import Wanted, from_tokenizer, parse_words, read_text

if TYPE_CHECKING:
    from embedtrain.embeddings import Embeddings

_CHUNK_BYTES = 4 << 20
_HEAD_BYTES = 1 << 20
# Numbers of an array that go to the native rows at a time: 16 MB.
_NUMBERS_AT_ONCE = 1 << 22
_MAX_DIM = 1 << 16
_MAX_NGRAM = 1 << 16

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEADER = re.compile(rb"[ \t]*(\d{1,15})[ \t]+(\d{1,9})[ \t]*\r?(?:\n|\Z)")
_FLORET_HEADER = re.compile(rb"(\d+) (\d+) (\d+) (\d+) ([1-4]) (\d+) (\S+) (\S+)[ \t]*\r?\n")
_NUMBER = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf|infinity)", re.IGNORECASE)
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_KNOWN = "word2vec, GloVe, fastText, floret, finalfusion, npy, npz, safetensors"

_DTYPES: dict[str, tuple[int, Any]] = {
    "float32": (0, np.dtype(np.float32)),
    "float16": (1, np.dtype(np.float16)),
    "bfloat16": (2, np.dtype(np.int16)),  # numpy has none; torch takes it as what it is
}

_MORE, _ENOUGH, _REFUSED, _CHANGED, _NO_TOKEN = range(5)  # Parser::Status in csrc/vectors/parser.h

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """What reading a source gave, before missing rows are filled.

    :param words: V tokens; ``weight`` (V, D) and ``states`` uint8 (V,) are theirs; a state of 0 is a row without a
        vector.
    :param findings: (how often, where first) for each of :data:`embedtrain.reading.DEFECTS`.
    :param place: what ``findings`` count: line, byte or row.
    :param vocabulary: what was wanted; None: all words.
    """

    name: str
    member: str | None
    format: str
    words: list[str]
    weight: torch.Tensor
    states: npt.NDArray[np.uint8]
    rows_read: int
    rows_in_header: int | None
    dim_in_header: int | None
    findings: list[tuple[int, int]]
    place: str
    counts: npt.NDArray[np.int64] | None
    pad_index: int | None
    unk_index: int | None
    tokenizer_json: str | None
    vocabulary: Wanted | None
    has_ngrams: bool
    config: dict[str, Any]


def read_source(path: Path, options: ReadOptions, vocabulary: Wanted | None, on_bytes: OnBytes) -> Found:
    """Recognise a source and read it.

    :raises EmbedtrainError: if it is none of the formats, or what is wrong with it and where.
    """
    if options.gensim:
        return _read_gensim(path, _Job(Source(str(path), None), options, vocabulary))
    if path.is_dir():
        return _read_folder(path, options, vocabulary)
    source = sources.find(path)
    members = sources.zip_members(source)
    if members is not None:
        names = [member.member or "" for member in members]
        if "data.pkl" in {name.rpartition("/")[2] for name in names}:
            raise EmbedtrainError(f"{path}: a file of torch.save; give the embedtrain folder that it is in")
        if names and all(name.endswith(".npy") for name in names):
            return _read_npz(path, _Job(source, options, vocabulary))
        source = _choose_member(source, members, options)
    elif options.member is not None:
        raise EmbedtrainError(f"{path}: not a .zip file, so it has no member {options.member!r}")
    job = _Job(source, options, vocabulary)
    chunks = sources.read([source], on_bytes, _CHUNK_BYTES)
    with contextlib.closing(chunks):
        first = bytes(next(chunks)[1])
        head = first[:_HEAD_BYTES]
        for magic, read in _BINARY_FORMATS:
            if re.match(magic, head, re.DOTALL):
                return read(job)
        complete = len(first) < _CHUNK_BYTES
        return _read_rows(job, first, head, complete and len(first) <= _HEAD_BYTES, chunks)


def _choose_member(source: Source, members: Sequence[Source], options: ReadOptions) -> Source:
    """Pick the file of a .zip that holds the vectors; READMEs and the like do not count."""
    if options.member is not None:
        for member in members:
            if member.member == options.member:
                return member
        raise EmbedtrainError(f"{source}: no file {options.member!r} in it; there are {_list(members)}")
    candidates = [
        member
        for member in members
        if not re.search(r"(^|/)(__MACOSX/|\.|readme|license|licence|meta\.json$)", member.member or "", re.IGNORECASE)
    ]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise EmbedtrainError(f"{source}: no file of vectors in this .zip")
    raise EmbedtrainError(
        f"{source}: {len(candidates)} files in this .zip could be meant; choose with member: {_list(candidates)}"
    )


def _list(members: Sequence[Source]) -> str:
    return ", ".join(member.member or "" for member in members[:10]) + (", …" if len(members) > 10 else "")


# ---- rows that arrive


@dataclass(eq=False)
class _Job:
    """One source and what is wanted of it; turns rows into :class:`Found`."""

    source: Source
    options: ReadOptions
    vocabulary: Wanted | None
    initial: list[str] = field(init=False)

    def __post_init__(self) -> None:
        if self.vocabulary is not None:
            self.initial = self.vocabulary.words
        else:
            self.initial = [PAD, UNK] if self.options.special_rows else []

    @property
    def name(self) -> str:
        return str(self.source)

    def error(self, text: str) -> EmbedtrainError:
        return EmbedtrainError(f"{self.name}: {text}")

    def fallbacks(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Return lower-case forms to look for, and the rows that they are for."""
        if self.vocabulary is None or not self.options.lowercase_fallback:
            return [], np.zeros(0, np.int64)
        special = {self.vocabulary.pad_index, self.vocabulary.unk_index}
        pairs = [
            (lower, row)
            for row, word in enumerate(self.vocabulary.words)
            if (lower := word.lower()) != word and row not in special
        ]
        return [word for word, _ in pairs], np.fromiter((row for _, row in pairs), np.int64, len(pairs))

    def reader(self, dim: int, *, limited: bool = True) -> core.VectorReader:
        """Return the native rows for vectors of this dimension.

        :param limited: False if the limit was minded before.
        """
        if not 1 <= dim <= _MAX_DIM:
            raise self.error(f"rows of {dim:,} numbers; 1 to {_MAX_DIM:,} can be read")
        words, rows = self.fallbacks()
        limit = self.options.limit if limited else None
        try:
            return core.VectorReader(
                dim=dim,
                type=_DTYPES[self.options.dtype][0],
                tokens=_lines(self.initial),
                grow=self.vocabulary is None,
                fallback_tokens=_lines(words),
                fallback_rows=rows.ctypes.data,
                unit_norm=self.options.unit_norm,
                strict=self.options.strict,
                limit=-1 if limit is None else limit,
            )
        except MemoryError:
            raise self.no_memory(len(self.initial), dim) from None

    def no_memory(self, rows: int, dim: int) -> EmbedtrainError:
        return self.error(
            f"no memory for more than {rows:,} rows of {dim} numbers; read fewer (limit, a vocabulary) or smaller ones "
            "(dtype)"
        )

    def found(
        self,
        reader: core.VectorReader,
        dim: int,
        format: str,
        *,
        place: str = "row",
        rows_read: int | None = None,
        rows_in_header: int | None = None,
        dim_in_header: int | None = None,
        by_ngrams: npt.NDArray[np.int64] | None = None,
        has_ngrams: bool = False,
        config: dict[str, Any] | None = None,
    ) -> Found:
        """Finish reading.

        :param by_ngrams: rows whose vectors were put together from n-grams.
        """
        findings = reader.findings()
        header_wrong = rows_in_header not in (None, reader.rows_read) and self.options.limit is None
        if self.options.strict:
            for (count, first), text in zip(findings, DEFECTS.values(), strict=True):
                if count:
                    raise self.error(f"{place} {first:,}: a row {text}; strict reading refuses that")
            if header_wrong or dim_in_header not in (None, dim):
                raise self.error(
                    f"its header says {rows_in_header} rows of {dim_in_header} numbers, but there are "
                    f"{reader.rows_read} of {dim}; strict reading refuses that"
                )
        rows_read = reader.rows_read if rows_read is None else rows_read
        dtype = _DTYPES[self.options.dtype][1]
        added, states, numbers = reader.finish_rows(dtype.itemsize)
        words = [*self.initial, *added.decode().split("\n")[:-1]]
        weight = torch.from_numpy(numbers.view(dtype).reshape(len(words), dim))
        if self.options.dtype == "bfloat16":
            weight = weight.view(torch.bfloat16)
        if by_ngrams is not None:
            states = states.copy()
            states[by_ngrams] = NGRAMS
        wanted = self.vocabulary
        special = self.options.special_rows
        return Found(
            name=self.source.name,
            member=self.source.member,
            format=format,
            words=words,
            weight=weight,
            states=states,
            rows_read=rows_read,
            rows_in_header=rows_in_header,
            dim_in_header=dim_in_header,
            findings=findings,
            place=place,
            counts=None if wanted is None else wanted.counts,
            pad_index=wanted.pad_index if wanted is not None else 0 if special else None,
            unk_index=wanted.unk_index if wanted is not None else 1 if special else None,
            tokenizer_json=None if wanted is None else wanted.tokenizer_json,
            vocabulary=wanted,
            has_ngrams=has_ngrams,
            config=config or {},
        )

    def read_array(
        self, words: Sequence[str], rows: Callable[[int, int], Floats], dim: int, format: str, **more: Any
    ) -> Found:
        """Read an array with a row per word.

        :param rows: rows(begin, end) gives float32 (end - begin, D).
        """
        reader = self.reader(dim)
        self.add_array(reader, words, rows, dim)
        return self.found(reader, dim, format, **more)

    def add_array(
        self, reader: core.VectorReader, words: Sequence[str], rows: Callable[[int, int], Floats], dim: int
    ) -> None:
        """Give an array to the reader, as far as the limit allows."""
        step = max(1, _NUMBERS_AT_ONCE // dim)
        limit = len(words) if self.options.limit is None else min(self.options.limit, len(words))
        for begin in range(0, limit, step):
            end = min(begin + step, limit)
            self.add(reader, words[begin:end], rows(begin, end), begin + 1)
            if reader.refused:
                break

    def add(self, reader: core.VectorReader, words: Sequence[str], rows: Floats, first: int) -> None:
        """Give rows (n, D) to the reader."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        try:
            reader.add(_lines(words), rows.ctypes.data, first)
        except MemoryError:
            raise self.no_memory(reader.rows_read, rows.shape[1]) from None


def _lines(words: Sequence[str]) -> bytes:
    """Return the words, each ended by a newline. Those that hold one were refused, or are replaced by nothing here."""
    if any("\n" in word for word in words):
        words = ["" if "\n" in word else word for word in words]  # an empty word is a defect of its own
    return "".join(f"{word}\n" for word in words).encode("utf-8", "surrogateescape")


# ---- word2vec text and binary, GloVe, fastText .vec, floret


def _read_rows(
    job: _Job, first: bytes, head: bytes, complete: bool, chunks: Iterator[tuple[Source, memoryview]]
) -> Found:
    if head.startswith(_BYTE_ORDER_MARK):
        first, head = first[len(_BYTE_ORDER_MARK) :], head[len(_BYTE_ORDER_MARK) :]
    if not head.strip():
        raise job.error("is empty")
    if (match := _FLORET_HEADER.match(head)) is not None:
        return _read_floret(job, match, first, chunks)
    layout = _recognise(head, complete)
    if layout is None:
        raise job.error(f"none of the formats that can be read ({_KNOWN})")
    reader = job.reader(layout.dim)
    if layout.binary:
        assert layout.rows is not None
        reader.begin_binary(layout.rows, layout.header_bytes)
    else:
        reader.begin_text(int(layout.rows is not None))
    _stream(job, reader, layout, first, chunks)
    return job.found(
        reader,
        layout.dim,
        "GloVe text" if layout.rows is None else "word2vec binary" if layout.binary else "word2vec text",
        place="byte" if layout.binary else "line",
        rows_in_header=layout.rows,
        dim_in_header=layout.dim_in_header,
    )


@dataclass(frozen=True)
class _Layout:
    dim: int
    rows: int | None = None
    """By the header; None: there is no header."""
    dim_in_header: int | None = None
    header_bytes: int = 0
    binary: bool = False


def _recognise(head: bytes, complete: bool) -> _Layout | None:
    """Say what the start of a file looks like.

    :param complete: there is no more of it than the head.
    """
    lines = head.split(b"\n")
    if not complete and len(lines) > 1:
        del lines[-1]
    widths = [width for line in lines[:200] if (width := _width(line)) is not None]
    match = _HEADER.match(head)
    rest = widths[1:] if match is not None else widths
    dim = Counter(rest).most_common(1)[0][0] if rest else 0  # the first line may be an exception
    if match is None:
        return _Layout(dim) if dim else None
    rows, dim_in_header = int(match[1]), int(match[2])
    body = head[match.end() : match.end() + 65536]
    if not body.strip():
        return None if not complete else _Layout(max(dim_in_header, 1), rows, dim_in_header)
    if dim_in_header and rest.count(dim_in_header) == 0 and (_NOT_TEXT.search(body) or not _is_utf8(body)):
        return _Layout(dim_in_header, rows, dim_in_header, match.end(), binary=True)
    if not dim:
        return None
    # Two whole numbers are a header, unless rows are that narrow and the second is not their width.
    if dim == 1 and dim_in_header != 1:
        return _Layout(dim)
    return _Layout(dim, rows, dim_in_header)


def _width(line: bytes) -> int | None:
    """Return how many fields of a line, from the right, are numbers; the first field never counts. None: blank."""
    fields = re.split(rb"[ \t]", line.rstrip(b" \t\r"))
    if fields == [b""]:
        return None
    width = 0
    for value in reversed(fields[1:]):
        if _NUMBER.fullmatch(value) is None:
            break
        width += 1
    return width


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start > len(body) - 4  # cut by us
    return True


def _stream(
    job: _Job,
    reader: core.VectorReader,
    layout: _Layout,
    first: bytes,
    chunks: Iterator[tuple[Source, memoryview]],
) -> None:
    """Feed the text of a source to the reader's parser."""
    place = "byte" if layout.binary else "line"
    try:
        status = reader.feed(first)
        while status == _MORE and len(chunk := next(chunks)[1]):
            status = reader.feed(chunk)
        if status == _MORE:
            status = reader.finish()
    except MemoryError:
        raise job.no_memory(reader.rows_read, layout.dim) from None
    except ValueError as error:
        raise job.error(f"line {reader.place:,}: {error}; this is no file of vectors") from None
    if status == _CHANGED:
        raise job.error(
            f"line {reader.changed_at:,}: from here on rows have another number of numbers than the {layout.dim} before"
        )
    if status == _NO_TOKEN:
        raise job.error(f"byte {reader.place:,}: no word here; the file is damaged, or not word2vec binary")
    cut, at = reader.findings()[-1]
    if cut and layout.rows is not None and reader.rows_read < layout.rows:
        raise job.error(
            f"the file is cut off in the row at {place} {at:,}: its header says {layout.rows:,} rows, "
            f"{reader.rows_read - (not layout.binary):,} are complete; get it again, or read those with limit"
        )


def _read_floret(job: _Job, header: re.Match[bytes], first: bytes, chunks: Any) -> Found:
    buckets, dim, min_n, max_n, hash_count, seed = (int(value) for value in header.groups()[:6])
    if job.vocabulary is None:
        raise job.error("a floret table has n-grams and no words; give the vocabulary that you want vectors for")
    table_job = _Job(job.source, ReadOptions(special_rows=False, strict=True), None)
    reader = table_job.reader(dim)
    reader.begin_text(1)
    _stream(table_job, reader, _Layout(dim, buckets, dim), first, chunks)
    table = table_job.found(reader, dim, "floret", place="line", rows_in_header=buckets)
    if table.words != [str(row) for row in range(buckets)]:
        raise job.error(f"the rows of a floret table must be numbered 0 to {buckets - 1:,}")
    ngrams = _Ngrams(
        job,
        table.weight.numpy().view(np.uint8).reshape(-1),
        buckets,
        dim,
        _SUBWORDS
        | {
            "min_n": min_n, "max_n": max_n, "buckets": buckets, "hash": _FLORET_HASH, "hash_count": hash_count,
            "hash_seed": seed, "begin": header[7].decode(), "end": header[8].decode(), "end_of_line": True,
        },
    )  # fmt: skip
    rows = job.reader(dim, limited=False)
    by_ngrams = ngrams.fill(rows, [], exclude={job.vocabulary.pad_index, job.vocabulary.unk_index})
    return job.found(rows, dim, "floret", rows_read=buckets, by_ngrams=by_ngrams, has_ngrams=True)


# Of Subwords in csrc/vectors/subwords.h, as fastText has it.
_FASTTEXT_HASH, _FLORET_HASH, _FINALFUSION_HASH = range(3)
_SUBWORDS: dict[str, Any] = {
    "first_bucket": 0, "hash": _FASTTEXT_HASH, "hash_count": 1, "hash_seed": 0, "begin": "<", "end": ">",
    "lone_marks": False, "end_of_line": False,
}  # fmt: skip


@dataclass(eq=False)
class _Ngrams:
    """A table of n-gram vectors, float32 (rows, D) as bytes in any alignment, and how words are put together of it."""

    job: _Job
    table: npt.NDArray[np.uint8]
    rows: int
    dim: int
    subwords: dict[str, Any]

    def compose(self, words: Sequence[str], word_rows: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.int32]]:
        """Return vectors (n, D) of words, and of how many rows each is the mean.

        :param word_rows: int64 (n,), the word's own row, -1 if it has none.
        """
        out = np.empty((len(words), self.dim), np.float32)
        counts = np.empty(len(words), np.int32)
        core.compose_words(
            _lines(words), word_rows.ctypes.data, self.table.ctypes.data, self.rows, self.dim, out.ctypes.data,
            counts.ctypes.data, **self.subwords,
        )  # fmt: skip
        return out, counts

    def add(self, reader: core.VectorReader, words: Sequence[str], word_rows: npt.NDArray[np.int64]) -> list[str]:
        """Give the vectors of words to the reader; return those of them that have one."""
        step = max(1, _NUMBERS_AT_ONCE // self.dim)
        composed = []
        for begin in range(0, len(words), step):
            part = words[begin : begin + step]
            vectors, counts = self.compose(part, word_rows[begin : begin + step])
            have = np.flatnonzero(counts)
            part = [part[row] for row in have.tolist()]
            self.job.add(reader, part, vectors[have], begin + 1)
            composed += part
        return composed

    def fill(self, reader: core.VectorReader, covered: Sequence[str], exclude: set[int | None]) -> Any:
        """Give vectors from n-grams to the words of the vocabulary that are not covered; return their rows."""
        if self.job.options.missing not in ("auto", "ngrams"):
            return None
        done = set(covered)
        lower = self.job.options.lowercase_fallback
        missing = {
            word: row
            for row, word in enumerate(self.job.initial)
            if row not in exclude and word not in done and not (lower and word.lower() in done)
        }
        composed = self.add(reader, list(missing), np.full(len(missing), -1, np.int64))
        return np.fromiter((missing[word] for word in composed), np.int64, len(composed))


@dataclass(eq=False)
class _ListedNgrams(_Ngrams):
    """N-grams that are listed with their rows, as finalfusion can have them; others have none."""

    listed: dict[str, int]

    def compose(self, words: Sequence[str], word_rows: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.int32]]:
        """As for hashed n-grams; word_rows are -1 here."""
        table = self.table.view(np.float32).reshape(self.rows, self.dim)
        out = np.zeros((len(words), self.dim), np.float32)
        counts = np.zeros(len(words), np.int32)
        for row, word in enumerate(words):
            text = f"{self.subwords['begin']}{word}{self.subwords['end']}"
            lengths = range(self.subwords["min_n"], self.subwords["max_n"] + 1)
            ngrams = (text[at : at + n] for at in range(len(text)) for n in lengths if at + n <= len(text))
            rows = [self.listed[ngram] for ngram in ngrams if ngram in self.listed]
            if rows:
                out[row], counts[row] = table[rows].mean(axis=0), len(rows)
        return out, counts


# ---- fastText's model files

_FLORET_SEED = 2166136261  # of its hashes, when it is not in the file


def _read_fasttext(job: _Job) -> Found:
    data = _whole(job)
    read = _Struct(job, data)
    read("<ii")
    version = int.from_bytes(data[4:8].tobytes(), "little")
    if version not in (11, 12):
        raise job.error(f"a fastText model of version {version}; 11 and 12 can be read")
    start = read.at
    args = read("<12id")
    size, nwords, nlabels, _, pruned = read("<iiiqq")
    floret = False
    if size != nwords + nlabels:  # floret writes two more arguments, mode and hashCount, under the same version
        read.at = start
        args = read("<14id")
        size, nwords, nlabels, _, pruned = read("<iiiqq")
        floret = args[11] == 2
    dim, loss_model, buckets, min_n, max_n = args[0], args[7], args[8], args[9], args[10]
    if version == 11 and loss_model == 3:
        max_n = 0  # old supervised models did not use them
    try:
        lines, _, types, used = core.read_fasttext_dictionary(
            data.ctypes.data + read.at, len(data) - read.at, max(size, 0)
        )
    except ValueError as error:
        raise job.error(str(error)) from None
    read.at += used
    if pruned > 0:
        raise job.error("a fastText model whose n-grams were pruned (quantize -cutoff); use the model before that")
    (quantised,) = read("<B")
    if quantised:
        raise job.error("a quantised fastText model (.ftz); use the .bin that it was made from")
    rows, columns = read("<qq")
    if nwords + nlabels != size or columns != dim or rows < nwords or not 1 <= dim <= _MAX_DIM:
        raise job.error("the sizes in this fastText model contradict each other; the file is damaged")
    if len(data) - read.at < rows * dim * 4:
        raise job.error(f"cut off at byte {len(data):,}: its vectors would end at byte {read.at + rows * dim * 4:,}")
    if min_n > max_n or pruned == 0:
        max_n = 0
    words = [word.decode("utf-8", "surrogateescape") for word in lines.split(b"\n")[:-1]]
    if any(types[:nwords] != 0):
        raise job.error("the words of this fastText model do not come before its labels; the file is damaged")
    words = words[:nwords]
    ngrams = _Ngrams(
        job,
        data[read.at : read.at + rows * dim * 4],
        rows,
        dim,
        _SUBWORDS
        | {"min_n": min_n, "max_n": max_n, "buckets": rows - nwords if max_n else 0, "first_bucket": nwords}
        | ({"hash": _FLORET_HASH, "hash_count": args[12], "hash_seed": _FLORET_SEED} if floret else {}),
    )
    if max_n and rows - nwords != buckets:
        raise job.error("the sizes in this fastText model contradict each other; the file is damaged")
    format = "floret model" if floret else "fastText model"
    format += f", n-grams of {min_n} to {max_n}" if max_n else ", no n-grams"
    reader = job.reader(dim, limited=False)
    index = np.arange(nwords if job.options.limit is None else min(nwords, job.options.limit))
    words = words[: len(index)]
    if job.vocabulary is not None:
        needed = {*job.vocabulary.words, *job.fallbacks()[0]}
        index = np.fromiter((row for row in index if words[row] in needed), np.int64)
        words = [words[row] for row in index]
    if floret:
        index = np.where(index == 0, 0, -1)  # all words but the first, by a slip, are their n-grams alone
    covered = ngrams.add(reader, words, index)
    by_ngrams = None
    if job.vocabulary is not None and max_n:
        by_ngrams = ngrams.fill(reader, covered, {job.vocabulary.pad_index, job.vocabulary.unk_index})
    return job.found(reader, dim, format, rows_read=nwords, by_ngrams=by_ngrams, has_ngrams=max_n > 0)


class _Struct:
    """Reads packed little-endian values one after the other."""

    def __init__(self, job: _Job, data: npt.NDArray[np.uint8], at: int = 0) -> None:
        self.at = at
        self._job, self._data = job, data

    def __call__(self, format: str) -> tuple[Any, ...]:
        return struct.unpack(format, self.bytes(struct.calcsize(format)))

    def bytes(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self._data):
            raise self._job.error(f"cut off at byte {len(self._data):,}, or damaged before")
        self.at += size
        return self._data[self.at - size : self.at].tobytes()

    def text(self) -> str:
        """Return what finalfusion writes as a string: a uint32 of how many bytes, then these."""
        return self.bytes(self("<I")[0]).decode("utf-8", "surrogateescape")


def _whole(job: _Job) -> npt.NDArray[np.uint8]:
    """Return all bytes of a source: the file mapped into memory, or read and decompressed."""
    if sources.is_plain(job.source):
        return np.memmap(job.source.name, np.uint8, "r")
    content = bytearray()
    for _, chunk in sources.read([job.source], lambda done, total: None, _CHUNK_BYTES):
        content += chunk
    return np.frombuffer(content, np.uint8)


# ---- finalfusion

_SIMPLE_VOCAB, _ARRAY, _BUCKET_VOCAB, _QUANTISED, _METADATA, _NORMS, _FASTTEXT_VOCAB, _EXPLICIT_VOCAB = range(1, 9)


def _read_finalfusion(job: _Job) -> Found:
    """Read finalfusion's chunks. Its rows have length 1; multiplied with the norms they are what was trained.

    A word that it lacks is the mean of its n-grams, as in training; finalfusion itself scales that to length 1.
    """
    data = _whole(job)
    read = _Struct(job, data, at=4)
    version, chunk_count = read("<II")
    if version != 0:
        raise job.error(f"a finalfusion file of version {version}; 0 can be read")
    read(f"<{chunk_count}I")
    words: list[str] = []
    array: Any = None
    norms: Any = None
    subwords: dict[str, Any] | None = None
    listed: dict[str, int] | None = None
    for _ in range(chunk_count):
        chunk, size = read("<IQ")
        end = read.at + size
        if chunk in (_SIMPLE_VOCAB, _BUCKET_VOCAB, _FASTTEXT_VOCAB, _EXPLICIT_VOCAB):
            (count,) = read("<Q")
            listed_count, buckets = 0, 0
            if chunk == _EXPLICIT_VOCAB:
                listed_count, min_n, max_n = read("<QII")
            elif chunk != _SIMPLE_VOCAB:
                min_n, max_n, buckets = read("<III")
            words += [read.text() for _ in range(count)]
            if chunk != _SIMPLE_VOCAB:
                subwords = _SUBWORDS | {
                    "min_n": min_n, "max_n": max_n, "first_bucket": count, "lone_marks": True, "end_of_line": True,
                    "hash": _FINALFUSION_HASH if chunk == _BUCKET_VOCAB else _FASTTEXT_HASH,
                    "buckets": 1 << min(buckets, 40) if chunk == _BUCKET_VOCAB else buckets,
                }  # fmt: skip
            if chunk == _EXPLICIT_VOCAB:
                listed = {read.text(): count + read("<Q")[0] for _ in range(listed_count)}
                end = read.at  # the Python library's size of this chunk lacks the rows of the n-grams
        elif chunk == _ARRAY:
            rows, columns, type_id = read("<QII")
            array = _finalfusion_array(job, data, read.at, end, type_id, (rows, columns))
        elif chunk == _NORMS:
            rows, type_id = read("<QI")
            norms = _finalfusion_array(job, data, read.at, end, type_id, (rows,))
        elif chunk == _QUANTISED:
            raise job.error("a quantised finalfusion file; only whole numbers' arrays (NdArray) can be read")
        if read.at > end:
            raise job.error(f"damaged: a chunk is longer than the {size:,} bytes it should have")
        read.at = end
    if array is None or not words or len(array) < len(words):
        raise job.error("this finalfusion file lacks a vocabulary or its array")

    def rows_of(begin: int, end: int) -> Floats:
        part: Floats = np.array(array[begin:end], np.float32)
        return part if norms is None else part * np.asarray(norms[begin:end])[:, None]

    dim = array.shape[1]
    reader = job.reader(dim, limited=False)
    if subwords is None:
        job.add_array(reader, words, rows_of, dim)
        return job.found(reader, dim, "finalfusion")
    last = max(listed.values(), default=0) if listed is not None else len(words) + subwords["buckets"] - 1
    if not 1 <= subwords["min_n"] <= subwords["max_n"] <= _MAX_NGRAM or last >= len(array):
        raise job.error("the sizes in this finalfusion file contradict each other; the file is damaged")
    table = array.view(np.uint8).reshape(-1)
    if listed is None:
        ngrams = _Ngrams(job, table, len(array), dim, subwords)
    else:
        ngrams = _ListedNgrams(job, table, len(array), dim, subwords, listed)
    job.add_array(reader, words, rows_of, dim)
    by_ngrams = None
    words = words[: job.options.limit]
    if job.vocabulary is not None:
        by_ngrams = ngrams.fill(reader, words, {job.vocabulary.pad_index, job.vocabulary.unk_index})
    format = f"finalfusion, n-grams of {subwords['min_n']} to {subwords['max_n']}"
    return job.found(reader, dim, format, rows_read=len(words), by_ngrams=by_ngrams, has_ngrams=True)


def _finalfusion_array(job: _Job, data: Any, at: int, end: int, type_id: int, shape: tuple[int, ...]) -> Any:
    """Return the array that ends a chunk.

    Zeros before it bring it to a multiple of 4 bytes; where it is at one already, the libraries write 4 more all the
    same. So its place is reckoned from the end.
    """
    if type_id != 10:
        raise job.error(f"finalfusion numbers of type {type_id}; only float32 (10) can be read")
    if end > len(data):
        raise job.error(f"cut off at byte {len(data):,}: its array would end at byte {end:,}")
    start = end - 4 * math.prod(shape)
    if not at <= start <= at + 4:
        raise job.error(f"damaged: {shape} numbers do not fit the chunk that ends at byte {end:,}")
    return np.frombuffer(data[start:end], "<f4").reshape(shape)


# ---- numpy


def _read_npy(job: _Job) -> Found:
    try:
        if sources.is_plain(job.source):
            array = np.load(job.source.name, mmap_mode="r", allow_pickle=False)
        else:
            array = np.load(io.BytesIO(_whole(job).tobytes()), allow_pickle=False)
    except Exception as error:  # what numpy's parser of the header raises has no common type
        raise job.error(f"the .npy file is damaged, cut off or holds Python objects ({error})") from None
    return _read_matrix(job, array, _words_beside(job), "npy")


def _read_npz(path: Path, job: _Job) -> Found:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise job.error(f"the .npz file is damaged or holds Python objects ({error})") from None
    except Exception as error:  # zipfile.BadZipFile, zlib.error
        raise job.error(f"the .npz file is damaged ({error})") from None
    matrices = [name for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind == "f"]
    if len(matrices) != 1:
        raise job.error(f"{len(matrices)} arrays (V, D) of floats in this .npz, there must be one: {', '.join(arrays)}")
    texts = [array for array in arrays.values() if array.ndim == 1 and array.dtype.kind in "US"]
    if job.options.words is not None or not texts:
        words = _words_beside(job)
    elif len(texts) == 1:
        words = [text.decode() if isinstance(text, bytes) else str(text) for text in texts[0]]
    else:
        raise job.error("several arrays of words in this .npz; name a file of words")
    return _read_matrix(job, arrays[matrices[0]], words, "npz")


def _read_matrix(job: _Job, array: Any, words: Sequence[str], format: str) -> Found:
    if array.ndim != 2 or array.dtype.kind != "f":
        raise job.error(f"an array {array.shape} of {array.dtype}; vectors are (V, D) of floats")
    if len(array) != len(words):
        raise job.error(f"{len(array):,} rows, but there are {len(words):,} words for them")
    return job.read_array(words, lambda begin, end: np.asarray(array[begin:end], np.float32), array.shape[1], format)


def _words_beside(job: _Job) -> list[str]:
    """Return the words of a matrix: from the file that was named, or one that lies beside it."""
    path = Path(job.source.name)
    stem = path.with_suffix("")
    candidates = [
        *(stem.with_suffix(suffix) for suffix in (".vocab", ".vocab.txt")),
        *(path.with_name(name) for name in ("vocab.txt", "words.txt", "tokenizer.json")),
    ]
    chosen = job.options.words or next((file for file in candidates if file.is_file()), None)
    if chosen is None:
        raise job.error(
            f"the words of its rows are missing; name a file of them (words), or put vocab.txt beside {path}"
        )
    text = read_text(chosen, "a list of words")
    if chosen.suffix == ".json":
        return from_tokenizer(text, chosen).words
    return parse_words(text, chosen)[0]


# ---- safetensors and folders


def _read_safetensors(job: _Job, words: Sequence[str] | None = None, format: str = "safetensors") -> Found:
    from safetensors import SafetensorError, safe_open

    if not sources.is_plain(job.source):
        raise job.error("a compressed safetensors file; unpack it first")
    words = _words_beside(job) if words is None else words
    try:
        with safe_open(job.source.name, framework="pt") as file:
            names = list(file.keys())
            tables = [name for name in names if len(file.get_slice(name).get_shape()) == 2]
            name = next((name for name in ("embeddings", "embedding.weight", "weight") if name in tables), None)
            if name is None and len(tables) == 1:
                name = tables[0]
            if name is None:
                raise job.error(f"no table (V, D) of vectors in it, or several: {', '.join(names[:10])}")
            table = file.get_slice(name)
            if table.get_dtype() not in ("F32", "F16", "BF16", "F64"):
                raise job.error(f"{name} holds {table.get_dtype()}; only floats can be read")
            mapping = file.get_tensor("mapping").long() if "mapping" in names else None
            weights = file.get_tensor("weights").float() if "weights" in names else None
            shape = table.get_shape()
            if len(words) != (shape[0] if mapping is None else len(mapping)):
                raise job.error(f"{shape[0]:,} rows, but there are {len(words):,} words for them")
            if mapping is not None and not (int(mapping.min()) >= 0 and int(mapping.max()) < shape[0]):
                raise job.error("its mapping names rows that are not there; the file is damaged")

            def rows(begin: int, end: int) -> Floats:
                if mapping is None:
                    part = table[begin:end].float()
                else:  # model2vec keeps one row for several tokens that way
                    part = file.get_tensor(name)[mapping[begin:end]].float()
                if weights is not None:
                    part = part * weights[begin:end, None]
                numbers: Floats = part.numpy()
                return numbers

            return job.read_array(words, rows, shape[1], format)
    except SafetensorError as error:
        raise job.error(f"the safetensors file is damaged or cut off ({error})") from None


def _read_folder(folder: Path, options: ReadOptions, vocabulary: Wanted | None) -> Found:
    job = _Job(Source(str(folder), None), options, vocabulary)
    if (folder / "embedding.pt").exists():
        from embedtrain.checkpoint import load

        return _read_own(job, load(folder))
    inside = [folder]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        modules = json.loads((folder / "modules.json").read_bytes())
        inside.insert(0, folder / modules[0]["path"])
    for place in [*inside, folder / "0_StaticEmbedding"]:
        if (place / "model.safetensors").is_file() and (place / "tokenizer.json").is_file():
            path = place / "tokenizer.json"
            tokens = from_tokenizer(read_text(path, "a tokenizer.json"), path)
            source = sources.find(place / "model.safetensors")
            # Without another vocabulary the rows are the ids of its tokenizer.
            wanted = tokens if vocabulary is None and options.limit is None else vocabulary
            found = _read_safetensors(_Job(source, options, wanted), tokens.words, "model2vec folder")
            if vocabulary is None and wanted is not None:
                found = _all_of(found)
            return found
    raise EmbedtrainError(
        f"{folder}: not a folder of embedtrain (embedding.pt), model2vec or sentence-transformers (model.safetensors "
        "with tokenizer.json); to read a file in it, name the file"
    )


def _all_of(found: Found) -> Found:
    """Forget that a vocabulary was given: it was the source's own."""
    return dataclasses.replace(found, vocabulary=None)


def _read_own(job: _Job, embeddings: Embeddings) -> Found:
    config = {key: value for key, value in embeddings.config.items() if key != "source"}
    weight = embeddings.weight
    if job.vocabulary is None and job.options.limit is None:
        # As it is: its rows, special ones included, its tokenizer and counts.
        own = Wanted(
            embeddings.words,
            embeddings.counts,
            embeddings.pad_index,
            embeddings.unk_index,
            embeddings.tokenizer_json,
        )
        job = _Job(job.source, job.options, own)
        found = job.read_array(embeddings.words, lambda b, e: weight[b:e].float().numpy(), embeddings.dim, "embedtrain")
        return dataclasses.replace(_all_of(found), config=config)
    return job.read_array(
        embeddings.words,
        lambda b, e: weight[b:e].float().numpy(),
        embeddings.dim,
        "embedtrain",
        config=config if job.vocabulary is None else None,
    )


def _read_gensim(path: Path, job: _Job) -> Found:
    try:
        from gensim.models import KeyedVectors  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise job.error("to read gensim's own files install gensim (pip install gensim)") from None
    try:
        loaded = KeyedVectors.load(str(path))
    except Exception as error:  # a pickle may raise anything
        raise job.error(f"gensim cannot load it ({error})") from error
    vectors = getattr(loaded, "wv", loaded)
    if not hasattr(vectors, "index_to_key"):
        raise job.error(f"gensim loads it as a {type(loaded).__name__}, which has no word vectors")
    return _read_matrix(job, np.asarray(vectors.vectors), list(map(str, vectors.index_to_key)), "gensim")


def _read_pickle(job: _Job) -> Found:
    raise job.error(
        "a pickle, which can run any code; if it is gensim's and you trust it, ask for gensim, which loads it "
        "(gensim=True, --gensim)"
    )


_BINARY_FORMATS: tuple[tuple[bytes, Callable[[_Job], Found]], ...] = (
    (re.escape(struct.pack("<i", 793712314)), _read_fasttext),
    (b"FiFu", _read_finalfusion),
    (re.escape(b"\x93NUMPY"), _read_npy),
    (rb".{4}\x00{4}\{", _read_safetensors),
    (rb"\x80[\x02-\x05]", _read_pickle),
)
