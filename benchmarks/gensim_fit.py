"""What a gensim user runs to train on a text file: the other side of compare.py.

Its fastest mode: ``corpus_file``, where gensim's threads read the file themselves, without Python in between. Writes
``vectors.bin`` (word2vec's binary format) and ``training.json`` into the folder given with ``--out``.
"""

import argparse
import json
import time
from pathlib import Path

from gensim.models import Word2Vec


def main() -> None:
    parser = argparse.ArgumentParser(description="Train skip-gram with negative sampling by gensim.")
    parser.add_argument("corpus")
    parser.add_argument("--out", type=Path, required=True)
    for name in ("dim", "window", "negative", "min-count", "epochs", "workers", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("sample", "alpha", "min-alpha"):
        parser.add_argument(f"--{name}", type=float, required=True)
    options = parser.parse_args()

    model = Word2Vec(
        sg=1,
        hs=0,
        vector_size=options.dim,
        window=options.window,
        negative=options.negative,
        min_count=options.min_count,
        sample=options.sample,
        alpha=options.alpha,
        min_alpha=options.min_alpha,
        workers=options.workers,
        seed=options.seed,
    )
    model.build_vocab(corpus_file=options.corpus)
    start = time.perf_counter()
    model.train(
        corpus_file=options.corpus,
        total_examples=model.corpus_count,
        total_words=model.corpus_total_words,
        epochs=options.epochs,
    )
    seconds = time.perf_counter() - start

    words = sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key)
    options.out.mkdir(parents=True, exist_ok=True)
    model.wv.save_word2vec_format(str(options.out / "vectors.bin"), binary=True)
    training = {"words_per_second": words * options.epochs / seconds}
    (options.out / "training.json").write_text(json.dumps(training))


if __name__ == "__main__":
    main()
