"""The algorithm in plain Python and float64: what the native kernels are tested against, and how to understand them.

Nothing here is fast. It enumerates exactly the windows that the kernels train on, because every draw is a function of
(seed, epoch, position, purpose) alone.

- Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013: skip-gram with
  negative sampling, subsampling of frequent words.
- Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011: Philox4x32-10.
- Ji et al., "Parallelizing Word2Vec in Shared and Distributed Memory", 2016: negatives shared by a window's contexts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Contexts of a window that are trained at once.
GROUP = 16
# Positions that are a multiple of this from each other share noise words, so many of them.
NOISE_APART, MOST_NOISE_SHARERS = 128, 4
# What a draw is for; part of its counter.
TOKEN, NEGATIVE, INITIAL = 0, 1, 2


def philox(counter: Array, key: tuple[int, int]) -> Array:
    """Philox4x32-10: uint32 (n, 4) counters to uint32 (n, 4) random numbers."""
    c = counter.astype(np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    k0, k1 = key
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c[:, 0]
        p1 = np.uint64(0xCD9E8D57) * c[:, 2]
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        c = np.stack([high1 ^ c[:, 1] ^ np.uint64(k0), p1 & mask, high0 ^ c[:, 3] ^ np.uint64(k1), p0 & mask], axis=1)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c.astype(np.uint32)


def draw(seed: int, epoch: int, positions: Array, purpose: int, index: int = 0) -> Array:
    """Return four random uint32 for each position, (n, 4)."""
    at = np.asarray(positions, dtype=np.uint64)
    counter = np.empty((len(at), 4), dtype=np.uint64)
    counter[:, 0] = at & np.uint64(0xFFFFFFFF)
    counter[:, 1] = at >> np.uint64(32)
    counter[:, 2] = epoch
    counter[:, 3] = purpose | index << 8
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32))


def keep_probabilities(counts: Array, sample: float) -> Array:
    """Return the chance of each word's occurrences to survive, float64 (V,)."""
    if sample == 0:
        return np.ones(len(counts))
    frequency = counts / counts.sum()
    probabilities: Array = np.minimum(1.0, (np.sqrt(frequency / sample) + 1) * sample / frequency)
    return probabilities


def noise_probabilities(counts: Array, exponent: float) -> Array:
    """Return the chance of each word to be drawn as noise, float64 (V,)."""
    mass = counts.astype(np.float64) ** exponent
    probabilities: Array = mass / mass.sum()
    return probabilities


def noise_words(seed: int, epoch: int, positions: Array, negative: int, table: Array) -> Array:
    """Draw K noise words for each position, int64 (n, K), from an alias table, uint32 (V, 2)."""
    size = np.uint64(len(table))
    words = np.empty((len(positions), negative), dtype=np.int64)
    for k in range(negative):
        bits = draw(seed, epoch, positions, NEGATIVE, k // 2).astype(np.uint64)
        high, low = bits[:, 2 * (k % 2)], bits[:, 2 * (k % 2) + 1]
        point = high * size + (low * size >> np.uint64(32))  # a uniform number in [0, V), 32 bits after the point
        column, coin = point >> np.uint64(32), point & np.uint64(0xFFFFFFFF)
        threshold, alias = table[column.astype(np.int64)].T
        words[:, k] = np.where(coin <= threshold, column, alias)
    return words


def noise_positions(positions: Array, alpha: float, window: int, shrink_window: bool) -> Array:
    """Return whose noise words each position has: those of the first that shares them.

    How many share is bounded by the learning rate at the start, over all of them and their contexts.
    """
    contexts, sharers = window + 1 if shrink_window else 2 * window, MOST_NOISE_SHARERS
    while sharers > 1 and sharers * alpha * contexts > 0.75:
        sharers //= 2
    block = NOISE_APART * sharers
    first: Array = positions - positions % block + positions % NOISE_APART
    return first


def initial_weights(rows: int, dim: int, seed: int) -> Array:
    """Return the input table before training, float64 (rows, D): uniform in ±0.5 / D."""
    columns = [draw(seed, 0, np.arange(rows), INITIAL, index) for index in range(-(-dim // 4))]
    uniform = (np.concatenate(columns, axis=1)[:, :dim] + 0.5) / 2.0**32
    return (uniform - 0.5) / dim


@dataclasses.dataclass(frozen=True)
class Window:
    """One centre: its place in ids, the places of its contexts, its noise words and the learning rate."""

    centre: int
    contexts: list[int]
    negatives: Array
    rate: float


def windows(
    ids: Array,
    offsets: Array,
    keep: Array,
    noise: Array,
    *,
    epoch: int,
    epochs: int,
    seed: int,
    window: int,
    negative: int,
    shrink_window: bool,
    alpha: float,
    min_alpha: float,
    first_position: int = 0,
    corpus_size: int | None = None,
) -> Iterator[Window]:
    """Enumerate the windows of an epoch, in order; of a stretch of the corpus, those within it.

    :param ids: (N,) words. :param offsets: (S + 1,) sentences.
    :param keep: uint32 (V,) thresholds. :param noise: uint32 (V, 2) alias table.
    :param first_position: where ids[0] stands in the corpus. :param corpus_size: positions in an epoch, by default N.
    """
    corpus_size = len(ids) if corpus_size is None else corpus_size
    positions = first_position + np.arange(len(ids))
    bits = draw(seed, epoch, positions, TOKEN)
    kept = bits[:, 0] <= keep[ids]
    widths = np.full(len(ids), window)
    if shrink_window:
        widths = 1 + (bits[:, 1].astype(np.uint64) * np.uint64(window) >> np.uint64(32)).astype(np.int64)
    sharing = noise_positions(positions, alpha, window, shrink_window)
    negatives = noise_words(seed, epoch, sharing, negative, noise)
    step = (alpha - min_alpha) / (epochs * corpus_size)
    for begin, end in itertools.pairwise(offsets):
        # Subsampling comes first: windows reach over the gaps.
        sentence = (begin + np.flatnonzero(kept[begin:end])).tolist()
        for i, centre in enumerate(sentence):
            width = int(widths[centre])
            contexts = sentence[max(0, i - width) : i] + sentence[i + 1 : i + 1 + width]
            if contexts:
                rate = max(min_alpha, alpha - step * (epoch * corpus_size + first_position + centre))
                yield Window(centre, contexts, negatives[centre], rate)


def _merged(words: Array) -> tuple[Array, Array]:
    """Return the different words, in the order in which they come first, and how often each occurs."""
    different, first, times = np.unique(words, return_index=True, return_counts=True)
    order = np.argsort(first)
    return different[order], times[order]


def train_window(input: Array, output: Array, ids: Array, window: Window, locked: Array | None = None) -> float:
    """Train on one window, in place; return its loss, the sum over its pairs.

    The errors of all pairs of a group of contexts come from the values before it. With them, one context after the
    other is moved by the targets, and they by it, as in word2vec.c: each meets targets that the contexts before it have
    moved. (That is of second order in the rate, but always in one direction, and not small: without it, embeddings of
    random walks are a fifth shorter and tell the communities of a graph worse.) A word that stands in the group twice
    counts twice, where it stands first. Up to W = 8 a window is one group. (With all the contexts of a very wide window
    at once, so many gradients of the same old values would add up that training diverges.)

    :param locked: bool (V,), words whose row of input stays as it is.
    """
    word = ids[window.centre]
    noise, noise_times = _merged(window.negatives[window.negatives != word])  # a centre is not its own noise
    targets, target_times = np.append(word, noise), np.append(1, noise_times)
    label = np.zeros(len(targets))
    label[0] = 1
    loss = 0.0
    for first in range(0, len(window.contexts), GROUP):
        contexts, context_times = _merged(ids[window.contexts[first : first + GROUP]])
        x, y = input[contexts], output[targets]
        scores, times = x @ y.T, np.outer(context_times, target_times)
        g = window.rate * times * (label - 1 / (1 + np.exp(-scores)))
        for c, context in enumerate(contexts):
            if locked is None or not locked[context]:
                input[context] += g[c] @ y
            y += np.outer(g[c], x[c])
        output[targets] = y
        loss += float((times * np.logaddexp(0, np.where(label == 1, -scores, scores))).sum())
    return loss


def train(
    ids: Array, offsets: Array, keep: Array, noise: Array, *, dim: int, epochs: int, seed: int, **options: float
) -> tuple[Array, Array, float]:
    """Train from the start; return the two tables, float64 (V, D), and the mean loss per pair of the last epoch."""
    input = initial_weights(len(keep), dim, seed)
    output = np.zeros_like(input)
    for epoch in range(epochs):
        loss, pairs = 0.0, 0
        for window in windows(ids, offsets, keep, noise, epoch=epoch, epochs=epochs, seed=seed, **options):  # type: ignore[arg-type]
            loss += train_window(input, output, ids, window)
            pairs += len(window.contexts)
    return input, output, loss / max(pairs, 1)
