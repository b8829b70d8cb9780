"""See whether speed stays as corpus and vocabulary grow: training, and counting and encoding of text.

``python benchmarks/growth.py --tokens 10_000_000 100_000_000 500_000_000 --text imdb.txt --json growth.json``

Words are drawn by Zipf's law (zipf.py). Every measurement is a process of its own; all of them take turns, several
rounds of them, and medians are printed. Some run once more with transparent huge pages denied to the process by
``prctl(PR_SET_THP_DISABLE)``, to see what they give. 500 M tokens take 5 GB of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
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

PR_SET_THP_DISABLE = 41  # linux/prctl.h
LINES = {"sentences": (10, 30), "short": (1, 2), "one": (1, 0)}
"""Shortest and longest line, in tokens."""
EXPLAINED = {"sentences": "lines of 10 to 30", "short": "lines of 1 or 2", "one": "one line"}


# --- measuring, in a process of its own ---------------------------------------------------------------------------


def train(tokens: int, vocabulary: int, lines: str, workers: int, dim: int) -> dict[str, float]:
    """Train one epoch; returns words per second and what was trained on."""
    import numpy as np

    from embedtrain.corpus import Corpus
    from embedtrain.options import Options
    from embedtrain.progress import Progress
    from embedtrain.train import train
    from embedtrain.vocabulary import Vocabulary

    ids = np.empty(tokens, np.int32)
    begin = 0
    for drawn in zipf.ranks(tokens, vocabulary):
        ids[begin : begin + len(drawn)] = drawn
        begin += len(drawn)
    counts = np.bincount(ids, minlength=vocabulary)
    if not counts.all():  # some were never drawn
        new_ids = (np.cumsum(counts > 0) - 1).astype(np.int32)
        for part in np.array_split(ids, 1 + tokens // zipf.CHUNK_TOKENS):
            part[:] = new_ids[part]
        counts = counts[counts > 0]
    offsets = np.append(0, zipf.line_ends(tokens, *LINES[lines]))
    words = [str(row) for row in range(len(counts))]
    corpus = Corpus(ids, offsets, Vocabulary(words, counts), (), tokens, len(offsets) - 1, {}, 0, "")
    huge_mb: list[float] = []

    def look(report: dict[str, Any]) -> None:
        if len(huge_mb) == 0:
            huge_mb.append(huge_pages_mb())

    embeddings = train(corpus, Options(epochs=1, dim=dim, workers=workers), Progress(quiet=True), look)
    speed = float(embeddings.config["results"]["words_per_second"])
    return {"speed": speed, "words": len(counts), "tokens": tokens, "huge_mb": huge_mb[0]}


def count(text: str, workers: int) -> dict[str, float]:
    """Read a file as training does; returns bytes per second, and bytes of memory per distinct word.

    The memory is the most that the process ever had in the meantime, less what it had before and 4 bytes a token.
    """
    from embedtrain import corpus, native
    from embedtrain.options import Options

    assert native.core
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    encoded = corpus.encode(text, Options(workers=workers))
    seconds = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - 4 * encoded.tokens_read
    encoder = native.core.Encoder(workers, "strict")  # once more, for the number of words before min_count
    encoder.feed(Path(text).read_bytes())
    encoder.end_file()
    distinct = encoder.finish(1, None, "", None, None)["distinct_words"]
    return {
        "speed": Path(text).stat().st_size / seconds,
        "words": distinct,
        "tokens": encoded.tokens_read,
        "bytes_per_word": memory / distinct,
    }


def huge_pages_mb() -> float:
    """Memory of this process that lies in huge pages, in MB; 0 where nobody knows it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("AnonHugePages")).split()[1]) * 1024 / 1e6
    return 0.0


def child(spelled: str) -> None:
    task = json.loads(spelled)
    if not task.pop("huge_pages") and ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0:
        raise SystemExit("this system does not let a process refuse huge pages")
    print(json.dumps({"train": train, "count": count}[task.pop("kind")](**task)))


# --- what is measured ---------------------------------------------------------------------------------------------


def tasks(options: argparse.Namespace, texts: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """List the measurements by table; the first of each table is what its others are compared to."""

    def one(tokens: int, vocabulary: int, lines: str = "sentences", **other: Any) -> dict[str, Any]:
        task = {"kind": "train", "tokens": tokens, "vocabulary": vocabulary, "lines": lines, "dim": options.dim}
        return task | {"workers": options.workers, "huge_pages": True} | other

    tokens, vocabulary = options.tokens[0], options.vocabulary[0]
    return {
        "corpus": [one(tokens, vocabulary) for tokens in options.tokens],
        "vocabulary": [one(options.vocabulary_tokens, vocabulary) for vocabulary in options.vocabulary],
        "huge pages": [
            one(options.vocabulary_tokens, vocabulary, huge_pages=huge_pages)
            for vocabulary in sorted({min(options.vocabulary), max(options.vocabulary)})
            for huge_pages in (True, False)
        ],
        "lines": [
            one(tokens, vocabulary, lines, workers=workers)
            for lines in LINES
            for workers in sorted({1, options.workers})
        ],
        "counting": [
            {"kind": "count", "text": str(text), "workers": options.workers, "huge_pages": huge_pages}
            for text in texts
            for huge_pages in (True, False)
        ],
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise SystemExit(f"{json.dumps(task)} failed:\n{ran.stderr}")
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def table(results: dict[str, Any]) -> str:
    rows = [["", "tokens", "different words", "threads", "huge pages", "speed: median (min–max)", "to the first", ""]]
    for title, measured in results["tables"].items():
        first = measured[0]["rounds"]
        for place, row in enumerate(measured):
            task, rounds = row["task"], row["rounds"]
            speeds = [each["speed"] / 1e6 for each in rounds]
            ratio = statistics.median(a["speed"] / b["speed"] for a, b in zip(rounds, first, strict=True))
            pages = "yes" if task["huge_pages"] else "no"
            if task["kind"] == "count":
                unit, note = "MB/s", f"{Path(task['text']).name}, {rounds[0]['bytes_per_word']:.0f} bytes a word"
                digits = 0
            else:
                unit, note, digits = "M words/s", EXPLAINED[task["lines"]], 2
                pages += f", {statistics.median(each['huge_mb'] for each in rounds):.0f} MB"
            low, middle, high = (f"{of(speeds):.{digits}f}" for of in (min, statistics.median, max))
            rows.append(
                [
                    title if place == 0 else "",
                    f"{rounds[0]['tokens'] / 1e6:.0f} M",
                    f"{rounds[0]['words']:,}",
                    str(task["workers"]),
                    pages,
                    f"{middle} ({low}–{high}) {unit}",
                    f"{ratio:.2f}" if place else "",
                    note,
                ]
            )
    return f"{markdown(rows)}\n\n{conditions(results, ('settings', results['settings']))}"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="See whether speed stays as corpus and vocabulary grow.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[10_000_000, 100_000_000, 500_000_000])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[50_000, 200_000, 2_000_000])
    parser.add_argument("--vocabulary-tokens", type=int, default=50_000_000, help="corpus for the vocabularies")
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="plain text to count, beside Zipf's")
    parser.add_argument("--text-tokens", type=int, default=40_000_000, help="of the text by Zipf's law")
    parser.add_argument("--text-vocabulary", type=int, default=10_000_000, help="words it is drawn from")
    parser.add_argument("--only", nargs="+", choices=["corpus", "vocabulary", "huge pages", "lines", "counting"])
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    results: dict[str, Any] = {
        **describe_run("growth.py", arguments),
        "settings": f"dim {options.dim}, one epoch, otherwise the defaults; {options.rounds} rounds",
    }
    with tempfile.TemporaryDirectory(prefix="embedtrain-growth-") as folder:
        drawn = Path(folder) / "zipf.txt"
        if options.only is None or "counting" in options.only:
            # Not by this process, which must stay small for the memory of its children to be seen (harness.py).
            command = [sys.executable, zipf.__file__, str(drawn), "--tokens", str(options.text_tokens)]
            subprocess.run([*command, "--vocabulary", str(options.text_vocabulary)], check=True)
        tables = {
            title: [{"task": task, "rounds": []} for task in of_table]
            for title, of_table in tasks(options, [*options.text, drawn]).items()
            if options.only is None or title in options.only
        }
        for round_ in range(1, options.rounds + 1):
            for title, of_table in tables.items():
                for row in of_table:
                    row["rounds"].append(measure(row["task"]))
                    speed = row["rounds"][-1]["speed"] / 1e6
                    print(f"round {round_}, {title}, {json.dumps(row['task'])}: {speed:.2f} M/s", file=sys.stderr)
    results["tables"] = tables
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
    else:
        main(sys.argv[1:])
