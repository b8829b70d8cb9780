"""Count many more different words than the process has memory for, and compare with what was written.

``python benchmarks/distinct.py --words-log2 27 --limit 1000 --json distinct.json``

Word k of 2^n stands in the text once for each of the 1, 2, 4, … that divides k, n + 1 times at most: each time in a
pass of its own over all words, in another order, so that no word is counted in one go. ``embedtrain.fit`` trains on
those seen ``--min-count`` times or more, with ``RLIMIT_DATA`` set to the limit. Then the vocabulary, every count, every
id of the encoded corpus, in order, and the number of tokens left out must be the ones known beforehand.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import describe_run
from memory import run

Array = npt.NDArray[Any]

CHUNK_WORDS = 1 << 20
LINE = 20  # words
LONG = b"antidisestab"  # before an eighth of the words, which are too long for their place in the table then
HEX = np.array([list(b"%04x" % value) for value in range(1 << 16)], np.uint8)


def passes(bits: int, times: int = 1) -> Iterator[Array]:
    """Yield the numbers of the words in the order of the text, some at a time: those that stand in it often enough."""
    for exponent in range(bits + 1):
        size = 1 << (bits - exponent)
        for begin in range(0, size, CHUNK_WORDS):
            place = np.arange(begin, min(begin + CHUNK_WORDS, size), dtype=np.uint64)
            number = (place * np.uint64(0x9E3779B1 + 2 * exponent) + np.uint64(exponent)) % np.uint64(size)
            number <<= np.uint64(exponent)
            yield number[number % np.uint64(1 << (times - 1)) == 0]


def spell(numbers: Array) -> tuple[Array, Array]:
    """Spell words: letters (n, 21), the last a place for the separator, and which of them are used, bool."""
    code = (numbers * np.uint64(0x85EBCA6B)) % np.uint64(1 << 32)
    letters = np.empty((len(numbers), len(LONG) + 9), np.uint8)
    letters[:, : len(LONG)] = list(LONG)
    letters[:, len(LONG) : -5] = HEX[code >> np.uint64(16)]
    letters[:, -5:-1] = HEX[code & np.uint64(0xFFFF)]
    used = np.ones(letters.shape, bool)
    used[:, : len(LONG)] = (code % np.uint64(8) == 7)[:, None]
    return letters, used


def write(path: Path, bits: int) -> int:
    """Write the text; returns its tokens."""
    tokens = 0
    with path.open("wb") as file:
        for numbers in passes(bits):
            letters, used = spell(numbers)
            at = tokens + 1 + np.arange(len(numbers))
            letters[:, -1] = np.where(at % LINE == 0, ord("\n"), ord(" "))
            file.write(letters[used])
            tokens += len(numbers)
    return tokens


def vocabulary(bits: int, min_count: int) -> tuple[list[bytes], Array, Array]:
    """Return the words in their order, their counts, and their numbers."""
    numbers = np.arange(0, 1 << bits, 1 << (min_count - 1), dtype=np.uint64)
    lowest = numbers & (~numbers + np.uint64(1))
    counts = np.log2(np.where(numbers == 0, 1 << bits, lowest).astype(float)).astype(np.int64) + 1
    letters, used = spell(numbers)
    letters[:, -1] = ord("\n")
    words = letters[used].tobytes().split(b"\n")[:-1]
    order = sorted(range(len(words)), key=lambda row: (-counts[row], words[row]))
    return [words[row] for row in order], counts[order], numbers[order]


def compare(out: Path, cache: Path, bits: int, min_count: int, tokens: int) -> None:
    """Stop if anything differs from what is known."""
    words, counts, numbers = vocabulary(bits, min_count)
    lines = (out / "vocab.tsv").read_bytes().split(b"\n")[2:-1]
    assert lines == [b"%b\t%d" % row for row in zip(words, counts.tolist(), strict=True)], "words or counts differ"
    corpus = json.loads((out / "config.json").read_text())["corpus"]
    kept = int(counts.sum())
    assert corpus["tokens_read"] == tokens, corpus
    assert corpus["dropped"] == {"out_of_vocabulary": tokens - kept}, corpus
    assert corpus["lines"] == -(-tokens // LINE), corpus
    rows = np.full(1 << (bits - min_count + 1), -1, np.int32)
    rows[numbers >> np.uint64(min_count - 1)] = np.arange(len(words))
    (path,) = cache.glob("*/ids.bin")
    ids = np.memmap(path, np.int32, "r")
    assert len(ids) == kept, (len(ids), kept)
    done = 0
    for some in passes(bits, min_count):
        assert np.array_equal(ids[done : done + len(some)], rows[some >> np.uint64(min_count - 1)]), "ids differ"
        done += len(some)
    assert done == kept, (done, kept)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description="Count more words than fit in memory.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--words-log2", type=int, default=27, help="different words, as a power of 2; at most 32")
    parser.add_argument("--min-count", type=int, default=8)
    parser.add_argument("--limit", type=float, default=1000, help="of the memory of the process, in MB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where text and encoded corpus go for the while; a temporary one")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args(arguments)
    if not 1 <= options.min_count <= options.words_log2 <= 32:
        parser.error("min-count must be 1 or more, and words-log2 from there to 32")
    with tempfile.TemporaryDirectory(prefix="embedtrain-distinct-", dir=options.folder) as name:
        folder = Path(name)
        tokens = write(folder / "text.txt", options.words_log2)
        command = [sys.executable, "-m", "embedtrain.fit", str(folder / "text.txt"), "--out", str(folder / "out")]
        command += ["--min-count", str(options.min_count), "--dim", "16", "--epochs", "1", "--device", "cpu"]
        command += ["--workers", str(options.workers), "--cache-dir", str(folder / "cache")]
        measured = run([*command, "--checkpoint-every", "off"], options.limit, folder / "log")
        compare(folder / "out", folder / "cache", options.words_log2, options.min_count, tokens)
        results = {
            **describe_run("distinct.py", arguments),
            "different words": 1 << options.words_log2,
            "tokens": tokens,
            "text_mb": (folder / "text.txt").stat().st_size / 1e6,
            "limit_mb": options.limit,
            **measured,
            "log": (folder / "log").read_text().splitlines(),
        }
    text = json.dumps(results, indent=2)
    if options.json is not None:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
