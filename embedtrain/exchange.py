"""How ranks that train copies of the same tables keep them together: they exchange what they have learned since.

Every rank trains its own two tables. At the end of a round, a fixed number of positions on each rank, a rank takes
the difference that it has made to some rows since they were last exchanged; the differences of all ranks are summed
beside the training of the next round, and at its end every rank replaces its own difference by the weighted sum. Which
rows, and with which weight, follows from the counts of the words and the learning rate alone, so that all ranks agree
on it and a run can be repeated. docs/scaling.md has the reasons and the measurements.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

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
# Numbers that are summed at once, in one slice of the tables: bounds the memory for it.
_SLICE = 1 << 23

Rows = slice | Tensor


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


def tiers(touches: Tensor, rate: float, ranks: int, round_positions: float, longest: int) -> list[tuple[Rows, int]]:
    """Sort rows by how often they have to be exchanged.

    :param touches: (V,) expected updates per position of a rank.
    :param longest: the most rounds between two exchanges of a row.
    :return: (rows, rounds between two exchanges of them), the rounds rising in powers of two.
    """
    unseen = rate * ranks * round_positions * touches
    exponents = torch.log2(UNSEEN / unseen.clamp(min=1e-30)).floor().clamp(0, math.floor(math.log2(max(longest, 1))))
    found: list[tuple[Rows, int]] = []
    for exponent in sorted(set(exponents.int().tolist())):
        index = (exponents == exponent).nonzero().squeeze(1)
        first, last = int(index[0]), int(index[-1]) + 1
        # The vocabulary is in order of frequency, unless it is that of a tokenizer.
        found.append((slice(first, last) if last - first == len(index) else index, 1 << exponent))
    return found


@dataclass
class _Slice:
    """Rows that are exchanged together."""

    rows: Rows
    every: int  # rounds
    phase: int
    base: tuple[Tensor, Tensor]  # (n, D) of each table: the value that all ranks agree on
    touches: Tensor  # (2, n, 1) expected updates per position of a rank
    since: float  # position on each rank up to which all is in base, or on its way


@dataclass
class _Running:
    slice: _Slice
    snapshot: tuple[Tensor, Tensor]  # (n, D) of each table
    values: Tensor  # (2, n, D) this rank's difference, and later that of all
    weight: Tensor  # (2, n, 1)


class Exchange:
    """Keeps the tables of this rank together with those of the others.

    :param input: (V, D), the same on all ranks at the start. :param output: likewise.
    :param touches: (V,) of the input and the output table: expected updates per position of a rank.
    :param rate: the highest learning rate. :param rounds: in the whole training.
    :param position: trained by each rank before, in which the tables agree.
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
    ) -> None:
        self._tables = (input, output)
        self._group = group
        self._running: list[_Running] = []
        self._sum: Sum | None = None  # of these, one behind the other
        self.bytes = 0
        """Bytes of differences that this rank has given to sums."""
        self.waited = 0.0
        """Seconds in which this rank has waited for sums."""
        self._slices: list[_Slice] = []
        both = torch.stack(touches).to(input.device, torch.float32)
        longest = max(rounds // _EXCHANGES, 1)
        for rows, every in tiers(both.amax(0), rate, group.size, round_positions, longest):
            self._slices += self._sliced(rows, every, both, position)

    def _sliced(self, rows: Rows, every: int, touches: Tensor, position: float) -> list[_Slice]:
        """Cut a tier so that a part of it is due in every round."""
        first, size = (rows.start, rows.stop - rows.start) if isinstance(rows, slice) else (0, len(rows))
        parts = min(max(-(-size * 2 * self._tables[0].shape[1] // _SLICE), every), size)
        found = []
        for part in range(parts):
            begin, end = size * part // parts, size * (part + 1) // parts
            some = slice(first + begin, first + end) if isinstance(rows, slice) else rows[begin:end]
            base = self._tables[0][some].clone(), self._tables[1][some].clone()
            found.append(_Slice(some, every, part % every, base, touches[:, some].unsqueeze(2), position))
        return found

    def start(self, number: int | None, position: float, rate: float) -> None:
        """Start to exchange what is due.

        :param number: of the round that has just been trained; None: only rows that are due after every round.
        :param position: trained by each rank since the start of training. :param rate: the learning rate now.
        """
        self.apply()
        due = [
            part for part in self._slices if (part.every == 1 if number is None else number % part.every == part.phase)
        ]
        self._start(due, position, rate)

    def apply(self) -> None:
        """Take over what was exchanged, waiting for it."""
        start = time.perf_counter()
        if self._sum is not None:
            self._sum.wait()
        self._sum = None
        self.waited += time.perf_counter() - start
        for running in self._running:
            self._finish(running)
        self._running.clear()

    def settle(self, position: float, rate: float) -> None:
        """Exchange everything: afterwards the tables of all ranks are equal, to the bit."""
        for part in self._slices:
            self.apply()
            self._start([part], position, rate)
        self.apply()
        for part in self._slices:
            for table, base in zip(self._tables, part.base, strict=True):
                table[part.rows] = base

    def _start(self, due: list[_Slice], position: float, rate: float) -> None:
        due = [part for part in due if position > part.since]
        if not due:
            return
        size = sum(2 * part.base[0].numel() for part in due)
        values = torch.empty(size, device=self._tables[0].device)
        at = 0
        for part in due:
            shape = part.base[0].shape
            differences = values[at : (at := at + 2 * shape.numel())].view(2, *shape)
            snapshot = self._tables[0][part.rows].clone(), self._tables[1][part.rows].clone()
            for now, base, difference in zip(snapshot, part.base, differences, strict=True):
                torch.sub(now, base, out=difference)
            settled = rate * (position - part.since) / SETTLED * part.touches
            part.since = position
            self._running.append(_Running(part, snapshot, differences, weight(settled, self._group.size)))
        self.bytes += values.nbytes
        self._sum = self._group.start_sum(values)

    def _finish(self, running: _Running) -> None:
        part = running.slice
        for table, base, snapshot, difference, factor in zip(
            self._tables, part.base, running.snapshot, running.values, running.weight, strict=True
        ):
            base.addcmul_(difference, factor)
            rows = table[part.rows]
            rows.sub_(snapshot).add_(base)  # what was learned while the sum was under way stays
            if not isinstance(part.rows, slice):  # rows is a copy
                table[part.rows] = rows
