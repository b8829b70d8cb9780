"""Ranks under torchrun: what they read, draw and exchange against one rank; and how all end when one fails."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import embedtrain
from embedtrain import corpus as corpora
from embedtrain import exchange, local_sgd, loop, ops, parts, sources
from embedtrain.loop import State
from embedtrain.options import Options
from embedtrain.parts import cut

WAIT = 90  # seconds: the machine of the tests may be slow


def environment(rank: int, size: int, port: int, address: str = "127.0.0.1") -> dict[str, str]:
    """Return what torchrun tells a rank."""
    told = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {**os.environ, **{name: str(value) for name, value in told.items()}, "MASTER_ADDR": address}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Ranks:
    """Processes that are ranks; their standard errors."""

    def __init__(self, commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]], folder: Path) -> None:
        self.logs = [folder / f"rank{number}.log" for number in range(len(commands))]
        self.processes = []
        for command, told, log in zip(commands, environments, self.logs, strict=True):
            with log.open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        command, env=told, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file
                    )
                )

    def wait(self, seconds: float = WAIT) -> list[int]:
        end = time.monotonic() + seconds
        return [process.wait(max(end - time.monotonic(), 0.1)) for process in self.processes]

    @property
    def said(self) -> list[str]:
        return [log.read_text() for log in self.logs]

    @property
    def messages(self) -> list[str]:
        """The lines of all ranks that say why they end."""
        return [line for text in self.said for line in text.splitlines() if line.startswith("embedtrain: ")]


@contextmanager
def running(
    folder: Path,
    size: int,
    *arguments: object,
    module: str = "embedtrain.fit",
    of_rank: Sequence[Sequence[object]] = (),
) -> Iterator[Ranks]:
    """Run ``python -m module arguments`` as so many ranks.

    :param of_rank: more arguments, of each rank.
    """
    folder.mkdir(exist_ok=True)
    port = free_port()
    commands = [
        [sys.executable, "-m", "embedtrain.fit", *map(str, [*arguments, *(of_rank[rank] if of_rank else ())])]
        for rank in range(size)
    ]
    ranks = Ranks(commands, [environment(rank, size, port) for rank in range(size)], folder)
    try:
        yield ranks
    finally:
        for process in ranks.processes:
            process.kill()
            process.wait()


def text(words: int, seed: int = 0) -> str:
    """Return lines of words, some frequent."""
    random = np.random.default_rng(seed)
    drawn = np.minimum(random.zipf(1.3, words), 400)
    lines, at = [], 0
    while at < words:
        length = int(random.integers(0, 30))
        lines.append(" ".join(f"w{word}" for word in drawn[at : at + length]))
        at += length
    return "\n".join(lines) + "\n"


OPTIONS = ("--device", "cpu", "--dim", "16", "--workers", "1", "--min-count", "2", "--epochs", "2")


# ---- the corpus

_ENCODE = """
import json, sys, torch, numpy as np
from embedtrain import corpus, distributed, ops, parts
from embedtrain.options import Options
folder = sys.argv[1]
results = []
with distributed.join(False) as ranks:
    for given in json.loads(open(folder + "/tasks.json").read()):
        options = Options(workers=1, **given["options"])
        encoded = corpus.encode(given["corpus"], options, ranks=ranks)
        borders = np.arange(8) * encoded.size // 7
        dealt, held = parts.deal(encoded, borders, ranks)
        counts = torch.from_numpy(encoded.vocabulary.counts)
        windows = []
        for number in range(7):
            begin, end = parts.span(int(borders[number]), int(borders[number + 1]), ranks.rank, ranks.size)
            shift = held.shift(begin)
            windows.append(ops.list_windows(
                torch.from_numpy(dealt.ids), torch.from_numpy(dealt.offsets),
                ops.keep_thresholds(counts, options.sample), ops.alias_table(counts, 0.75), begin - shift, end - shift,
                first_position=shift, epoch=1, corpus_size=encoded.size, epochs=2, seed=1, window=5,
                negative=3, shrink_window=True, alpha=0.1, min_alpha=0.1,
            ))
        results.append({
            "vocabulary": encoded.vocabulary.words, "counts": encoded.vocabulary.counts.tolist(),
            "fingerprint": encoded.fingerprint, "tokens_read": encoded.tokens_read, "lines": encoded.lines,
            "dropped": encoded.dropped, "replaced": encoded.replaced, "size": encoded.size,
            "sentences": encoded.sentences, "windows": [[each.tolist() for each in some] for some in windows],
            "read": len(encoded.ids),
        })
json.dump(results, open(f"{folder}/result{ranks.rank}.json", "w"))
"""


def test_ranks_encode_and_draw_what_one_does(tmp_path: Path) -> None:
    long_line = " ".join(f"w{number % 50}" for number in range(3000))
    (tmp_path / "a.txt").write_text(text(3000))
    (tmp_path / "b.txt").write_text(text(200, 1).upper() + long_line + "\n" + text(100, 2) + "no end")
    (tmp_path / "bad.txt").write_bytes(text(500).encode() + b"caf\xe9 w1 w2\n" + text(500, 4).encode())
    (tmp_path / "c.txt").write_text(text(900, 3))
    subprocess.run(["gzip", "-k", tmp_path / "c.txt"], check=True)
    (tmp_path / "words.txt").write_text("w1 9\nw2 8\nw5 7\n")
    a, b, bad, c = (str(tmp_path / name) for name in ("a.txt", "b.txt", "bad.txt", "c.txt.gz"))
    tasks = [
        {"corpus": [a], "options": {"min_count": 3}},
        {"corpus": [a, b, c], "options": {"lowercase": True, "max_vocab": 60, "sample": 0.01}},
        {"corpus": [bad], "options": {"errors": "replace", "min_count": 1}},
        {"corpus": [a, c], "options": {"read_vocab": str(tmp_path / "words.txt"), "min_count": 1}},
        {"corpus": [["x", "y"], ["y", "x", "z"]] * 30, "options": {}},
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    (tmp_path / "encode.py").write_text(_ENCODE)
    port = free_port()
    ranks = Ranks(
        [[sys.executable, tmp_path / "encode.py", tmp_path]] * 3,
        [environment(rank, 3, port) for rank in range(3)],
        tmp_path,
    )
    assert ranks.wait() == [0, 0, 0], ranks.said
    results = [json.loads((tmp_path / f"result{rank}.json").read_text()) for rank in range(3)]
    for number, task in enumerate(tasks):
        one = corpora.encode(task["corpus"], Options(workers=1, cache=False, **task["options"]))
        for result in results:
            mine = result[number]
            assert mine["vocabulary"] == one.vocabulary.words
            assert mine["counts"] == one.vocabulary.counts.tolist()
            for name in ("fingerprint", "tokens_read", "lines", "dropped", "replaced", "size", "sentences"):
                assert mine[name] == getattr(one, name), name
        windows = _windows(one, Options(**task["options"]))
        together = [
            [each for block in range(7) for result in results for each in result[number]["windows"][block][part]]
            for part in (0, 2, 3)
        ]
        assert together == [windows[part] for part in (0, 2, 3)]  # centres, contexts, noise


def _windows(encoded: corpora.Corpus, options: Options) -> list[list[int]]:
    counts = torch.from_numpy(encoded.vocabulary.counts)
    ids, offsets = torch.from_numpy(encoded.ids), torch.from_numpy(encoded.offsets)
    windows = ops.list_windows(
        ids, offsets, ops.keep_thresholds(counts, options.sample), ops.alias_table(counts, 0.75), 0, len(ids),
        first_position=0, epoch=1, corpus_size=len(ids), epochs=2, seed=1, window=5, negative=3, shrink_window=True,
        alpha=0.1, min_alpha=0.1,
    )  # fmt: skip
    return [each.tolist() for each in windows]


# ---- training


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(text(60_000))
    return path


def test_two_ranks_train(corpus: Path, tmp_path: Path) -> None:
    weights = []
    for number in range(2):
        out = tmp_path / f"out{number}"
        with running(tmp_path / f"logs{number}", 2, corpus, "--out", out, *OPTIONS) as ranks:
            assert ranks.wait() == [0, 0], ranks.said
            assert "trained 2 epochs" in ranks.said[0]
            assert ranks.said[1] == ""
        weights.append((out / "embedding.pt").read_bytes())
    assert weights[0] == weights[1]  # one thread each: to the bit
    several = embedtrain.load(out)
    one = embedtrain.Word2Vec(dim=16, workers=1, min_count=2, epochs=2, device="cpu").fit(corpus)
    assert several.vocab.words == one.vocab.words
    assert several.config["corpus"] == one.config["corpus"]
    assert several.config["results"]["ranks"] == 2
    assert several.config["results"]["final_loss"] == pytest.approx(one.config["results"]["final_loss"], rel=0.15)
    positions = [report["position"] for report in several.metrics]
    assert positions[-1] == 2 * several.config["corpus"]["tokens"]


def test_one_rank_is_none(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "embedtrain.fit"]
    subprocess.run([*command, corpus, "--out", tmp_path / "one", *OPTIONS], check=True, timeout=WAIT)
    subprocess.run(
        [*command[:1], *command[-2:], corpus, "--out", tmp_path / "none", *OPTIONS], check=True, timeout=WAIT
    )
    assert (tmp_path / "one" / "embedding.pt").read_bytes() == (tmp_path / "none" / "embedding.pt").read_bytes()


def test_locked_words_stay_as_they_are_on_all_ranks(corpus: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((20, 16)).astype(np.float32)
    lines = [f"w{number + 1} " + " ".join(map(str, row)) for number, row in enumerate(vectors.tolist())]
    (tmp_path / "given.txt").write_text("20 16\n" + "\n".join(lines) + "\n")
    arguments = ("--out", tmp_path / "out", *OPTIONS, "--init-from", tmp_path / "given.txt", "--lock", "source")
    with running(tmp_path / "logs", 2, corpus, *arguments) as ranks:
        assert ranks.wait() == [0, 0], ranks.said
    result = embedtrain.load(tmp_path / "out")
    rows = [result.vocab.words.index(f"w{number + 1}") for number in range(20)]
    assert torch.equal(result.weight[rows], torch.from_numpy(vectors))
    assert result.config["init_from"]["locked"] == 20
    untrained = ops.new_table(len(result) - 2, 16)
    ops.initial_weights(untrained, 0, result.config["options"]["seed"])
    others = [row for row in range(2, len(result)) if row not in rows]
    assert not (result.weight[others] == untrained[[row - 2 for row in others]]).all(dim=1).any()


# ---- failures


def test_ranks_with_different_options_are_refused(corpus: Path, tmp_path: Path) -> None:
    with running(tmp_path, 3, corpus, "--out", tmp_path / "out", *OPTIONS, of_rank=[[], [], ["--alpha", 0.1]]) as ranks:
        assert ranks.wait() == [2, 2, 2]
        (message,) = ranks.messages
    assert "rank 2" in message
    assert "--alpha 0.1 instead of 0.025" in message
    assert not (tmp_path / "out").exists()


def test_a_rank_with_another_corpus_is_refused(corpus: Path, tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    shutil.copy(corpus, tmp_path / "here" / "corpus.txt")
    (tmp_path / "there" / "corpus.txt").write_text(corpus.read_text().replace("w1 ", "w2 "))
    port = free_port()
    command = [sys.executable, "-m", "embedtrain.fit", "corpus.txt", "--out", str(tmp_path / "out"), *OPTIONS]
    processes = [
        subprocess.Popen(
            command, cwd=tmp_path / folder, env=environment(rank, 2, port), stderr=subprocess.PIPE, text=True
        )
        for rank, folder in enumerate(("here", "there"))
    ]
    said = [process.communicate(timeout=WAIT)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    (message,) = (line for text in said for line in text.splitlines())
    assert "rank 1" in message
    assert "corpus.txt of" in message


def test_what_one_rank_finds_wrong_ends_all(tmp_path: Path) -> None:
    good = text(2000)
    bad = good.count("\n") + 1
    (tmp_path / "corpus.txt").write_bytes(good.encode() + b"w1 caf\xe9\n" + b"w2 w3\n" * 10)
    with running(tmp_path / "logs", 3, tmp_path / "corpus.txt", "--out", tmp_path / "out", *OPTIONS) as ranks:
        assert ranks.wait() == [2, 2, 2]
        (message,) = ranks.messages
    assert message.startswith("embedtrain: rank 2 (")
    assert f"corpus.txt: line {bad}, byte {len(good) + 6}: 0xe9 is not UTF-8 text" in message
    assert not (tmp_path / "out").exists()


def _wait_for(path: Path, words: str, seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while words not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_all(corpus: Path, tmp_path: Path, victim: int) -> None:
    arguments = (corpus, "--out", tmp_path / "out", *OPTIONS, "--epochs", 5000)
    with running(tmp_path / "logs", 3, *arguments) as ranks:
        _wait_for(ranks.logs[0], "different words")
        time.sleep(1)
        start = time.monotonic()
        ranks.processes[victim].kill()
        codes = ranks.wait(40)
        assert time.monotonic() - start < 40
        assert codes.pop(victim) == -signal.SIGKILL
        assert codes == [1, 1]
        (message,) = ranks.messages
    assert f"rank {victim}" in message


# A rank with less memory, or less room in files, than it needs: limits of the process, from when all is imported.
_LIMITED = """
import resource, sys
from pathlib import Path
import torch.distributed
import embedtrain.train
from embedtrain.fit import main
kind, more = getattr(resource, sys.argv[1]), int(sys.argv[2])
if kind == resource.RLIMIT_DATA:
    status = Path("/proc/self/status").read_text().split()
    more += 1024 * int(status[status.index("VmData:") + 1])
resource.setrlimit(kind, (more, more))
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("victim", "limit", "size", "arguments", "reason"),
    [
        # Of 40,000 words, a table has 164 MB: there is no room for two, or none for what ranks agree on beside them.
        (1, "RLIMIT_DATA", 250_000_000, ("--dim", 1024), "no memory for two tables"),
        (1, "RLIMIT_DATA", 500_000_000, ("--dim", 1024), "out of memory; lower --dim"),
        (0, "RLIMIT_FSIZE", 10_000, ("--epochs", 5000, "--checkpoint-every", "1Mtokens"), "file too large"),
        (0, "RLIMIT_FSIZE", 10_000, ("--checkpoint-every", "off"), "file too large"),
    ],
    ids=["tables", "exchange", "checkpoint", "result"],
)
def test_a_rank_without_memory_or_disk_ends_all(
    corpus: Path, tmp_path: Path, victim: int, limit: str, size: int, arguments: Sequence[object], reason: str
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("".join(f"w{number} {50_000 - number}\n" for number in range(40_000)))
    command = ["embedtrain.fit", str(corpus), "--out", str(tmp_path / "out"), *OPTIONS, *map(str, arguments)]
    if limit == "RLIMIT_DATA":
        command += ["--read-vocab", str(words)]
    limited = [sys.executable, "-c", _LIMITED, limit, str(size), *command[1:]]
    commands = [limited if rank == victim else [sys.executable, "-m", *command] for rank in range(2)]
    port = free_port()
    ranks = Ranks(commands, [environment(rank, 2, port) for rank in range(2)], tmp_path)
    try:
        assert ranks.wait() == [2, 2], ranks.said
        assert len(ranks.messages) == 1, ranks.said
        (message,) = ranks.messages
    finally:
        for process in ranks.processes:
            process.kill()
            process.wait()
    assert message.startswith(f"embedtrain: rank {victim} (")
    assert reason in message
    assert not (tmp_path / "out" / "embedding.pt").exists()


# ---- going on


def _interrupted(folder: Path, size: int, *arguments: object) -> None:
    """Train until the second checkpoint is there, and kill a rank then."""
    with running(folder, size, *arguments) as ranks:
        end = time.monotonic() + WAIT
        while not list((Path(str(arguments[2])) / "checkpoints").glob("*2.safetensors")):
            assert time.monotonic() < end, ranks.said
            time.sleep(0.02)
        ranks.processes[-1].kill()
        ranks.wait(60)


def test_going_on_with_as_many_ranks_and_with_others(corpus: Path, tmp_path: Path) -> None:
    # So far apart that the one before is surely written: saving brings the ranks together, at the same positions.
    arguments = (*OPTIONS, "--epochs", "100", "--checkpoint-every", "2Mtokens")
    with running(tmp_path / "whole", 2, corpus, "--out", tmp_path / "uninterrupted", *arguments) as ranks:
        assert ranks.wait() == [0, 0], ranks.said
    out = tmp_path / "out"
    _interrupted(tmp_path / "first", 2, corpus, "--out", out, *arguments)
    assert not (out / "embedding.pt").exists()
    shutil.copytree(out, tmp_path / "other")
    with running(tmp_path / "second", 2, corpus, "--out", out, "--resume", *arguments) as ranks:
        assert ranks.wait() == [0, 0], ranks.said
        assert "going on from" in ranks.said[0]
    weights = [(folder / "embedding.pt").read_bytes() for folder in (tmp_path / "uninterrupted", out)]
    assert weights[0] == weights[1]  # to the bit

    with running(tmp_path / "third", 3, "--out", tmp_path / "other", "--resume", corpus) as ranks:
        assert ranks.wait() == [0, 0, 0], ranks.said
        assert "going on from" in ranks.said[0]
    finished, whole = embedtrain.load(tmp_path / "other"), embedtrain.load(out)
    assert finished.metrics[-1]["position"] == whole.metrics[-1]["position"]
    assert finished.metrics[-1]["loss"] == pytest.approx(whole.metrics[-1]["loss"], rel=0.1)


class Position:
    """An engine that only says which positions it is to train."""

    ahead, block_tokens = 0, 1000
    input, output = ops.new_table(3, 2), ops.new_table(3, 2)

    def __init__(self, encoded: corpora.Corpus, trained: list[int]) -> None:
        self.ids, self.trained = encoded.ids, trained

    def train(self, epoch: int, begin: int, end: int, *, first_position: int, **_: Any) -> Any:
        assert 0 <= begin <= end <= len(self.ids)
        self.trained += range(epoch * 1000 + first_position + begin, epoch * 1000 + first_position + end)
        return lambda: (0.0, 0.0, 0.0)

    def synchronise(self) -> None: ...


class Alone:
    """A rank whose sums are those of this one."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def start_sum(self, values: torch.Tensor) -> Any:
        class Done:
            def wait(self) -> None: ...

        return Done()


def test_every_position_is_trained_once_whatever_ranks_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_sgd, "ROUND_TOKENS", 100)
    monkeypatch.setattr(local_sgd, "_SPAN_TOKENS", 60)
    encoded = corpora.encode([["a", "b"], ["b", "c", "a"]] * 200, Options(min_count=1, cache=False))
    options = Options(epochs=2, workers=1)
    position = 0
    for ranks, until in ((4, 500), (3, 700), (5, 1300), (2, 2000)):
        trained: list[list[int]] = [[] for _ in range(ranks)]
        engines = [
            local_sgd.LocalSgd(
                partial(Position, trained=own), encoded, options, Alone(rank, ranks), State(position=position), 30
            )
            for rank, own in enumerate(trained)
        ]
        for epoch, begin, end in loop._blocks(1000, 2, engines[0].block_tokens, position):
            before = [len(own) for own in trained]
            for engine in engines:
                engine.train(epoch, begin, end)
            block = [each for own, known in zip(trained, before, strict=True) for each in own[known:]]
            assert block == list(range(position, epoch * 1000 + end))  # contiguous parts, in the order of the ranks
            position = epoch * 1000 + end
            if position >= until:
                break
    assert position == 2000


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 40), st.integers(1, 6))
def test_stretches_hold_every_block_with_its_margins(lengths: list[int], ranks: int, margin: int, blocks: int) -> None:
    size = sum(lengths)
    borders = np.arange(blocks + 1, dtype=np.int64) * size // blocks
    for rank in range(ranks):
        held = parts.stretches(borders, rank, ranks, margin)
        assert (held.first[1:] >= held.last[:-1]).all()
        positions = np.concatenate([np.arange(a, b) for a, b in zip(held.first, held.last, strict=True)])
        assert len(positions) == held.index[-1]
        for begin, end in itertools.pairwise(borders.tolist()):
            first, last = parts.span(begin, end, rank, ranks)
            if first == last:
                continue
            shift = held.shift(first)
            assert shift >= 0
            for position in range(max(first - margin, 0), min(last + margin, size)):
                assert positions[position - shift] == position


# ---- the exchange


def test_the_weight_is_between_the_sum_and_the_mean() -> None:
    settled = torch.logspace(-6, 3, 50)
    for ranks in (1, 2, 8, 64):
        weights = exchange.weight(settled, ranks)
        assert weights[0] == 1
        assert weights[-1] == pytest.approx(min(exchange.REACH / ranks, 1))
        assert (weights.diff() <= 0).all()
        # A direction of the assumed curvature, optimum at 0, all ranks from the same value: never further than REACH.
        moved = weights * ranks * -torch.expm1(-settled)
        assert (moved <= exchange.REACH + 1e-6).all()


def test_rows_are_exchanged_as_seldom_as_their_updates_allow() -> None:
    touches = torch.tensor([1e-1, 2e-3, 1e-5, 2e-4, 1e-9])
    every = exchange.rounds_between(touches, rate=0.025, ranks=4, round_positions=1000, longest=20)
    weights = exchange.weight(0.025 * 1000 * touches * every / exchange.SETTLED, ranks=4)
    later = exchange.weight(0.025 * 1000 * touches * 2 * every / exchange.SETTLED, ranks=4)
    assert every.tolist() == [1, 4, 16, 16, 16]
    assert ((weights >= exchange.LEAST_WEIGHT) | (every == 1)).all()
    assert ((later < exchange.LEAST_WEIGHT) | (every == 16)).all()


class _Memory:
    """Ranks that are threads: sums of their tensors."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size)
        self._given: list[torch.Tensor] = [torch.empty(0)] * size

    def member(self, rank: int) -> Any:
        def start_sum(values: torch.Tensor) -> Any:
            self._given[rank] = values
            self._barrier.wait()
            total = torch.stack(self._given).sum(0)
            self._barrier.wait()
            values.copy_(total)
            return SimpleNamespace(wait=lambda: None)

        return SimpleNamespace(rank=rank, size=self.size, start_sum=start_sum)


def test_rare_rows_are_summed_and_frequent_ones_averaged() -> None:
    touches = torch.tensor([10.0, 1e-6, 10.0, 1e-6])
    memory, size = _Memory(4), 4
    learned = torch.rand(size, 2, 4, 3)
    tables = [(ops.new_table(4, 3).fill_(1), ops.new_table(4, 3)) for _ in range(size)]

    def run(rank: int) -> None:
        link = exchange.Exchange(
            *tables[rank], (touches, touches), memory.member(rank), rate=0.025, round_positions=1000, rounds=4
        )
        for step in (1, 2):  # the second is learned while the first is under way
            for table, more in zip(tables[rank], learned[rank], strict=True):
                table += more
            link.start(step, 1000.0 * step, 0.025)
        link.settle(2000.0, 0.025)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for input, output in tables:
        assert torch.equal(input, tables[0][0])
        assert torch.equal(output, tables[0][1])
    total = 2 * learned.sum(0)
    rounded = {"rtol": 0.01, "atol": 0}  # bfloat16
    for number, start in ((0, 1.0), (1, 0.0)):
        moved = tables[0][number] - start
        torch.testing.assert_close(moved[[1, 3]], total[number][[1, 3]], **rounded)
        torch.testing.assert_close(moved[[0, 2]], exchange.REACH / size * total[number][[0, 2]], **rounded)


def test_what_is_rounded_off_is_sent_later() -> None:
    # Steps of 1 + 2^-8 in bfloat16 are 1 or 1 + 2^-7; their sum is right to one rounding of the last.
    memory = _Memory(1)
    table, other = ops.new_table(1, 1), ops.new_table(1, 1)
    touches = torch.tensor([1e-6])
    member = memory.member(0)
    link = exchange.Exchange(table, other, (touches, touches), member, rate=0.025, round_positions=1, rounds=1)
    for step in range(1, 1001):
        table += 1 + 2**-8
        link.start(step, step, 0.025)
        link.apply()
    link.settle(2000, 0.025)
    assert float(table) == pytest.approx(1000 * (1 + 2**-8), abs=0.01)
    assert float(other) == 0


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**32 - 1), st.just(1))
@example(3000, 200, 1, 3)
@settings(max_examples=40, deadline=None)
def test_native_differences_are_those_of_torch(vocabulary: int, dim: int, seed: int, workers: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tables = [ops.new_table(rows, dim) for rows in (vocabulary, vocabulary, 2 * vocabulary)]
    for table in tables:
        table.copy_(torch.randn(table.shape, generator=generator))
    tables[0][0, 0] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # a NaN whose rounding overflows
    others = [ops.new_table(*table.shape).copy_(table) for table in tables]
    rows = torch.randperm(2 * vocabulary, generator=generator)[: 1 + vocabulary]
    own, same = (torch.empty(len(rows), dim, dtype=torch.bfloat16) for _ in range(2))
    torch.ops.embedtrain.take_differences(*tables, rows, own, workers)
    ops._take_differences_by_torch(*others, rows, same)
    assert torch.equal(own.isnan(), same.isnan())
    assert torch.equal(own.nan_to_num(), same.nan_to_num())
    total = torch.randn(len(rows), dim, generator=generator).bfloat16()
    weight = torch.rand(len(rows), generator=generator)
    torch.ops.embedtrain.replace_differences(*tables, rows, own, total, weight, workers)
    ops._replace_differences_by_torch(*others, rows, own, total, weight)
    for table, other in zip(tables, others, strict=True):
        torch.testing.assert_close(table, other, equal_nan=True)


def test_rows_outside_the_tables_are_refused() -> None:
    tables = [ops.new_table(rows, 3) for rows in (4, 4, 8)]
    for row in (-1, 8):
        with pytest.raises(ValueError, match="rows must be from 0 to 7"):
            ops.take_differences(*tables, torch.tensor([row]), torch.empty(1, 3, dtype=torch.bfloat16))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([b"a", b"bb", b" ", b"\n", b"\r\n"]), max_size=40), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_files_are_cut_at_line_ends(contents: list[list[bytes]], parts: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for number, pieces in enumerate(contents):
            path = Path(folder) / f"{number}.txt"
            path.write_bytes(b"".join(pieces))
            found.append(sources.find(path))
        read = []
        for part in range(parts):
            for source in cut(found, parts, part):
                data = b"".join(bytes(chunk) for _, chunk in sources.read([source], lambda done, total: None, 7))
                assert len(data) == source.size
                assert source.begin == 0 or Path(source.name).read_bytes()[source.begin - 1 : source.begin] == b"\n"
                read.append((source.name, data))
        for source in found:
            assert b"".join(data for name, data in read if name == source.name) == Path(source.name).read_bytes()


# ---- over a network


@pytest.fixture
def two_machines() -> Iterator[tuple[list[str], list[str], str]]:
    """Two network namespaces with a link between them: how to run a command in each, and the address of the first."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip(8)")
    names = [f"embedtrain{os.getpid()}{side}" for side in "ab"]

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "eta", "netns", names[0], "type", "veth", "peer", "name", "etb", "netns", names[1])
            for name, device, address in zip(names, ("eta", "etb"), ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
                ip("-n", name, "address", "add", address, "dev", device)
                ip("-n", name, "link", "set", device, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
        yield *(["ip", "netns", "exec", name] for name in names), "10.77.0.1"  # type: ignore[misc]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.parametrize("link", ["stays", "is cut"])
def test_two_machines(corpus: Path, tmp_path: Path, two_machines: Any, link: str) -> None:
    first, second, address = two_machines
    epochs = "2" if link == "stays" else "5000"
    command = [sys.executable, "-m", "embedtrain.fit", str(corpus), *OPTIONS, "--epochs", epochs]
    environments = []
    for rank, device in enumerate(("eta", "etb")):
        told = environment(rank, 2, 29500, address) | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        environments.append(told | {"GLOO_SOCKET_IFNAME": device})
    commands = [[*where, *command, "--out", str(tmp_path / f"out{rank}")] for rank, where in enumerate((first, second))]
    ranks = Ranks(commands, environments, tmp_path)
    try:
        if link == "is cut":
            _wait_for(ranks.logs[0], "different words")
            time.sleep(1)
            subprocess.run(["ip", "-n", second[-1], "link", "set", "etb", "down"], check=True)
            assert ranks.wait(60) == [1, 1]
            assert len(ranks.messages) == 2  # one on each side of the cut
            assert "rank 1" in ranks.said[0]
            assert "rank 1" in ranks.said[1]
            assert "store" in ranks.said[1]
        else:
            assert ranks.wait() == [0, 0], ranks.said
            assert (tmp_path / "out0" / "embedding.pt").exists()
    finally:
        for process in ranks.processes:
            process.kill()
            process.wait()


def test_torchrun_restarts_from_the_last_checkpoint(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1", "--standalone"]
    arguments = (corpus, "--out", out, *OPTIONS, "--epochs", "100", "--checkpoint-every", "1Mtokens")
    with (tmp_path / "log").open("wb") as log:
        agent = subprocess.Popen(
            [sys.executable, *launcher, "-m", "embedtrain.fit", *map(str, arguments)],
            stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
    try:
        end = time.monotonic() + WAIT
        while not list((out / "checkpoints").glob("*2.safetensors")):
            assert time.monotonic() < end
            time.sleep(0.02)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        workers = [pid for pid in children if b"embedtrain.fit" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(workers[-1]), signal.SIGKILL)
        assert agent.wait(WAIT) == 0
    finally:
        agent.kill()
        agent.wait()
    said = (tmp_path / "log").read_text()
    assert said.count("embedtrain: rank 1 (") == 1
    assert "going on from" in said
    assert (out / "embedding.pt").exists()
