"""Score word vectors with gensim's evaluation code, whoever trained them.

``python benchmarks/evaluate.py vectors.bin --pairs wordsim353.tsv simlex999.tsv --analogies questions-words.txt``

prints JSON: the Spearman correlation with each file of human similarity judgements, and the share of the analogies
solved, each under the name of its file; also the share of the questions left out because a word of them is unknown.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path

ANALOGY_VOCABULARY = 30_000
"""Analogies are asked and answered among this many of the most frequent words, as word2vec's own script does."""


def read_pairs(path: Path) -> list[tuple[str, str, float]]:
    """Read (word, word, score) from a file of similarity judgements.

    The published files differ: tabs, commas or spaces, with a header or without, and other columns before the score
    (SimLex-999: the part of speech) or after it. The words come first and the score is the first number after them.
    """
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        separator = next((mark for mark in "\t,;" if mark in line), None)
        first, second, *rest = [*line.split(separator), "", ""]
        score = next((float(field) for field in rest if re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", field)), None)
        if score is not None:
            pairs.append((first.strip(), second.strip(), score))
        elif pairs:  # only lines above the first pair may be a header
            raise SystemExit(f"{path}:{number}: expected two words and a score, found {line!r}")
    if not pairs:
        raise SystemExit(f"{path}: no line has two words and a score")
    return pairs


def evaluate(vectors: Path, pairs: list[Path], analogies: list[Path]) -> dict[str, object]:
    """Score the vectors of a file in word2vec's binary format."""
    from gensim.models import KeyedVectors

    keyed = KeyedVectors.load_word2vec_format(str(vectors), binary=True)
    scores: dict[str, float] = {}
    unknown: dict[str, float] = {}
    for path in pairs:
        with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as file:  # in the one form gensim reads
            file.writelines(f"{first}\t{second}\t{score}\n" for first, second, score in read_pairs(path))
            file.flush()
            _, spearman, unknown_percent = keyed.evaluate_word_pairs(file.name)
        scores[path.stem] = float(spearman[0])
        unknown[path.stem] = unknown_percent / 100
    for path in analogies:
        asked = sum(1 for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != ":")
        accuracy, sections = keyed.evaluate_word_analogies(str(path), restrict_vocab=ANALOGY_VOCABULARY)
        scores[path.stem] = float(accuracy)
        unknown[path.stem] = 1 - (len(sections[-1]["correct"]) + len(sections[-1]["incorrect"])) / max(asked, 1)
    return {"vocabulary": len(keyed), "scores": scores, "unknown": unknown}


def main() -> None:
    parser = argparse.ArgumentParser(description="Score word vectors with gensim's evaluation code.")
    parser.add_argument("vectors", type=Path, help="word2vec's binary format, most frequent word first")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="files of word, word, score")
    parser.add_argument("--analogies", type=Path, nargs="*", default=[], help="files like questions-words.txt")
    options = parser.parse_args()
    print(json.dumps(evaluate(options.vectors, options.pairs, options.analogies), indent=2))


if __name__ == "__main__":
    main()
