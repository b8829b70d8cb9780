"""Train on a corpus larger than the memory that the process may have, and in memory, and compare.

``python benchmarks/memory.py --tokens 400_000_000 --limit 700 --json memory.json``

Writes a text by Zipf's law (zipf.py) and runs ``embedtrain.fit`` on it: in memory; with ``RLIMIT_DATA`` set to the
limit and a new ``--cache-dir``, so that the corpus is counted, encoded and trained from disk; and once more, from the
encoded corpus that this kept, whose pages are thrown out of the page cache before. ``RLIMIT_DATA`` bounds what cannot
be had back from a file: all but mapped files. The rows take turns, several rounds of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zipf
from harness import conditions, describe_run, markdown

ROWS = {"memory": "in memory", "disk": "limited, encoded to disk", "again": "limited, from what was kept"}


def run(command: list[str], limit: float | None, log: Path) -> dict[str, float]:
    """Run a training; returns its time, and the most memory it had that is no page of a file (RssAnon), in MB.

    :param limit: of RLIMIT_DATA, in MB.
    """

    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1e6), int(limit * 1e6)))

    anonymous = 0
    with log.open("w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=output, preexec_fn=bound)
        status = Path(f"/proc/{process.pid}/status")
        ended = 0
        while not ended:
            lines = status.read_text().splitlines()
            anonymous = max([anonymous, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
            time.sleep(0.02)
            ended, code, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode != 0:
        raise SystemExit(f"this command failed:\n{' '.join(command)}\n{log.read_text()[-2000:]}")
    processors = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": processors, "anonymous_mb": anonymous * 1024 / 1e6}


def forget(folder: Path) -> None:
    """Throw the files of a folder out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure(corpus: Path, folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run each row once, on the same corpus."""
    fit = [sys.executable, "-m", "embedtrain.fit", str(corpus), "--device", "cpu", "--checkpoint-every", "off"]
    fit += ["--dim", str(options.dim), "--epochs", str(options.epochs), "--workers", str(options.workers)]
    measured: dict[str, dict[str, Any]] = {}
    cache = folder / "cache"
    for row in ROWS:
        out = folder / row
        disk = ["--no-cache"] if row == "memory" else ["--cache-dir", str(cache)]
        if row == "again":
            forget(cache)
        command = [*fit, *disk, "--out", str(out), "--overwrite"]
        result: dict[str, Any] = run(command, None if row == "memory" else options.limit, folder / "log")
        config = json.loads((out / "config.json").read_text())
        result["words_per_second"] = config["results"]["words_per_second"]
        result["tables_mb"] = 2 * 4 * config["vocab_size"] * config["dim"] / 1e6
        result["encoded_mb"] = (4 * config["corpus"]["tokens"] + 8 * config["corpus"]["sentences"]) / 1e6
        result["fingerprint"] = config["corpus"]["fingerprint"]
        measured[row] = result
        print(f"{ROWS[row]}: {json.dumps(result)}", file=sys.stderr)
    if len({result["fingerprint"] for result in measured.values()}) != 1:
        raise SystemExit("the rows trained on different corpora")
    for path in cache.iterdir():  # the next round is to encode again
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    return measured


def table(results: dict[str, Any]) -> str:
    rounds = results["rounds"]
    head = ["", "training, M words/s", "to in memory", "whole run, s", "CPU, s", "memory, MB", "less the tables, MB"]
    rows = [head]
    for row, name in ROWS.items():
        runs = [each[row] for each in rounds]

        def of(key: str, runs: list[dict[str, Any]] = runs) -> float:
            return statistics.median(run[key] for run in runs)

        ratio = statistics.median(each[row]["words_per_second"] / each["memory"]["words_per_second"] for each in rounds)
        rest = of("anonymous_mb") - of("tables_mb")
        times = [f"{of('seconds'):.0f}", f"{of('cpu_seconds'):.0f}"]
        speed = [f"{of('words_per_second') / 1e6:.2f}", f"{ratio:.2f}"]
        rows.append([name, *speed, *times, f"{of('anonymous_mb'):.0f}", f"{rest:.0f}"])
    size = rounds[0]["memory"]
    corpus = f"{results['text_mb']:,.0f} MB of text, {size['encoded_mb']:,.0f} MB encoded"
    tables = f"{size['tables_mb']:,.0f} MB"
    more = (("settings", results["settings"]), ("corpus", corpus), ("tables", tables))
    return f"{markdown(rows)}\n\n{conditions(results, *more)}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description="Train on a corpus larger than memory.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=400_000_000)
    parser.add_argument("--vocabulary", type=int, default=100_000, help="words the text is drawn from")
    parser.add_argument("--limit", type=float, default=700, help="of the memory of the process, in MB")
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where text and encoded corpus go for the while; a temporary one")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {
        **describe_run("memory.py", arguments),
        "settings": f"limit {options.limit:,.0f} MB, dim {options.dim}, epochs {options.epochs}, workers "
        f"{options.workers}, otherwise the defaults; medians of {options.rounds} rounds. Memory is RssAnon at its peak",
        "rounds": [],
    }
    with tempfile.TemporaryDirectory(prefix="embedtrain-memory-", dir=options.folder) as name:
        text = Path(name) / "zipf.txt"
        command = [sys.executable, zipf.__file__, str(text), "--tokens", str(options.tokens)]
        subprocess.run([*command, "--vocabulary", str(options.vocabulary)], check=True)
        results["text_mb"] = text.stat().st_size / 1e6
        for _ in range(options.rounds):
            results["rounds"].append(measure(text, Path(name), options))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
