"""A corpus that several ranks read: which part is whose, one vocabulary of all counts, who trains what."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedtrain import sources
from embedtrain.errors import EmbedtrainError
from embedtrain.remote import is_url
from embedtrain.sources import Source
from embedtrain.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

    from embedtrain.corpus import Corpus
    from embedtrain.distributed import Ranks

_SEARCH_BYTES = 64 << 10
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Part:
    """What one of several ranks has read of a corpus.

    :param first_position: the position in the corpus of its first token; the other ranks' parts follow in order.
    :param size: positions of the whole corpus. :param sentences: of the whole corpus.
    :param margin: neighbours that a stretch needs on either side, if there are so many, to be trained.
    """

    first_position: int
    size: int
    sentences: int
    margin: int


@dataclasses.dataclass(frozen=True)
class Stretches:
    """Stretches of a corpus, laid end to end.

    :param first: (n,), the positions at which they begin, ascending. :param last: (n,), behind their ends.
    """

    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]

    @property
    def index(self) -> npt.NDArray[np.int64]:
        """Where each begins among the tokens of all, and how many these are: (n + 1,)."""
        return np.concatenate([[0], np.cumsum(self.last - self.first)])

    def shift(self, position: int) -> int:
        """Return what is to be added to the index of a token to get its position, in the stretch of a position."""
        number = int(np.searchsorted(self.first, position, side="right")) - 1
        return int(self.first[number] - self.index[number])


def span(begin: int, end: int, rank: int, ranks: int) -> tuple[int, int]:
    """Return the part of a block of the corpus that a rank trains."""
    return begin + (end - begin) * rank // ranks, begin + (end - begin) * (rank + 1) // ranks


def stretches(borders: npt.NDArray[np.int64], rank: int, ranks: int, margin: int) -> Stretches:
    """Return the stretches in which a rank trains its part of each block, with their margins.

    :param borders: (B + 1,), of the blocks, from 0 to the size of the corpus.
    """
    begin, end = span(borders[:-1], borders[1:], rank, ranks)  # type: ignore[arg-type]
    first, last = np.maximum(begin - margin, 0), np.minimum(end + margin, borders[-1])
    found = Stretches(first, last)
    if (first[1:] < last[:-1]).any() or (first < found.index[:-1]).any():  # margins as long as what is between them
        return Stretches(borders[:1], borders[-1:])
    return found


def cut(found: Sequence[Source], parts: int, part: int) -> tuple[Source, ...]:
    """Return one of the parts, of about equal size, into which sources can be cut without cutting a line.

    Plain files are cut behind the end of a line; others cannot be cut and are in the part that their beginning is in.
    """
    for source in found:
        if source.size is None:
            raise EmbedtrainError(f"{source}: several ranks cannot share it; give files")
    borders = np.cumsum([0, *(source.size or 0 for source in found)])
    begin, end = (int(borders[-1]) * number // parts for number in (part, part + 1))
    own = []
    for source, first, last in zip(found, borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        if last <= begin or first >= end:
            # Of a file that is cut, the last line may reach from before into this part; not the other way round.
            continue
        if begin <= first and last <= end:
            own.append(source)
        elif source.kind == "text" and not is_url(source.name) and sources.is_plain(source):
            low, high = (_line_end(source, min(max(border - first, 0), last - first)) for border in (begin, end))
            if low < high:
                own.append(dataclasses.replace(source, size=high - low, begin=low, end=high))
        elif begin <= first:
            own.append(source)
    return tuple(own)


def _line_end(source: Source, near: int) -> int:
    """Return the first place from ``near`` on where a line begins, or the end of the file."""
    assert source.size is not None
    if near in (0, source.size):
        return near
    with Path(source.name).open("rb") as file:
        at = near - 1
        file.seek(at)
        block = file.read(_SEARCH_BYTES)
        while block:
            newline = block.find(b"\n")
            while newline >= 0:
                after = at + newline + 1
                if block[newline + 1 : newline + 4] != _BYTE_ORDER_MARK:  # it would be taken for that of a file
                    return min(after, source.size)
                newline = block.find(b"\n", newline + 1)
            at += len(block)
            block = file.read(_SEARCH_BYTES)
    return source.size


def merge_vocabulary(
    words: Sequence[str], counts: npt.NDArray[np.int64], min_count: int, max_vocab: int | None, ranks: Ranks
) -> tuple[Vocabulary, int]:
    """Return the vocabulary of all ranks' counts, chosen as that of one rank, and the largest count of any word.

    Each word has a rank, by its hash, that adds up what all have counted of it.

    :param words: those that this rank has seen, each once.
    """
    import torch

    encoded = [word.encode() for word in words]
    owners = np.fromiter(map(zlib.crc32, encoded), np.uint32, len(encoded)) % ranks.size
    sent_words, sent_counts = [], []
    for owner in range(ranks.size):
        chosen = np.flatnonzero(owners == owner)
        sent_words.append(_bytes_tensor(b"".join(encoded[index] + b"\n" for index in chosen)))
        sent_counts.append(torch.from_numpy(counts[chosen]))
    sums: dict[bytes, int] = {}
    for text, numbers in zip(ranks.all_to_all(sent_words), ranks.all_to_all(sent_counts), strict=True):
        for word, count in zip(text.numpy().tobytes().split(b"\n"), numbers.tolist(), strict=False):
            sums[word] = sums.get(word, 0) + count
    frequent = {word.decode(): count for word, count in sums.items() if count >= min_count}
    largest = max(ranks.gather(max(sums.values(), default=0)))
    merged: dict[str, int] = {}
    for some in ranks.gather(frequent):
        merged.update(some)
    return Vocabulary.most_frequent(merged, min_count, max_vocab), largest


def _bytes_tensor(data: bytes) -> torch.Tensor:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def share(
    ids: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    first_position: int,
    wanted: Sequence[Stretches],
    ranks: Ranks,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the ids of the stretches that this rank wants, and the positions in them where sentences start.

    :param ids: those that this rank has read, from ``first_position`` on. Those of all, in their order, are the
        corpus.
    :param starts: the index in ``ids`` of the first token of each sentence.
    :param wanted: by each rank, none overlapping.
    """
    import torch

    parts, part_starts = [], []
    for each in wanted:
        low, high = (np.clip(border - first_position, 0, len(ids)) for border in (each.first, each.last))
        own = low < high
        low, high = low[own], high[own]
        inner = zip(np.searchsorted(starts, low), np.searchsorted(starts, high), strict=True)
        parts.append(np.concatenate([ids[:0], *(ids[a:b] for a, b in zip(low, high, strict=True))]))
        part_starts.append(np.concatenate([starts[:0], *(starts[a:b] for a, b in inner)]) + first_position)
    taken, taken_starts = (ranks.all_to_all([*map(torch.from_numpy, each)]) for each in (parts, part_starts))
    return torch.cat(taken).numpy(), torch.cat(taken_starts).numpy()


def deal(corpus: Corpus, borders: npt.NDArray[np.int64], ranks: Ranks) -> tuple[Corpus, Stretches]:
    """Give each rank what it trains: its part of each block, and some neighbours.

    :param corpus: what this rank has read of it, or the whole, if each has.
    :param borders: of the blocks, as :func:`stretches` has them.
    :return: the corpus with the ids of the stretches only, and the stretches.
    """
    part = corpus.part
    if part is None:
        return corpus, Stretches(borders[:1], borders[-1:])
    wanted = [stretches(borders, rank, ranks.size, part.margin) for rank in range(ranks.size)]
    ids, starts = share(corpus.ids, corpus.offsets[:-1], part.first_position, wanted, ranks)
    own = wanted[ranks.rank]
    # Where a stretch begins, nothing is seen across: its first sentence begins there.
    stretch = np.searchsorted(own.first, starts, side="right") - 1
    inner = starts - own.first[stretch] + own.index[stretch]
    offsets = np.union1d(inner, own.index)
    return dataclasses.replace(corpus, ids=ids, offsets=offsets), own
