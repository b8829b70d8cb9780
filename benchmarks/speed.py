"""Compare the training speed of embedtrain, gensim and fastText over dimensions and threads.

``python benchmarks/speed.py corpus.txt.xz --dim 100 300 --workers 1 2 --json speed.json --picture speed.png``

Every run is a process of its own that trains one epoch; the tools take turns, several rounds of them, and the medians of
their training speeds are compared: words of the vocabulary, before subsampling, per second. README.md beside this file
says what is counted.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import compare
import report

TOOLS = ("embedtrain", "gensim", "fasttext")
SETTINGS = {
    "window": 5,
    "negative": 5,
    "sample": 1e-3,
    "min_count": 5,
    "epochs": 1,
    "alpha": 0.025,
    "min_alpha": 1e-4,
}


def words_per_second(tool: str, corpus: Path, dim: int, workers: int, folder: Path) -> float:
    """Train one epoch in a process of its own and return its speed."""
    settings: dict[str, Any] = {"dim": dim, **SETTINGS, "workers": workers}
    if tool == "fasttext":
        del settings["min_alpha"]
        command = [sys.executable, str(compare.HERE / "fasttext_fit.py"), str(corpus)]
        for name, value in settings.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        compare.run(compare.train_command(tool, corpus, Path(out), 1, settings), folder / "log.txt")
        return compare.words_per_second(tool, Path(out))


def table(results: dict[str, Any]) -> str:
    """Lay out the medians with their range, and how many times as fast embedtrain is."""
    tools = list(results["runs"][0]["words_per_second"])
    head = ["dim", "threads", *(f"{tool} {results['versions'].get(tool, '')}".strip() for tool in tools)]
    others = [tool for tool in tools if tool != "embedtrain"]
    head += [f"to {tool}" for tool in others]
    rows = [head]
    for run in results["runs"]:
        speeds = {tool: run["words_per_second"][tool] for tool in tools}
        row = [str(run["dim"]), str(run["workers"])]
        for values in speeds.values():
            low, middle, high = min(values) / 1e6, statistics.median(values) / 1e6, max(values) / 1e6
            row.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
        ours = statistics.median(speeds["embedtrain"])
        row += [f"{ours / statistics.median(speeds[tool]):.1f} times" for tool in others]
        rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(head))
    return "Training, million words/s: median (min–max)\n\n" + "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw a group of bars for each dimension and number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = results["runs"]
    tools = list(runs[0]["words_per_second"])
    figure, axis = plt.subplots(figsize=(1.2 + 1.9 * len(runs), 3.4), layout="constrained")
    for place, tool in enumerate(tools):
        middles = [statistics.median(run["words_per_second"][tool]) / 1e6 for run in runs]
        spots = [group + (place - (len(tools) - 1) / 2) * 0.27 for group in range(len(runs))]
        axis.bar(spots, middles, width=0.25, color=report.COLOURS[tool], label=tool)
        for spot, middle in zip(spots, middles, strict=True):
            axis.annotate(f"{middle:.2f}", (spot, middle), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axis.set_xticks(range(len(runs)), [f"dim {run['dim']}, {run['workers']} thr." for run in runs])
    axis.set_title("Training, million words/s (medians)", loc="left", fontweight="bold", fontsize=11)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(length=0)
    axis.margins(y=0.12)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Compare training speeds.")
    parser.add_argument("corpus", type=Path, help="a text file, or one packed as .xz: a sentence a line")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--dim", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/speed.py", *map(compare.without_folder, arguments)]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": compare.describe_machine(),
        "versions": compare.describe_versions(),
        "settings": SETTINGS,
    }
    settings = list(itertools.product(options.dim, options.workers))
    speeds: dict[tuple[int, int], dict[str, list[float]]] = {each: {tool: [] for tool in options.tools} for each in settings}
    with tempfile.TemporaryDirectory(prefix="embedtrain-speed-") as name:
        folder = Path(name)
        corpus = compare.plain_text(options.corpus, folder)
        results["corpus"] = compare.describe_corpus(corpus, options.corpus.name)
        for _, (dim, workers), tool in itertools.product(range(options.rounds), settings, options.tools):
            speed = words_per_second(tool, corpus, dim, workers, folder)
            speeds[dim, workers][tool].append(speed)
            print(f"dim {dim}, {workers} threads, {tool}: {speed:,.0f} words/s", file=sys.stderr, flush=True)
    results["runs"] = [
        {"dim": dim, "workers": workers, "words_per_second": each} for (dim, workers), each in speeds.items()
    ]
    print(table(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    if options.picture is not None:
        draw(results, options.picture)


if __name__ == "__main__":
    main(sys.argv[1:])
