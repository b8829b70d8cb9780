"""What the benchmarks share: they run each tool in a process of its own, and say what they measured, on what.

Nothing big is imported or held here: Linux counts what a parent occupies when it starts a child as memory the child has
had, so that the peak of no child could be told below it.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import lzma
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOOLS = ("embedtrain", "gensim", "fasttext")
SETTINGS = ("dim", "window", "negative", "sample", "min_count", "epochs", "alpha", "min_alpha", "workers")
"""What the tools are told, by the same names."""
PACKAGES = (*TOOLS, "numpy", "scipy", "torch")


def train_command(tool: str, corpus: Path, out: Path, seed: int, settings: dict[str, Any]) -> list[str]:
    """Spell the command that trains and writes the vectors into ``out``, in a binary format."""
    command = {
        "embedtrain": [sys.executable, "-m", "embedtrain.fit", str(corpus), "--device", "cpu"],
        "gensim": [sys.executable, str(HERE / "gensim_fit.py"), str(corpus)],
        "fasttext": [sys.executable, str(HERE / "fasttext_fit.py"), str(corpus)],
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


def run_to_end(command: list[str], log: Path) -> tuple[float, float]:
    """Run a command to its end.

    :param log: where its output goes.
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


def plain_text(corpus: Path, folder: Path, megabytes: float | None = None) -> Path:
    """Unpack an .xz corpus, so that all tools read the same plain file and none is timed unpacking it.

    :param folder: where the copy goes, if one is needed.
    :param megabytes: take only so much from the start, up to the end of a line.
    """
    if corpus.suffix != ".xz" and megabytes is None:
        return corpus
    plain = folder / corpus.name.removesuffix(".xz")
    left = sys.maxsize if megabytes is None else int(megabytes * 1e6)
    with lzma.open(corpus) if corpus.suffix == ".xz" else corpus.open("rb") as source, plain.open("wb") as copy:
        while chunk := source.read(min(left, 1 << 20)):
            copy.write(chunk)
            left -= len(chunk)
        copy.write(source.readline())
    return plain


def describe_corpus(corpus: Path, name: str) -> dict[str, Any]:
    """Hash the plain text and count what white space separates. It is in the page cache afterwards, for all tools."""
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


def describe_run(script: str, arguments: list[str]) -> dict[str, Any]:
    """Say what is run, when and on what: the head of every result."""
    # Folders are left out: they say more about whose machine it was than about the measurement.
    shown = (Path(word).name if os.sep in word else word for word in arguments)
    return {
        "command": shlex.join(["python", f"benchmarks/{script}", *shown]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def conditions(results: dict[str, Any], *more: tuple[str, str]) -> str:
    """Spell what was measured on what, a line each, to stand below a table.

    :param more: (name, text) of further lines.
    """
    machine = results["machine"]
    lines = [
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']}; {machine['system']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in results["versions"].items())),
    ]
    if corpus := results.get("corpus"):
        size = f"{corpus['tokens']:,} tokens, {corpus['bytes'] / 1e6:.1f} MB"
        lines += [("corpus", f"{corpus['name']}: {size}"), ("sha256", corpus["sha256"])]
    lines += [*more, ("date", results["date"]), ("command", results["command"])]
    return "\n".join(f"{name:9} {text}" for name, text in lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table whose first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
