"""Turns rows of tables and sequences of ids into the text that a file of the same words would hold.

So there is one way to count and encode, and the same words have the same result wherever they come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from embedtrain import arrow, remote, sequences
from embedtrain.arrow import Category
from embedtrain.errors import EmbedtrainError
from embedtrain.sources import Source

# A space within a token is passed on as this. No byte lies between the two, so the words keep their order.
SPACE_WITHIN = "\x1f"
_NO_TOKEN = np.zeros(256, bool)
_NO_TOKEN[list(b"\t\n\v\f\r\x1f")] = True


class Rows:
    """Reads sources that are no text, for :func:`embedtrain.sources.read`.

    :param table: what to read for a source that is no file.
    :param column: of tables; None takes the only one that can be trained on.
    :param strict: refuse bytes that are not UTF-8 text, instead of passing them on.
    :param text_only: refuse tokens and ids.
    """

    def __init__(
        self, table: Any = None, column: str | None = None, *, strict: bool = True, text_only: bool = False
    ) -> None:
        self.category: Category | None = None
        """What the corpus consists of; None before anything was read."""
        self.empty = 0
        """Sequences that are empty; no line was passed on for them."""
        self.left_out: Counter[str] = Counter()
        self._table = table
        self._column = column
        self._strict = strict
        self._text_only = text_only
        self._first: Source | None = None

    def agree(self, source: Source, category: Category) -> None:
        """Take note of what a source holds.

        :raises EmbedtrainError: if another one held something else.
        """
        if self._text_only and category != "text":
            raise EmbedtrainError(f"{source} holds {category}; a tokenizer cuts raw text into tokens: give it text")
        if self.category is None:
            self.category, self._first = category, source
        elif self.category != category:
            raise EmbedtrainError(
                f"{self._first} holds {self.category}, but {source} holds {category}; train on files of one kind"
            )

    def __call__(self, source: Source) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
        """Yield the text, and the stored bytes that it took so far."""
        if source.kind in ("npy", "npz"):
            self.agree(source, "ids")
            for piece in sequences.read(source):
                self.empty += piece.sequences - len(piece.ends)
                yield sequences.decimals(piece.ids, piece.ends), piece.done
            return
        row = 0
        for category, batch, done in arrow.batches(source, self._table, self._column):
            self.agree(source, category)
            convert = {"text": self._lines, "tokens": self._tokens, "ids": self._ids}[category]
            first = row
            row += len(batch)
            try:
                numbers = np.arange(first, row)
                for array in arrow.pieces(arrow.checked(batch)):
                    of_piece, numbers = numbers[: len(array)], numbers[len(array) :]
                    if array.null_count:
                        self.left_out["rows that are null"] += array.null_count
                        of_piece = of_piece[array.is_valid().to_numpy(zero_copy_only=False)]
                        array = arrow.without_null(array)
                    yield convert(array, of_piece, source), done
            except arrow.errors() as error:
                raise EmbedtrainError(
                    f"{source}: rows {first:,} to {row - 1:,} are damaged ({remote.first_line(error)})"
                ) from error

    def _lines(self, array: Any, numbers: npt.NDArray[np.int64], source: Source) -> npt.NDArray[np.uint8]:
        data, offsets = arrow.strings(array)
        if self._strict:
            self._require_text(data, offsets, lambda row: f"row {numbers[row]:,}", source)
        return np.insert(data, offsets[1:], ord("\n"))

    def _tokens(self, array: Any, numbers: npt.NDArray[np.int64], source: Source) -> npt.NDArray[np.uint8]:
        tokens, ends = arrow.lists(array)

        def where(token: int) -> str:
            row = int(np.searchsorted(ends, token, side="right")) - 1
            return f"row {numbers[row]:,}, token {token - ends[row]:,}"

        if tokens.null_count:
            bad = int(np.argmin(tokens.is_valid().to_numpy(zero_copy_only=False)))
            raise EmbedtrainError(f"{source}: {where(bad)} is null")
        data, offsets = arrow.strings(tokens)
        if (empty := offsets[1:] == offsets[:-1]).any():
            raise EmbedtrainError(f"{source}: {where(int(np.argmax(empty)))} is empty")
        if (broken := _NO_TOKEN[data]).any():
            bad = int(np.searchsorted(offsets, np.argmax(broken), side="right")) - 1
            word = bytes(data[offsets[bad] : offsets[bad + 1]]).decode(errors="replace")
            raise EmbedtrainError(
                f"{source}: {where(bad)} holds a tab, a line break or another control character: {word[:40]!r}"
            )
        if self._strict:
            self._require_text(data, offsets, where, source)
        separators = np.full(len(tokens), ord(" "), np.uint8)
        lasts = np.unique(ends[1:])
        separators[lasts[lasts > 0] - 1] = ord("\n")
        self.empty += len(array) - int(np.count_nonzero(lasts))
        return np.insert(np.where(data == ord(" "), np.uint8(ord(SPACE_WITHIN)), data), offsets[1:], separators)

    def _ids(self, array: Any, numbers: npt.NDArray[np.int64], source: Source) -> npt.NDArray[np.uint8]:
        items, ends = arrow.lists(array)
        null = items.is_null().to_numpy(zero_copy_only=False)
        ids = items.fill_null(-1).to_numpy(zero_copy_only=False) if null.any() else items.to_numpy()
        if ids.min(initial=0) < 0:
            bad = int(np.argmax(ids < 0))
            row = int(np.searchsorted(ends, bad, side="right")) - 1
            found = "null" if null[bad] else str(ids[bad])
            raise EmbedtrainError(f"{source}: row {numbers[row]:,}: {found} is no id; ids are 0 or more")
        lasts = np.unique(ends[1:])
        lasts = lasts[lasts > 0]
        self.empty += len(array) - len(lasts)
        return sequences.decimals(ids, lasts)

    @staticmethod
    def _require_text(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], where: Any, source: Source) -> None:
        nul = int(np.argmax(data == 0)) if (data == 0).any() else None
        try:
            str(data.data, "utf-8")
        except UnicodeDecodeError as error:
            nul = error.start if nul is None else min(nul, error.start)
        if nul is None:
            return
        string = int(np.searchsorted(offsets, nul, side="right")) - 1
        raise EmbedtrainError(
            f"{source}: {where(string)}: byte 0x{data[nul]:02x} is not UTF-8 text; pass --errors replace or skip"
        )
