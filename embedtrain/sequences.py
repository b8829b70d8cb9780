"""Sequences of ids in files of numpy: baskets, random walks, or text that was encoded elsewhere.

===================== ================================================================================================
``.npy``, (N,)        one sequence
``.npy``, (S, L)      a sequence a row; -1 fills rows up
``.npz``              ``ids`` (N,) and ``offsets`` (S + 1,): sequence s is ``ids[offsets[s]:offsets[s + 1]]``;
                      or a single array as in a ``.npy`` file
===================== ================================================================================================

All are integers, of any width. The word of an id is its decimal number. A file is read in pieces from begin to end, and
no pickled objects are.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embedtrain import sources
from embedtrain.errors import EmbedtrainError
from embedtrain.sources import Source, Stream

_PIECE = 1 << 18  # ids
_LONGEST_HEADER = 10_000  # as numpy has it


class Piece(NamedTuple):
    """Some ids, which may begin and end within a sequence."""

    ids: npt.NDArray[Any]
    """(n,), none is negative."""
    ends: npt.NDArray[np.int64]
    """Where sequences end, 0 to n, each once. 0 is the end of one that was open."""
    sequences: int
    """How many end, empty ones included."""
    done: int
    """Stored bytes read so far."""


def decimals(ids: npt.NDArray[Any], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Spell ids as decimal numbers with a space after each, or a newline where a sequence ends.

    :param ids: (n,), none is negative.
    :param ends: 0 to n, each once and ascending; 0 puts a newline in front.
    :return: UTF-8 text.
    """
    open_ends, ends = ends[ends == 0], ends[ends > 0]
    largest = int(ids.max(initial=0))
    width = len(str(largest))
    rest = ids.astype(np.uint32 if largest < 1 << 32 else np.uint64)
    zeros = np.full(len(ids), width - 1)
    for power in range(1, width):
        zeros -= rest >= 10**power
    text = np.full((len(ids), width + 1), ord(" "), np.uint8)
    for place in range(width - 1, -1, -1):
        rest, digit = np.divmod(rest, 10)
        text[:, place] = digit + ord("0")
    text[ends - 1, width] = ord("\n")
    shown = text[np.arange(width + 1) >= zeros[:, None]]
    return np.concatenate([np.full(len(open_ends), ord("\n"), np.uint8), shown])


def read(source: Source) -> Iterator[Piece]:
    """Read a ``.npy`` or ``.npz`` file.

    :raises EmbedtrainError: what is wrong with the file, and in which row or sequence, counted from 0.
    """
    if source.kind == "npy":
        yield from _read_array(source)
        return
    members = {member.member or "": member for member in sources.zip_members(source) or ()}
    if len(members) == 1:
        yield from _read_array(*members.values())
    elif members.keys() == {"ids.npy", "offsets.npy"}:
        yield from _read_pair(source, members["ids.npy"], members["offsets.npy"])
    else:
        names = ", ".join(name.removesuffix(".npy") for name in members) or "nothing"
        raise EmbedtrainError(f"{source}: holds {names}; give ids and offsets, or a single array")


def _read_array(source: Source) -> Iterator[Piece]:
    with _Array(source) as array:
        if len(array.shape) > 2:
            raise EmbedtrainError(f"{source}: an array {array.shape} is neither one sequence nor a table of them")
        length = array.shape[-1]
        position = 0
        while len(ids := array.read(_PIECE)):
            after = position + len(ids)
            ends = np.arange(position // length + 1, after // length + 1) * length - position
            sequences = len(ends)
            if len(array.shape) == 2:
                kept = ids != -1
                ids = ids[kept]
                ends = np.unique(np.append(0, np.cumsum(kept))[ends])
            if (bad := _negative(ids)) is not None:
                at = bad if len(array.shape) == 1 else int(np.flatnonzero(kept)[bad])
                where = f"item {position + at:,}" if len(array.shape) == 1 else f"row {(position + at) // length:,}"
                raise EmbedtrainError(
                    f"{source}: {where}: {ids[bad]} is no id; ids are 0 or more, and -1 fills rows up"
                )
            yield Piece(ids, ends, sequences, array.done)
            position = after


def _read_pair(source: Source, ids_source: Source, offsets_source: Source) -> Iterator[Piece]:
    with _Array(ids_source) as ids_array, _Array(offsets_source) as offsets_array:
        for array in (ids_array, offsets_array):
            if len(array.shape) != 1:
                raise EmbedtrainError(f"{array.source}: must have one dimension, not the shape {array.shape}")
        pending = offsets_array.read(1)
        if len(pending) == 0 or pending[0] != 0:
            raise EmbedtrainError(f"{offsets_array.source}: the first offset must be 0")
        position = sequence = 0
        latest = pending[:1].astype(np.int64)
        pending = pending[:0].astype(np.int64)
        while len(ids := ids_array.read(_PIECE)):
            if (bad := _negative(ids)) is not None:
                raise EmbedtrainError(f"{ids_array.source}: item {position + bad:,}: {ids[bad]} is no id")
            after = position + len(ids)
            while len(pending) == 0 or pending[-1] <= after:
                more = offsets_array.read(_PIECE).astype(np.int64)
                if len(more) == 0:
                    break
                steps = np.diff(more, prepend=latest)
                if (steps < 0).any():
                    at = sequence + len(pending) + int(np.argmax(steps < 0))
                    raise EmbedtrainError(f"{offsets_array.source}: sequence {at:,} ends before it begins")
                latest = more[-1:]
                pending = np.append(pending, more)
            sequences = int(np.searchsorted(pending, after, side="right"))
            ends = np.unique(pending[:sequences]) - position
            yield Piece(ids, ends[ends > 0], sequences, ids_array.done + offsets_array.done)
            pending = pending[sequences:]
            sequence += sequences
            position = after
        if latest[0] != position or len(pending) or len(offsets_array.read(1)):
            raise EmbedtrainError(f"{source}: the last offset must be the number of ids, {position:,}")


def _negative(ids: npt.NDArray[Any]) -> int | None:
    return int(np.argmax(ids < 0)) if ids.min(initial=0) < 0 else None


class _Array:
    """An array of integers in the format of numpy, read from begin to end."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._stream = Stream(source)
        try:
            self.shape, self._dtype = self._header()
        except BaseException:
            self._stream.__exit__()
            raise
        self._left = math.prod(self.shape)

    def __enter__(self) -> _Array:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__()

    @property
    def done(self) -> int:
        return self._stream.done

    def read(self, count: int) -> npt.NDArray[Any]:
        """Return the next items, fewer than ``count`` only at the end."""
        count = min(count, self._left)
        data = self._stream.read(count * self._dtype.itemsize)
        if len(data) < count * self._dtype.itemsize:
            missing = self._left - len(data) // self._dtype.itemsize
            raise EmbedtrainError(f"{self.source}: is cut off, {missing:,} numbers are missing")
        self._left -= count
        if self._left == 0 and count and self._stream.read(1):
            raise EmbedtrainError(f"{self.source}: goes on after the array that its header describes")
        return np.frombuffer(data, self._dtype)

    def _header(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        head = bytes(self._stream.read(8))
        if head[:6] != b"\x93NUMPY" or head[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
            raise EmbedtrainError(f"{self.source}: this is no array in the format of numpy")
        size_bytes = bytes(self._stream.read(2 if head[6] == 1 else 4))
        size = int.from_bytes(size_bytes, "little")
        text = bytes(self._stream.read(min(size, _LONGEST_HEADER)))
        parse = np.lib.format.read_array_header_1_0 if head[6] == 1 else np.lib.format.read_array_header_2_0
        try:
            shape, fortran, dtype = parse(io.BytesIO(size_bytes + text))
        except Exception as error:  # what Python's parser raises is of many types
            raise EmbedtrainError(f"{self.source}: the header of the array is damaged") from error
        if dtype.kind not in "iu" or dtype.hasobject:
            raise EmbedtrainError(f"{self.source}: ids must be integers, not {dtype}")
        if fortran and len(shape) > 1:
            raise EmbedtrainError(f"{self.source}: is stored column by column; save numpy.ascontiguousarray of it")
        if not shape:
            raise EmbedtrainError(f"{self.source}: holds a single number, not a sequence")
        return shape, dtype
