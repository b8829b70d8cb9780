"""Print the table of a comparison and draw its picture, from the JSON that compare.py writes.

``python benchmarks/report.py results.json --picture comparison.png``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness import conditions, markdown

COLOURS = {"embedtrain": "#0b6e99", "gensim": "#b8b3a8"}
TITLES = {"wordsim353": "WordSim-353", "simlex999": "SimLex-999", "questions-words": "Google analogies"}


def table(results: dict[str, Any]) -> str:
    """Lay out averages, spread and ratio as one Markdown table, with what they were measured on below it."""
    summary = results["summary"]
    tools = list(summary)
    versions = results["versions"]
    rows = [["median, quality: mean (min–max)", *(f"{tool} {versions.get(tool, '')}".strip() for tool in tools)]]
    if len(tools) == 2:
        rows[0].append(f"{tools[0]} to {tools[1]}")
    for measure in summary[tools[0]]:
        spelled, scale, digits = _form(measure)
        row = [spelled]
        for tool in tools:
            low, middle, high = (summary[tool][measure][key] / scale for key in ("min", _average(measure), "max"))
            row.append(f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})")
        if len(tools) == 2:
            first, second = (summary[tool][measure][_average(measure)] for tool in tools)
            row.append(_comparison(measure, first, second))
        rows.append(row)
    seeds = len({run["seed"] for run in results["runs"]})
    sizes = dict.fromkeys(run["vocabulary"] for run in results["runs"])
    below = conditions(
        results,
        ("words", f"vocabulary {' / '.join(f'{size:,}' for size in sizes)}"),
        ("settings", f"{', '.join(f'{name} {value}' for name, value in results['settings'].items())}; {seeds} seeds"),
    )
    return f"{markdown(rows)}\n\n{below}"


def _form(measure: str) -> tuple[str, float, int]:
    """Say how a measure is spelled: name and unit, divisor, decimals."""
    forms = {
        "words_per_second": ("training, million words/s", 1e6, 2),
        "wall_seconds": ("start to saved vectors, s", 1.0, 1),
        "peak_memory_mb": ("peak memory, MB", 1.0, 0),
    }
    return forms.get(measure, (TITLES.get(measure, measure), 1.0, 3))


def _average(measure: str) -> str:
    """Name the average to show: one slow run must not count for speed, every seed does for quality."""
    return "median" if measure in ("words_per_second", "wall_seconds", "peak_memory_mb") else "mean"


def _comparison(measure: str, first: float, second: float) -> str:
    if measure == "wall_seconds":
        return f"{second / first:.1f} times as fast"
    if measure == "words_per_second":
        return f"{first / second:.1f} times as fast"
    if measure == "peak_memory_mb":
        return f"{first / second:.2f} times as much"
    return f"{first - second:+.3f}"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw speed and wall time as bars and the quality of every run as dots."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"}
    summary = results["summary"]
    tools = list(summary)
    tests = list(results["runs"][0]["quality"])
    panels = 3 if tests else 2
    figure, axes = plt.subplots(
        1, panels, figsize=(3.6 * panels, 3.4), width_ratios=[1, 1, 1.3][:panels], layout="constrained"
    )
    for axis, measure, title in (
        (axes[0], "words_per_second", "Training, million words/s"),
        (axes[1], "wall_seconds", "Start to saved vectors, s"),
    ):
        _, scale, digits = _form(measure)
        for place, tool in enumerate(tools):
            low, middle, high = (summary[tool][measure][key] / scale for key in ("min", _average(measure), "max"))
            axis.bar(place, middle, width=0.6, color=COLOURS[tool])
            axis.errorbar(place, middle, [[middle - low], [high - middle]], color="#333333", capsize=3, linewidth=1)
            axis.annotate(f"{middle:.{digits}f}", (place, high), (0, 4), textcoords="offset points", ha="center")
        axis.set_xticks(range(len(tools)), tools)
        axis.set_xlim(-0.6, len(tools) - 0.4)
        axis.set_title(title)
        axis.margins(y=0.14)
    if tests:
        axis = axes[2]
        for row, test in enumerate(tests):
            for place, tool in enumerate(tools):
                scores = [run["quality"][test] for run in results["runs"] if run["tool"] == tool]
                height = row + (place - (len(tools) - 1) / 2) * 0.28
                axis.plot([min(scores), max(scores)], [height] * 2, color=COLOURS[tool], linewidth=2, alpha=0.5)
                axis.plot(scores, [height] * len(scores), "o", color=COLOURS[tool], markersize=6)
                axis.annotate(
                    f"{summary[tool][test]['mean']:.3f}",
                    (max(scores), height),
                    (7, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
        axis.set_yticks(range(len(tests)), [TITLES.get(test, test) for test in tests])
        axis.set_ylim(len(tests) - 0.5, -0.5)
        axis.margins(x=0.2)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_title("Quality, a dot a seed (right is better)")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(length=0)
    corpus, settings = results["corpus"], results["settings"]
    figure.supxlabel(
        f"{results['machine']['cpu']}, {settings['workers']} threads · {corpus['tokens'] / 1e6:.1f} M tokens × "
        f"{settings['epochs']} epochs · dim {settings['dim']}, window {settings['window']}, "
        f"{settings['negative']} negatives, sample {settings['sample']:g} · "
        "medians (quality: means), whiskers from min to max",
        fontsize=8,
        color="#666666",
    )
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print and draw what compare.py measured.")
    parser.add_argument("results", type=Path, help="JSON written by compare.py")
    parser.add_argument("--picture", type=Path, help="draw into this file (.png, .svg)")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    print(table(results))
    if options.picture is not None:
        draw(results, options.picture)


if __name__ == "__main__":
    main()
