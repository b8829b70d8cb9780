"""Train the same corpus with embedtrain and gensim, side by side, and compare speed, memory and quality.

``python benchmarks/compare.py corpus.txt.xz --pairs wordsim353.tsv simlex999.tsv --analogies questions-words.txt
--json results.json --picture comparison.png``

For every seed the tools run in turn, each in a process of its own from start to saved vectors. README.md beside this
file says what is counted. report.py prints the table and draws the picture, also later, from the JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import report
from harness import (
    HERE,
    SETTINGS,
    describe_corpus,
    describe_run,
    plain_text,
    run_to_end,
    train_command,
    words_per_second,
)


def measure(tool: str, corpus: Path, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train once and score the result, in two processes; only the first is timed."""
    settings = {name: getattr(options, name) for name in SETTINGS}
    out = folder / f"{tool}-{seed}"
    wall, peak = run_to_end(train_command(tool, corpus, out, seed, settings), folder / "log.txt")
    command = [sys.executable, str(HERE / "evaluate.py"), str(out / "vectors.bin")]
    command += ["--pairs", *map(str, options.pairs), "--analogies", *map(str, options.analogies)]
    scored = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {
        "tool": tool,
        "seed": seed,
        "words_per_second": words_per_second(tool, out),
        "wall_seconds": wall,
        "peak_memory_mb": peak,
        "vocabulary": scored["vocabulary"],
        "quality": scored["scores"],
        "unknown": scored["unknown"],
    }


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Reduce the runs: tool → measure → median, mean, minimum and maximum."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for tool in dict.fromkeys(run["tool"] for run in runs):
        of_tool = [run | run["quality"] for run in runs if run["tool"] == tool]
        measures = ["words_per_second", "wall_seconds", "peak_memory_mb", *runs[0]["quality"]]
        summary[tool] = {
            measure: {
                "median": statistics.median(values := [run[measure] for run in of_tool]),
                "mean": statistics.fmean(values),
                "min": min(values),
                "max": max(values),
            }
            for measure in measures
        }
    return summary


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare embedtrain with gensim.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="a text file, or one packed as .xz: a sentence a line")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="similarity judgements: word, word, score")
    parser.add_argument("--analogies", type=Path, nargs="*", default=[], help="files like questions-words.txt")
    parser.add_argument("--tools", nargs="+", choices=["embedtrain", "gensim"], default=["embedtrain", "gensim"])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each tool, with the seeds 1, 2, ...")
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--negative", type=int, default=5)
    parser.add_argument("--sample", type=float, default=1e-3)
    parser.add_argument("--min-count", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=0.025)
    parser.add_argument("--min-alpha", type=float, default=0.0001)
    parser.add_argument("--workers", type=int, default=2, help="threads of either tool")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--picture", type=Path, help="draw the comparison into this file (.png, .svg)")
    options = parser.parse_args(arguments)
    for path in [options.corpus, *options.pairs, *options.analogies]:
        if not path.is_file():
            parser.error(f"no such file: {path}")
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    results: dict[str, Any] = {
        **describe_run("compare.py", arguments),
        "settings": {name: getattr(options, name) for name in SETTINGS},
        "runs": [],
    }
    with tempfile.TemporaryDirectory(prefix="embedtrain-compare-") as folder_name:
        folder = Path(folder_name)
        corpus = plain_text(options.corpus, folder)
        results["corpus"] = describe_corpus(corpus, options.corpus.name)
        for seed in range(1, options.seeds + 1):
            for tool in options.tools:  # in turn, so that a slow spell of the machine meets both
                measured = measure(tool, corpus, seed, options, folder)
                results["runs"].append(measured)
                print(
                    f"seed {seed}, {tool}: {measured['words_per_second']:,.0f} words/s, "
                    f"{measured['wall_seconds']:.1f} s in all",
                    file=sys.stderr,
                )
    results["summary"] = summarise(results["runs"])
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(report.table(results))
    if options.picture is not None:
        report.draw(results, options.picture)


if __name__ == "__main__":
    main(sys.argv[1:])
