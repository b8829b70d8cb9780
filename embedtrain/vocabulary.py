"""The words that get an embedding, and how often each was seen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedtrain.errors import EmbedtrainError

PAD, UNK = "<pad>", "<unk>"

# "word count", cut from the right: a word may hold spaces, or anything but line ends.
_LINE = re.compile(r"(.+)[ \t]([0-9]{1,18})")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The trained words, most frequent first; equally frequent ones by their UTF-8 bytes. No special rows.

    :param words: V different words.
    :param counts: int64 (V,), occurrences in the corpus.
    """

    words: list[str]
    counts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.words)

    def save(self, path: str | Path) -> None:
        """Write "word count" a line, as ``word2vec -save-vocab`` does.

        :raises EmbedtrainError: if the file cannot be written. An older file of that name is left as it was then.
        """
        target = Path(path)
        unfinished = target.with_name(f"{target.name}.unfinished")
        try:
            with unfinished.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(
                    f"{word} {count}\n" for word, count in zip(self.words, self.counts.tolist(), strict=True)
                )
            unfinished.replace(target)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise EmbedtrainError(f"{target}: the vocabulary cannot be written here ({error.strerror})") from error

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """Read what :meth:`save` or ``word2vec -save-vocab`` wrote, or the ``vocab.tsv`` of a result.

        The special rows of a ``vocab.tsv``, ``<pad>`` and ``<unk>`` with count 0, are passed over.

        :raises EmbedtrainError: with file and line, if a line is not "word count" or a word comes twice.
        """
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except OSError as error:
            raise EmbedtrainError(f"{path}: the vocabulary cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise EmbedtrainError(f"{path}: byte {error.start}: a vocabulary must be UTF-8 text") from error
        counts: dict[str, int] = {}
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise EmbedtrainError(f'{path}: line {number}: {line[:60]!r} is not "word count"')
            word, count = match[1], int(match[2])
            if word in counts:
                raise EmbedtrainError(f"{path}: line {number}: the word {word!r} comes a second time")
            counts[word] = count
        for special in (PAD, UNK):
            if counts.get(special) == 0:
                del counts[special]
        if not counts:
            raise EmbedtrainError(f"{path}: the vocabulary is empty")
        return cls.most_frequent(counts)

    @classmethod
    def most_frequent(cls, counts: dict[str, int], min_count: int = 0, max_vocab: int | None = None) -> Vocabulary:
        """Choose the words seen at least ``min_count`` times, of these at most the ``max_vocab`` most frequent."""
        words = [word for word, count in counts.items() if count >= min_count]
        words.sort(key=lambda word: (-counts[word], word))  # the order of code points is that of UTF-8 bytes
        words = words[:max_vocab]
        return cls(words, np.fromiter(map(counts.__getitem__, words), np.int64, len(words)))
