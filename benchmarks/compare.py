"""Train the same corpus with embedtrain and gensim, side by side, and compare speed, memory and quality.

``python benchmarks/compare.py corpus.txt.xz --pairs wordsim353.tsv simlex999.tsv --analogies questions-words.txt
--json results.json --picture comparison.png``

For every seed the tools run in turn, each in a process of its own from start to saved vectors. README.md beside this
file says what is counted. report.py prints the table and draws the picture, also later, from the JSON.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import lzma
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import report

# Nothing big is imported or held in this process: Linux counts what a parent occupies when it starts a child as memory
# the child has had, so that the peak of no child could be told below it.

HERE = Path(__file__).resolve().parent
SETTINGS = ("dim", "window", "negative", "sample", "min_count", "epochs", "alpha", "min_alpha", "workers")
PACKAGES = ("embedtrain", "gensim", "numpy", "scipy", "torch")


def train_command(tool: str, corpus: Path, out: Path, seed: int, settings: dict[str, Any]) -> list[str]:
    """Spell the command that trains and writes ``out/vectors.bin``. Both tools know the options by the same names."""
    command = {
        "embedtrain": [sys.executable, "-m", "embedtrain.fit", str(corpus), "--device", "cpu"],
        "gensim": [sys.executable, str(HERE / "gensim_fit.py"), str(corpus)],
    }[tool]
    if tool == "embedtrain":
        command += ["--export", "word2vec-binary"]
    for name, value in settings.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return [*command, "--seed", str(seed), "--out", str(out)]


def words_per_second(tool: str, out: Path) -> float:
    """Read the speed of training proper: words in the vocabulary, before subsampling, times epochs, over seconds."""
    if tool == "embedtrain":
        return float(json.loads((out / "config.json").read_text())["results"]["words_per_second"])
    return float(json.loads((out / "training.json").read_text())["words_per_second"])


def run(command: list[str], log: Path) -> tuple[float, float]:
    """Run a command to its end.

    :return: wall time in seconds from before the process starts, and its peak resident memory in MB
    :raises SystemExit: with the end of its output, if it fails
    """
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"this command failed with exit code {process.returncode}:\n{shlex.join(command)}\n{end}")
    kilobyte = 1 if sys.platform == "darwin" else 1024  # macOS counts ru_maxrss in bytes
    return wall, usage.ru_maxrss * kilobyte / 1e6


def measure(tool: str, corpus: Path, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train once and score the result, in two processes; only the first is timed."""
    settings = {name: getattr(options, name) for name in SETTINGS}
    out = folder / f"{tool}-{seed}"
    wall, peak = run(train_command(tool, corpus, out, seed, settings), folder / "log.txt")
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


def plain_text(corpus: Path, folder: Path) -> Path:
    """Unpack an .xz corpus, so that both tools read the same plain file and neither is timed unpacking it."""
    if corpus.suffix != ".xz":
        return corpus
    plain = folder / corpus.stem
    with lzma.open(corpus) as packed, plain.open("wb") as unpacked:
        while chunk := packed.read(1 << 20):
            unpacked.write(chunk)
    return plain


def describe_corpus(corpus: Path, name: str) -> dict[str, Any]:
    """Hash the plain text and count what white space separates. It is in the page cache afterwards, for both tools."""
    digest = hashlib.sha256()
    tokens = size = 0
    in_token = False
    with corpus.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
            tokens += len(chunk.split()) - (in_token and not chunk[:1].isspace())
            in_token = not chunk[-1:].isspace()
    return {"name": name, "bytes": size, "tokens": tokens, "sha256": digest.hexdigest()}


def describe_machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or not x86
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "system": platform.platform(), "load_before": round(os.getloadavg()[0], 2)}


def describe_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


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
        # Folders are left out: they say more about whose machine it was than about the measurement.
        "command": shlex.join(["python", "benchmarks/compare.py", *(_without_folder(word) for word in arguments)]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": describe_versions(),
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


def _without_folder(word: str) -> str:
    return Path(word).name if os.sep in word else word


if __name__ == "__main__":
    main(sys.argv[1:])
