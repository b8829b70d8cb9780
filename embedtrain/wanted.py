"""The vocabulary that vectors are wanted for: a list of words, a vocab.txt, a tokenizer.json or a counted corpus."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedtrain.errors import EmbedtrainError
from embedtrain.vocabulary import PAD, UNK, Vocab, Vocabulary

# "word count", cut from the right, as in Vocabulary.read.
_WITH_COUNT = re.compile(r"(.+)[ \t]([0-9]{1,18})")

VocabularyLike = str | os.PathLike[str] | Sequence[str] | Mapping[str, int] | Vocabulary | Vocab


@dataclass(frozen=True, eq=False)
class Wanted:
    """The words that get a row, in the order of their rows, special ones included.

    :param words: V tokens, each once.
    :param counts: int64 (V,), how often each is in running text; None if not known.
    :param pad_index: row of the padding token, if there is one.
    :param unk_index: row of the unknown word, if there is one.
    :param tokenizer_json: the tokenizer whose ids the rows are.
    """

    words: list[str]
    counts: npt.NDArray[np.int64] | None = None
    pad_index: int | None = None
    unk_index: int | None = None
    tokenizer_json: str | None = None

    def with_special_rows(self) -> Wanted:
        """Put ``<pad>`` and ``<unk>`` in front, as far as they are not there. A tokenizer's rows are left alone."""
        if self.tokenizer_json is not None or None not in (self.pad_index, self.unk_index):
            return self
        front = [word for word in (PAD, UNK) if word not in set(self.words)]
        words = [*front, *self.words]
        counts = self.counts
        if counts is not None:
            counts = np.concatenate([np.zeros(len(front), np.int64), counts])
        return replace(self, words=words, counts=counts, pad_index=words.index(PAD), unk_index=words.index(UNK))


def wanted(vocabulary: VocabularyLike) -> Wanted:
    """Understand a vocabulary.

    :param vocabulary: a file: ``vocab.txt`` (a word per line), ``vocab.tsv`` or what ``--save-vocab`` writes ("word
        count" a line) or a Hugging Face ``tokenizer.json``; or words; or words with their counts.
    :raises EmbedtrainError: with file and line, if it is none of these, is empty or holds a word twice.
    """
    if isinstance(vocabulary, Vocabulary):
        return Wanted(vocabulary.words, vocabulary.counts)
    if isinstance(vocabulary, Vocab):
        pad, unk = vocabulary.pad_index, vocabulary.default_index
        return replace(_checked(vocabulary.words, None, "the vocabulary"), pad_index=pad, unk_index=unk)
    if isinstance(vocabulary, Mapping):
        return _checked(list(vocabulary), np.fromiter(vocabulary.values(), np.int64, len(vocabulary)), "the vocabulary")
    if not isinstance(vocabulary, (str, os.PathLike)):
        return _checked(list(vocabulary), None, "the vocabulary")
    path = Path(vocabulary)
    text = read_text(path, "a vocabulary")
    if text.lstrip()[:1] == "{" and path.suffix == ".json":
        return from_tokenizer(text, path)
    words, counts = parse_words(text, path)
    return _checked(words, counts, str(path))


def read_text(path: Path, what: str) -> str:
    """Read a file of UTF-8 text.

    :raises EmbedtrainError: if it cannot be read or is something else.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise EmbedtrainError(f"{path}: no such file") from None
    except OSError as error:
        raise EmbedtrainError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise EmbedtrainError(f"{path}: byte {error.start}: {what} must be UTF-8 text") from error


def parse_words(text: str, path: Path) -> tuple[list[str], npt.NDArray[np.int64] | None]:
    """Cut a vocab.txt into words, or a file of "word count" lines into words and counts."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        del lines[-1]
    lines = [line.removesuffix("\r") for line in lines]
    matches = [_WITH_COUNT.fullmatch(line) for line in lines]
    if lines and all(matches):
        counts = np.fromiter((int(match[2]) for match in matches if match), np.int64, len(lines))
        return [match[1] for match in matches if match], counts
    for number, line in enumerate(lines, 1):
        if not line:
            raise EmbedtrainError(f"{path}: line {number} is empty; a vocabulary has a word on every line")
    return lines, None


def from_tokenizer(text: str, path: Path) -> Wanted:
    """Take the tokens of a tokenizer.json in the order of their ids.

    :raises EmbedtrainError: if it is broken or its ids have gaps.
    """
    from tokenizers import Tokenizer

    from embedtrain.corpus import special_tokens

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise EmbedtrainError(f"{path}: not a tokenizer.json ({error})") from error
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    if not words:
        raise EmbedtrainError(f"{path}: the vocabulary is empty")
    if [vocabulary[word] for word in words] != list(range(len(words))):
        raise EmbedtrainError(f"{path}: the ids of the tokenizer have gaps, so its tokens are not rows of a table")
    pad_index, unk_index = special_tokens(text)
    return Wanted(words, None, pad_index, unk_index, text)


def _checked(words: list[str], counts: npt.NDArray[np.int64] | None, name: str) -> Wanted:
    if not words:
        raise EmbedtrainError(f"{name}: the vocabulary is empty")
    seen: set[str] = set()
    for number, word in enumerate(words, 1):
        if not isinstance(word, str) or not word or "\n" in word or "\r" in word:
            raise EmbedtrainError(f"{name}: word {number} is {word!r}; a word must be text without line breaks")
        if word in seen:
            raise EmbedtrainError(f"{name}: line {number}: the word {word!r} comes a second time")
        seen.add(word)
    pad, unk = (words.index(word) if word in seen else None for word in (PAD, UNK))
    return Wanted(words, counts, pad, unk)
