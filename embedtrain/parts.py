"""A corpus that several ranks read: which part is whose, one vocabulary of all counts, equal shares for training."""

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

    from embedtrain.distributed import Ranks

_SEARCH_BYTES = 64 << 10
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Part:
    """What one of several ranks trains of a corpus, in whose ``ids`` it has some neighbours of it, too.

    :param begin: index of its first centre. :param end: behind its last.
    :param first_position: the position in the corpus of ``ids[0]``.
    :param size: positions of the whole corpus. :param sentences: of the whole corpus.
    :param margin: neighbours on either side, if there are so many.
    """

    begin: int
    end: int
    first_position: int
    size: int
    sentences: int
    margin: int

    def of(self, begin: int, end: int) -> tuple[int, int, Part]:
        """Return where a part of the same corpus, with its margin, begins and ends, and what it is."""
        first, last = max(begin - self.margin, 0), min(end + self.margin, self.size)
        return first, last, dataclasses.replace(self, begin=begin - first, end=end - first, first_position=first)


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
    wanted: tuple[int, int],
    ranks: Ranks,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the ids at the wanted positions of the corpus, and the positions in it where sentences start.

    :param ids: those that this rank has read. The ranks' ids, in order of the ranks, are the corpus.
    :param starts: the index in ``ids`` of the first token of each sentence.
    :param wanted: [begin, end), by this rank.
    """
    import torch

    sizes = ranks.gather(len(ids))
    first = sum(sizes[: ranks.rank])
    parts, part_starts = [], []
    for begin, end in ranks.gather(wanted):
        low, high = (min(max(border - first, 0), len(ids)) for border in (begin, end))
        parts.append(torch.from_numpy(ids[low:high]))
        inner = starts[np.searchsorted(starts, low) : np.searchsorted(starts, high)] if low < high else starts[:0]
        part_starts.append(torch.from_numpy(inner + first))
    return torch.cat(ranks.all_to_all(parts)).numpy(), torch.cat(ranks.all_to_all(part_starts)).numpy()


def fetch(
    ids: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], begin: int, end: int, whole: Part, ranks: Ranks
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], Part]:
    """Return ids, offsets and description of the part [begin, end) of the corpus; all ranks ask for one at once.

    :param ids: as those of :func:`share`. :param starts: likewise. :param whole: any part of the corpus.
    """
    first, last, part = whole.of(begin, end) if begin < end else (0, 0, whole)
    ids, starts = share(ids, starts, (first, last), ranks)
    inner = starts[(starts > first) & (starts < last)] - first
    return ids, np.concatenate([[0], inner, [last - first]]).astype(np.int64), part
