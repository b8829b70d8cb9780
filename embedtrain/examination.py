"""Evaluations during training. Importing this module does not import torch: test sets are read before a corpus is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from embedtrain.testsets import TestSets

if TYPE_CHECKING:
    from torch import Tensor

    from embedtrain.corpus import Corpus
    from embedtrain.evaluation import Evaluation


class Examination:
    """Evaluates a training every so many epochs, and at its end.

    :param tests: what to evaluate with; its files are read at once.
    :param every: epochs, perhaps a fraction of one; None evaluates at the end only.
    :param note: called with a line that says what was found.
    :raises EmbedtrainError: if a test set cannot be read.
    """

    def __init__(
        self, tests: TestSets, every: float | None = None, note: Callable[[str], None] = lambda line: None
    ) -> None:
        self._sets, self._lookup = tests.read(), tests.lookup()
        self._every, self._note = every, note

    def begin(self, corpus: Corpus, epochs: int, position: int) -> None:
        """Get ready for a training that goes on from a position."""
        from embedtrain.evaluation import Evaluator, ranked_rows  # not at the top: torch takes a second to import

        words, counts = corpus.vocabulary.words, corpus.vocabulary.counts
        self._evaluator = Evaluator(words, ranked_rows(words, counts), *self._sets, **self._lookup)
        self._epoch, self._end = corpus.size, corpus.size * epochs
        self._interval = self._end if self._every is None else self._every * self._epoch
        self._done = int(position / self._interval)

    def due(self, position: int) -> bool:
        """Say whether it is time."""
        return position == self._end or int(position / self._interval) > self._done

    def examine(self, table: Tensor, position: int) -> Evaluation:
        """Evaluate the input table (V, D) as it is at a position."""
        self._done = int(position / self._interval)
        found = self._evaluator(table)
        scores = ", ".join(f"{name} {score:.3f}" for name, score in found.scores().items())
        self._note(f"after {position / self._epoch:.3g} epochs: {scores or 'all words of the test sets are unknown'}")
        return found
