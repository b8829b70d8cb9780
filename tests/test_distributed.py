"""Ranks under torchrun: what they read, draw and exchange against one rank; and how all end when one fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import embedtrain
from embedtrain import corpus as corpora
from embedtrain.options import Options

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
        for command, given, log in zip(commands, environments, self.logs, strict=True):
            with log.open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        command, env=given, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file
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
from embedtrain import corpus, distributed, ops
from embedtrain.options import Options
folder = sys.argv[1]
results = []
with distributed.join(False) as ranks:
    for given in json.loads(open(folder + "/tasks.json").read()):
        options = Options(workers=1, **given["options"])
        encoded = corpus.encode(given["corpus"], options, ranks=ranks)
        part = encoded.part
        counts = torch.from_numpy(encoded.vocabulary.counts)
        windows = ops.list_windows(
            torch.from_numpy(encoded.ids), torch.from_numpy(encoded.offsets),
            ops.keep_thresholds(counts, options.sample), ops.alias_table(counts, 0.75), part.begin, part.end,
            first_position=part.first_position, epoch=1, corpus_size=part.size, epochs=2, seed=1, window=5,
            negative=3, shrink_window=True, alpha=0.1, min_alpha=0.1,
        )
        results.append({
            "vocabulary": encoded.vocabulary.words, "counts": encoded.vocabulary.counts.tolist(),
            "fingerprint": encoded.fingerprint, "tokens_read": encoded.tokens_read, "lines": encoded.lines,
            "dropped": encoded.dropped, "replaced": encoded.replaced, "size": encoded.size,
            "sentences": encoded.sentences, "windows": [each.tolist() for each in windows],
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
        together = [[each for result in results for each in result[number]["windows"][part]] for part in (0, 2, 3)]
        assert together == [windows[part] for part in (0, 2, 3)]  # centres, contexts, noise


def _windows(encoded: corpora.Corpus, options: Options) -> list[list[int]]:
    import torch

    from embedtrain import ops

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
