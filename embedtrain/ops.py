"""The native operations as PyTorch operators, ``torch.ops.embedtrain.*``.

The native core knows nothing of torch: it takes addresses and sizes. Here their types, shapes, devices and layouts are
checked, the tensors are kept alive through the call, and each operation is registered with :mod:`torch.library` (with
its mutated arguments and a fake, so that ``opcheck`` passes and ``torch.compile`` can trace around it).

Shapes: V words, D numbers per row, N tokens, S sentences, K negatives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from embedtrain.native import core
from embedtrain.options import Options
from embedtrain.touches import contexts_per_centre

_library: Any = torch.library.Library("embedtrain", "DEF")  # type: ignore[no-untyped-call]
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _operator(mutates: Sequence[str] = ()) -> Callable[[_Function], _Function]:
    """Register a function as ``torch.ops.embedtrain.<its name>`` for the CPU; it stays callable as it is.

    :func:`torch.library.custom_op` would do the same, but imports torch's compiler, a second, on the first call.
    """

    def register(function: _Function) -> _Function:
        schema = torch.library.infer_schema(function, mutates_args=mutates)
        _library.define(f"{function.__name__}{schema}")
        _library.impl(function.__name__, function, "CPU")
        return function

    return register


def _fake(name: str) -> Callable[[_Function], _Function]:
    """Register what an operator returns when there are only shapes, as under ``torch.compile``."""
    return cast("Callable[[_Function], _Function]", torch.library.register_fake(f"embedtrain::{name}", lib=_library))


# Of those that share noise words: more costs quality (docs/kernel.md).
_MOST_SHARED_RATE = 0.75
_LINE = 16  # floats to a cache line of 64 bytes: rows start on one


def _stride(dim: int) -> int:
    return -(-dim // _LINE) * _LINE


def row_bytes(dim: int) -> int:
    """Return the bytes between the starts of two rows of a table from :func:`new_table`."""
    return 4 * _stride(dim)


def new_table(rows: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Return zeros, float32 (rows, dim), in the layout the kernels work on.

    Each row starts on a cache line (64 bytes) and the memory is backed by huge pages where the system gives them. Other
    tables work too, but are copied on each call.
    """
    stride = _stride(dim)
    # The line in front of the rows tells tables made here from all others (see _is_padded).
    storage = torch.empty(_LINE + rows * stride, dtype=torch.float32, device=device)
    if storage.device.type == "cpu":
        core.advise_huge_pages(storage.data_ptr(), storage.nbytes)
    return storage.zero_()[_LINE:].view(rows, stride)[:, :dim]


def _require(tensor: Tensor, name: str, dtype: torch.dtype, *shape: int | None) -> int:
    """Check a tensor and return its address. ``None`` in the shape is any size."""
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, not {tensor.dtype}")
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} must be on the CPU, not on {tensor.device}")
    if tensor.dim() != len(shape) or any(
        want is not None and want != got for want, got in zip(shape, tensor.shape, strict=False)
    ):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape ({wanted}), not {tuple(tensor.shape)}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous")
    return int(tensor.data_ptr())


def _require_table(tensor: Tensor, name: str) -> None:
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tensor.dim() != 2:
        raise TypeError(
            f"{name} must be a float32 matrix on the CPU, not {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )


def _is_padded(table: Tensor) -> bool:
    rows, dim = table.shape
    stride = _stride(dim)
    if table.stride() != (stride, 1) or table.data_ptr() % (4 * _LINE) != 0:
        return False
    # The kernels use the floats between dim and stride as well. By the strides alone one cannot see whose these are: in
    # columns of a wider matrix they hold other data, and a clone of such columns ends before the last of them.
    made_here = table.storage_offset() == _LINE and table.untyped_storage().nbytes() == 4 * (_LINE + rows * stride)
    return stride == dim or made_here


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """Return an array as a tensor on the same memory. That of a file that is mapped must only be read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _padded(table: Tensor) -> Tensor:
    if _is_padded(table):
        return table
    copy = new_table(*table.shape)
    copy.copy_(table)
    return copy


def _require_at_least(low: int, **values: int) -> None:
    for name, value in values.items():
        if value < low:
            raise ValueError(f"{name} must be at least {low}, not {value}")


@_operator()
def count_words(text: Tensor, workers: int) -> tuple[Tensor, Tensor]:
    r"""Count the words of a text: what ASCII white space separates.

    :param text: uint8 (bytes,), UTF-8.
    :param workers: threads; the result does not depend on them.
    :return: the V words, most frequent first (equally frequent ones by their bytes), uint8 with a ``\n`` after each;
        and their counts, int64 (V,).
    :raises ValueError: where the text is not UTF-8.
    """
    address = _require(text, "text", torch.uint8, None)
    _require_at_least(1, workers=workers)
    words, counts = core.count_words(address, text.numel(), workers)
    return torch.from_numpy(np.frombuffer(bytearray(words), dtype=np.uint8)), torch.from_numpy(counts)


@_fake("count_words")
def _(text: Tensor, workers: int) -> tuple[Tensor, Tensor]:
    context = torch.library.get_ctx()
    words = text.new_empty(context.new_dynamic_size())
    return words, text.new_empty(context.new_dynamic_size(), dtype=torch.int64)


@_operator()
def encode_text(text: Tensor, words: Tensor, workers: int) -> tuple[Tensor, Tensor]:
    r"""Turn a text into ids of words. A sentence is a line; other words, and sentences left empty, are dropped.

    :param text: uint8 (bytes,), UTF-8.
    :param words: uint8, different words with a ``\n`` between or after them, as :func:`count_words` gives them.
    :param workers: threads; the result does not depend on them.
    :return: ids, int32 (N,), and offsets, int64 (S + 1,): sentence s is ``ids[offsets[s]:offsets[s + 1]]``.
    :raises ValueError: where the text is not UTF-8.
    """
    address = _require(text, "text", torch.uint8, None)
    _require(words, "words", torch.uint8, None)
    _require_at_least(1, workers=workers)
    ids, offsets = core.encode_text(address, text.numel(), words.numpy().tobytes(), workers)
    return torch.from_numpy(ids), torch.from_numpy(offsets)


@_fake("encode_text")
def _(text: Tensor, words: Tensor, workers: int) -> tuple[Tensor, Tensor]:
    context = torch.library.get_ctx()
    ids = text.new_empty(context.new_dynamic_size(), dtype=torch.int32)
    return ids, text.new_empty(context.new_dynamic_size(), dtype=torch.int64)


@_operator()
def alias_table(counts: Tensor, exponent: float) -> Tensor:
    """Return the noise distribution, in proportion to ``counts ** exponent``, as an alias table.

    :param counts: int64 (V,), at least one above 0; a word with count 0 is (but for 1 in 2^32 draws) never drawn.
    :return: int32 (V, 2), the bits of (uint32 threshold, uint32 alias): a uniformly drawn column gives its own word if
        a uniform uint32 is <= threshold, else its alias (Walker 1977, built by Vose 1991).
    """
    address = _require(counts, "counts", torch.int64, None)
    if counts.numel() == 0 or int(counts.min()) < 0 or int(counts.max()) == 0:
        raise ValueError("counts must not be negative, and one must be above 0")
    table = torch.empty((counts.numel(), 2), dtype=torch.int32)
    core.alias_table(address, counts.numel(), exponent, table.data_ptr())
    return table


@_fake("alias_table")
def _(counts: Tensor, exponent: float) -> Tensor:
    return counts.new_empty((counts.shape[0], 2), dtype=torch.int32)


@_operator()
def keep_thresholds(counts: Tensor, sample: float) -> Tensor:
    """Return, for each word, the subsampling threshold: an occurrence is kept if a uniform uint32 is <= threshold.

    The probability is that of word2vec.c, ``(sqrt(f / sample) + 1) * sample / f`` with f the word's share of the
    corpus.

    :param counts: int64 (V,).
    :param sample: 0 keeps every occurrence.
    :return: int32 (V,), the bits of uint32.
    """
    address = _require(counts, "counts", torch.int64, None)
    if counts.numel() and int(counts.min()) < 0:
        raise ValueError("counts must not be negative")
    thresholds = torch.empty(counts.numel(), dtype=torch.int32)
    core.keep_thresholds(address, counts.numel(), sample, thresholds.data_ptr())
    return thresholds


@_fake("keep_thresholds")
def _(counts: Tensor, sample: float) -> Tensor:
    return counts.new_empty(counts.shape, dtype=torch.int32)


@_operator()
def draw_negatives(noise: Tensor, first_position: int, n: int, negative: int, epoch: int, seed: int) -> Tensor:
    """Return the noise words of n positions, int32 (n, K), as training draws them.

    In training, up to four positions share those of the first (docs/kernel.md).

    :param noise: the result of :func:`alias_table`.
    """
    address = _require(noise, "noise", torch.int32, None, 2)
    _require_at_least(0, n=n, first_position=first_position, epoch=epoch, seed=seed)
    _require_at_least(1, negative=negative, vocabulary=noise.shape[0])
    negatives = torch.empty((n, negative), dtype=torch.int32)
    core.draw_negatives(address, noise.shape[0], seed, epoch, first_position, n, negative, negatives.data_ptr())
    return negatives


@_fake("draw_negatives")
def _(noise: Tensor, first_position: int, n: int, negative: int, epoch: int, seed: int) -> Tensor:
    return noise.new_empty((n, negative), dtype=torch.int32)


@_operator()
def draw_tokens(
    ids: Tensor, keep: Tensor, first_position: int, window: int, epoch: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return which tokens survive the subsampling, and the width of the window of each.

    :param ids: int32 (N,), ``ids[i]`` stands at position ``first_position + i``.
    :param keep: the result of :func:`keep_thresholds`.
    :return: bool (N,) and int32 (N,), widths 1 to window.
    """
    address = _require(ids, "ids", torch.int32, None)
    thresholds = _require(keep, "keep", torch.int32, None)
    _require_at_least(0, first_position=first_position, epoch=epoch, seed=seed)
    _require_at_least(1, window=window)
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < keep.numel():
        raise ValueError(f"ids must be from 0 to {keep.numel() - 1}")
    kept = torch.empty(ids.numel(), dtype=torch.bool)
    widths = torch.empty(ids.numel(), dtype=torch.int32)
    core.draw_tokens(
        address, thresholds, seed, epoch, first_position, ids.numel(), window, kept.data_ptr(), widths.data_ptr()
    )
    return kept, widths


@_fake("draw_tokens")
def _(ids: Tensor, keep: Tensor, first_position: int, window: int, epoch: int, seed: int) -> tuple[Tensor, Tensor]:
    return ids.new_empty(ids.shape, dtype=torch.bool), ids.new_empty(ids.shape, dtype=torch.int32)


@_operator(mutates=("table",))
def initial_weights(table: Tensor, first_row: int, seed: int) -> None:
    """Fill rows of an input table, float32 (rows, D), with their initial weights: uniform in ±0.5 / D.

    :param first_row: the row of the whole table that ``table[0]`` is.
    """
    _require_table(table, "table")
    _require_at_least(0, first_row=first_row, seed=seed)
    if table.stride(1) != 1:
        raise ValueError("the rows of table must be contiguous")
    core.initial_weights(table.data_ptr(), first_row, table.shape[0], table.shape[1], table.stride(0), seed)


@_fake("initial_weights")
def _(table: Tensor, first_row: int, seed: int) -> None:
    return None


@_operator(mutates=("input", "output", "stats"))
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
) -> None:
    """Train on the centres ``ids[begin:end]``: fused skip-gram negative sampling (Mikolov et al. 2013), in place.

    Tokens outside the span are context only, so a corpus may be cut anywhere. For a centre with contexts X (rows of
    input) and targets Y (rows of output: the centre and its K noise words): ``G = rate * (label - sigmoid(X Yᵀ))`` from
    the values before the window, then ``x += g Y; Y += gᵀ x`` for one context after the other, as word2vec.c does.

    :param input: float32 (V, D), the embeddings; best from :func:`new_table`.
    :param output: float32 (V, D), likewise.
    :param stats: float64 (3,); added to: the loss (sum over pairs of -log σ(positive) - Σ log σ(-negatives)), the
        number of (centre, context) pairs, and the number of centres (tokens that survived the subsampling).
    :param ids: int32 (N,). :param offsets: int64 (S + 1,): sentence s is ``ids[offsets[s]:offsets[s + 1]]``.
    :param keep: from :func:`keep_thresholds`. :param noise: from :func:`alias_table`.
    :param first_position: the position of ids[0] in the corpus. Draws and rate depend on positions alone.
    :param corpus_size: positions in an epoch; the rate falls linearly from alpha to min_alpha over
        epochs * corpus_size.
    :param workers: threads; one is bit-for-bit repeatable, several update without locks. For tensors on a GPU see
        :func:`embedtrain.cuda.train_block`.
    :param locked: bool (V,), words whose row of input is only read, so it stays as it is, to the bit; None: no word.
        Their rows of output are trained like all others.
    :raises ValueError: shapes, offsets or ids that do not fit each other.
    """
    _require_table(input, "input")
    _require_table(output, "output")
    tables = _padded(input), _padded(output)
    schedule = Schedule(
        corpus_size=corpus_size, epochs=epochs, seed=seed, window=window, negative=negative,
        shrink_window=shrink_window, alpha=alpha, min_alpha=min_alpha,
    )  # fmt: skip
    trainer = Trainer(*tables, keep, noise, schedule, workers, locked)
    trainer.train(stats, ids, offsets, begin, end, first_position=first_position, epoch=epoch)
    trainer.synchronise()
    for given, used in zip((input, output), tables, strict=True):
        if used is not given:
            given.copy_(used)


def _on_cuda(name: str) -> None:
    """Register an operator for CUDA tensors as well; embedtrain.cuda is imported when it is first called."""

    def call(*arguments: Any, **options: Any) -> None:
        from embedtrain import cuda
        from embedtrain.device import cuda_problem

        if core.cuda_toolkit is None:
            raise RuntimeError(cuda_problem())
        getattr(cuda, name)(*arguments, **options)

    _library.impl(name, call, "CUDA")


_on_cuda("initial_weights")
_on_cuda("train_block")


@_fake("train_block")
def _(*arguments: Any) -> None:
    return None


@_operator(mutates=("differences",))
def take_differences(
    input: Tensor, output: Tensor, base: Tensor, rows: Tensor, differences: Tensor, workers: int = 1
) -> None:
    """Write to ``differences`` those between rows of two tables and of ``base``, rounded to nearest.

    :param input: float32 (V, D), from :func:`new_table`. :param output: likewise.
    :param base: likewise, (2 V, D): the rows of both tables, one table behind the other.
    :param rows: int64 (n,), all different: row V + i is row i of output. First come those of input.
    :param differences: bfloat16 (n, D).
    :param workers: threads; the result does not depend on them.
    :raises ValueError: rows that are not in the tables, or tensors that do not fit.
    """
    exchanged = _exchanged(input, output, base, rows)
    own = _require(differences, "differences", torch.bfloat16, rows.numel(), input.shape[1])
    core.take_differences(own, workers, **exchanged)


@_fake("take_differences")
def _(input: Tensor, output: Tensor, base: Tensor, rows: Tensor, differences: Tensor, workers: int = 1) -> None:
    return None


@_operator(mutates=("input", "output", "base"))
def replace_differences(
    input: Tensor, output: Tensor, base: Tensor, rows: Tensor, differences: Tensor, sum: Tensor, weight: Tensor,
    workers: int = 1,
) -> None:  # fmt: skip
    """Put ``weight * sum`` in the place of this rank's differences: it is added to base and tables, they are taken off.

    So what :func:`take_differences` has rounded off, and what was learned since, stays in the tables.

    :param input: as for :func:`take_differences`; so are output, base, rows, differences and workers.
    :param sum: bfloat16 (n, D), of all ranks' differences. :param weight: float32 (n,).
    """
    exchanged = _exchanged(input, output, base, rows)
    shape = rows.numel(), input.shape[1]
    own = _require(differences, "differences", torch.bfloat16, *shape)
    both = _require(sum, "sum", torch.bfloat16, *shape)
    factor = _require(weight, "weight", torch.float32, rows.numel())
    core.replace_differences(own, both, factor, workers, **exchanged)


@_fake("replace_differences")
def _(*arguments: Any) -> None:
    return None


def _exchanged(input: Tensor, output: Tensor, base: Tensor, rows: Tensor) -> dict[str, int]:
    """Check rows that ranks exchange, and return what the native core is told of them; it looks at each row itself."""
    for name, table in (("input", input), ("output", output), ("base", base)):
        _require_table(table, name)
        if not _is_padded(table):
            raise ValueError(f"{name} must be a table from new_table()")
    vocabulary, dim = input.shape
    if output.shape != input.shape or base.shape != (2 * vocabulary, dim):
        raise ValueError(f"output must be {(vocabulary, dim)} and base {(2 * vocabulary, dim)}, as input is")
    return {
        "input": input.data_ptr(),
        "output": output.data_ptr(),
        "base": base.data_ptr(),
        "vocabulary": vocabulary,
        "stride": input.stride(0),
        "rows": _require(rows, "rows", torch.int64, None),
        "count": rows.numel(),
        "dim": dim,
    }


def _take_differences_by_torch(
    input: Tensor, output: Tensor, base: Tensor, rows: Tensor, differences: Tensor, workers: int = 1
) -> None:
    is_input = (rows < len(input)).unsqueeze(1)
    values = torch.where(is_input, input[rows % len(input)], output[rows % len(input)])
    differences.copy_(values - base[rows])


def _replace_differences_by_torch(
    input: Tensor, output: Tensor, base: Tensor, rows: Tensor, differences: Tensor, sum: Tensor, weight: Tensor,
    workers: int = 1,
) -> None:  # fmt: skip
    step = sum * weight.unsqueeze(1)  # bfloat16 times float32 is float32
    base.index_add_(0, rows, step)
    step -= differences
    is_input = (rows < len(input)).unsqueeze(1)
    for table, some in ((input, is_input), (output, ~is_input)):
        table.index_add_(0, rows % len(input), step.where(some, 0))  # none are counted, which a GPU would wait for


_library.impl("take_differences", _take_differences_by_torch, "CUDA")
_library.impl("replace_differences", _replace_differences_by_torch, "CUDA")


def list_windows(
    ids: Tensor,
    offsets: Tensor,
    keep: Tensor,
    noise: Tensor,
    begin: int,
    end: int,
    *,
    first_position: int,
    epoch: int,
    **schedule: Any,
) -> tuple[Tensor, ...]:
    """Show what :func:`train_block` trains on with the same arguments, without training.

    :param schedule: the fields of :class:`Schedule`.
    :return: centre positions (n,), offsets (n + 1,) into the context positions (m,), noise words (n, K) as drawn, and
        rates (n,). Centres without a context are left out.
    """
    table = new_table(keep.numel(), 1)
    trainer = Trainer(table, table, keep, noise, Schedule(**schedule))
    block = trainer.block(ids, offsets, begin, end, first_position, epoch)
    centres, context_offsets, contexts, negatives, rates = map(torch.from_numpy, core.list_windows(begin, end, **block))
    return centres, context_offsets, contexts, negatives.view(len(centres), block["negative"]), rates


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is drawn for the positions of a corpus, and the rate there; each is an argument of :func:`train_block`."""

    corpus_size: int
    epochs: int
    seed: int
    window: int
    negative: int
    shrink_window: bool
    alpha: float
    min_alpha: float

    @classmethod
    def of(cls, options: Options, corpus_size: int) -> Schedule:
        """Return that of a training with these options."""
        names = (field.name for field in fields(cls) if field.name != "corpus_size")
        return cls(corpus_size=corpus_size, **{name: getattr(options, name) for name in names})


def training_settings(input: Tensor, output: Tensor, schedule: Schedule) -> dict[str, Any]:
    """Return what the native core is told of a training on any device, checked."""
    if input.shape != output.shape:
        raise ValueError(f"input {tuple(input.shape)} and output {tuple(output.shape)} must have the same shape")
    vocabulary, dim = input.shape
    told = vars(schedule).copy()
    epochs = told.pop("epochs")
    window, negative, alpha = schedule.window, schedule.negative, schedule.alpha
    _require_at_least(
        1, vocabulary=vocabulary, dim=dim, window=window, negative=negative, corpus_size=schedule.corpus_size,
        epochs=epochs,
    )  # fmt: skip
    _require_at_least(0, seed=schedule.seed)
    return told | {
        "dim": dim,
        "vocabulary": vocabulary,
        "noise_sharers": _noise_sharers(alpha * contexts_per_centre(window, schedule.shrink_window)),
        "alpha_step": (alpha - schedule.min_alpha) / (epochs * schedule.corpus_size),
    }


def _noise_sharers(rate: float) -> int:
    """Return how many centres have the same noise words.

    A noise word is moved by all their contexts, at places of the corpus that are near each other; how far, is bounded.

    :param rate: the learning rate at the start, summed over the contexts of a centre.
    """
    sharers: int = core.MOST_NOISE_SHARERS
    while sharers > 1 and sharers * rate > _MOST_SHARED_RATE:
        sharers //= 2
    return sharers


def paced(settings: dict[str, Any], step: int, progress: int, pace: int) -> dict[str, Any]:
    """Return settings whose rate is that of ``progress`` at a step, and falls ``pace`` times as fast from there.

    Ranks that train parts of an epoch at once use it: while one trains a position, all together train ``pace``.

    :param step: positions from the start of training, ``epoch * corpus_size + position``.
    :param progress: what all ranks have trained when one is at the step.
    """
    per_position = settings["alpha_step"]
    alpha = settings["alpha"] + per_position * (pace * step - progress)
    return settings | {"alpha": alpha, "alpha_step": pace * per_position}


def require_span(
    ids: Tensor, offsets: Tensor, begin: int, end: int, first_position: int, epoch: int, epochs: int
) -> None:
    """Check what part of the corpus a call is to train on."""
    _require_at_least(0, begin=begin, first_position=first_position, epoch=epoch, sentences=offsets.numel() - 1)
    _require_at_least(epoch + 1, epochs=epochs)
    if end > ids.numel():
        raise ValueError(f"end must be at most the number of ids, {ids.numel()}, not {end}")


class Trainer:
    """Trains two tables, block after block, as :func:`train_block` does with one.

    Every thread but the first works on copies of its own of the rows in use and synchronises them at times. So the
    tables lack something until :meth:`synchronise` is called; the copies cost up to 32 MiB a thread.
    Arguments are those of :func:`train_block`.

    :param input: float32 (V, D), from :func:`new_table`. :param output: likewise.
    :raises ValueError: shapes or numbers that do not fit.
    """

    def __init__(
        self,
        input: Tensor,
        output: Tensor,
        keep: Tensor,
        noise: Tensor,
        schedule: Schedule,
        workers: int = 1,
        locked: Tensor | None = None,
    ):
        _require_table(input, "input")
        _require_table(output, "output")
        settings = training_settings(input, output, schedule)
        _require_at_least(1, workers=workers)
        if not _is_padded(input) or not _is_padded(output):
            raise ValueError("input and output must be tables from new_table()")
        self._tensors = (input, output, keep, noise, locked)  # are to live as long as their addresses are used
        self._epochs = schedule.epochs
        vocabulary = settings["vocabulary"]
        self._settings = settings | {
            "input": input.data_ptr(),
            "output": output.data_ptr(),
            "stride": input.stride(0),
            "keep": _require(keep, "keep", torch.int32, vocabulary),
            "noise": _require(noise, "noise", torch.int32, vocabulary, 2),
            "locked": 0 if locked is None else _require(locked, "locked", torch.bool, vocabulary),
        }
        self._replicas = core.Replicas(input.data_ptr(), output.data_ptr(), vocabulary, input.stride(0), workers)

    def train(
        self,
        stats: Tensor,
        ids: Tensor,
        offsets: Tensor,
        begin: int,
        end: int,
        *,
        first_position: int,
        epoch: int,
        progress: int | None = None,
        pace: int = 1,
    ) -> None:
        """Train on the centres ``ids[begin:end]`` and add to stats, as :func:`train_block` does.

        :param progress: the rate starts at that of this many positions, not at that of ``begin``: what all ranks have
            trained so far. :param pace: and falls as if so many were trained at a time: the number of ranks.
        """
        _require(stats, "stats", torch.float64, 3)
        block = self.block(ids, offsets, begin, end, first_position, epoch)
        if progress is not None:
            step = epoch * self._settings["corpus_size"] + first_position + begin
            block = paced(block, step, progress, pace)
        loss, pairs, centres = core.train_block(begin, end, self._replicas, **block)
        stats[0] += loss
        stats[1] += pairs
        stats[2] += centres

    def synchronise(self) -> None:
        """Bring into the tables what the threads have learned."""
        self._replicas.synchronise()

    def block(
        self, ids: Tensor, offsets: Tensor, begin: int, end: int, first_position: int, epoch: int
    ) -> dict[str, Any]:
        """Return what the native core is told, checked."""
        require_span(ids, offsets, begin, end, first_position, epoch, self._epochs)
        return self._settings | {
            "ids": _require(ids, "ids", torch.int32, None),
            "tokens": ids.numel(),
            "offsets": _require(offsets, "offsets", torch.int64, None),
            "sentences": offsets.numel() - 1,
            "first_position": first_position,
            "epoch": epoch,
        }
