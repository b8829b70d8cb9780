"""Training on a GPU: the operators for CUDA tensors, and the loop that keeps the card busy.

The tables stay on the card. The encoded corpus goes there once if it fits, else block by block through pinned buffers
while the block before is trained. Python only enqueues work: it is some blocks ahead, and reads the loss of a block
when that block is done, without making the card wait.

The kernels draw the same samples as those of the CPU. Thousands of windows are trained at once, each from rows that
miss what the others are learning; :func:`damping` says why that does no harm.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embedtrain import ops
from embedtrain.corpus import Corpus
from embedtrain.errors import EmbedtrainError
from embedtrain.native import core
from embedtrain.options import Options
from embedtrain.touches import touches_per_centre

# How far the gradients that windows in flight add to a row may reach together: rate × windows that touch the row. At
# 1 training diverges.
REACH = 0.4
# Tokens per call of the kernels: long enough that its end, when workers run out of centres one by one, does not count.
_BLOCK_TOKENS = 1 << 22
# What several ranks enqueue at once, at least.
LEAST_TOKENS = 1 << 20
# Blocks that are enqueued before the loss of the first of them is read.
_AHEAD = 3


class Kernels(Protocol):
    """The functions of the native core for CUDA; the tests have others, which run the same kernels on the CPU."""

    def cuda_workspace_bytes(self, **block: Any) -> int:
        """Memory of the device that training the block needs."""

    def cuda_default_workers(self, dim: int, window: int, negative: int, device: int) -> int:
        """Windows that the device trains at once."""

    def cuda_train_block(self, workers: int, workspace: int, device: int, stream: int, **block: Any) -> None:
        """Enqueue the training of a block."""

    def cuda_initial_weights(
        self, table: int, first_row: int, rows: int, dim: int, stride: int, seed: int, device: int, stream: int
    ) -> None:
        """Enqueue the filling of a table."""


# ---- the operators


def _address(tensor: Tensor, name: str, dtype: torch.dtype, device: torch.device, *shape: int | None) -> int:
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, not {tensor.dtype}")
    if tensor.device != device:
        raise TypeError(f"{name} must be on {device}, as input is, not on {tensor.device}")
    if tensor.dim() != len(shape) or any(
        want is not None and want != got for want, got in zip(shape, tensor.shape, strict=True)
    ):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape ({wanted}), not {tuple(tensor.shape)}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous")
    return int(tensor.data_ptr())


def _index(device: torch.device) -> int:
    return device.index or 0


def _stream(device: torch.device) -> int:
    """Return the caller's current stream, as a number."""
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


def _is_aligned(table: Tensor) -> bool:
    """Whether the kernels can work on a table as it is: rows on 16 bytes, a dim that is a multiple of 4 or padded."""
    if table.stride(1) != 1 or table.stride(0) % 4 != 0 or table.data_ptr() % 16 != 0:
        return False
    return table.shape[1] % 4 == 0 or ops._is_padded(table)


def _aligned(tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if all(map(_is_aligned, tables)) and tables[0].stride(0) == tables[1].stride(0):
        return tables
    copies = [ops.new_table(len(table), table.shape[1], device=table.device).copy_(table) for table in tables]
    return copies[0], copies[1]


def train_block(
    input: Tensor,
    output: Tensor,
    stats: Tensor,
    ids: Tensor,
    offsets: Tensor,
    keep: Tensor,
    noise: Tensor,
    begin: int,
    end: int,
    first_position: int,
    corpus_size: int,
    epoch: int,
    epochs: int,
    seed: int,
    window: int,
    negative: int,
    shrink_window: bool,
    alpha: float,
    min_alpha: float,
    workers: int,
    locked: Tensor | None = None,
    *,
    factors: tuple[Tensor, Tensor] | None = None,
    progress: int | None = None,
    pace: int = 1,
    kernels: Kernels = core,
) -> None:
    """Train on the centres ``ids[begin:end]``, as :func:`embedtrain.ops.train_block` does, on the current stream.

    All tensors are on one device. The call returns before the work is done, so bad contents cannot be raised: where a
    word is not in the vocabulary, or the offsets do not fit, the loss in ``stats`` becomes NaN and nothing is trained.

    :param workers: windows that are trained at once; 0: as many as suit the GPU. One takes them in order, and is
        repeatable bit for bit (and slow).
    :param locked: as there.
    :param factors: from :func:`damping`, which is also the default, with the counts in the block, if there are several
        workers.
    :param progress: as that of :meth:`embedtrain.ops.Trainer.train`. :param pace: likewise.
    :raises ValueError: shapes that do not fit each other, K above 64 or D above 1024.
    """
    device = input.device
    for name, table in (("input", input), ("output", output)):
        if table.dtype != torch.float32 or table.device != device or table.dim() != 2:
            raise TypeError(
                f"{name} must be a float32 matrix on {device}, not {table.dtype} {tuple(table.shape)} on {table.device}"
            )
    schedule = ops.Schedule(
        corpus_size=corpus_size, epochs=epochs, seed=seed, window=window, negative=negative,
        shrink_window=shrink_window, alpha=alpha, min_alpha=min_alpha,
    )  # fmt: skip
    settings = ops.training_settings(input, output, schedule)
    if progress is not None:
        settings = ops.paced(settings, epoch * corpus_size + first_position + begin, progress, pace)
    vocabulary, dim = input.shape
    ops.require_span(ids, offsets, begin, end, first_position, epoch, epochs)
    ops._require_at_least(0, workers=workers)
    block: dict[str, Any] = settings | {
        "ids": _address(ids, "ids", torch.int32, device, None),
        "tokens": ids.numel(),
        "offsets": _address(offsets, "offsets", torch.int64, device, None),
        "sentences": offsets.numel() - 1,
        "begin": begin,
        "end": end,
        "first_position": first_position,
        "keep": _address(keep, "keep", torch.int32, device, vocabulary),
        "noise": _address(noise, "noise", torch.int32, device, vocabulary, 2),
        "epoch": epoch,
        "stats": _address(stats, "stats", torch.float64, device, 3),
        "input": 0,
        "output": 0,
        "stride": 0,
        "input_damping": 0,
        "output_damping": 0,
    }
    if begin >= end:
        return
    if offsets.numel() < 2:
        raise ValueError("offsets must rise from 0 to the number of ids, without empty sentences")
    if workers == 0:
        workers = kernels.cuda_default_workers(dim, window, negative, _index(device))
    if factors is None and workers > 1:
        words = ids[begin:end].clamp(0, vocabulary - 1).long()
        counts = torch.zeros(vocabulary, dtype=torch.float64, device=device)
        counts.index_add_(0, words, torch.ones_like(words, dtype=torch.float64))
        factors = damping(counts, keep, noise, workers, window, negative, shrink_window, alpha)
    if locked is not None:
        _address(locked, "locked", torch.bool, device, vocabulary)
        input_factors, output_factors = factors or (torch.ones(vocabulary, device=device),) * 2
        factors = input_factors.masked_fill(locked, 0), output_factors
    if factors is not None:
        for name, factor in zip(("input_damping", "output_damping"), factors, strict=True):
            block[name] = _address(factor, name, torch.float32, device, vocabulary)
    tables = _aligned((input, output))
    block |= {"input": tables[0].data_ptr(), "output": tables[1].data_ptr(), "stride": tables[0].stride(0)}
    # Freed while the work may still be running: torch gives the memory to later work of the same stream alone.
    workspace = torch.empty(kernels.cuda_workspace_bytes(**block), dtype=torch.uint8, device=device)
    kernels.cuda_train_block(workers, workspace.data_ptr(), _index(device), _stream(device), **block)
    for given, used in zip((input, output), tables, strict=True):
        if used is not given:
            given.copy_(used)


def initial_weights(table: Tensor, first_row: int, seed: int, *, kernels: Kernels = core) -> None:
    """Fill rows of an input table, as :func:`embedtrain.ops.initial_weights` does, to the bit."""
    if table.dtype != torch.float32 or table.dim() != 2 or table.stride(1) != 1:
        raise TypeError("table must be a float32 matrix whose rows are contiguous")
    ops._require_at_least(0, first_row=first_row, seed=seed)
    kernels.cuda_initial_weights(
        table.data_ptr(), first_row, table.shape[0], table.shape[1], table.stride(0), seed, _index(table.device),
        _stream(table.device),
    )  # fmt: skip


def damping(
    counts: Tensor,
    keep: Tensor,
    noise: Tensor,
    workers: int,
    window: int,
    negative: int,
    shrink_window: bool,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """Return what the updates of each row are multiplied by, for the input and the output table, float32 (V,).

    Windows that are trained at once miss each other's updates, and the rows of frequent words get the sum of many
    gradients of the same old values. Once rate × windows that touch a row is about 1, training diverges. So the rate of
    a row is lowered, from the start and for good, to ``min(1, REACH / (alpha * touches))``, where touches is how many
    of the workers' windows have the row, on average: for an output row ``workers * (p_kept + K * p_noise)``, for an
    input row ``workers * contexts * p_kept``, with p the word's share of the kept tokens and of the noise.

    Measured on the CPU, with rounds of windows all computed from the same tables (the worst case), alpha 0.025: with
    8,192 windows to a round and ``REACH`` 0.4 the result equals that of one at a time; without, it is NaN.

    :param counts: (V,) how often each word occurs. :param keep: from :func:`embedtrain.ops.keep_thresholds`.
    :param noise: from :func:`embedtrain.ops.alias_table`.
    """
    touches = touches_per_centre(counts, keep, noise, window, negative, shrink_window)
    limit = REACH / alpha if alpha > 0 else math.inf
    input, output = ((limit / (workers * each).clamp(min=1e-30)).clamp(max=1).float() for each in touches)
    return input, output


# ---- the training loop


class Card:
    """What the loop asks of a GPU. The tests put one in its place that computes on the CPU."""

    kernels: Kernels = core

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def free_bytes(self) -> int:
        """Memory that is left."""
        return int(torch.cuda.mem_get_info(self.device)[0])

    def host_buffer(self, size: int, dtype: torch.dtype) -> Tensor:
        """Host memory that the card reads and writes by itself."""
        return torch.empty(size, dtype=dtype, pin_memory=True)

    def buffer(self, size: int, dtype: torch.dtype) -> Tensor:
        """Memory of the card to upload to."""
        # It may have been freed by work that is still running: no upload before that is done.
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        return torch.empty(size, dtype=dtype, device=self.device)

    def event(self) -> Callable[[], None]:
        """Mark what is enqueued by now; the function that is returned waits until it is done."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize

    def upload(self, host: Tensor, card: Tensor) -> None:
        """Copy to the card beside the work that is enqueued; later work waits for the copy."""
        with torch.cuda.stream(self._copies):
            card.copy_(host, non_blocking=True)
        torch.cuda.current_stream(self.device).wait_stream(self._copies)


@contextmanager
def explained(device: torch.device, what: str) -> Iterator[None]:
    """Turn what CUDA reports into a sentence for the user."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EmbedtrainError(
            f"no memory on {device} for {what}; lower --dim or --max-vocab, raise --min-count, free memory on the GPU "
            "(nvidia-smi shows who uses it), or train with --device cpu"
        ) from error
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise EmbedtrainError(
            f"{device} failed during {what}: {reason}; see nvidia-smi and dmesg, then run again, "
            "or train with --device cpu"
        ) from error


def tables(rows: int, options: Options, device: str, *, kernels: Kernels = core) -> tuple[Tensor, Tensor]:
    """Make the two tables on the card, with their initial weights.

    :raises EmbedtrainError: if they do not fit.
    """
    on = torch.device(device)
    size = 2 * rows * options.dim * 4 / 1e9
    with explained(on, f"two tables of {rows:,} x {options.dim} ({size:.1f} GB)"):
        input = ops.new_table(rows, options.dim, device=on)
        output = ops.new_table(rows, options.dim, device=on)
        initial_weights(input, 0, options.seed, kernels=kernels)
    return input, output


class Gpu:
    """Trains on a GPU.

    :param input: float32 (V, D) on the device, from :func:`tables`. :param output: likewise.
    :param locked: bool (V,), on the device of the tables, as :func:`train_block` has it.
    :raises EmbedtrainError: here or in its methods, if memory runs out or the device fails.
    """

    ahead = _AHEAD

    def __init__(
        self,
        corpus: Corpus,
        options: Options,
        input: Tensor,
        output: Tensor,
        locked: Tensor | None = None,
        *,
        card: Card | None = None,
    ) -> None:
        self.input, self.output, self.block_tokens = input, output, _BLOCK_TOKENS
        self._schedule, self._locked = ops.Schedule.of(options, corpus.size), locked
        with explained(input.device, "training"):
            self._card = card = card or Card(input.device)
            counts = torch.from_numpy(corpus.vocabulary.counts)
            keep = ops.keep_thresholds(counts, options.sample)
            self._keep = keep.to(input.device)
            self._noise = ops.alias_table(counts, options.ns_exponent).to(input.device)
            self._workers = card.kernels.cuda_default_workers(
                options.dim, options.window, options.negative, _index(input.device)
            )
            self._factors = damping(
                counts.to(input.device), self._keep, self._noise, self._workers, options.window, options.negative,
                options.shrink_window, options.alpha,
            )  # fmt: skip
            self._feed = _feed(corpus, options, card, keep)
            self._stats = torch.zeros(3, dtype=torch.float64, device=input.device)
            self._slots = deque(card.host_buffer(3, torch.float64) for _ in range(_AHEAD + 1))

    def train(
        self, epoch: int, begin: int, end: int, *, first_position: int = 0, progress: int | None = None, pace: int = 1
    ) -> Callable[[], Sequence[float]]:
        """Enqueue the training of a block. The arguments are those of :meth:`embedtrain.ops.Trainer.train`."""
        with explained(self.input.device, "training"):
            ids, offsets, first = self._feed.take(epoch, begin, end, first_position)
            self._stats.zero_()
            train_block(
                self.input, self.output, self._stats, ids, offsets, self._keep, self._noise, begin - first, end - first,
                first_position + first, epoch=epoch, **vars(self._schedule), workers=self._workers, locked=self._locked,
                factors=self._factors, progress=progress, pace=pace, kernels=self._card.kernels,
            )  # fmt: skip
            self._feed.release()
            self._slots.rotate()
            slot = self._slots[0]
            slot.copy_(self._stats, non_blocking=True)
            event = self._card.event()

        def wait() -> Sequence[float]:
            with explained(self.input.device, "training"):
                event()
            sums: list[float] = slot.tolist()
            return sums

        return wait

    def synchronise(self) -> None:
        """Wait until all work that is enqueued is done."""
        with explained(self.input.device, "training"):
            self._card.event()()


class _Resident:
    """The whole corpus on the card."""

    def __init__(self, corpus: Corpus, card: Card) -> None:
        self._ids = ops.as_tensor(corpus.ids).to(card.device)
        self._offsets = ops.as_tensor(corpus.offsets).to(card.device)

    def take(self, epoch: int, begin: int, end: int, first_position: int) -> tuple[Tensor, Tensor, int]:
        """Return ids and offsets of a stretch that holds the block and its margins, and its first index."""
        return self._ids, self._offsets, 0

    def release(self) -> None:
        """Say that all work on what was taken last is enqueued."""


class _Slot:
    """A place for one block: on the host, and on the card."""

    def __init__(self) -> None:
        self.host: dict[str, Tensor] = {}
        self.card: dict[str, Tensor] = {}
        self.wait: Callable[[], None] = lambda: None  # until the card is done with both


class _Streamed:
    """A corpus that does not fit: two slots take turns, one is filled while the card works on the other."""

    def __init__(self, corpus: Corpus, options: Options, card: Card, keep: Tensor) -> None:
        self._corpus, self._options, self._card, self._keep = corpus, options, card, keep
        self._slots = deque([_Slot(), _Slot()])

    def take(self, epoch: int, begin: int, end: int, first_position: int) -> tuple[Tensor, Tensor, int]:
        """As that of the resident corpus; the copy runs beside the work on the block before."""
        self._slots.rotate()
        slot = self._slots[0]
        first, last, offsets = self._stretch(epoch, begin, end, first_position)
        slot.wait()
        result = []
        for name, values in (("ids", self._corpus.ids[first:last]), ("offsets", offsets)):
            result.append(self._upload(slot, name, ops.as_tensor(values)))
        return result[0], result[1], first

    def release(self) -> None:
        """As that of the resident corpus."""
        self._slots[0].wait = self._card.event()

    def _upload(self, slot: _Slot, name: str, values: Tensor) -> Tensor:
        size = values.numel()
        if name not in slot.host or slot.host[name].numel() < size:
            room = size + size // 8
            slot.host[name] = self._card.host_buffer(room, values.dtype)
            slot.card[name] = self._card.buffer(room, values.dtype)
        slot.host[name][:size].copy_(values)
        self._card.upload(slot.host[name][:size], slot.card[name][:size])
        return slot.card[name][:size]

    def _stretch(self, epoch: int, begin: int, end: int, first_position: int) -> tuple[int, int, np.ndarray[Any, Any]]:
        """Return where the block with its margins begins and ends, and the offsets of the sentences in it.

        On each side it reaches to the end of the sentence, or as far as W tokens are kept: no window sees further.
        """
        offsets = self._corpus.offsets
        sentence = int(np.searchsorted(offsets, begin, side="right")) - 1
        last_sentence = int(np.searchsorted(offsets, end, side="left"))
        first = self._reach(epoch, begin, int(offsets[sentence]), -1, first_position)
        last = self._reach(epoch, end, int(offsets[last_sentence]), 1, first_position)
        inner = offsets[sentence + 1 : last_sentence]
        return first, last, np.concatenate([[first], inner, [last]]).astype(np.int64) - first

    def _reach(self, epoch: int, start: int, limit: int, direction: int, first_position: int) -> int:
        options = self._options
        position, kept = start, 0
        while position != limit and kept < options.window:
            step = min(abs(limit - position), max(256, 2 * (options.window - kept)))
            low = position if direction > 0 else position - step
            ids = ops.as_tensor(self._corpus.ids[low : low + step])
            first = first_position + low
            kept += int(ops.draw_tokens(ids, self._keep, first, options.window, epoch, options.seed)[0].sum())
            position += direction * step
        return position


def _feed(corpus: Corpus, options: Options, card: Card, keep: Tensor) -> _Resident | _Streamed:
    needed = corpus.ids.nbytes + corpus.offsets.nbytes + 32 * _BLOCK_TOKENS
    if needed < 0.9 * card.free_bytes():
        return _Resident(corpus, card)
    return _Streamed(corpus, options, card, keep)
