"""Where words lie on a map, in which groups, and how much two models differ about them.

All of it goes by cosine: vectors are scaled to length 1 first. The map is t-SNE by openTSNE (FFT-accelerated: Linderman
et al., 2019), over exact nearest neighbours; groups are k-means of the unit vectors by scikit-learn. Both come with
``pip install embedtrain[explore]``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from embedtrain.errors import EmbedtrainError

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

PERPLEXITY = 30
"""How many neighbours a word has on the map, roughly."""
NEIGHBOURS = 50
"""So many neighbours of a word are compared between two models."""
GROUPS = 12
"""Groups of words; as many colours can be told apart."""
ITERATIONS = 750
"""Steps of t-SNE: 250 that form the clusters, 500 that lay them out."""

_SMALL = 8  # words; t-SNE needs a few
_BLOCK = 1024  # rows of the table of similarities at a time


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The words nearest to each word, nearest first, without itself.

    :param rows: int32 (V, k).
    :param cosine: float32 (V, k), the cosine similarity of each.
    """

    rows: Int32
    cosine: Float32


def require_libraries() -> None:
    """Make sure that the libraries of the extra are there.

    :raises EmbedtrainError: naming what to install.
    """
    try:
        import openTSNE  # noqa: F401
        import sklearn.cluster  # noqa: F401
    except ImportError as error:
        raise EmbedtrainError(
            f"the map needs {error.name}, which is not installed: pip install 'embedtrain[explore]'"
        ) from error


def unit_rows(weight: torch.Tensor) -> torch.Tensor:
    """Return a table (V, D) with every row scaled to length 1, float64."""
    rows = weight.double()
    return rows / rows.norm(dim=1, keepdim=True)


def nearest(unit: torch.Tensor, count: int) -> Neighbours:
    """Return the exact nearest neighbours of every row among the others.

    :param unit: (V, D), rows of length 1.
    :param count: how many; fewer if there are not so many others.
    """
    table = unit.float()
    count = min(count, len(table) - 1)
    rows = np.empty((len(table), count), np.int32)
    cosine = np.empty((len(table), count), np.float32)
    for start in range(0, len(table), _BLOCK):
        similar = table[start : start + _BLOCK] @ table.T
        itself = torch.arange(len(similar))
        similar[itself, start + itself] = -torch.inf
        best = similar.topk(count)
        rows[start : start + _BLOCK] = best.indices.numpy()
        cosine[start : start + _BLOCK] = best.values.numpy()
    return Neighbours(rows, cosine)


def shared_neighbours(a: Neighbours, b: Neighbours, count: int) -> Int32:
    """Return how many of the ``count`` nearest neighbours of each word are the same in two models, int32 (V,).

    The measure of Gonen, Jawahar, Seddah and Goldberg, "Simple, Interpretable and Stable Method for Detecting Words
    with Usage Change across Corpora" (ACL 2020).
    """
    size = len(a.rows)
    offset = np.arange(size, dtype=np.int64)[:, None] * size
    both = np.intersect1d(a.rows[:, :count] + offset, b.rows[:, :count] + offset, assume_unique=True)
    return np.bincount(both // size, minlength=size).astype(np.int32)


def lay_out(
    unit: torch.Tensor, neighbours: Neighbours, start: Float32 | None, seed: int, update: Callable[[int], None]
) -> Float32:
    """Return a place (V, 2) for every word, such that neighbours lie together; in the circle of radius 1 around 0.

    :param unit: (V, D), rows of length 1.
    :param neighbours: at least 3 · :data:`PERPLEXITY` of each word, or all there are.
    :param start: (V, 2), where to start from, as the map of another model: what agrees stays in its place then. By
        default the first two principal components.
    :param seed: key of the random draws.
    :param update: told the number of :data:`ITERATIONS` done, now and then.
    """
    if start is None:
        start = _principal_components(unit)
    if len(unit) < _SMALL:
        return _to_circle(start)
    from openTSNE import TSNE, initialization
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    # On rows of length 1, the square of the Euclidean distance is 2 - 2 · cosine.
    distances = np.sqrt(np.maximum(2 - 2 * neighbours.cosine.astype(np.float64), 0))
    index = PrecomputedNeighbors(neighbours.rows.astype(np.int64), distances)
    done = 0

    def report(*_: object) -> None:
        nonlocal done
        done += 10
        update(done)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library deprecates in others is none of the user's
        affinities = PerplexityBasedNN(
            perplexity=min(PERPLEXITY, (len(unit) - 1) / 3), knn_index=index, n_jobs=-1, random_state=seed
        )
        map_of_words = TSNE(
            n_jobs=-1, random_state=seed, callbacks=[report], callbacks_every_iters=10, early_exaggeration_iter=250
        ).fit(affinities=affinities, initialization=initialization.rescale(start.astype(np.float64)))
    return _to_circle(np.asarray(map_of_words, np.float32))


def group(unit: torch.Tensor, places: Float32, seed: int) -> tuple[Int32, list[list[int]]]:
    """Put the words into groups of similar ones.

    :return: the group of each word, int32 (V,); and of each group three words to call it by, frequent and typical. The
        groups are in the order in which they lie around the centre of the map, so that neighbours can get like colours.
    """
    count = max(1, min(GROUPS, len(unit) // 20))
    rows = unit.float().numpy()
    if count == 1:
        label, centres = np.zeros(len(rows), np.int32), rows.mean(axis=0, keepdims=True)
    else:
        from sklearn.cluster import KMeans

        found = KMeans(count, n_init=3, random_state=seed).fit(rows)
        label, centres = found.labels_.astype(np.int32), found.cluster_centers_
    middles = np.array([places[label == one].mean(axis=0) for one in range(count)])
    order = np.argsort(np.arctan2(middles[:, 1], middles[:, 0]))
    rank = np.argsort(order).astype(np.int32)
    names = []
    for one in order:
        members = np.flatnonzero(label == one)
        frequent = members[: max(20, len(members) // 20)]
        typical = frequent[np.argsort(-rows[frequent] @ centres[one], kind="stable")[:3]]
        names.append(sorted(typical.tolist()))
    return rank[label], names


def _principal_components(unit: torch.Tensor) -> Float32:
    centred = unit - unit.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)  # the largest eigenvalues come last
    places: Float32 = (centred @ axes[:, -2:].flip(1)).float().numpy()
    if places.shape[1] < 2:  # vectors of one number
        places = np.hstack([places, np.zeros_like(places)])
    return places


def _to_circle(places: Float32) -> Float32:
    """Move and scale a map so that it lies around 0 and all but a thousandth of it within a radius of 0.95."""
    places = places - (places.max(axis=0) + places.min(axis=0)) / 2
    radius = np.linalg.norm(places, axis=1)
    scale = 0.95 / max(float(np.quantile(radius, 0.999)), 1e-12)
    places = places * scale
    beyond = np.maximum(radius * scale, 1)[:, None]  # a far outlier is drawn in, or it would shrink all else
    return np.ascontiguousarray(places / beyond, np.float32)
