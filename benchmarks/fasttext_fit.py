"""What a fastText user runs to train word vectors without subwords, for speed.py: prints words per second.

fastText counts the words of its vocabulary before subsampling, line ends included, from the start of its threads.
"""

import argparse
import os
import re
import tempfile

import fasttext


def main() -> None:
    parser = argparse.ArgumentParser(description="Train skip-gram with negative sampling by fastText.")
    parser.add_argument("corpus")
    for name in ("dim", "window", "negative", "min-count", "epochs", "workers"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("sample", "alpha"):
        parser.add_argument(f"--{name}", type=float, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)  # fastText tells its speed there, and only there
        try:
            fasttext.train_unsupervised(
                options.corpus, model="skipgram", loss="ns", minn=0, maxn=0, bucket=0, dim=options.dim,
                ws=options.window, neg=options.negative, minCount=options.min_count, epoch=options.epochs,
                t=options.sample, lr=options.alpha, thread=options.workers,
            )  # fmt: skip
        finally:
            os.dup2(stderr, 2)
        log.seek(0)
        speeds = re.findall(rb"words/sec/thread: +(\d+)", log.read())
    print(int(speeds[-1]) * options.workers)


if __name__ == "__main__":
    main()
