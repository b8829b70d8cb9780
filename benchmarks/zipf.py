"""Write a corpus of any size whose words follow Zipf's law: for the sizes and vocabularies that nobody ships.

``python benchmarks/zipf.py corpus.txt --tokens 500_000_000 --vocabulary 2_000_000``

Words are made-up syllables (``ba``, ``lipo``, ``zuvate``), the frequent ones short: with their space they take 5.3
bytes on average at a vocabulary of 2,000,000, as they do in English. The same arguments write the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

CHUNK_TOKENS = 1 << 20
OFFSET = 2.7  # Mandelbrot's correction: in real text the first few words are not that far apart
SYLLABLES = np.array([[ord(a), ord(b)] for a in "bcdfghjklmnpqrstvwxz" for b in "aeiou"], np.uint8)


def ranks(tokens: int, vocabulary: int, seed: int = 1) -> Iterator[npt.NDArray[np.int32]]:
    """Draw words by Zipf's law, a chunk of them at a time; a word is its rank, the most frequent one is 0.

    The probability of rank r is that of 1 / (x + 2.7), integrated from r to r + 1. Its sums are logarithms, so that a
    draw is an exponential function of a uniform number.
    """
    random = np.random.default_rng([seed, 0])
    growth = np.log((vocabulary + OFFSET) / OFFSET)
    for begin in range(0, tokens, CHUNK_TOKENS):
        uniform = random.random(min(CHUNK_TOKENS, tokens - begin))
        drawn = OFFSET * np.exp(growth * uniform) - OFFSET
        yield np.minimum(drawn.astype(np.int32), vocabulary - 1)


def line_ends(tokens: int, shortest: int, longest: int, seed: int = 1) -> npt.NDArray[np.int64]:
    """Draw lines of ``shortest`` to ``longest`` tokens, all lengths alike; returns where each ends.

    :param longest: 0 makes a single line.
    """
    if longest == 0:
        return np.array([tokens], np.int64)
    random = np.random.default_rng([seed, 1])
    ends = np.zeros(0, np.int64)
    while len(ends) == 0 or ends[-1] < tokens:
        more = np.cumsum(random.integers(shortest, longest + 1, 2 * tokens // (shortest + longest) + 1000))
        ends = np.append(ends, more + (ends[-1] if len(ends) else 0))
    return np.append(ends[: np.searchsorted(ends, tokens)], tokens)


def spell(vocabulary: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Spell the words: letters (V, longest + 1), of which the last is a place for the separator; and lengths (V,)."""
    count = len(SYLLABLES)
    syllables = np.ones(vocabulary, np.int64)
    rest = np.arange(vocabulary)  # among the words of as many syllables
    while (more := rest >= count**syllables).any():
        rest[more] -= count ** syllables[more]
        syllables[more] += 1
    letters = np.full((vocabulary, 2 * int(syllables.max()) + 1), ord(" "), np.uint8)
    for place in range(int(syllables.max())):
        has = np.flatnonzero(syllables > place)
        letters[has, 2 * place : 2 * place + 2] = SYLLABLES[rest[has] // count**place % count]
    return letters, 2 * syllables


def write(file: BinaryIO, tokens: int, vocabulary: int, shortest: int = 10, longest: int = 30, seed: int = 1) -> None:
    """Write the corpus as text, a sentence a line."""
    letters, lengths = spell(vocabulary)
    columns = np.arange(letters.shape[1])
    ends = line_ends(tokens, shortest, longest, seed)
    begin = 0
    for drawn in ranks(tokens, vocabulary, seed):
        first, last = np.searchsorted(ends, [begin + 1, begin + len(drawn) + 1])
        ending = ends[first:last] - 1 - begin
        text, size = letters[drawn], lengths[drawn]
        text[ending, size[ending]] = ord("\n")
        file.write(text[columns <= size[:, None]])
        begin += len(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write a corpus by Zipf's law.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("out", help='text file; "-" is standard output')
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--vocabulary", type=int, default=50_000, help="words to draw from")
    parser.add_argument("--line", type=int, nargs=2, default=(10, 30), metavar=("SHORTEST", "LONGEST"))
    parser.add_argument("--one-line", action="store_true", help="a single line of everything")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    shortest, longest = (1, 0) if options.one_line else options.line
    if min(options.tokens, options.vocabulary, shortest) < 1 or not (options.one_line or shortest <= longest):
        parser.error(
            "tokens, vocabulary and lines must be at least 1, and the longest line no shorter than the shortest"
        )
    with sys.stdout.buffer if options.out == "-" else open(options.out, "wb") as file:  # noqa: PTH123
        write(file, options.tokens, options.vocabulary, shortest, longest, options.seed)


if __name__ == "__main__":
    main()
