"""How often training touches each row, as the counts of the words say beforehand."""

from __future__ import annotations

from torch import Tensor


def touches_per_centre(
    counts: Tensor, keep: Tensor, noise: Tensor, window: int, negative: int, shrink_window: bool
) -> tuple[Tensor, Tensor]:
    """Return how many windows of a kept centre have each row of the input and of the output table, float64 (V,).

    With p the word's share of the kept tokens and of the noise, that is ``contexts * p_kept`` for an input row and
    ``p_kept + K * p_noise`` for an output row. Sentences are taken to be long.

    :param counts: (V,) how often each word occurs. :param keep: from :func:`embedtrain.ops.keep_thresholds`.
    :param noise: from :func:`embedtrain.ops.alias_table`.
    """
    kept = _kept(counts, keep)
    kept /= kept.sum().clamp(min=1)
    own = ((noise[:, 0].long() & 0xFFFFFFFF).double() + 1) / 2**32
    drawn = own.clone()
    drawn.index_add_(0, noise[:, 1].long().clamp(0, len(noise) - 1), 1 - own)
    drawn /= len(noise)
    return contexts_per_centre(window, shrink_window) * kept, kept + negative * drawn


def contexts_per_centre(window: int, shrink_window: bool) -> int:
    """Return the mean number of contexts in a long sentence."""
    return window + 1 if shrink_window else 2 * window


def kept_share(counts: Tensor, keep: Tensor) -> float:
    """Return the share of the positions that subsampling is expected to keep."""
    return float(_kept(counts, keep).sum() / counts.double().sum().clamp(min=1))


def _kept(counts: Tensor, keep: Tensor) -> Tensor:
    return counts.double() * ((keep.long() & 0xFFFFFFFF).double() + 1) / 2**32
