"""Training by several ranks: each trains its part of every block on tables of its own, and exchanges what it learned.

To the loop (:mod:`embedtrain.loop`) all ranks together are one engine: a block is a stretch of the corpus, of which
each rank trains a contiguous part. So the text is trained in its order, as by one rank; positions, reports and
checkpoints are those of one rank, and a training may go on with another number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from embedtrain import ops
from embedtrain.corpus import Corpus
from embedtrain.exchange import Exchange, Group, Sum
from embedtrain.interrupt import HeldSignals
from embedtrain.loop import Engine, State, learning_rate
from embedtrain.options import Options
from embedtrain.parts import deal, span
from embedtrain.touches import kept_share, touches_per_centre

if TYPE_CHECKING:
    from embedtrain.distributed import Ranks
    from embedtrain.training_state import Checkpoints

# Tokens that each rank trains in a round, times the number of pairs of ranks: any two of them are apart by a round. The
# cost of exchanging falls with it.
ROUND_TOKENS = 1 << 17
# Tokens that each rank trains of a block, at least: so far are the ranks apart in the text. What stands nearer is often
# about the same, and all would learn the same words at once.
_SPAN_TOKENS = 1 << 17
# Output rows start at zero and grow fast, each update building on those before. So the first round has exchanges after
# so many positions of each rank, then twice as many, and so on.
_FIRST_ROUND = 1 << 10
# Of a round, the part that is trained while the exchange at the end of the round before is under way: a half.
_LAG = 2


class RankEngine(Engine, Protocol):
    """An engine that can train at the pace of several."""

    def train(
        self, epoch: int, begin: int, end: int, *, first_position: int = 0, progress: int | None = None, pace: int = 1
    ) -> Callable[[], Sequence[float]]:
        """Start to train ``ids[begin:end]``; the others are as in :meth:`embedtrain.ops.Trainer.train`."""


class LocalSgd:
    """All ranks as one engine.

    :param make: makes an engine of this rank, for the part of the corpus that it is to train.
    :param state: where to start.
    :param least_tokens: that are worth a call of the engine.
    """

    def __init__(
        self,
        make: Callable[[Corpus], RankEngine],
        corpus: Corpus,
        options: Options,
        ranks: Ranks,
        state: State,
        least_tokens: int,
    ) -> None:
        self._ranks = ranks
        self._size, self._options = corpus.size, options
        pairs = max(ranks.size * (ranks.size - 1) // 2, 1)
        round_tokens = max(ROUND_TOKENS // pairs, least_tokens)
        self._rounds_of_block = max(_SPAN_TOKENS // round_tokens, 1)
        self.block_tokens = ranks.size * max(_SPAN_TOKENS, round_tokens)
        self._blocks = -(-self._size // self.block_tokens)
        self._borders = np.arange(self._blocks + 1, dtype=np.int64) * self._size // self._blocks
        own, self._stretches = deal(corpus, self._borders, ranks)
        self._own = make(own)
        self.input, self.output = self._own.input, self._own.output
        self.ahead = max(self._own.ahead, 1)
        self.wants_save: Callable[[int], bool] = lambda position: False
        """Asked on each rank after each block; one that answers yes is enough."""
        self.save = False
        """Whether one did."""
        self._position = state.position
        self._exchange = self._new_exchange(corpus, options, ranks)

    def _new_exchange(self, corpus: Corpus, options: Options, group: Group) -> Exchange:
        counts = torch.from_numpy(corpus.vocabulary.counts)
        keep, noise = ops.keep_thresholds(counts, options.sample), ops.alias_table(counts, options.ns_exponent)
        kept = kept_share(counts, keep)
        input, output = touches_per_centre(counts, keep, noise, options.window, options.negative, options.shrink_window)
        rounds = self._blocks * self._rounds_of_block
        return Exchange(
            self.input, self.output, (kept * input, kept * output), group, rate=options.alpha,
            round_positions=self._size / rounds / group.size, rounds=rounds * options.epochs,
            position=self._position / group.size, workers=options.workers,
        )  # fmt: skip

    def train(self, epoch: int, begin: int, end: int) -> Callable[[], Sequence[float]]:
        """Train this rank's part of what all train from ``begin`` to ``end``."""
        waits: list[Callable[[], Sequence[float]]] = []
        options, size, count, exchange = self._options, self._size, self._ranks.size, self._exchange
        number = int(np.searchsorted(self._borders, begin, side="right")) - 1
        first, last = span(int(self._borders[number]), end, self._ranks.rank, count)
        first, last = max(first, begin), max(last, begin)  # of a block that others have begun, what they left

        def train_own(low: int, high: int) -> None:
            """Train of this rank's part what is due while all train from low to high."""
            share = [first + (last - first) * (each - begin) // (end - begin) for each in (low, high)]
            if share[0] < share[1]:
                shift = self._stretches.shift(share[0])
                waits.append(
                    self._own.train(
                        epoch, share[0] - shift, share[1] - shift,
                        first_position=shift, progress=epoch * size + low, pace=count,
                    )
                )  # fmt: skip

        for low, high, round_ in self._rounds(epoch, number, begin):
            lag = low + (high - low) // _LAG
            train_own(low, lag)
            exchange.apply()
            train_own(lag, high)
            position = epoch * size + high
            exchange.start(round_, position / count, learning_rate(options, position, size))
        self._position = epoch * size + end
        wants = self.wants_save(self._position)

        def sums() -> Tensor:
            own = [wait() for wait in waits] or [(0.0, 0.0, 0.0)]
            return torch.tensor([*map(sum, zip(*own, strict=True)), float(wants)], dtype=torch.float64)

        if self._own.ahead:  # the figures come later
            return lambda: self._taken(self._start_sum(sums()))
        running = self._start_sum(sums())
        return lambda: self._taken(running)

    def _start_sum(self, sums: Tensor) -> tuple[Tensor, Sum]:
        return sums, self._ranks.start_sum(sums)

    def _taken(self, running: tuple[Tensor, Sum]) -> Sequence[float]:
        sums, under_way = running
        under_way.wait()
        *figures, wanted = sums.tolist()
        self.save = self.save or wanted > 0
        return figures

    def _rounds(self, epoch: int, block: int, begin: int) -> Iterator[tuple[int, int, int | None]]:
        """Cut what is left of a block into rounds: (begin, end, number of the round in the training if it is whole)."""
        first, last, rounds = int(self._borders[block]), int(self._borders[block + 1]), self._rounds_of_block
        for each in range(rounds):
            low, high = (first + (last - first) * border // rounds for border in (each, each + 1))
            low = max(low, begin)
            if low == epoch == 0:
                length = _FIRST_ROUND * self._ranks.size
                while length < high // 2:
                    yield low, length, None
                    low, length = length, 2 * length
            if low < high:
                yield low, high, (epoch * self._blocks + block) * rounds + each + 1

    @property
    def cost(self) -> dict[str, float]:
        """What exchanges have cost this rank: bytes given to them, seconds of waiting."""
        return {"exchanged_bytes": self._exchange.bytes, "waited_seconds": round(self._exchange.waited, 3)}

    def synchronise(self) -> None:
        """Bring into the tables all that all ranks have learned."""
        self._own.synchronise()
        position = self._position
        self._exchange.settle(position / self._ranks.size, learning_rate(self._options, position, self._size))


class RankKeeper:
    """What saves the state of all ranks: rank 0 writes, and any of them may ask for it.

    :param keeper: on rank 0.
    """

    def __init__(self, engine: LocalSgd, keeper: Checkpoints | None) -> None:
        self._engine, self._keeper = engine, keeper
        self.signals = HeldSignals() if keeper is None else keeper.signals
        engine.wants_save = self._wants

    def _wants(self, position: int) -> bool:
        return self.signals.held is not None if self._keeper is None else self._keeper.due(position)

    def due(self, position: int) -> bool:
        """Say whether to save now: all ranks say the same."""
        return self._engine.save

    def save(self, state: State, input: Tensor, output: Tensor) -> None:
        """Save, and deliver a signal that was held back for it."""
        self._engine.save = False
        if self._keeper is not None:
            self._keeper.save(state, input, output)
        else:
            self.signals.deliver()
