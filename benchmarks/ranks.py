"""Train with several ranks that exchange what they learn, and compare the quality with that of one.

``python benchmarks/ranks.py corpus.txt --ranks 1 2 4 8 --seeds 3 --pairs wordsim353.tsv simlex999.tsv
--analogies questions-words.txt --json ranks.json``

The ranks are threads of this process, each with tables of its own, and exchange by the code that ranks under torchrun
use, only that sums are made in memory. They train one thread each; how many cores they share changes the time and
nothing else. ``--combine``, ``--round`` and ``--least-weight`` are experiments: adding up what the ranks learn, the
mean of it, and other intervals.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from evaluate import evaluate

from embedtrain import corpus as corpora
from embedtrain import exchange, local_sgd
from embedtrain.errors import EmbedtrainError
from embedtrain.local_sgd import LocalSgd
from embedtrain.loop import State, train_blocks
from embedtrain.options import Options
from embedtrain.train import _LEAST_TOKENS, Threads, _tables

COMBINE = {
    "weighted": exchange.weight,
    "sum": lambda settled, ranks: torch.ones_like(settled),
    "mean": lambda settled, ranks: torch.full_like(settled, 1 / ranks),
}


class Memory:
    """Sums tensors of threads; what gloo and NCCL do for processes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._given: dict[int, list[torch.Tensor]] = {}
        self._done: dict[int, threading.Event] = {}

    def give(self, number: int, values: torch.Tensor) -> threading.Event:
        with self._lock:
            given = self._given.setdefault(number, [])
            done = self._done.setdefault(number, threading.Event())
            given.append(values)
            last = len(given) == self.size
            if last:
                del self._given[number], self._done[number]
        if last:
            total = torch.stack(given).sum(0)
            for each in given:
                each.copy_(total)
            done.set()
        return done


class Member:
    """A rank among the threads."""

    def __init__(self, memory: Memory, rank: int) -> None:
        self.rank, self.size = rank, memory.size
        self._memory = memory
        self._sums = 0

    def start_sum(self, values: torch.Tensor) -> threading.Event:
        self._sums += 1
        return self._memory.give(self._sums, values)


def train(corpus: corpora.Corpus, options: Options, ranks: int) -> dict[str, Any]:
    """Train with so many ranks; return the input table of the first and what was sent."""
    size, memory = len(corpus.ids), Memory(ranks)
    results: list[Any] = [None] * ranks

    def run(rank: int) -> None:
        input, output = _tables(len(corpus.vocabulary), options)
        make = partial(Threads, options=options, input=input, output=output)
        state = State()
        member: Any = Member(memory, rank)
        engine = LocalSgd(make, corpus, options, member, state, _LEAST_TOKENS) if ranks > 1 else make(corpus)
        try:
            for _ in train_blocks(engine, size, options, state):
                pass
        except EmbedtrainError:  # diverged: the loss is that of all ranks, so all notice
            return
        sent = engine.cost["exchanged_bytes"] if isinstance(engine, LocalSgd) else 0
        results[rank] = input, sent, state.reports[-1]["loss"]

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    start = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(result is None for result in results):
        return {"diverged": True}
    table, sent, loss = results[0]
    assert all(torch.equal(result[0], table) for result in results)
    return {
        "table": table,
        "loss": loss,
        "bytes_per_word": sent * ranks / (size * options.epochs),
        "cpu_seconds": time.process_time() - start,
    }


def speed(corpus: Path, epochs: int, rounds: int) -> None:
    """Compare two ranks of one thread with one rank of two threads, in turn, by the words per second of training."""
    one = [sys.executable, "-m", "embedtrain.fit", str(corpus), "--device", "cpu", "--epochs", str(epochs)]
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *one[1:]]
    ratios = []
    for _ in range(rounds):
        results = []
        for command, workers in ((one, "2"), (two, "1")):
            with tempfile.TemporaryDirectory() as folder:
                command = [*command, "--workers", workers, "--out", f"{folder}/out", "--checkpoint-every", "off"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                results.append(json.loads(Path(folder, "out", "config.json").read_text()))
        threads, ranks = (result["results"] for result in results)
        ratios.append(ranks["words_per_second"] / threads["words_per_second"])
        words = results[1]["corpus"]["tokens"] * epochs / 2
        print(
            f"two threads {threads['words_per_second']:,} words/s, two ranks {ranks['words_per_second']:,}: "
            f"{ratios[-1]:.2f}; {ranks['exchanged_bytes'] / words:.0f} bytes a word, "
            f"waiting {ranks['waited_seconds'] / ranks['training_seconds']:.1%}",
            file=sys.stderr,
        )
    print(f"median of {rounds}: {statistics.median(ratios):.2f}", file=sys.stderr)


def score(table: torch.Tensor, words: list[str], options: argparse.Namespace) -> dict[str, float]:
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(f"{len(words)} {table.shape[1]}\n".encode())
        for word, row in zip(words, table.numpy(), strict=True):
            file.write(word.encode() + b" " + row.tobytes() + b"\n")
        file.flush()
        scores: dict[str, float] = evaluate(Path(file.name), options.pairs, options.analogies)["scores"]  # type: ignore[assignment]
    return scores


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare several ranks with one.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="a text file: a sentence a line")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="similarity judgements: word, word, score")
    parser.add_argument("--analogies", type=Path, nargs="*", default=[], help="files like questions-words.txt")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--combine", nargs="+", choices=[*COMBINE], default=["weighted"])
    parser.add_argument(
        "--round",
        type=int,
        nargs="+",
        default=[local_sgd.ROUND_TOKENS],
        help="tokens of a round, divided by the pairs of ranks",
    )
    parser.add_argument(
        "--least-weight",
        type=float,
        nargs="+",
        default=[exchange.LEAST_WEIGHT],
        help="of rows that are not exchanged after every round",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, with the seeds 1, 2, ...")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--sample", type=float, default=1e-3)
    parser.add_argument("--speed", type=int, default=0, help="only compare two ranks with two threads, so many times")
    parser.add_argument("--json", type=Path, help="append every run to this file, a line each")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.speed:
        return speed(options.corpus, options.epochs, options.speed)
    torch.set_num_threads(1)
    corpus = corpora.encode(options.corpus, Options(workers=1))
    for ranks, length, least, combine in itertools.product(
        options.ranks, options.round, options.least_weight, options.combine
    ):
        exchange.weight, exchange.LEAST_WEIGHT, local_sgd.ROUND_TOKENS = COMBINE[combine], least, length
        for seed in range(1, options.seeds + 1):
            chosen = Options(dim=options.dim, epochs=options.epochs, seed=seed, workers=1, sample=options.sample)
            run = {"ranks": ranks, "round": length, "least_weight": least, "combine": combine, "seed": seed}
            result = train(corpus, chosen, ranks)
            if "table" in result:
                run["quality"] = score(result.pop("table"), corpus.vocabulary.words, options)
            run |= result
            print(json.dumps(run), file=sys.stderr, flush=True)
            if options.json is not None:
                with options.json.open("a") as file:
                    file.write(json.dumps(run) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
