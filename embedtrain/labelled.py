"""Labelled texts: reading them, and cutting them into tokens as the embeddings' own corpus was cut."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedtrain import sources
from embedtrain.errors import EmbedtrainError

Split = Literal["auto", "spaces", "words"]

_CHUNK_BYTES = 4 << 20
_SPACE = re.compile(r"[ \t\n\r\v\f]+")
_WORD = re.compile(r"\w+(?:['’]\w+)*")
# Texts that are looked at to find out how to cut them.
_SAMPLE = 1000


@dataclass(frozen=True)
class Labelled:
    """Texts and the label of each.

    :param texts: N texts.
    :param labels: N labels.
    """

    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Labelled:
        """Return some of them."""
        return Labelled([self.texts[index] for index in indices], [self.labels[index] for index in indices])


def read_labelled(path: Path, label_column: str = "label", text_column: str = "text") -> Labelled:
    """Read labelled texts: a file of ``label<TAB>text`` lines, a CSV file, or a folder with a folder per label.

    A file whose first line names both columns is read by these, as CSV (separated by commas, or by tabs if that line
    is). Files may be compressed. In a folder each text is a file, as ``pos/0_9.txt``; the folder ``unsup`` is left out.

    :raises EmbedtrainError: what is wrong, and in which line.
    """
    if path.is_dir():
        return _read_folder(path)
    text = _read_text(path)
    first, _, _ = text.partition("\n")
    for delimiter in ",\t":
        columns = next(csv.reader([first], delimiter=delimiter), [])
        if label_column in columns and text_column in columns:
            return _read_csv(path, text, delimiter, columns.index(label_column), columns.index(text_column))
    if path.name.removesuffix(path.suffix if path.suffix != ".csv" else "").endswith(".csv"):
        raise EmbedtrainError(
            f"{path}: line 1: the columns are {first.strip()!r}; name those of label and text "
            "(--label-column, --text-column)"
        )
    texts, labels = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        label, tab, content = line.removesuffix("\r").partition("\t")
        if not tab or not label:
            raise EmbedtrainError(f'{path}: line {number}: {line[:60]!r} is not "label<TAB>text"')
        labels.append(label)
        texts.append(content)
    return _checked(path, texts, labels)


def _read_text(path: Path) -> str:
    content = bytearray()
    for _, chunk in sources.read([sources.find(path)], lambda done, total: None, _CHUNK_BYTES):
        content += chunk
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise EmbedtrainError(f"{path}: line {line} (byte {error.start:,}): not UTF-8 text") from None


def _read_csv(path: Path, text: str, delimiter: str, label: int, content: int) -> Labelled:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    texts, labels = [], []
    try:
        next(reader)
        for row in reader:
            if not row:
                continue
            if len(row) <= max(label, content):
                raise EmbedtrainError(f"{path}: line {reader.line_num}: only {len(row)} columns")
            labels.append(row[label])
            texts.append(row[content])
    except csv.Error as error:
        raise EmbedtrainError(f"{path}: line {reader.line_num}: {error}") from None
    return _checked(path, texts, labels)


def _read_folder(path: Path) -> Labelled:
    texts, labels = [], []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name != "unsup"):
        for file in sorted(folder.glob("*.txt")):
            try:
                texts.append(file.read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                raise EmbedtrainError(f"{file}: byte {error.start:,}: not UTF-8 text") from None
            except OSError as error:
                raise EmbedtrainError(f"{file}: cannot be read ({error.strerror})") from error
            labels.append(folder.name)
    if not texts:
        raise EmbedtrainError(f"{path}: no texts; in a folder they are files LABEL/*.txt, as pos/1.txt and neg/1.txt")
    return _checked(path, texts, labels)


def _checked(path: Path, texts: list[str], labels: list[str]) -> Labelled:
    if not texts:
        raise EmbedtrainError(f"{path}: no texts in it")
    return Labelled(texts, labels)


def cutter(split: Literal["spaces", "words"], lowercase: bool) -> Callable[[str], list[str]]:
    """Return the function that cuts a text into tokens.

    :param split: ``spaces`` cuts at white space; ``words`` takes letters, digits and apostrophes within, nothing else.
    """

    def cut(text: str) -> list[str]:
        text = text.lower() if lowercase else text
        return _WORD.findall(text) if split == "words" else [token for token in _SPACE.split(text) if token]

    return cut


def choose_cut(
    texts: Sequence[str], words: Container[str], split: Split, lowercase: bool | None
) -> tuple[Literal["spaces", "words"], bool, float]:
    """Find how to cut texts so that most of their tokens have an embedding.

    :param words: those that have one.
    :param split: ``auto`` tries both.
    :param lowercase: None tries both.
    :return: split, lowercase, and the share of tokens (0 to 1) that have an embedding then.
    """
    best: tuple[Literal["spaces", "words"], bool, float] = ("spaces", False, -1.0)
    splits: tuple[Literal["spaces", "words"], ...] = ("spaces", "words") if split == "auto" else (split,)
    for lower in (False, True) if lowercase is None else (lowercase,):
        for name in splits:
            cut = cutter(name, lower)
            tokens = [token for text in texts[:_SAMPLE] for token in cut(text)]
            share = sum(token in words for token in tokens) / max(len(tokens), 1)
            if share > best[2] + 0.002:  # of equally good ones the simpler
                best = (name, lower, share)
    return best
