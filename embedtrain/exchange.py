"""How ranks that train copies of the same tables keep them together: they exchange what they have learned since.

Every rank trains its own two tables. At the end of a round, a fixed number of positions on each rank, a rank takes
the difference that it has made to some rows since they were last exchanged; the differences of all ranks are summed
beside the training of the next round, and at its end every rank replaces its own difference by the weighted sum. Which
rows, and with which weight, follows from the counts of the words and the learning rate alone, so that all ranks agree
on it and a run can be repeated. Differences travel as bfloat16; what a rank rounds off stays in its table, and so is
part of its next difference. docs/scaling.md has the reasons and the measurements.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

import torch
from torch import Tensor

from embedtrain import ops

# Rate × updates of a row after which it has gone 1 - 1/e of the way to where its text draws it, in the direction in
# which it learns most quickly. Training diverges if gradients of the same old values add up to twice this, as windows
# in flight on a GPU do at 1.6.
SETTLED = 0.8
# How far all ranks together may go in that direction: at 1 they arrive, at 2 training diverges.
REACH = 1.2
# The least weight of a row that is not exchanged after every round: rows are exchanged as seldom as this allows.
LEAST_WEIGHT = 0.8
# At least so many exchanges of every row during training.
_EXCHANGES = 10
# Numbers that are exchanged at once when all are: bounds the memory for it.
_SLICE = 1 << 23


class Sum(Protocol):
    """A sum over ranks that is under way."""

    def wait(self) -> None:
        """Return when it is there (on a GPU: make the current stream wait for it)."""


class Group(Protocol):
    """The ranks, as far as an exchange needs them."""

    size: int

    def start_sum(self, values: Tensor) -> Sum:
        """Start to sum tensors of all ranks, in place. All ranks start the same sums in the same order."""


def weight(settled: Tensor, ranks: int) -> Tensor:
    """Return what the sum of the ranks' differences is multiplied by, per row: 1 as long as that is stable.

    With n updates at rate η a rank goes the share ``1 - exp(-x)`` of the way to where its text draws a row, where
    ``x = η n / SETTLED`` in the direction in which that is quickest. P ranks that started from the same values go P
    times this share together; the weight keeps that at REACH. So rows that are rarely updated are summed, as if one
    rank had made all updates, and of those that each rank has settled by itself REACH times the mean is taken.

    :param settled: x, of one rank, since the last exchange.
    """
    return (-REACH / (ranks * torch.expm1(-settled.clamp(min=1e-9)))).clamp(max=1)


def rounds_between(touches: Tensor, rate: float, ranks: int, round_positions: float, longest: int) -> Tensor:
    """Return after how many rounds each row is to be exchanged: int64 (V,), powers of two.

    :param touches: (V,) expected updates per position of a rank.
    :param longest: the most rounds between two exchanges of a row.
    """
    share = REACH / (ranks * LEAST_WEIGHT)  # of the way, that a rank may go alone
    most = SETTLED * -math.log1p(-share) if share < 1 else math.inf
    settled = (rate * round_positions * touches.double()).clamp(min=1e-30)
    exponents = torch.log2(most / settled).floor().clamp(0, math.floor(math.log2(max(longest, 1))))
    return torch.ones_like(exponents, dtype=torch.int64) << exponents.long()


class Exchange:
    """Keeps the tables of this rank together with those of the others.

    Rows are numbered through both tables: row V + i is row i of the output table.

    :param input: (V, D), the same on all ranks at the start. :param output: likewise.
    :param touches: (V,) of the input and the output table: expected updates per position of a rank.
    :param rate: the highest learning rate. :param rounds: in the whole training.
    :param position: trained by each rank before, in which the tables agree.
    :param workers: threads that an exchange may use.
    """

    def __init__(
        self,
        input: Tensor,
        output: Tensor,
        touches: tuple[Tensor, Tensor],
        group: Group,
        *,
        rate: float,
        round_positions: float,
        rounds: int,
        position: float = 0,
        workers: int = 1,
    ) -> None:
        self._input, self._output = input, output
        self._group, self._workers = group, workers
        device = input.device
        # What all ranks agree on.
        self._base = ops.new_table(2 * len(input), input.shape[1], device=device)
        self._base[: len(input)] = input
        self._base[len(input) :] = output
        self._touches = torch.cat(touches).to(device, torch.float32)
        # Position on each rank up to which all is in the base, or on its way.
        self._since = torch.full_like(self._touches, position, dtype=torch.float64)
        every = rounds_between(self._touches, rate, group.size, round_positions, max(rounds // _EXCHANGES, 1))
        # Rounds between exchanges, and rows of which a part is due in each round.
        self._tiers = [(each, (every == each).nonzero().squeeze(1)) for each in sorted(set(every.tolist()))]
        self._buffers = input.new_empty(2, 0, dtype=torch.bfloat16)
        # Rows, this rank's differences, those of all, weights.
        self._running: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._sum: Sum | None = None
        self.bytes = 0
        """Bytes of differences that this rank has given to sums."""
        self.waited = 0.0
        """Seconds in which this rank has waited for sums."""

    def start(self, number: int | None, position: float, rate: float) -> None:
        """Start to exchange what is due.

        :param number: of the round that has just been trained; None: only rows that are due after every round.
        :param position: trained by each rank since the start of training. :param rate: the learning rate now.
        """
        due = []
        for every, rows in self._tiers:
            if number is not None or every == 1:
                part = (number or 0) % every
                due.append(rows[len(rows) * part // every : len(rows) * (part + 1) // every])
        if due:
            self._start(torch.cat(due), position, rate)

    def _start(self, rows: Tensor, position: float, rate: float) -> None:
        self.apply()
        size, dim = len(rows), self._base.shape[1]
        if size == 0:
            return
        if size * dim > self._buffers.shape[1]:
            self._buffers = self._buffers.new_empty(2, size * dim)
        own, total = self._buffers[:, : size * dim].view(2, size, dim)
        torch.ops.embedtrain.take_differences(self._input, self._output, self._base, rows, own, self._workers)
        total.copy_(own)
        self.bytes += total.nbytes
        self._sum = self._group.start_sum(total)
        settled = (rate / SETTLED) * (position - self._since[rows]).float() * self._touches[rows]
        self._since[rows] = position
        self._running = rows, own, total, weight(settled, self._group.size)

    def apply(self) -> None:
        """Take over what was exchanged, waiting for it."""
        if self._sum is None or self._running is None:
            return
        start = time.perf_counter()
        self._sum.wait()
        self.waited += time.perf_counter() - start
        torch.ops.embedtrain.replace_differences(self._input, self._output, self._base, *self._running, self._workers)
        self._sum = self._running = None

    def settle(self, position: float, rate: float) -> None:
        """Exchange everything: afterwards the tables of all ranks are equal, to the bit."""
        everything = torch.arange(len(self._base), device=self._base.device)
        for rows in torch.split(everything, max(_SLICE // self._base.shape[1], 1)):
            self._start(rows, position, rate)
        self.apply()
        self._input.copy_(self._base[: len(self._input)])
        self._output.copy_(self._base[len(self._input) :])
