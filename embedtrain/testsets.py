"""Reads the test sets that word embeddings are judged by: human similarity judgements, and analogies.

The published files differ in every detail; what is read here covers them as they are distributed:

=============================================  ====================================================================
WordSim-353, RG-65, MTurk-771, SimLex-999,     word, word and score, separated by tabs, commas, semicolons or white
SimVerb-3500, Rare Words, MEN (natural form)   space; with a header or without; other columns, of letters before the
                                               score (the part of speech in SimLex), of any kind after it
Google (questions-words.txt) and its like      ``a b c d`` a line, ``: name`` starts a section
MSR (EN-MSR.txt)                               ``a b c JJ_JJR d`` or ``a b c d JJ_JJR``: the tag is the section
=============================================  ====================================================================

Lines that start with ``#`` and blank ones are passed over; any other line that cannot be read is an error.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedtrain.errors import EmbedtrainError
from embedtrain.wanted import read_text

Question = tuple[str, str, str, str]
"""(a, b, c, d): a is to b as c is to d."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TAG = re.compile(r"[A-Z]+_[A-Z]+", re.ASCII)


@dataclass(frozen=True)
class Pairs:
    """Pairs of words with the similarity that people gave them, on whatever scale."""

    name: str
    pairs: list[tuple[str, str, float]]


@dataclass(frozen=True)
class Analogies:
    """Questions "a is to b as c is to what?" with their answers, by section; the name of a section may be empty."""

    name: str
    sections: dict[str, list[Question]]


@dataclass(frozen=True, kw_only=True)
class TestSets:
    """What to measure, and how words are looked up; as in gensim's evaluate_word_pairs and evaluate_word_analogies."""

    __test__ = False  # for pytest

    pairs: tuple[Path, ...] = ()
    """Test sets of human similarity judgements: WordSim-353, SimLex-999, MEN, …: word, word and score a line."""
    analogies: tuple[Path, ...] = ()
    """Test sets of analogies: Google's questions-words.txt, MSR, …: four words a line."""
    restrict_vocab: int = 300_000
    """With test sets: only this many of the most frequent words take part."""
    case_insensitive: bool = True
    """With test sets: compare words in upper case; of the variants of a word the most frequent one is taken."""
    dummy4unknown: bool = False
    """With test sets: count what has unknown words as wrong, or as of similarity 0, instead of leaving it out."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        :raises EmbedtrainError: naming the option and what is allowed.
        """
        if self.restrict_vocab < 1:
            raise EmbedtrainError(f"restrict-vocab must be at least 1, not {self.restrict_vocab}")

    def read(self) -> tuple[list[Pairs], list[Analogies]]:
        """Read the files, which must have different names: results are told apart by them.

        :raises EmbedtrainError: if two have the same name, or one cannot be read.
        """
        first: dict[str, Path] = {}
        for path in (*self.pairs, *self.analogies):
            if (other := first.setdefault(path.stem, path)) is not path:
                raise EmbedtrainError(f"{other} and {path} have the same name; leave out or rename one of them")
        return [read_pairs(path) for path in self.pairs], [read_analogies(path) for path in self.analogies]

    def lookup(self) -> dict[str, Any]:
        """Return the options that say how words are looked up, for :class:`embedtrain.evaluation.Evaluator`."""
        return {name: getattr(self, name) for name in ("restrict_vocab", "case_insensitive", "dummy4unknown")}


def read_pairs(path: Path) -> Pairs:
    """Read a file of similarity judgements.

    The score is the first column after the two words that holds numbers; a first line without one is a header.

    :raises EmbedtrainError: naming the line that is not two words and a score.
    """
    lines = _lines(path)
    # One that every line has: a word of a file with tabs may hold a comma.
    separator = next((mark for mark in "\t,;" if all(mark in line for _, line in lines)), None)
    rows = [(number, [field.strip() for field in line.split(separator)]) for number, line in lines]
    _, sample = rows[min(1, len(rows) - 1)]
    column = next((index for index, field in enumerate(sample) if index >= 2 and _is_number(field)), 2)
    pairs: list[tuple[str, str, float]] = []
    for place, (number, fields) in enumerate(rows):
        if len(fields) > column and fields[0] and fields[1] and _is_number(fields[column]):
            pairs.append((fields[0], fields[1], float(fields[column])))
        elif place > 0:
            raise EmbedtrainError(f"{path}: line {number}: not two words and a score: {_cut(lines[place][1])}")
    if not pairs:
        raise EmbedtrainError(f"{path}: line {rows[0][0]}: not two words and a score: {_cut(lines[0][1])}")
    return Pairs(path.stem, pairs)


def read_analogies(path: Path) -> Analogies:
    """Read a file of analogy questions.

    :raises EmbedtrainError: naming the line that is neither four words nor the start of a section.
    """
    sections: dict[str, list[Question]] = {}
    section = ""
    for number, line in _lines(path):
        if line.startswith(":"):
            section = line.lstrip(": ").strip()
            continue
        words = line.split()
        tag = next((index for index in (3, 4) if len(words) == 5 and _TAG.fullmatch(words[index])), None)
        name = section if tag is None else words.pop(tag)
        if len(words) != 4:
            raise EmbedtrainError(f"{path}: line {number}: not four words: {_cut(line)}")
        sections.setdefault(name, []).append((words[0], words[1], words[2], words[3]))
    if not sections:
        raise EmbedtrainError(f"{path}: no question in it")
    return Analogies(path.stem, sections)


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that say something, with their numbers."""
    lines = enumerate(read_text(path, "a test set").split("\n"), 1)
    said = [(number, line.rstrip()) for number, line in lines if line.strip() and not line.startswith("#")]
    if not said:
        raise EmbedtrainError(f"{path}: nothing in it")
    return said


def _is_number(field: str) -> bool:
    return _NUMBER.fullmatch(field) is not None and math.isfinite(float(field))


def _cut(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:60] + "…")
