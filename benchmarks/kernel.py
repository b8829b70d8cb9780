"""Time the CPU kernel alone: corpus words, centres and pairs per second, and the share of what the core could do.

``python benchmarks/kernel.py [corpus.txt] --dim 100 300 --workers 1 2 --isa avx512 avx2``

Without a corpus the words follow Zipf's law (--vocabulary, --tokens). The settings run in turn, several rounds of them,
so that a machine whose speed drifts treats all alike; the medians are printed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import zipf

from embedtrain import ops
from embedtrain.corpus import encode
from embedtrain.native import core
from embedtrain.options import Options


def zipf_corpus(tokens: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw ids by Zipf's law, in lines of 10 to 30; ids are ranks, so the most frequent words come first."""
    ids = np.concatenate(list(zipf.ranks(tokens, vocabulary)))
    offsets = np.append(0, zipf.line_ends(tokens, 10, 30))
    return ids, offsets, np.maximum(np.bincount(ids, minlength=vocabulary), 1)


class Run:
    """Trains a model on one stretch of the corpus after the other."""

    def __init__(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        counts: np.ndarray,
        dim: int,
        workers: int,
        options: argparse.Namespace,
    ):
        self.ids, self.offsets = torch.from_numpy(ids), torch.from_numpy(offsets.astype(np.int64))
        counts = torch.from_numpy(counts.astype(np.int64))
        input, output = ops.new_table(len(counts), dim), ops.new_table(len(counts), dim)
        ops.initial_weights(input, 0, 1)
        schedule = ops.Schedule(
            corpus_size=len(ids), epochs=5, seed=1, window=options.window, negative=options.negative,
            shrink_window=True, alpha=0.025, min_alpha=1e-4,
        )  # fmt: skip
        keep, noise = ops.keep_thresholds(counts, options.sample), ops.alias_table(counts, 0.75)
        self.trainer = ops.Trainer(input, output, keep, noise, schedule, workers)
        self.begin = 0

    def stretch(self, tokens: int) -> tuple[float, float, float, float]:
        """Return seconds, centres, pairs and loss of the next tokens."""
        size = len(self.ids)
        tokens = min(tokens, size)
        if self.begin + tokens > size:
            self.begin = 0
        stats = torch.zeros(3, dtype=torch.float64)
        start = time.perf_counter()
        self.trainer.train(stats, self.ids, self.offsets, self.begin, self.begin + tokens, first_position=0, epoch=0)
        seconds = time.perf_counter() - start
        self.begin += tokens
        loss, pairs, centres = stats.tolist()
        return seconds, centres, pairs, loss / max(pairs, 1)


class SeparateRuns:
    """As many models as there are threads: what the threads could do if they had nothing in common."""

    def __init__(self, runs: list[Run]):
        self.runs, self.pool = runs, ThreadPoolExecutor(len(runs))

    def stretch(self, tokens: int) -> tuple[float, float, float, float]:
        start = time.perf_counter()
        results = list(self.pool.map(lambda run: run.stretch(tokens // len(self.runs)), self.runs))
        seconds = time.perf_counter() - start
        _, centres, pairs, losses = zip(*results, strict=True)
        return seconds, sum(centres), sum(pairs), statistics.fmean(losses)


def peak_gflops() -> float:
    """Measure what one thread reaches in a matrix product that stays in the cache: nearly all of its FMA units."""
    torch.set_num_threads(1)
    a, b = torch.rand(768, 768), torch.rand(768, 768)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 768**3 / min(times) / 1e9


def copy_gigabytes() -> float:
    """Measure what one thread reads and writes in a second when it copies far more than the caches hold."""
    source, target = torch.ones(50_000_000), torch.zeros(50_000_000)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--dim", type=int, nargs="+", default=[100])
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--isa", nargs="+", default=[core.kernel_name()], help=f"of {core.available_kernels()}")
    parser.add_argument("--separate", action="store_true", help="a model of its own for each thread")
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--negative", type=int, default=5)
    parser.add_argument("--sample", type=float, default=1e-3)
    parser.add_argument("--tokens", type=int, default=20_000_000, help="of the drawn corpus")
    parser.add_argument("--vocabulary", type=int, default=50_000, help="of the drawn corpus")
    parser.add_argument("--words", type=int, default=0, help="train only on so many of the most frequent words")
    parser.add_argument("--stretch", type=int, default=2_000_000, help="tokens per measurement")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.corpus:
        corpus = encode(options.corpus, Options(max_vocab=options.words or None))
        ids, offsets, counts = corpus.ids, corpus.offsets, corpus.vocabulary.counts
    else:
        ids, offsets, counts = zipf_corpus(options.tokens, options.words or options.vocabulary)
    settings = list(itertools.product(options.dim, options.workers, options.isa))
    runs: dict[tuple[int, int], Run | SeparateRuns] = {}
    for dim, workers in itertools.product(options.dim, options.workers):
        if options.separate:
            one_each = [Run(ids, offsets, counts, dim, 1, options) for _ in range(workers)]
            runs[dim, workers] = SeparateRuns(one_each)
        else:
            runs[dim, workers] = Run(ids, offsets, counts, dim, workers, options)
    results: dict[tuple[int, int, str], list[tuple[float, float, float, float]]] = {each: [] for each in settings}
    peak, copy = peak_gflops(), copy_gigabytes()
    for round_ in range(options.rounds + 1):  # the first is a warm-up
        for dim, workers, isa in settings:
            os.environ["EMBEDTRAIN_ISA"] = isa
            result = runs[dim, workers].stretch(options.stretch)
            if round_ > 0:
                results[dim, workers, isa].append(result)
    print(
        f"V {len(counts):,}, W {options.window}, K {options.negative}, sample {options.sample:g}. One thread: "
        f"{peak:.0f} GFLOP/s in a matrix product, {copy:.0f} GB/s in a copy. Medians of {options.rounds} stretches of "
        f"{options.stretch:,} tokens{', a model for each thread' if options.separate else ''}.\n"
    )
    print(
        "   D  threads  kernel    Mwords/s  (min - max)      Mcentres/s  Mpairs/s  GFLOP/s  of peak    GB/s  of copy"
        "    loss"
    )
    for (dim, workers, isa), rows in results.items():
        seconds, centres, pairs, loss = (statistics.median(column) for column in zip(*rows, strict=True))
        speeds = sorted(min(options.stretch, len(ids)) / row[0] / 1e6 for row in rows)
        # A pair has 1 + K scores and as many updates of both rows: 2 + 4 floating-point operations per column.
        gflops = pairs * (1 + options.negative) * 6 * dim / seconds / 1e9
        share = gflops / peak / workers
        # A centre brings 1 + K rows of the output table and one context, which are read and, later, written.
        gigabytes = centres * (2 + options.negative) * 2 * ops.row_bytes(dim) / seconds / 1e9
        print(
            f"{dim:4}  {workers:7}  {isa:8}  {statistics.median(speeds):8.3f}  ({speeds[0]:.3f} - {speeds[-1]:.3f})"
            f"  {centres / seconds / 1e6:10.3f}  {pairs / seconds / 1e6:8.2f}  {gflops:7.1f}  {share:7.0%}"
            f"  {gigabytes:6.1f}  {gigabytes / copy / workers:7.0%}  {loss:.4f}"
        )


if __name__ == "__main__":
    main()
