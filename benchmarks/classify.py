"""Classify IMDB reviews with frozen, tuned, partly tuned and no pretrained embeddings; how many labels each needs.

``python benchmarks/classify.py train.tsv.xz --embeddings out/ --json classify.json --picture classify.png``

The labelled texts are split once, 5,000 to test and the rest to train, the same way each time. For each way to tune,
number of labelled texts and seed, ``embedtrain.classify`` runs in a process of its own, with its defaults. Finished
runs are kept in the JSON file, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TUNE = ("frozen", "full", "rows", "scratch")


def split(source: Path, folder: Path, test_size: int) -> tuple[Path, Path]:
    """Write train.tsv and test.tsv into a folder: the same split each time."""
    from embedtrain.labelled import read_labelled

    data = read_labelled(source)
    order = list(range(len(data)))
    random.Random(2013).shuffle(order)
    parts = {"test.tsv": order[:test_size], "train.tsv": order[test_size:]}
    for name, rows in parts.items():
        with (folder / name).open("w", encoding="utf-8") as file:
            file.writelines(f"{data.labels[row]}\t{data.texts[row]}\n" for row in rows)
    return folder / "train.tsv", folder / "test.tsv"


def run(train: Path, test: Path, embeddings: Path, tune: str, size: int, seed: int, more: list[str]) -> dict[str, Any]:
    """Train and test one classifier; return its results."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        command = [sys.executable, "-m", "embedtrain.classify", str(train), "--test", str(test), "--out", str(out)]
        command += ["--embeddings", str(embeddings), "--tune", tune, "--train-size", str(size), "--seed", str(seed)]
        subprocess.run([*command, *more], check=True)
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    results = config["results"]
    return {
        "tune": tune,
        "size": size,
        "seed": seed,
        "accuracy": results["test_accuracy"],
        "macro_f1": results["test_macro_f1"],
    }


def spread(runs: list[dict[str, Any]], tune: str, size: int) -> list[float]:
    return sorted(run["accuracy"] for run in runs if run["tune"] == tune and run["size"] == size)


def table(runs: list[dict[str, Any]]) -> str:
    """Return a Markdown table: mean accuracy, and the range over the seeds."""
    sizes = sorted({run["size"] for run in runs})
    lines = [
        "| embeddings | " + " | ".join(f"{size:,} reviews" for size in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for tune in TUNE:
        cells = []
        for size in sizes:
            values = spread(runs, tune, size)
            cells.append(f"{statistics.mean(values):.3f} ({values[0]:.3f}–{values[-1]:.3f})" if values else "–")
        lines.append(f"| {tune} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy over the number of labelled reviews."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    all_sizes = sorted({run["size"] for run in runs})
    for number, tune in enumerate(TUNE):
        points = [(size, values) for size in all_sizes if (values := spread(runs, tune, size))]
        means = [statistics.mean(values) for _, values in points]
        below = [mean - values[0] for mean, (_, values) in zip(means, points, strict=True)]
        above = [values[-1] - mean for mean, (_, values) in zip(means, points, strict=True)]
        sizes = [size * 1.04 ** (number - 1.5) for size, _ in points]  # beside each other, or the bars overlap
        axes.errorbar(sizes, means, (below, above), marker="o", markersize=5, capsize=3, label=tune)
    axes.set(xscale="log", xlabel="labelled reviews", ylabel="test accuracy")
    axes.set_title("IMDB: a BiLSTM on word embeddings, mean and range over the seeds", fontsize=11)
    axes.set_xticks(all_sizes, [f"{size:,}" for size in all_sizes])
    axes.minorticks_off()
    axes.legend(title="embeddings", loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="label<TAB>text lines, plain or compressed")
    parser.add_argument("--embeddings", type=Path, required=True, help="folder of embedtrain.fit on corpus.txt.xz")
    parser.add_argument("--test-size", type=int, default=5_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2_000, 20_000])
    parser.add_argument("--tune", nargs="+", choices=TUNE, default=list(TUNE))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, default=Path("classify.json"))
    parser.add_argument("--picture", type=Path)
    options, more = parser.parse_known_args()
    runs: list[dict[str, Any]] = json.loads(options.json.read_text()) if options.json.exists() else []
    done = {(run["tune"], run["size"], run["seed"]) for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        train, test = split(options.texts, Path(folder), options.test_size)
        for size in options.sizes:
            for seed in options.seeds:
                for tune in options.tune:
                    if (tune, size, seed) not in done:
                        runs.append(run(train, test, options.embeddings, tune, size, seed, more))
                        options.json.write_text(json.dumps(runs, indent=1) + "\n")
    print(table(runs))
    if options.picture is not None:
        picture(runs, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
