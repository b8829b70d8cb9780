"""What a fastText user runs to train plain skip-gram on a text file: the third side of speed.py.

Subwords are off (minn = maxn = 0), so that it trains the model the others train. Writes ``vectors.bin`` (fastText's own
format) and ``training.json`` into the folder given with ``--out``.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import fasttext


def main() -> None:
    parser = argparse.ArgumentParser(description="Train skip-gram with negative sampling by fastText.")
    parser.add_argument("corpus")
    parser.add_argument("--out", type=Path, required=True)
    for name in ("dim", "window", "negative", "min-count", "epochs", "workers", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("sample", "alpha", "min-alpha"):  # its rate always falls to 0
        parser.add_argument(f"--{name}", type=float, required=True)
    options = parser.parse_args()  # fastText's Python module takes no seed

    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            model = fasttext.train_unsupervised(
                options.corpus,
                model="skipgram",
                loss="ns",
                minn=0,
                maxn=0,
                bucket=0,
                dim=options.dim,
                ws=options.window,
                neg=options.negative,
                minCount=options.min_count,
                t=options.sample,
                epoch=options.epochs,
                lr=options.alpha,
                thread=options.workers,
                verbose=1,
            )
        finally:
            os.dup2(stderr, 2)
        log.seek(0)
        text = log.read().decode()
        sys.stderr.write(text)

    # Its own clock, which runs from the start of its training threads to their end. It counts the tokens that are in
    # its vocabulary, line ends ("</s>") among them; these are no words of the corpus, and are taken out.
    tokens_per_second = int(re.findall(r"words/sec/thread:\s*(\d+)", text)[-1]) * options.workers
    words, counts = model.get_words(include_freq=True)
    line_ends = sum(int(count) for word, count in zip(words, counts, strict=True) if word == "</s>")
    share = 1 - line_ends / int(counts.sum())
    options.out.mkdir(parents=True, exist_ok=True)
    model.save_model(str(options.out / "vectors.bin"))
    (options.out / "training.json").write_text(json.dumps({"words_per_second": tokens_per_second * share}))


if __name__ == "__main__":
    main()
