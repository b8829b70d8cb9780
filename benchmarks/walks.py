"""Train on random walks in a graph, as DeepWalk does (Perozzi et al. 2014), with embedtrain and gensim side by side.

``python benchmarks/walks.py --seeds 3 --json walks.json``

The graph is made up: nodes in communities, with edges to their own and edges to any (a planted partition). An embedding
is good if its nearest neighbours are of its community. README.md beside this file says what is counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import conditions, describe_corpus, describe_run, markdown, run_to_end, train_command
from harness import words_per_second as read_speed

TOOLS = ("gensim", "embedtrain")
NEAREST = 10


def planted_partition(
    nodes: int, communities: int, inside: float, across: float, random: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw a graph: the edges (2E, 2), each in both directions, by their first node; and the community of each node.

    :param inside: edges of a node within its community, on average. :param across: likewise, to any node.
    """
    community = np.arange(nodes) % communities
    one, other = (random.integers(0, nodes, round(nodes * degree / 2)) for degree in (inside, across))
    same = random.integers(0, nodes // communities, len(one)) * communities + community[one]
    pairs = np.concatenate([np.stack([one, same]), np.stack([other, random.integers(0, nodes, len(other))])], axis=1)
    pairs = np.unique(np.sort(pairs[:, pairs[0] != pairs[1]], axis=0), axis=1)
    edges = np.concatenate([pairs, pairs[::-1]], axis=1).T
    return edges[np.argsort(edges[:, 0], kind="stable")], community


def walk(
    edges: npt.NDArray[np.int64], nodes: int, walks: int, length: int, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Walk from each node that has an edge, several times: (walks · nodes, length), in random order."""
    first = np.searchsorted(edges[:, 0], np.arange(nodes + 1))
    degree = np.diff(first)
    at = np.tile(np.flatnonzero(degree), walks)
    random.shuffle(at)
    steps = [at]
    for _ in range(length - 1):
        at = edges[first[at] + random.integers(0, degree[at]), 1]
        steps.append(at)
    return np.stack(steps, axis=1)


def measure(rows: npt.NDArray[Any], community: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return the share of the nearest neighbours (by cosine) that are of a node's community, and the mean length.

    :param rows: (nodes, D), the embeddings.
    """
    length = np.linalg.norm(rows.astype(np.float64), axis=1)
    unit = rows / length[:, None]
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = community[np.argpartition(-similarity, NEAREST, axis=1)[:, :NEAREST]]
    return {"of_community": float((nearest == community[:, None]).mean()), "length": float(length.mean())}


def measure_file(vectors: Path, community: npt.NDArray[np.int64]) -> dict[str, float]:
    """Measure vectors in word2vec's binary format; nodes without an edge have none."""
    from gensim.models import KeyedVectors

    trained = KeyedVectors.load_word2vec_format(str(vectors), binary=True)
    nodes = [node for node in range(len(community)) if str(node) in trained]
    return measure(np.stack([trained[str(node)] for node in nodes]), community[nodes])


def table(results: dict[str, Any]) -> str:
    """Lay out the results: a row for each tool and setting."""
    rows = [["W", "K", "tool", "nearest ten of one community", "mean length", "million words/s"]]
    tried = (results["settings"][name] for name in ("windows", "negatives", "tools"))
    for window, negative, tool in itertools.product(*tried):
        runs = [
            run for run in results["runs"] if (run["window"], run["negative"], run["tool"]) == (window, negative, tool)
        ]
        values = [run["of_community"] for run in runs]
        rows.append(
            [
                str(window),
                str(negative),
                tool,
                f"{statistics.fmean(values):.3f} ({min(values):.3f}–{max(values):.3f})",
                f"{statistics.fmean(run['length'] for run in runs):.2f}",
                f"{statistics.median(run['words_per_second'] for run in runs) / 1e6:.2f}",
            ]
        )
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items() if name != "tools")
    return markdown(rows) + "\n\n" + conditions(results, ("settings", settings))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare embedtrain with gensim on random walks.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=3000)
    parser.add_argument("--communities", type=int, default=30, help="of equal size")
    parser.add_argument("--inside", type=float, default=8, help="edges of a node within its community, on average")
    parser.add_argument("--across", type=float, default=8, help="edges of a node to any other, on average")
    parser.add_argument("--walks", type=int, default=10, help="from each node")
    parser.add_argument("--length", type=int, default=80, help="nodes of a walk")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each tool, with the seeds 1, 2, ...")
    parser.add_argument("--windows", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--negatives", type=int, nargs="+", default=[5, 15])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="threads of either tool")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args(arguments)
    if options.communities < 1 or options.nodes % options.communities:
        parser.error(f"--nodes ({options.nodes}) must be a multiple of --communities ({options.communities})")
    if options.nodes <= NEAREST:
        parser.error(f"--nodes must be above {NEAREST}")
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    random = np.random.default_rng(0)
    edges, community = planted_partition(options.nodes, options.communities, options.inside, options.across, random)
    results: dict[str, Any] = {
        **describe_run("walks.py", arguments),
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
        "runs": [],
    }
    with tempfile.TemporaryDirectory(prefix="embedtrain-walks-") as folder_name:
        folder = Path(folder_name)
        corpus = folder / "walks.txt"
        np.savetxt(corpus, walk(edges, options.nodes, options.walks, options.length, random), fmt="%d")
        results["corpus"] = describe_corpus(corpus, corpus.name)
        for window, negative in itertools.product(options.windows, options.negatives):
            settings = {
                "dim": options.dim, "window": window, "negative": negative, "sample": 0.0, "min_count": 1,
                "epochs": options.epochs, "alpha": 0.025, "min_alpha": 0.0001, "workers": options.workers,
            }  # fmt: skip
            for seed in range(1, options.seeds + 1):
                for tool in options.tools:  # in turn, so that a slow spell of the machine meets both
                    out = folder / f"{tool}-{window}-{negative}-{seed}"
                    run_to_end(train_command(tool, corpus, out, seed, settings), folder / "log.txt")
                    run = {"tool": tool, "seed": seed, "window": window, "negative": negative}
                    run |= measure_file(out / "vectors.bin", community) | {"words_per_second": read_speed(tool, out)}
                    results["runs"].append(run)
                    print(
                        f"W {window}, K {negative}, seed {seed}, {tool}: {run['of_community']:.3f} of one community",
                        file=sys.stderr,
                    )
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
