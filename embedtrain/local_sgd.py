"""Training by several ranks: each trains its share of every block on tables of its own, and exchanges what it learned.

To the loop (:mod:`embedtrain.loop`) all ranks together are one engine: a block is of the whole training, of which each
rank takes its part. So positions, reports and checkpoints are those of one rank, and a training may go on with another
number of ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from embedtrain import ops
from embedtrain.corpus import Corpus
from embedtrain.exchange import Exchange, Group, Sum
from embedtrain.interrupt import HeldSignals
from embedtrain.loop import Engine, State, learning_rate
from embedtrain.options import Options
from embedtrain.parts import Part, fetch
from embedtrain.touches import kept_share, touches_per_centre

if TYPE_CHECKING:
    from embedtrain.distributed import Ranks
    from embedtrain.training_state import Checkpoints

# Tokens that each rank trains in a round, times the number of pairs of ranks: any two of them are apart by a round. The
# cost of exchanging falls with it.
ROUND_TOKENS = 1 << 17
# Output rows start at zero and grow fast, each update building on those before. So the first block has exchanges after
# so many positions of each rank, then twice as many, and so on.
_FIRST_ROUND = 1 << 10
# Of a block, what is trained while the exchange at the end of the block before is under way.
_LAG = 2

Span = tuple[int, int]


class RankEngine(Engine, Protocol):
    """An engine that can train at the pace of several."""

    least_tokens: int
    """Tokens that are worth a call."""

    def train(
        self, epoch: int, begin: int, end: int, *, progress: int | None = None, pace: int = 1
    ) -> Callable[[], Sequence[float]]:
        """Start to train ``ids[begin:end]``; progress and pace as in :meth:`embedtrain.ops.Trainer.train`."""


def remaining(state: State, size: int) -> list[Span]:
    """Return the stretches of the corpus that are left of the epoch in which a training is.

    :param size: tokens of the corpus.
    """
    pieces, since = _pieces(state, size)
    length, done = sum(end - begin for begin, end in pieces), state.position - since
    left: list[Span] = []
    for rank in range(state.ranks):
        begin, end = length * rank // state.ranks, length * (rank + 1) // state.ranks
        left += _stretch(pieces, begin + (end - begin) * done // length, end)
    return left


def _pieces(state: State, size: int) -> tuple[list[Span], int]:
    """Return what the ranks divide in the epoch of a state, and the position of the training when they began it."""
    if state.left and state.left_at // size == state.position // size:
        return [(begin, end) for begin, end in state.left], state.left_at
    return [(0, size)], state.position // size * size


def _stretch(pieces: Sequence[Span], first: int, last: int) -> list[Span]:
    """Return the part [first, last) of pieces that are laid end to end."""
    found = []
    for begin, end in pieces:
        low, high = max(begin + first, begin), min(begin + last, end)
        if low < high:
            found.append((low, high))
        first, last = first - (end - begin), last - (end - begin)
    return found


class LocalSgd:
    """All ranks as one engine.

    :param make: makes an engine of this rank, for its part of the corpus.
    :param ranks: None for one rank, that goes on with what several have begun.
    :param state: where to start. Is told how the epoch is divided.
    """

    def __init__(
        self,
        make: Callable[[Corpus], RankEngine],
        corpus: Corpus,
        options: Options,
        ranks: Ranks | None,
        state: State,
        group: Group | None = None,
    ) -> None:
        self._ranks = ranks
        self._rank, self._count = (0, 1) if ranks is None else (ranks.rank, ranks.size)
        self._own = make(corpus)
        self._part = corpus.part or Part(0, corpus.size, 0, corpus.size, corpus.sentences, corpus.size)
        self.input, self.output = self._own.input, self._own.output
        pairs = max(self._count * (self._count - 1) // 2, 1)
        round_tokens = max(ROUND_TOKENS // pairs, self._own.least_tokens)
        self.block_tokens = self._count * (self._own.block_tokens if ranks is None else round_tokens)
        self.ahead = max(self._own.ahead, 1)
        self.wants_save: Callable[[int], bool] = lambda position: False
        """Asked on each rank after each block; one that answers yes is enough."""
        self.save = False
        """Whether one did."""
        self._size, self._options = corpus.size, options
        self._blocks = -(-self._size // self.block_tokens)
        self._position = state.position
        # Of the epoch that other ranks began: (begin, end) in this rank's part of it, engine, index of the first.
        self._pieces: list[tuple[int, int, RankEngine, int]] = []
        if state.position % self._size:
            if state.ranks != self._count:
                state.left, state.left_at = remaining(state, self._size), state.position
            if _pieces(state, self._size)[0] != [(0, self._size)]:
                self._make_pieces(make, corpus, state)
        state.ranks = self._count
        self._left_at, self._left_epoch = state.left_at, state.left_at // self._size
        self._exchange = self._new_exchange(corpus, options, ranks) if ranks is not None else None

    def _new_exchange(self, corpus: Corpus, options: Options, group: Group) -> Exchange:
        counts = torch.from_numpy(corpus.vocabulary.counts)
        keep, noise = ops.keep_thresholds(counts, options.sample), ops.alias_table(counts, options.ns_exponent)
        kept = kept_share(counts, keep)
        input, output = touches_per_centre(counts, keep, noise, options.window, options.negative, options.shrink_window)
        return Exchange(
            self.input, self.output, (kept * input, kept * output), group, rate=options.alpha,
            round_positions=self._size / self._blocks / self._count, rounds=self._blocks * options.epochs,
            position=self._position / self._count, workers=options.workers,
        )  # fmt: skip

    def _make_pieces(self, make: Callable[[Corpus], RankEngine], corpus: Corpus, state: State) -> None:
        """Make engines for this rank's part of what is left of the epoch."""
        pieces, _ = _pieces(state, self._size)
        length = sum(end - begin for begin, end in pieces)
        shares = [
            _stretch(pieces, length * rank // self._count, length * (rank + 1) // self._count)
            for rank in range(self._count)
        ]
        done = 0
        for number in range(max(map(len, shares))):  # the ranks fetch theirs side by side
            begin, end = shares[self._rank][number] if number < len(shares[self._rank]) else (0, 0)
            if self._ranks is None:
                engine, first = self._own, begin
            else:
                some = _fetch(corpus, begin, end, self._ranks)
                if begin == end:
                    continue
                assert some.part is not None
                engine, first = make(some), some.part.begin
            self._pieces.append((done, done + end - begin, engine, first))
            done += end - begin

    def train(self, epoch: int, begin: int, end: int) -> Callable[[], Sequence[float]]:
        """Train this rank's part of what all train from ``begin`` to ``end``."""
        waits: list[Callable[[], Sequence[float]]] = []
        options, size, count, exchange = self._options, self._size, self._count, self._exchange
        for low, high, regular in self._rounds(epoch, begin, end):
            if exchange is None:
                waits += self._train_own(epoch, low, high)
                continue
            lag = low + (high - low) // _LAG
            waits += self._train_own(epoch, low, lag)
            exchange.apply()
            waits += self._train_own(epoch, lag, high)
            number = epoch * self._blocks + round(high * self._blocks / size) if regular else None
            position = epoch * size + high
            exchange.start(number, position / count, learning_rate(options, position, size))
        self._position = epoch * size + end
        wants = self.wants_save(self._position)

        def sums() -> Tensor:
            own = [wait() for wait in waits]
            return torch.tensor([*map(sum, zip(*own, strict=True)), float(wants)], dtype=torch.float64)

        if self._own.ahead:  # the figures come later
            return lambda: self._taken(self._start_sum(sums()))
        running = self._start_sum(sums())
        return lambda: self._taken(running)

    def _start_sum(self, sums: Tensor) -> tuple[Tensor, Sum | None]:
        return sums, None if self._ranks is None else self._ranks.start_sum(sums)

    def _taken(self, running: tuple[Tensor, Sum | None]) -> Sequence[float]:
        sums, under_way = running
        if under_way is not None:
            under_way.wait()
        *figures, wanted = sums.tolist()
        self.save = self.save or wanted > 0
        return figures

    def _rounds(self, epoch: int, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cut a block into rounds: (begin, end, whether it is the end of the block)."""
        if epoch == 0 and begin == 0 and self._exchange is not None:
            length = _FIRST_ROUND * self._count
            while length < end // 2:
                yield begin, length, False
                begin, length = length, 2 * length
        yield begin, end, True

    def _train_own(self, epoch: int, begin: int, end: int) -> Iterator[Callable[[], Sequence[float]]]:
        progress = epoch * self._size + begin
        if self._pieces and epoch == self._left_epoch:
            since = self._left_at - epoch * self._size
            length, own = self._size - since, self._pieces[-1][1]
            low, high = (own * (each - since) // length for each in (begin, end))
            spans = [
                (engine, first + max(low, at) - at, first + min(high, stop) - at)
                for at, stop, engine, first in self._pieces
                if max(low, at) < min(high, stop)
            ]
        else:
            part = self._part
            low, high = (part.begin + (part.end - part.begin) * each // self._size for each in (begin, end))
            spans = [(self._own, low, high)]
        for engine, low, high in spans:
            yield engine.train(epoch, low, high, progress=progress, pace=self._count)
            progress += self._count * (high - low)

    @property
    def cost(self) -> dict[str, float]:
        """What exchanges have cost this rank: bytes given to them, seconds of waiting."""
        if self._exchange is None:
            return {}
        return {"exchanged_bytes": self._exchange.bytes, "waited_seconds": round(self._exchange.waited, 3)}

    def synchronise(self) -> None:
        """Bring into the tables all that all ranks have learned."""
        self._own.synchronise()
        for _, _, engine, _ in self._pieces:
            engine.synchronise()
        if self._exchange is not None:
            self._exchange.settle(
                self._position / self._count, learning_rate(self._options, self._position, self._size)
            )


def _fetch(corpus: Corpus, begin: int, end: int, ranks: Ranks) -> Corpus:
    """Get a stretch of the corpus, with as much around it as there is around this rank's own part."""
    part = corpus.part
    assert part is not None
    own = corpus.ids[part.begin : part.end]
    offsets = corpus.offsets[:-1]
    starts = offsets[(offsets >= part.begin) & (offsets < part.end)] - part.begin
    ids, offsets, fetched = fetch(own, starts, begin, end, part, ranks)
    return dataclasses.replace(corpus, ids=ids, offsets=offsets, part=fetched)


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
