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
from collections.abc import Iterator
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
# Rate × updates of a row, by all ranks together, between two exchanges of it: rows are exchanged as seldom as this
# allows.
UNSEEN = 2.0
# At least so many exchanges of every row during training.
_EXCHANGES = 10
# Numbers of a table that are exchanged at once when all are: bounds the memory for it.
_SLICE = 1 << 22


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
    unseen = rate * ranks * round_positions * touches
    exponents = torch.log2(UNSEEN / unseen.clamp(min=1e-30)).floor().clamp(0, math.floor(math.log2(max(longest, 1))))
    return torch.ones_like(exponents, dtype=torch.int64) << exponents.long()


class _Table:
    """One of the two tables.

    :param touches: (V,) expected updates per position of a rank. :param every: from :func:`rounds_between`.
    """

    def __init__(self, table: Tensor, touches: Tensor, every: Tensor, position: float) -> None:
        self.values = table
        self.base = ops.new_table(*table.shape, device=table.device)
        """(V, D) what all ranks agree on."""
        self.base.copy_(table)
        device = table.device
        self._touches = touches.to(device, torch.float32)
        # Position on each rank up to which all is in the base, or on its way.
        self._since = torch.full_like(self._touches, position, dtype=torch.float64)
        # Rounds between exchanges, and rows of which a part is due in each round.
        self._tiers = [(each, (every == each).nonzero().squeeze(1).to(device)) for each in every.unique().tolist()]

    def due(self, number: int | None) -> Tensor:
        """Return the rows to exchange after a round; None: those that are due after every round."""
        found = []
        for every, rows in self._tiers:
            part = 0 if number is None else number % every
            if number is not None or every == 1:
                found.append(rows[len(rows) * part // every : len(rows) * (part + 1) // every])
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device=self.base.device)

    def settled(self, rows: Tensor, position: float, rate: float) -> Tensor:
        """Return what :func:`weight` is told of rows that are exchanged at a position, and remember that they are."""
        settled = rate / SETTLED * (position - self._since[rows]).float() * self._touches[rows]
        self._since[rows] = position
        return settled


class Exchange:
    """Keeps the tables of this rank together with those of the others.

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
        self._group, self._workers = group, workers
        longest = max(rounds // _EXCHANGES, 1)
        self._tables = [
            _Table(table, each, rounds_between(each, rate, group.size, round_positions, longest), position)
            for table, each in zip((input, output), touches, strict=True)
        ]
        self._buffers = input.new_empty(2, 0, dtype=torch.bfloat16)
        self._running: list[tuple[_Table, Tensor, Tensor, Tensor, Tensor]] = []
        self._sum: Sum | None = None  # of these, one behind the other
        self.bytes = 0
        """Bytes of differences that this rank has given to sums."""
        self.waited = 0.0
        """Seconds in which this rank has waited for sums."""

    def start(self, number: int | None, position: float, rate: float) -> None:
        """Start to exchange what is due.

        :param number: of the round that has just been trained; None: only rows that are due after every round.
        :param position: trained by each rank since the start of training. :param rate: the learning rate now.
        """
        self._start([table.due(number) for table in self._tables], position, rate)

    def _start(self, due: list[Tensor], position: float, rate: float) -> None:
        self.apply()
        dim = self._tables[0].base.shape[1]
        sizes = [len(rows) * dim for rows in due]
        if not any(sizes):
            return
        if sum(sizes) > self._buffers.shape[1]:
            self._buffers = self._buffers.new_empty(2, sum(sizes))
        own, total = self._buffers[:, : sum(sizes)]
        parts = (each.split(sizes) for each in (own, total))
        for table, rows, mine, all in zip(self._tables, due, *parts, strict=True):
            mine, all = mine.view(-1, dim), all.view(-1, dim)
            torch.ops.embedtrain.take_differences(table.values, table.base, rows, mine, self._workers)
            factor = weight(table.settled(rows, position, rate), self._group.size)
            self._running.append((table, rows, mine, all, factor))
        total.copy_(own)
        self.bytes += total.nbytes
        self._sum = self._group.start_sum(total)

    def apply(self) -> None:
        """Take over what was exchanged, waiting for it."""
        if self._sum is None:
            return
        start = time.perf_counter()
        self._sum.wait()
        self._sum = None
        self.waited += time.perf_counter() - start
        for table, rows, own, total, factor in self._running:
            torch.ops.embedtrain.replace_differences(
                table.values, table.base, rows, own, total, factor, self._workers
            )
        self._running.clear()

    def settle(self, position: float, rate: float) -> None:
        """Exchange everything: afterwards the tables of all ranks are equal, to the bit."""
        for rows in self._all_rows():
            self._start([rows, rows], position, rate)
        self.apply()
        for table in self._tables:
            table.values.copy_(table.base)

    def _all_rows(self) -> Iterator[Tensor]:
        base = self._tables[0].base
        yield from torch.arange(len(base), device=base.device).split(max(_SLICE // base.shape[1], 1))
