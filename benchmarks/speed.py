"""Compare the speed of embedtrain, gensim and fastText over dimensions and threads.

``python benchmarks/speed.py corpus.txt.xz --dim 100 300 --workers 1 2 --json speed.json --picture speed.svg``

Each tool trains one epoch in a process of its own, one tool after the other, and all of it several times over. Ratios
are taken between neighbouring runs, within a round, so that a slow spell of the machine meets both sides; what is shown
are medians. ``--results speed.json`` prints and draws again without training. README.md beside this file says what is
counted.
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

from harness import (
    SETTINGS,
    TOOLS,
    conditions,
    describe_corpus,
    describe_run,
    markdown,
    plain_text,
    run_to_end,
    train_command,
    words_per_second,
)

NAMES = {"embedtrain": "embedtrain", "gensim": "gensim", "fasttext": "fastText"}
COLOURS = {"embedtrain": "#2f81f7", "gensim": "#9a8fd0", "fasttext": "#d29a6a"}
GREY = "#7d8590"  # can be read on white and on GitHub's dark background
FIXED_SETTINGS = [name for name in SETTINGS if name not in ("dim", "workers")]


def measure(tool: str, corpus: Path, settings: dict[str, Any], round_: int, folder: Path) -> dict[str, Any]:
    """Train once, in a process of its own; the round is the seed."""
    out = folder / f"{tool}-{settings['dim']}-{settings['workers']}-{round_}"
    wall, peak = run_to_end(train_command(tool, corpus, out, round_, settings), folder / "log.txt")
    return {
        "round": round_,
        "dim": settings["dim"],
        "workers": settings["workers"],
        "tool": tool,
        "words_per_second": words_per_second(tool, out),
        "wall_seconds": wall,
        "peak_memory_mb": peak,
    }


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reduce the rounds: for each dimension, number of threads and tool the medians, with their range.

    ``times_as_fast`` and ``sooner`` say how the first tool compares with this one (training speed, wall time);
    ``scaling`` is the speed over that of the same tool with the fewest threads. All three are medians of ratios within
    a round.
    """
    by_key = {(run["round"], run["dim"], run["workers"], run["tool"]): run for run in runs}
    rounds = sorted({run["round"] for run in runs})
    first, fewest = runs[0]["tool"], min(run["workers"] for run in runs)

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    summary = []
    for dim, workers, tool in dict.fromkeys((run["dim"], run["workers"], run["tool"]) for run in runs):
        own, of_first, with_fewest = (
            [by_key[(round_, dim, *key)] for round_ in rounds]
            for key in ((workers, tool), (workers, first), (fewest, tool))
        )
        row: dict[str, Any] = {"dim": dim, "workers": workers, "tool": tool}
        for name in ("words_per_second", "wall_seconds", "peak_memory_mb"):
            row[name] = spread([run[name] for run in own])
        for name, over, under, of in (
            ("times_as_fast", of_first, own, "words_per_second"),
            ("sooner", own, of_first, "wall_seconds"),
            ("scaling", own, with_fewest, "words_per_second"),
        ):
            row[name] = spread([a[of] / b[of] for a, b in zip(over, under, strict=True)])
        summary.append(row)
    return summary


def table(results: dict[str, Any]) -> str:
    """Lay out the summary as one Markdown table, with what it was measured on below it."""
    summary = results["summary"]
    first, fewest = summary[0]["tool"], min(row["workers"] for row in summary)
    rows = [
        [
            "D",
            "threads",
            "tool",
            "training, million words/s",
            f"{NAMES[first]} to it",
            f"to {fewest} thread{'s'[: fewest > 1]}",
            "start to saved, s",
            f"{NAMES[first]} to it",
            "memory, MB",
        ]
    ]
    for row in summary:
        speed = [f"{row['words_per_second'][key] / 1e6:.2f}" for key in ("median", "min", "max")]
        other = row["tool"] != first
        rows.append(
            [
                str(row["dim"]),
                str(row["workers"]),
                NAMES[row["tool"]],
                "{} ({}–{})".format(*speed),
                "{median:.1f}x ({min:.1f}–{max:.1f})".format(**row["times_as_fast"]) if other else "",
                f"{row['scaling']['median']:.2f}x" if row["workers"] != fewest else "",
                f"{row['wall_seconds']['median']:.1f}",
                f"{row['sooner']['median']:.1f}x" if other else "",
                f"{row['peak_memory_mb']['median']:.0f}",
            ]
        )
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    rounds = len({run["round"] for run in results["runs"]})
    return f"{markdown(rows)}\n\n{conditions(results, ('settings', f'{settings}; {rounds} rounds'))}"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw a panel of bars for each dimension, on a transparent ground: the picture of the README."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"font.family": "sans-serif", "font.size": 10, "text.color": GREY, "svg.hashsalt": "embedtrain"}
    summary = results["summary"]
    tools, dims, threads = (list(dict.fromkeys(row[name] for row in summary)) for name in ("tool", "dim", "workers"))
    step = len(tools) + 0.8  # a bar is 1 high
    figure, axes = plt.subplots(
        1, len(dims), figsize=(9, 0.9 + 0.32 * step * len(threads)), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(h_pad=0.08)
    for axis, dim in zip(axes[0], dims, strict=True):
        for row in summary:
            if row["dim"] != dim:
                continue
            y = threads.index(row["workers"]) * step + tools.index(row["tool"])
            speed = {key: value / 1e6 for key, value in row["words_per_second"].items()}
            axis.barh(y, speed["median"], height=0.84, color=COLOURS[row["tool"]], linewidth=0)
            if row["tool"] == tools[0]:
                text, weight = f"{speed['median']:.2f}", "bold"
            else:
                text, weight = f"{speed['median']:.2f}   {row['times_as_fast']['median']:.1f}× slower", "normal"
            place = (speed["median"], y)
            axis.annotate(text, place, (5, 0), textcoords="offset points", va="center", fontweight=weight)
            axis.annotate(
                NAMES[row["tool"]], (0, y), (-6, 0), textcoords="offset points", ha="right", va="center", fontsize=9
            )
        for place, workers in enumerate(threads):
            axis.annotate(
                f"{workers} thread{'s'[: workers > 1]}", (0, place * step - 0.85), (0, 0), textcoords="offset points",
                va="center", fontsize=9, fontweight="bold",
            )  # fmt: skip
        axis.set_title(f"{dim} dimensions", fontsize=11, fontweight="bold", color=GREY, loc="left", pad=10)
        axis.set_ylim(len(threads) * step - 1.2, -1.3)
        axis.set_xlim(0, 1.18 * max(row["words_per_second"]["median"] for row in summary if row["dim"] == dim) / 1e6)
        axis.set_axis_off()
    machine, corpus = results["machine"], results["corpus"]
    figure.suptitle("Training, million words per second", fontsize=13, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(
        f"{machine['cpu']}, {machine['cores']} cores · {corpus['tokens'] / 1e6:.1f} M tokens, one pass · window "
        f"{results['settings']['window']}, {results['settings']['negative']} negatives · medians",
        fontsize=8, color=GREY, x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path, dpi=160, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare the speed of embedtrain, gensim and fastText.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("corpus", type=Path, nargs="?", help="a text file, or one packed as .xz: a sentence a line")
    parser.add_argument("--results", type=Path, help="print and draw this JSON again instead of measuring")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS, help="the first is compared to the others")
    parser.add_argument("--dim", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="threads of each tool")
    parser.add_argument("--rounds", type=int, default=3, help="runs of everything")
    parser.add_argument("--megabytes", type=float, help="use only so much from the start of the corpus")
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--negative", type=int, default=5)
    parser.add_argument("--sample", type=float, default=1e-3)
    parser.add_argument("--min-count", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--alpha", type=float, default=0.025)
    parser.add_argument("--min-alpha", type=float, default=0.0001)
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--picture", type=Path, help="draw the comparison into this file (.svg, .png)")
    options = parser.parse_args(arguments)
    if (options.corpus is None) == (options.results is None):
        parser.error("give either a corpus or --results")
    if not (path := options.corpus or options.results).is_file():
        parser.error(f"no such file: {path}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def compare(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    settings = {name: getattr(options, name) for name in FIXED_SETTINGS}
    results: dict[str, Any] = {**describe_run("speed.py", arguments), "settings": settings, "runs": []}
    with tempfile.TemporaryDirectory(prefix="embedtrain-speed-") as folder_name:
        folder = Path(folder_name)
        corpus = plain_text(options.corpus, folder, options.megabytes)
        results["corpus"] = describe_corpus(corpus, options.corpus.name)
        for round_ in range(1, options.rounds + 1):
            for dim, workers, tool in itertools.product(options.dim, options.workers, options.tools):
                measured = measure(tool, corpus, settings | {"dim": dim, "workers": workers}, round_, folder)
                results["runs"].append(measured)
                print(
                    f"round {round_}, D {dim}, {workers} threads, {tool}: {measured['words_per_second']:,.0f} words/s, "
                    f"{measured['wall_seconds']:.1f} s in all",
                    file=sys.stderr,
                )
    results["summary"] = summarise(results["runs"])
    return results


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    results = compare(options, arguments) if options.results is None else json.loads(options.results.read_text())
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    if options.picture is not None:
        draw(results, options.picture)


if __name__ == "__main__":
    main(sys.argv[1:])
