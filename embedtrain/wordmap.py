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
COMPARED = 1000
"""So many neighbours of a word are compared between two models, but no more than a twentieth of all words."""
GROUPS = 12
"""Groups of words; as many colours can be told apart."""
ITERATIONS = 750
"""Steps of t-SNE: a third that forms the clusters, the others lay them out."""

_SMALL = 8  # words; t-SNE needs a few
_LARGE = 4000  # words, for which threads are worth their while
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
    return torch.nn.functional.normalize(weight.double())


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
        best = _nearest(table, start, count)
        rows[start : start + _BLOCK] = best.indices.numpy()
        cosine[start : start + _BLOCK] = best.values.numpy()
    return Neighbours(rows, cosine)


def shared_neighbours(first: torch.Tensor, second: torch.Tensor, count: int) -> Int32:
    """Return how many of the ``count`` nearest neighbours of each word are the same in two models, int32 (V,).

    The measure of Gonen, Jawahar, Seddah and Goldberg, "Simple, Interpretable and Stable Method for Detecting Words
    with Usage Change across Corpora" (ACL 2020), who take 1,000: the more, the less it is ruled by chance.

    :param first: (V, D), rows of length 1.
    :param second: (V, D'), the same words in another model.
    """
    tables = [first.float(), second.float()]
    shared = np.empty(len(first), np.int32)
    for start in range(0, len(first), _BLOCK):
        rows = [_nearest(table, start, count).indices for table in tables]
        here = torch.zeros(len(rows[0]), len(first), dtype=torch.bool).scatter_(1, rows[0], True)
        shared[start : start + _BLOCK] = here.gather(1, rows[1]).sum(dim=1).numpy()
    return shared


def _nearest(table: torch.Tensor, start: int, count: int) -> torch.return_types.topk:
    """Return the neighbours of a block of rows, as nearest first."""
    similar = table[start : start + _BLOCK] @ table.T
    itself = torch.arange(len(similar))
    similar[itself, start + itself] = -torch.inf
    return similar.topk(count)


def lay_out(
    unit: torch.Tensor, neighbours: Neighbours, start: Float32 | None, seed: int, update: Callable[[int], None]
) -> Float32:
    """Return a place (V, 2) for every word, such that neighbours lie together, around 0.

    :param unit: (V, D), rows of length 1.
    :param neighbours: at least 3 · :data:`PERPLEXITY` of each word, or all there are.
    :param start: (V, 2), the places on the map of another model, to start from: what agrees stays where it is. By
        default the first two principal components.
    :param seed: key of the random draws.
    :param update: told the number of :data:`ITERATIONS` done, now and then.
    """
    jitter = np.random.default_rng(seed).normal(scale=1e-6, size=(len(unit), 2))  # equal vectors part
    places = (_principal_components(unit) if start is None else start) + jitter
    if len(unit) < _SMALL:
        return places.astype(np.float32)
    from openTSNE import TSNE, initialization
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    # On rows of length 1, the square of the Euclidean distance is 2 - 2 · cosine.
    distances = np.sqrt(np.maximum(2 - 2 * neighbours.cosine.astype(np.float64), 0))
    index = PrecomputedNeighbors(neighbours.rows.astype(np.int64), distances)
    # Exaggeration forms clusters out of anything, but forgets where they were.
    early = ITERATIONS // 3 if start is None else 0
    threads = -1 if len(unit) >= _LARGE else 1
    done = 0

    def report(*_: object) -> None:
        nonlocal done
        done += 10
        update(done)

    method = TSNE(
        n_jobs=threads,
        random_state=seed,
        callbacks=[report],
        callbacks_every_iters=10,
        early_exaggeration_iter=early,
        n_iter=ITERATIONS - early,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library deprecates in others is none of the user's
        affinities = PerplexityBasedNN(
            perplexity=min(PERPLEXITY, (len(unit) - 1) / 3), knn_index=index, n_jobs=threads, random_state=seed
        )
        if start is None:
            places = initialization.rescale(places)
        return np.asarray(method.fit(affinities=affinities, initialization=places), np.float32)


def group(unit: torch.Tensor, places: Float32, seed: int) -> tuple[Int32, list[list[int]]]:
    """Put the words into groups of similar ones.

    :return: the group of each word, int32 (V,); and of each group three words to call it by, frequent and typical. The
        groups are in the order in which they lie around the centre of the map, so that neighbours can get like colours.
    """
    count = max(1, min(GROUPS, len(unit) // 20))
    rows = unit.float().numpy()
    label = np.zeros(len(rows), np.int64)
    if count > 1:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than groups: so be it
            found = KMeans(count, n_init=3, random_state=seed).fit_predict(rows)
        label = np.unique(found, return_inverse=True)[1]
    members = [np.flatnonzero(label == one) for one in range(int(label.max()) + 1)]
    middles = np.array([places[rows_of].mean(axis=0) for rows_of in members])
    order = np.argsort(np.arctan2(middles[:, 1], middles[:, 0]))
    rank = np.argsort(order).astype(np.int32)
    names = []
    for one in order:
        frequent = members[one][: max(20, len(members[one]) // 20)]
        typical = frequent[np.argsort(-rows[frequent] @ rows[members[one]].mean(axis=0), kind="stable")[:3]]
        names.append(sorted(typical.tolist()))
    return rank[label], names


def _principal_components(unit: torch.Tensor) -> Float32:
    centred = unit - unit.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)  # the largest eigenvalues come last
    places = (centred @ axes[:, -2:].flip(1)).float()
    places = torch.nn.functional.pad(places, (0, 2 - places.shape[1]))  # vectors of one number have one component
    return np.asarray(places.numpy(), np.float32)


def to_circle(places: Float32) -> Float32:
    """Move and scale a map (V, 2) into the circle of radius 1 around 0, all but a thousandth of it within 0.95."""
    places = places - (places.max(axis=0) + places.min(axis=0)) / 2
    radius = np.linalg.norm(places, axis=1)
    scale = 0.95 / max(float(np.quantile(radius, 0.999)), 1e-12)
    places = places * scale
    beyond = np.maximum(radius * scale, 1)[:, None]  # a far outlier is drawn in, or it would shrink all else
    return np.ascontiguousarray(places / beyond, np.float32)
