"""The words that get an embedding, and how often each was seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedtrain.errors import EmbedtrainError

if TYPE_CHECKING:
    from torch import Tensor

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


class Vocab:
    """Turns tokens into ids and back: what torchtext's ``Vocab`` did, and batches as well.

    >>> vocab = Vocab.from_iterator([["a", "nice", "film"], ["a", "film"]], min_freq=2)
    >>> vocab["<pad>"], vocab(["a", "film", "unheard"])
    (0, [2, 3, 1])
    >>> ids, lengths = vocab.batch([["a", "film"], ["a"]])  # padded: [[2, 3], [2, 0]] and [2, 1]

    ``Embeddings.vocab`` is the one of a checkpoint, saved with it as ``vocab.txt``; :func:`embedtrain.read` takes one
    as the vocabulary to read vectors for.

    :param words: V tokens, each once; the id of a token is its place.
    :param default_index: the id of tokens that are not there; None: looking one up is a KeyError.
    :param pad_index: the id that fills up batches; None if there is none.
    :raises EmbedtrainError: if a token comes twice, or an index is not one of a token.
    """

    def __init__(self, words: Sequence[str], *, default_index: int | None, pad_index: int | None) -> None:
        self.words = list(words)
        self._ids = {word: row for row, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            twice = next(word for row, word in enumerate(self.words) if self._ids[word] != row)
            raise EmbedtrainError(f"token {twice!r} comes twice in the vocabulary")
        for name, index in (("default_index", default_index), ("pad_index", pad_index)):
            if index is not None and not 0 <= index < len(self.words):
                raise EmbedtrainError(f"{name} {index} is not the id of a token; there are {len(self.words):,}")
        self.default_index = default_index
        self.pad_index = pad_index

    @classmethod
    def from_iterator(
        cls,
        texts: Iterable[Iterable[str]],
        min_freq: int = 1,
        specials: Sequence[str] = (PAD, UNK),
        special_first: bool = True,
        max_tokens: int | None = None,
    ) -> Vocab:
        """Collect the tokens of texts, as torchtext's ``build_vocab_from_iterator`` does.

        :param texts: each a list of tokens.
        :param min_freq: tokens seen less often are left out; specials never are.
        :param specials: tokens in front; ``<pad>`` and ``<unk>``, if among them, are the pad and the default index.
        :param special_first: False puts the specials at the end.
        :param max_tokens: at most so many tokens, the most frequent ones, specials included.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        for special in specials:
            del counts[special]
        room = None if max_tokens is None else max(max_tokens - len(specials), 0)
        words = Vocabulary.most_frequent(dict(counts), min_freq, room).words
        words = [*specials, *words] if special_first else [*words, *specials]
        pad, unk = (words.index(word) if word in specials else None for word in (PAD, UNK))
        return cls(words, default_index=unk, pad_index=pad)

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __getitem__(self, token: str) -> int:
        """Return the id of a token: the default index, if it has none.

        :raises KeyError: if there is no default index.
        """
        index = self._ids.get(token, self.default_index)
        if index is None:
            raise KeyError(f"{token!r} is not in the vocabulary, which has no index for unknown tokens")
        return index

    def __call__(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens."""
        if self.default_index is None:
            return [self[token] for token in tokens]
        get, default = self._ids.get, self.default_index
        return [get(token, default) for token in tokens]

    def lookup_token(self, index: int) -> str:
        """Return the token of an id.

        :raises IndexError: if it is none.
        """
        if not 0 <= index < len(self.words):
            raise IndexError(f"{index} is not the id of a token; there are {len(self.words):,}")
        return self.words[index]

    def lookup_tokens(self, indices: Iterable[int]) -> list[str]:
        """Return the tokens of ids."""
        return [self.lookup_token(index) for index in indices]

    def lookup_indices(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens."""
        return self(tokens)

    def get_itos(self) -> list[str]:
        """Return the tokens in the order of their ids."""
        return list(self.words)

    def get_stoi(self) -> dict[str, int]:
        """Return the id of each token."""
        return dict(self._ids)

    def set_default_index(self, index: int | None) -> None:
        """Set the id of tokens that are not there; None: looking one up is a KeyError."""
        self.default_index = index

    def batch(self, texts: Sequence[Sequence[str]], max_length: int | None = None) -> tuple[Tensor, Tensor]:
        """Return texts as one tensor of ids, filled up with the pad index, and their lengths.

        :param texts: B lists of tokens.
        :param max_length: longer texts are cut to so many tokens.
        :return: int64 (B, L) and int64 (B,), on the CPU. An empty text has length 0.
        :raises EmbedtrainError: if there is no pad index.
        """
        import torch
        from torch.nn.utils.rnn import pad_sequence

        if self.pad_index is None:
            raise EmbedtrainError("batches need a pad index, which this vocabulary does not have")
        rows = [torch.tensor(self(text[:max_length]), dtype=torch.int64) for text in texts]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        if not rows:
            return torch.zeros(0, 0, dtype=torch.int64), lengths
        return pad_sequence(rows, batch_first=True, padding_value=self.pad_index), lengths
