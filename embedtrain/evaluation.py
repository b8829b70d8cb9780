"""Judges a table of embeddings by human similarity judgements and by analogies; the numbers are gensim's.

Analogies ask "a is to b as c is to what?". The answer is the word x, none of the three, that maximises, with every
vector scaled to length 1,

- 3CosAdd: cos(x, b) + cos(x, c) - cos(x, a) (Mikolov et al. 2013, "Linguistic regularities in continuous space word
  representations"),
- 3CosMul: s(x, b) · s(x, c) / (s(x, a) + ε) with s = (1 + cos) / 2 and ε = 1e-6 (Levy and Goldberg 2014, "Linguistic
  regularities in sparse and explicit word representations", equation 4).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from embedtrain.testsets import Analogies, Pairs, TestSets
from embedtrain.vocabulary import PAD, UNK

if TYPE_CHECKING:
    from embedtrain.embeddings import Embeddings

# The ε of 3CosMul, as in gensim (Levy and Goldberg took 1e-3).
_EPSILON = 1e-6
# Candidates and questions compared at once: their scores, 2 MB, stay in the caches.
_CANDIDATES, _QUESTIONS = 2048, 256
# Of the standard normal distribution: 95 % of it lies within ± this.
_Z95 = 1.959963984540054

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Correlation:
    """A correlation with its 95 % confidence interval, by Fisher's z transformation."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Similarity:
    """How the cosines of pairs of words agree with people's judgement.

    :param pairs: how many there are; ``known``: of how many both words have a vector. A correlation is None where it
        is not defined: fewer than two pairs, or all of the same similarity.
    """

    pairs: int
    known: int
    spearman: Correlation | None
    pearson: Correlation | None


@dataclass(frozen=True)
class Accuracy:
    """Shares of analogies solved, by 3CosAdd and 3CosMul; None if none was asked.

    :param questions: how many there are; ``known``: of how many all four words have a vector.
    """

    questions: int
    known: int
    add: float | None
    mul: float | None


@dataclass(frozen=True)
class Solved:
    """The analogies of a file: all of them, and by section."""

    total: Accuracy
    sections: dict[str, Accuracy]


@dataclass(frozen=True)
class Evaluation:
    """What was measured, by the name of the test set, and how words were looked up."""

    pairs: dict[str, Similarity]
    analogies: dict[str, Solved]
    restrict_vocab: int
    case_insensitive: bool
    dummy4unknown: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return dataclasses.asdict(self)

    def scores(self) -> dict[str, float]:
        """Return one number per test set: Spearman's correlation, or the share of analogies solved by 3CosAdd."""
        scores = {name: found.spearman.value for name, found in self.pairs.items() if found.spearman is not None}
        return scores | {name: found.total.add for name, found in self.analogies.items() if found.total.add is not None}


class Evaluator:
    """Evaluates tables that have the same words, during training for instance; words are looked up once.

    Arguments with gensim's names mean what they mean in its ``evaluate_word_pairs`` and ``evaluate_word_analogies``.

    :param words: the word of each row of the tables, V of them.
    :param rows: the rows that take part, most frequent first (:func:`ranked_rows`).
    :param restrict_vocab: look up and answer with the first so many of them only.
    :param case_insensitive: compare words in upper case; of the variants of a word the most frequent one is taken.
    :param dummy4unknown: count a question with an unknown word as wrong, and take 0 for the similarity of such a pair,
        instead of leaving both out.
    """

    def __init__(
        self,
        words: Sequence[str],
        rows: Rows,
        pairs: Sequence[Pairs] = (),
        analogies: Sequence[Analogies] = (),
        *,
        restrict_vocab: int = TestSets.restrict_vocab,
        case_insensitive: bool = TestSets.case_insensitive,
        dummy4unknown: bool = TestSets.dummy4unknown,
    ) -> None:
        self._rows = rows[:restrict_vocab]
        self._settings = (restrict_vocab, case_insensitive, dummy4unknown)
        self._fold = str.upper if case_insensitive else str
        # A word is its place in rows; variants of it that differ in case only share the place of the first.
        self._places: dict[str, int] = {}
        folded = (self._fold(words[row]) for row in self._rows.tolist())
        self._first = np.fromiter(
            (self._places.setdefault(word, place) for place, word in enumerate(folded)), np.int64, len(self._rows)
        )
        self._pairs = {test.name: self._find([pair[:2] for pair in test.pairs]) for test in pairs}
        self._judged = {test.name: np.array([score for *_, score in test.pairs]) for test in pairs}
        self._questions = {
            test.name: {section: self._find(questions) for section, questions in test.sections.items()}
            for test in analogies
        }

    def __call__(self, table: Tensor) -> Evaluation:
        """Evaluate a table (V, D), on any device; the work is done on the CPU."""
        # (R, D), each of length 1 (or 0)
        unit = nn.functional.normalize(table[torch.from_numpy(self._rows).to(table.device)].float().cpu())
        return Evaluation(
            {name: self._correlate(unit, name) for name in self._pairs},
            {name: self._solve(unit, sections) for name, sections in self._questions.items()},
            *self._settings,
        )

    def _find(self, words: Sequence[Sequence[str]]) -> Rows:
        """Return the places of n tuples of k words, (n, k); -1 for unknown ones."""
        places = [[self._places.get(self._fold(word), -1) for word in group] for group in words]
        return np.array(places, dtype=np.int64)

    def _correlate(self, unit: Tensor, name: str) -> Similarity:
        places, judged = self._pairs[name], self._judged[name]
        known = (places >= 0).all(axis=1)
        first, second = (unit[torch.from_numpy(places[known, side])].double() for side in (0, 1))
        cosines = np.zeros(len(places))
        cosines[known] = (first * second).sum(dim=1).numpy()
        _, _, dummy4unknown = self._settings
        if not dummy4unknown:
            cosines, judged = cosines[known], judged[known]
        return Similarity(len(places), int(known.sum()), spearman(cosines, judged), pearson(cosines, judged))

    def _solve(self, unit: Tensor, sections: dict[str, Rows]) -> Solved:
        questions = np.concatenate(list(sections.values()))
        known = np.asarray((questions >= 0).all(axis=1))
        right = np.zeros((2, len(questions)), dtype=np.bool_)
        right[:, known] = self._answers(unit, questions[known, :3]) == questions[known, 3]
        ends = np.cumsum([len(section) for section in sections.values()])[:-1]
        parts = zip(sections, np.split(known, ends), np.split(right, ends, axis=1), strict=True)
        by_section = {name: self._accuracy(*of_section) for name, *of_section in parts}
        return Solved(self._accuracy(known, right), by_section)

    def _accuracy(self, known: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> Accuracy:
        """Sum up n questions: whether their words are known (n,), and solved, by 3CosAdd and 3CosMul (2, n)."""
        _, _, dummy4unknown = self._settings
        asked = len(known) if dummy4unknown else int(known.sum())
        add, mul = (int(which.sum()) / asked if asked else None for which in right)
        return Accuracy(len(known), int(known.sum()), add, mul)

    def _answers(self, unit: Tensor, questions: Rows) -> Rows:
        """Answer n questions (a, b, c), (n, 3) places, by 3CosAdd and 3CosMul: places of words, (2, n).

        Both are sums over the words of a question, 3CosMul of logarithms; so the cosines of all candidates are needed
        only with the few different words that occur in questions, and every question adds up three rows of them.
        """
        asked, terms = np.unique(questions, return_inverse=True)  # (U,) places; (n, 3) indices of them
        terms = terms.reshape(questions.shape)
        terms[:, 0] += len(asked)  # a has its own half of the scale
        bags, signs = torch.from_numpy(terms), torch.tensor([[-1.0, 1.0, 1.0]]).repeat(_QUESTIONS, 1)
        barred, barred_key = self._barred(questions)
        best = torch.full((2, len(bags)), -torch.inf)
        answers = torch.full((2, len(bags)), -1)
        for block, begin in enumerate(range(0, len(unit), _CANDIDATES)):
            cosines = unit[torch.from_numpy(asked)] @ unit[begin : begin + _CANDIDATES].T  # (U, C)
            near = ((1 + cosines) / 2).clamp_(min=0)
            scales = cosines.repeat(2, 1), torch.cat([near.log(), (near + _EPSILON).log()])  # (2U, C)
            for top in range(0, len(bags), _QUESTIONS):
                part = slice(top, min(top + _QUESTIONS, len(bags)))
                keys = block * len(bags) + np.array([part.start, part.stop])
                out = slice(*np.searchsorted(barred_key, keys))
                lines, columns = barred_key[out] - keys[0], barred[out] - begin
                for method, scale in enumerate(scales):
                    weights = signs[: part.stop - top]
                    scores = nn.functional.embedding_bag(bags[part], scale, mode="sum", per_sample_weights=weights)
                    scores[lines, columns] = -torch.inf  # (Q, C)
                    # amax is ten times as fast as argmax, which is needed only where a block has a better answer.
                    values = scores.amax(dim=1)
                    better = (values > best[method, part]).nonzero().squeeze(1)
                    best[method, top + better] = values[better]
                    answers[method, top + better] = scores[better].argmax(dim=1) + begin
        places = answers.numpy()
        return np.where(places < 0, -1, self._first[places])

    def _barred(self, questions: Rows) -> tuple[Rows, Rows]:
        """Return which candidates are no answer to which question, because they are a word of it, in any case.

        :return: the places of candidates, and of each the key: number of its block · n + number of the question; sorted
            by that.
        """
        by_first = np.argsort(self._first, kind="stable")
        begins, ends = (np.searchsorted(self._first[by_first], questions.ravel(), side) for side in ("left", "right"))
        sizes = ends - begins  # of the variants of each word of the questions
        variant = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = by_first[np.repeat(begins, sizes) + variant]
        key = places // _CANDIDATES * len(questions) + np.repeat(np.arange(len(questions)).repeat(3), sizes)
        order = np.argsort(key, kind="stable")
        return places[order], key[order]


def evaluate(
    embeddings: Embeddings, pairs: Sequence[Pairs] = (), analogies: Sequence[Analogies] = (), **options: Any
) -> Evaluation:
    """Evaluate embeddings.

    >>> evaluate(embeddings, [read_pairs(Path("wordsim353.tsv"))]).pairs["wordsim353"].spearman

    :param options: those of :class:`Evaluator`.
    """
    rows = ranked_rows(embeddings.words, embeddings.counts, embeddings.missing)
    special = {index for index in (embeddings.pad_index, embeddings.unk_index) if index is not None}
    rows = rows[~np.isin(rows, list(special))]
    return Evaluator(embeddings.words, rows, pairs, analogies, **options)(embeddings.weight)


def ranked_rows(words: Sequence[str], counts: Rows | None, missing: npt.NDArray[np.bool_] | None = None) -> Rows:
    """Return the rows of words, most frequent first; in their order if the counts are not known.

    Special rows are left out, and words that have no vector of their own.
    """
    rows = np.arange(len(words)) if counts is None else np.argsort(-counts, kind="stable")
    out = np.fromiter((word in (PAD, UNK) for word in words), np.bool_, len(words))
    if missing is not None:
        out |= missing
    return rows[~out[rows]]


def pearson(x: Floats, y: Floats) -> Correlation | None:
    """Correlate two lists of n numbers; the standard error of z is 1 / sqrt(n - 3) (Fisher 1921)."""
    value = _correlation(x, y)
    return None if value is None else _interval(value, len(x), 1.0)


def spearman(x: Floats, y: Floats) -> Correlation | None:
    """Correlate the ranks of two lists of n numbers; equal ones share the mean of their ranks.

    The standard error of z is sqrt((1 + r² / 2) / (n - 3)) (Bonett and Wright 2000).
    """
    value = _correlation(_ranks(x), _ranks(y))
    return None if value is None else _interval(value, len(x), 1 + value**2 / 2)


def _correlation(x: Floats, y: Floats) -> float | None:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1, 1))


def _ranks(values: Floats) -> Floats:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks


def _interval(value: float, size: int, variance: float) -> Correlation:
    if size <= 3:
        return Correlation(value, -1.0, 1.0)
    z = math.atanh(min(max(value, -1 + 1e-15), 1 - 1e-15))
    error = _Z95 * math.sqrt(variance / (size - 3))
    return Correlation(value, math.tanh(z - error), math.tanh(z + error))
