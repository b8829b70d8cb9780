"""Fit, kill, resume, convert and load with random options, again and again; look at what must not grow or be left.

``python benchmarks/soak.py --minutes 60 --seed 1``

A round either trains in processes of its own, each killed (SIGKILL) at a random moment and the next resuming, until one
is done; or it trains in this process, interrupted (SIGINT) at random moments and resumed, reads the result back,
converts it and loads it again. With one worker the result is compared, bit for bit, with that of a training never left.
After each round there must be nothing in the folder but the results, no thread and no open file more than before, and
no process left; at the end, the memory of this process must be what it was after the first rounds.

Exit code 0 if all that holds; 1, and what did not, otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import embedtrain
from embedtrain import convert, fit
from embedtrain.formats import EXPORTS

PAGE = os.sysconf("SC_PAGE_SIZE")
# Until torch, its threads and the allocator have what they keep.
WARM_ROUNDS = 10
# A round is allowed to leave this much in the allocator, for good, once.
SLACK_BYTES = 32 << 20


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def children() -> list[str]:
    tasks = Path("/proc/self/task").iterdir()
    return " ".join((task / "children").read_text() for task in tasks).split()


def open_files() -> list[str]:
    descriptors = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]  # but for that of this list
    return sorted(str(path.readlink()) for path in descriptors)


def write_corpus(path: Path, draw: random.Random) -> None:
    words = [f"word{number}" for number in range(draw.randint(50, 5000))]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    length = draw.choice([5, 20, 2000])
    tokens = draw.choices(words, weights, k=draw.randint(20_000, 200_000))
    lines = (" ".join(tokens[start : start + length]) for start in range(0, len(tokens), length))
    path.write_text("\n".join(lines) + "\n")


def random_options(draw: random.Random) -> list[str]:
    options = {
        "dim": draw.randint(1, 200),
        "window": draw.randint(1, 10),
        "negative": draw.randint(1, 10),
        "min-count": draw.randint(1, 5),
        "sample": draw.choice([0, 1e-3, 1e-4]),
        "epochs": draw.randint(1, 8),
        "seed": draw.randint(0, 1000),
        "workers": draw.choice([1, 1, 2, 3]),
        "checkpoint-every": draw.choice(["1tokens", "50ktokens", "1s", "10m"]),
    }
    switches = draw.sample(["--lowercase", "--no-shrink-window"], draw.randint(0, 1))
    exports = [f"--export={name}" for name in draw.sample(EXPORTS, draw.randint(0, 2))]
    return [f"--{name}={value}" for name, value in options.items()] + switches + exports


def quietly(function: Any, *arguments: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*arguments)


def run(arguments: list[str]) -> int:
    """Run the command in this process."""
    try:
        return int(quietly(fit.main, arguments))
    except SystemExit as stopped:
        return int(stopped.code or 0)


def killed_rounds(arguments: list[str], draw: random.Random, done: Counter[str]) -> None:
    """Train in processes that are killed, but for every fourth, until one ends."""
    for attempt in range(1, 1000):
        command = [sys.executable, "-m", "embedtrain.fit", *arguments, "--resume"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(None if attempt % 4 == 0 else draw.uniform(0.5, 5))
            process.kill()
            _, errors = process.communicate()
        if process.returncode == 0:
            return
        assert process.returncode == -signal.SIGKILL, errors
        done["killed"] += 1


def interrupted_rounds(arguments: list[str], draw: random.Random, done: Counter[str]) -> None:
    """Train in this process, interrupted now and then, until it ends."""
    for attempt in range(1, 1000):
        after = draw.uniform(0.01, 1.5)
        timer = threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGINT)) if attempt % 4 else None
        code = None
        try:
            if timer is not None:
                timer.start()
            code = run([*arguments, "--resume"])
            if timer is not None:
                timer.cancel()
                timer.join()
            time.sleep(0)  # where a signal that was just sent is heard
        except KeyboardInterrupt:  # it came before the training had begun, or after it had ended
            pass
        if timer is not None:
            timer.join()
        if code == 0:
            return
        assert code in (None, 128 + signal.SIGINT), code
        done["interrupted"] += 1


def use(out: Path, folder: Path, draw: random.Random, done: Counter[str]) -> None:
    """Read a result, write it in another format, convert that, and load it."""
    embeddings = embedtrain.load(out)
    assert torch.isfinite(embeddings.weight).all()
    export, name = draw.choice(
        [("word2vec", "vectors.txt"), ("word2vec-binary", "vectors.bin"), ("glove", "glove.txt")]
    )
    embeddings.save(folder / "saved", export=[export])
    assert quietly(convert.main, [str(folder / "saved" / name), str(folder / "converted")]) == 0
    again = embedtrain.load(folder / "converted")
    word = draw.choice(embeddings.words[2:])
    assert torch.allclose(again[word], embeddings[word], atol=1e-6)
    done["converted and loaded"] += 1


def same(one: Path, other: Path) -> bool:
    return (one / "embedding.pt").read_bytes() == (other / "embedding.pt").read_bytes()


def round_of(folder: Path, draw: random.Random, done: Counter[str]) -> None:
    write_corpus(folder / "corpus.txt", draw)
    options = [str(folder / "corpus.txt"), *random_options(draw)]
    expected = {"corpus.txt", "out"}
    if draw.random() < 0.4:
        killed_rounds([*options, "--out", str(folder / "out")], draw, done)
    else:
        interrupted_rounds([*options, "--out", str(folder / "out")], draw, done)
        use(folder / "out", folder, draw, done)
        expected |= {"saved", "converted"}
    assert {path.name for path in folder.iterdir()} == expected, sorted(folder.iterdir())
    assert not list(folder.rglob("*.partial*")), list(folder.rglob("*.partial*"))
    assert len(list((folder / "out" / "checkpoints").iterdir())) == 1
    if "--workers=1" in options:
        assert run([*options, "--out", str(folder / "whole"), "--checkpoint-every=off"]) == 0
        assert same(folder / "out", folder / "whole"), options
        done["compared bit for bit"] += 1
    done["rounds"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Use embedtrain roughly, and look for what is left behind.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell may have told jobs in the background to ignore it
    draw, done = random.Random(options.seed), Counter[str]()
    memory: list[int] = []
    before: tuple[int, list[str]] = (0, [])
    temporary = set(Path(tempfile.gettempdir()).iterdir())
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end or done["rounds"] <= WARM_ROUNDS:
        folder = Path(tempfile.mkdtemp(prefix="embedtrain-soak-"))
        try:
            round_of(folder, draw, done)
        except AssertionError as error:
            print(f"round {done['rounds'] + 1} of seed {options.seed}: {error}; see {folder}", file=sys.stderr)
            raise
        shutil.rmtree(folder)
        memory.append(resident())
        now = (threading.active_count(), open_files())
        if done["rounds"] == WARM_ROUNDS:
            before = now
        elif done["rounds"] > WARM_ROUNDS:
            assert now[0] <= before[0], f"{now[0]} threads, were {before[0]}"
            assert len(now[1]) <= len(before[1]), f"open files were {before[1]}, are {now[1]}"
        assert not children(), children()
        print(f"{done['rounds']} rounds, {memory[-1] / 1e6:.0f} MB", end="\r", file=sys.stderr)
    warm = memory[WARM_ROUNDS:]
    early, late = (statistics.median(part) for part in (warm[: len(warm) // 3 + 1], warm[-(len(warm) // 3) - 1 :]))
    left = {path.name for path in set(Path(tempfile.gettempdir()).iterdir()) - temporary if "embedtrain" in path.name}
    print(json.dumps({
        "minutes": options.minutes, "seed": options.seed, **done, "threads": before[0], "open files": len(before[1]),
        "resident MB, first third": round(early / 1e6), "resident MB, last third": round(late / 1e6),
        "resident MB, most": round(max(memory) / 1e6), "left behind": sorted(left),
    }, indent=2))  # fmt: skip
    return 0 if late - early < SLACK_BYTES and not left else 1


if __name__ == "__main__":
    sys.exit(main())
