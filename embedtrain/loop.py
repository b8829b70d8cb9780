"""The loop over the blocks of a corpus, the same for every device; it can be left after a block and gone on with later.

All that a training knows, besides its two tables, is a :class:`State`. What is drawn and learned depends on positions
in the corpus alone, so a training that goes on from a state and its tables, in another process or on another machine,
is the one that was left.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from embedtrain.errors import EmbedtrainError
from embedtrain.options import Options

if TYPE_CHECKING:
    from torch import Tensor

# The loss curve has at least this many points.
_REPORTS = 100

Report = dict[str, Any]


@dataclass
class State:
    """How far a training is."""

    position: int = 0
    """Tokens trained, over all epochs."""
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Loss, pairs and centres since the last report, as in :func:`embedtrain.ops.train_block`."""
    reports: list[Report] = field(default_factory=list)
    """All reports, the lines of ``metrics.jsonl``."""
    seconds: float = 0.0
    """How long it trained."""
    reported_at: float = 0.0
    """What ``seconds`` was at the last report."""


class Engine(Protocol):
    """What trains the tables: the threads of a machine, or a GPU."""

    @property
    def input(self) -> Tensor:
        """The input table, (V, D)."""

    @property
    def output(self) -> Tensor:
        """The output table, (V, D)."""

    @property
    def block_tokens(self) -> int:
        """Tokens to train at once."""

    @property
    def ahead(self) -> int:
        """Blocks that are started before the first of them is waited for."""

    def train(self, epoch: int, begin: int, end: int) -> Callable[[], Sequence[float]]:
        """Start to train the centres ``ids[begin:end]`` of the corpus.

        :return: a function that waits until they are trained and returns their loss, pairs and centres.
        """

    def synchronise(self) -> None:
        """Bring into the tables all that was started."""


class Keeper(Protocol):
    """What saves states (:class:`embedtrain.training_state.Checkpoints`)."""

    def due(self, position: int) -> bool:
        """Say whether to save now. Asked after each block."""

    def save(self, state: State, input: Tensor, output: Tensor) -> None:
        """Save; the tables change after this call returns."""


def train_blocks(
    engine: Engine, size: int, options: Options, state: State, keeper: Keeper | None = None
) -> Iterator[tuple[Report, bool]]:
    """Train what is left; yield after each block the figures of the interval so far, and whether they are a report.

    The tables hold the result when this has ended. The state is kept up to date.

    :param size: tokens of the corpus.
    :raises EmbedtrainError: if training diverges.
    """
    total = size * options.epochs
    start = time.perf_counter() - state.seconds
    started: deque[tuple[int, int, Callable[[], Sequence[float]]]] = deque()

    def finish(left: int) -> Iterator[tuple[Report, bool]]:
        """Wait for the blocks that were started, but for the last ones."""
        nonlocal start
        while len(started) > left:
            position, epoch, wait = started.popleft()
            sums = wait()
            state.seconds = time.perf_counter() - start
            advanced = _advance(state, position, epoch, sums, size, options)
            left_at = time.perf_counter()
            yield advanced
            start += time.perf_counter() - left_at  # what others do with a report is no training

    for epoch, begin, end in _blocks(size, options.epochs, engine.block_tokens, state.position):
        position = epoch * size + end
        started.append((position, epoch + 1, engine.train(epoch, begin, end)))
        yield from finish(0 if position == total else engine.ahead)
        if keeper is not None and keeper.due(position):
            yield from finish(0)
            engine.synchronise()
            keeper.save(state, engine.input, engine.output)
    engine.synchronise()


def learning_rate(options: Options, position: int, size: int) -> float:
    """Return the learning rate at a position over all epochs: it falls linearly. :param size: tokens of the corpus."""
    total = size * options.epochs
    return max(options.min_alpha, options.alpha - (options.alpha - options.min_alpha) * position / total)


def _blocks(size: int, epochs: int, block_tokens: int, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield (epoch, begin, end) of the blocks from a position on, which need not be where a block begins."""
    blocks = -(-size // block_tokens)
    for epoch in range(position // size, epochs):
        for block in range(blocks):
            # Of equal size, because a short one at the end would give a last loss of few pairs.
            begin, end = size * block // blocks, size * (block + 1) // blocks
            begin = max(begin, position - epoch * size)
            if begin < end:
                yield epoch, begin, end


def _advance(
    state: State, position: int, epoch: int, sums: Sequence[float], size: int, options: Options
) -> tuple[Report, bool]:
    """Take in a block that was trained."""
    loss, pairs, centres = (old + new for old, new in zip(state.sums, sums, strict=True))
    if not math.isfinite(loss):
        raise EmbedtrainError(
            f"training diverged: the loss is {loss} at position {position:,} (epoch {epoch}); "
            f"lower --alpha ({options.alpha:g})"
        )
    total = size * options.epochs
    last = state.reports[-1]["position"] if state.reports else 0
    report = {
        "position": position,
        "epoch": epoch,
        "loss": loss / pairs if pairs else math.nan,  # null in metrics.jsonl
        "rate": learning_rate(options, position, size),
        "words_per_second": round((position - last) / max(state.seconds - state.reported_at, 1e-9)),
    }
    finished = position >= last + -(-total // _REPORTS) or position % size == 0
    state.position, state.sums = position, (loss, pairs, centres)
    if finished:
        state.reports.append(report)
        state.sums, state.reported_at = (0.0, 0.0, 0.0), state.seconds
    return report, finished
