"""Trainings that are left and gone on with: killed, interrupted or finished, the result is that of one never left."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import emulated_cuda
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_cuda import FakeCard, new_corpus
from test_fit import COMMAND, TEXT

import embedtrain
from embedtrain import cuda, fit, train, training_state
from embedtrain.checkpoint import OutputFolder
from embedtrain.errors import EmbedtrainError
from embedtrain.loop import Engine, Report, State, train_blocks
from embedtrain.options import Options
from embedtrain.training_state import Checkpoints, newest

# ---- the loop, left after any block

OPTIONS = Options(dim=8, min_count=1, sample=1e-2, epochs=3, window=3, negative=2, workers=1, seed=5)
CORPUS = new_corpus(600, options=OPTIONS)
TOTAL = 1800


class Left(Exception):
    pass


class LeaveAt:
    """Leaves the training where it would be saved."""

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = list(positions)

    def due(self, position: int) -> bool:
        return any(each <= position for each in self.positions)

    def save(self, state: State, input: torch.Tensor, output: torch.Tensor) -> None:
        self.positions = [each for each in self.positions if each > state.position]
        raise Left


Result = tuple[torch.Tensor, torch.Tensor, State]
Make = Callable[[torch.Tensor, torch.Tensor], Engine]


def train_in_parts(make: Make, left: Sequence[int] = (), sums: list[float] | None = None) -> Result:
    """Train to the end, in as many parts as it takes; add up the loss, pairs and centres of all."""
    tables = train._tables(len(CORPUS.vocabulary), OPTIONS)
    state, keeper = State(), LeaveAt(left)
    while True:
        engine = make(*tables)
        if sums is not None:
            start = engine.train

            def counted(epoch: int, begin: int, end: int, start: Any = start) -> Any:
                wait = start(epoch, begin, end)
                sums[:] = [old + new for old, new in zip(sums, wait(), strict=True)]
                return wait

            engine.train = counted  # type: ignore[method-assign]
        try:
            list(train_blocks(engine, 600, OPTIONS, state, keeper))
            return *tables, state
        except Left:
            # What goes on has only what a checkpoint holds.
            state = State(**json.loads(json.dumps(dataclasses.asdict(state))))
            new = train._tables(len(CORPUS.vocabulary), OPTIONS)
            tables = new[0].copy_(tables[0]), new[1].copy_(tables[1])


def threads(workers: int, block: int) -> Make:
    def make(input: torch.Tensor, output: torch.Tensor) -> Engine:
        engine = train.Threads(CORPUS, dataclasses.replace(OPTIONS, workers=workers), input, output)
        engine.block_tokens = block
        return engine

    return make


def without_times(reports: Sequence[Report]) -> list[Report]:
    return [{name: value for name, value in report.items() if name != "words_per_second"} for report in reports]


def assert_same(one: Result, other: Result) -> None:
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert without_times(one[2].reports) == without_times(other[2].reports)
    assert one[2].position == other[2].position == TOTAL


LEFT = st.lists(st.integers(1, TOTAL), max_size=8)
BLOCKS = st.sampled_from([37, 100, 599, 600, 10_000])


@pytest.mark.native
@given(LEFT, BLOCKS)
def test_one_thread_left_anywhere_gives_the_same_bits(left: list[int], block: int) -> None:
    assert_same(train_in_parts(threads(1, block), left), train_in_parts(threads(1, block)))


@pytest.mark.native
@given(LEFT, st.lists(st.sampled_from([1, 2, 3]), min_size=9, max_size=9), BLOCKS)
def test_threads_train_every_token_once(left: list[int], workers: list[int], block: int) -> None:
    """Even if there are more or fewer of them each time, and blocks are cut differently."""
    whole, parts = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    train_in_parts(threads(1, 600), (), whole)
    each = iter(workers)
    _, _, state = train_in_parts(lambda *tables: threads(n := next(each), n * block)(*tables), left, parts)
    assert parts[1:] == whole[1:]  # pairs and centres: what is drawn depends on positions alone
    assert parts[0] == pytest.approx(whole[0], rel=0.05)
    assert state.position == TOTAL
    assert [report["position"] for report in state.reports] == sorted({r["position"] for r in state.reports})


@pytest.mark.native
@pytest.mark.parametrize("free", [1 << 40, 0], ids=["resident", "streamed"])
def test_a_gpu_left_anywhere_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(emulated_cuda, "cuda_default_workers", lambda *_: 1)
    monkeypatch.setattr(cuda, "_BLOCK_TOKENS", 100)

    def make(input: torch.Tensor, output: torch.Tensor) -> Engine:
        return cuda.Gpu(CORPUS, OPTIONS, input, output, card=FakeCard(free))

    whole = train_in_parts(make)
    for left in ([1], [100, 250, 600], range(0, TOTAL, 70)):
        assert_same(train_in_parts(make, left), whole)


# ---- from Python

SENTENCES = [line.split() for line in TEXT.splitlines()]


def fit_small(checkpoints: Checkpoints | None = None, **how: Any) -> embedtrain.Embeddings:
    options = {"dim": 8, "epochs": 3, "workers": 1, "min_count": 1} | how
    on_report = options.pop("on_report", lambda report: None)
    estimator = embedtrain.Word2Vec(**options)
    return estimator.fit(SENTENCES, checkpoints=checkpoints, on_report=on_report)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_BLOCK_TOKENS", 500)


def test_in_a_notebook_the_interrupt_comes_after_the_saving(tmp_path: Path, small_blocks: None) -> None:
    whole = fit_small()
    position = 0

    def interrupt(report: Report) -> None:
        nonlocal position
        position = report["position"]
        if position == 6000:
            signal.raise_signal(signal.SIGINT)

    with Checkpoints(tmp_path, resume=True) as checkpoints, pytest.raises(KeyboardInterrupt):
        fit_small(checkpoints, on_report=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    saved = newest(tmp_path)
    assert saved is not None
    assert saved.state.position == position == 6000
    with Checkpoints(tmp_path, resume=True) as checkpoints:
        rest = fit_small(checkpoints)
    assert torch.equal(rest.weight, whole.weight)
    assert without_times(rest.metrics) == without_times(whole.metrics)
    results = rest.config.pop("results"), whole.config.pop("results")
    assert results[0]["final_loss"] == results[1]["final_loss"]
    assert rest.config == whole.config


def test_without_checkpoints_the_interrupt_comes_at_once(small_blocks: None) -> None:
    def interrupt(report: Report) -> None:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        fit_small(on_report=interrupt)


def test_more_epochs(tmp_path: Path, small_blocks: None) -> None:
    """The rate goes on as that of the longer training, so it rises again; all else is as if it had been so long."""
    with Checkpoints(tmp_path) as checkpoints:
        short = fit_small(checkpoints)
    with Checkpoints(tmp_path, resume=True) as checkpoints:
        longer = fit_small(checkpoints, epochs=6)
    assert longer.metrics[: len(short.metrics)] == short.metrics
    assert longer.metrics[-1]["epoch"] == 6
    positions = [report["position"] for report in longer.metrics]
    assert positions == sorted(set(positions))
    rates = [report["rate"] for report in longer.metrics]
    assert rates[len(short.metrics) - 1] == pytest.approx(0.0001)
    assert rates[len(short.metrics)] == pytest.approx(0.025 / 2, rel=0.05)
    assert rates[-1] == pytest.approx(0.0001)
    assert longer.metrics[-1]["loss"] < short.metrics[-1]["loss"]
    with Checkpoints(tmp_path, resume=True) as checkpoints:  # nothing is left to do
        again = fit_small(checkpoints, epochs=6)
    assert torch.equal(again.weight, longer.weight)


def test_what_it_started_from_is_not_read_again(tmp_path: Path, small_blocks: None) -> None:
    fit_small(seed=9).save(tmp_path / "source")
    source = {"init_from": tmp_path / "source"}
    whole = fit_small(**source)

    def stop(report: Report) -> None:
        signal.raise_signal(signal.SIGINT)

    with Checkpoints(tmp_path / "state") as checkpoints, pytest.raises(KeyboardInterrupt):
        fit_small(checkpoints, on_report=stop, **source)
    shutil.rmtree(tmp_path / "source")
    with Checkpoints(tmp_path / "state", resume=True) as checkpoints:
        rest = fit_small(checkpoints, **source)
    assert torch.equal(rest.weight, whole.weight)
    assert rest.config["init_from"] == whole.config["init_from"]


def test_table_with_nan_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loss did not show."""
    synchronise = train.Threads.synchronise

    def spoil(threads: train.Threads) -> None:
        synchronise(threads)
        threads.output[3, 2] = float("nan")

    monkeypatch.setattr(train.Threads, "synchronise", spoil)
    with pytest.raises(EmbedtrainError, match="the output table has NaN or infinity in row 3; lower --alpha"):
        fit_small()


# ---- the command, killed

# Seconds of Python's start are saved by forking from a process that has trained once: the kills hit real work.
DRIVER = """
import io, os, shutil, signal, sys, time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
import torch, embedtrain.train as train
from embedtrain import fit
torch.set_num_threads(1)
train._BLOCK_TOKENS = 2000
Path("warm.txt").write_text("a b\\n" * 9)
with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
    assert fit.main(["warm.txt", "--out=warm", "--workers=1"]) == 0
shutil.rmtree("warm")
os.unlink("warm.txt")

def start(arguments, prepare=lambda: None):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            os.dup2(2, 1)
            prepare()
            code = fit.main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        finally:
            os._exit(code)
    return child

def ended(child, wait=False):
    pid, status = os.waitpid(child, 0 if wait else os.WNOHANG)
    return None if pid == 0 else os.waitstatus_to_exitcode(status)
"""


def drive(folder: Path, script: str, *arguments: object) -> str:
    """Run a script over the driver."""
    command = [sys.executable, "-c", DRIVER + script, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    log = folder / "log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    return done.stdout


def assert_same_folders(one: Path, other: Path) -> None:
    def content(folder: Path) -> dict[str, Any]:
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        config = json.loads(files.pop("config.json"))
        results = config.pop("results")
        files.pop("README.md")  # has the same, and the times
        metrics = [json.loads(line) for line in files.pop("metrics.jsonl").splitlines()]
        return files | {"config": config, "loss": results["final_loss"], "metrics": without_times(metrics)}

    assert content(one) == content(other)
    last = [newest(folder / "checkpoints") for folder in (one, other)]
    assert last[0] is not None
    assert last[1] is not None
    tables = [[torch.empty(saved.shape) for _ in range(2)] for saved in last if saved is not None]
    for saved, pair in zip(last, tables, strict=True):
        assert saved is not None
        saved.load(*pair)
    assert all(torch.equal(*pair) for pair in zip(*tables, strict=True))
    assert len(list((one / "checkpoints").iterdir())) == 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    words = [f"word{i}" for i in range(2000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    (folder / "corpus.txt").write_text(
        "".join(" ".join(draw.choices(words, weights, k=20)) + "\n" for _ in range(2000))
    )
    return folder / "corpus.txt"


ARGUMENTS = ["--dim=32", "--min-count=1", "--workers=1", "--epochs=12"]


@pytest.fixture(scope="module")
def never_left(corpus: Path) -> Path:
    script = "sys.exit(ended(start(sys.argv[1:]), wait=True))"
    drive(corpus.parent, script, corpus, *ARGUMENTS, "--out=whole")
    return corpus.parent / "whole"


def test_killed_again_and_again(tmp_path: Path, corpus: Path, never_left: Path) -> None:
    """At random moments, and in turn while a checkpoint is being written and while the result is."""
    script = """
import glob, random
draw = random.Random(int(sys.argv[1]))
partial, result = "out/checkpoints/*.partial", "out.partial-*/embedding.pt"
killed = {"random": 0, partial: 0, result: 0}
for attempt in range(1000):
    when = ("random", partial, "random", partial, result)[attempt % 5] if attempt < 20 else None
    child = start([*sys.argv[2:], "--resume", "--checkpoint-every=1tokens"])
    deadline = time.monotonic() + (draw.uniform(0, 0.15) if when == "random" else 60)
    if when == partial:
        time.sleep(draw.uniform(0, 0.1))
    while (code := ended(child)) is None and time.monotonic() < deadline:
        if when in (partial, result) and glob.glob(when):
            break
    if code is None:
        os.kill(child, signal.SIGKILL)
        code = ended(child, wait=True)
    if code == 0:
        if when is None:
            break
    else:
        assert code == -signal.SIGKILL, code
        killed[when] += 1
print(*killed.values())
"""
    killed = drive(tmp_path, script, 1, corpus, *ARGUMENTS).split()
    print("killed at random, in a checkpoint, in the result:", *killed)
    assert min(map(int, killed)) > 0
    assert_same_folders(tmp_path / "out", never_left)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out"]


def test_killed_at_every_step_on_the_disk(tmp_path: Path, corpus: Path) -> None:
    """Before each sync, rename, swap, link and deletion of a training, from its beginning to its end."""
    script = """
from embedtrain import checkpoint

def prepare(steps):
    def counted(function):
        def call(*arguments, **options):
            nonlocal steps
            steps -= 1
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    for owner, names in {os: ["fsync"], Path: ["rename", "unlink", "hardlink_to", "rmdir"], checkpoint: ["exchange"],
                         shutil: ["rmtree"]}.items():
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))

arguments = [*sys.argv[1:], "--epochs=2"]
assert ended(start([*arguments, "--out=whole", "--checkpoint-every=off"]), wait=True) == 0
assert not Path("whole/checkpoints").exists()
assert ended(start([*arguments, "--out=000"]), wait=True) == 0
arguments += ["--resume", "--checkpoint-every=35ktokens"]
for steps in range(1, 1000):
    code = ended(start(arguments, lambda: prepare(steps)), wait=True)
    if code == 0:
        break
    assert code == -signal.SIGKILL, code
    assert ended(start(arguments), wait=True) == 0
    Path("out").rename(f"{steps:03}")
    assert {path.name for path in Path().iterdir() if not path.name.isdecimal()} == {"log", "whole"}, steps
print(steps)
"""
    steps = int(drive(tmp_path, script, corpus, *ARGUMENTS))
    assert steps > 12
    for step in range(1, steps):
        assert_same_folders(tmp_path / f"{step:03}", tmp_path / "000")


# ---- the command, interrupted and gone on with

SMALL = ("--dim=8", "--epochs=3", "--workers=1", "--min-count=1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> Path:
    """Return the folder to work in, with a corpus; the result of a training never left is there, too."""
    (tmp_path / "corpus.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def main(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, list[str]]]]:
    """Run the command in this process; return its code and what it printed to standard error."""

    def call(*arguments: object) -> tuple[int, list[str]]:
        try:
            code = fit.main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, capsys.readouterr().err.splitlines()

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


Main = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def left(main: Main, monkeypatch: pytest.MonkeyPatch) -> Main:
    """Run the command, interrupted after 2,000 tokens of 12,000."""

    def call(*arguments: object, number: signal.Signals = signal.SIGINT, times: int = 1) -> tuple[int, list[str]]:
        log = OutputFolder.log

        def interrupt(output: OutputFolder, report: Report) -> None:
            log(output, report)
            if report["position"] == 2000:
                for _ in range(times):
                    signal.raise_signal(number)

        with monkeypatch.context() as patch:
            patch.setattr(OutputFolder, "log", interrupt)
            return main(*arguments)

    return call


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_that_is_printed_goes_on(
    folder: Path, main: Main, left: Main, number: signal.Signals, code: int
) -> None:
    assert main("corpus.txt", *SMALL, "--export=npy", "--out=whole")[0] == 0
    got, lines = left("corpus.txt", *SMALL, "--export=npy", "--out=my out", number=number)
    assert got == code
    path, command = lines[-1].removeprefix("saved in ").split("; go on with: ")
    assert path == "my out/checkpoints/000001.safetensors"
    assert [str(each) for each in (folder / "my out").rglob("*.*")] == [str(folder / path)]
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on from my out/checkpoints/000001.safetensors, 0.50 of 3 epochs" in done.stderr.splitlines()
    # The blocks of that process are larger: reports are fewer, the bits are the same.
    assert (folder / "my out/embedding.pt").read_bytes() == (folder / "whole/embedding.pt").read_bytes()
    assert (folder / "my out/embedding.npy").exists()
    assert {path.name for path in folder.iterdir()} == {"corpus.txt", "my out", "whole"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_twice_is_at_once(folder: Path, left: Main, number: signal.Signals, code: int) -> None:
    got, lines = left("corpus.txt", *SMALL, number=number, times=2)
    assert got == code
    assert lines[-1] == "embedtrain: interrupted; nothing was written" or number is signal.SIGTERM
    assert not any("saved in" in line for line in lines)
    assert {path.name for path in folder.iterdir()} == {"corpus.txt"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--resume", "out"),
        ("--resume", "out/"),
        ("--resume",),
        ("--resume", "corpus.txt"),
        ("corpus.txt", "--resume"),
        ("corpus.txt", "--resume", "out", "--dim=8", "--checkpoint-every=off"),
        ("moved.txt", "--out=out", "--resume"),
    ],
    ids=" ".join,
)
def test_ways_to_go_on(folder: Path, main: Main, left: Main, arguments: tuple[str, ...]) -> None:
    assert main("corpus.txt", *SMALL, "--out=whole")[0] == 0
    assert left("corpus.txt", *SMALL)[0] == 130
    (folder / "moved.txt").write_text(TEXT)
    code, lines = main(*arguments)
    assert (code, [line for line in lines if line.startswith("trained the rest of 3 epochs")]) == (0, lines[-1:])
    whole, rest = (embedtrain.load(folder / name) for name in ("whole", "out"))
    assert torch.equal(rest.weight, whole.weight)
    assert without_times(rest.metrics) == without_times(whole.metrics)


def test_more_epochs_for_a_finished_training(folder: Path, main: Main) -> None:
    assert main("corpus.txt", *SMALL)[0] == 0
    first = (folder / "out/embedding.pt").read_bytes()
    code, lines = main("--epochs=4", "--resume")
    assert code == 0
    assert "going on from out/checkpoints/000001.safetensors, 3.00 of 4 epochs" in lines
    embeddings = embedtrain.load(folder / "out")
    assert embeddings.config["options"]["epochs"] == 4
    assert embeddings.metrics[-1]["position"] == 16_000
    assert (folder / "out/embedding.pt").read_bytes() != first
    second = (folder / "out/embedding.pt").read_bytes()
    assert main("--resume")[0] == 0  # nothing left: the same again
    assert (folder / "out/embedding.pt").read_bytes() == second
    assert {path.name for path in (folder / "out/checkpoints").iterdir()} == {"000002.safetensors"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            ("--resume", "--dim=9"),
            r"000001.safetensors is of a training with other options: dim was 8, is 9\. Go on wit",
        ),
        (("--resume", "--epochs=2"), "epochs 3; they may be raised, not lowered to 2"),
        (
            ("other.txt", "--resume"),
            r"on another corpus: sources corpus\.txt .*now other.txt .*; tokens 4,000, now 4,0",
        ),
        (
            ("corpus.txt", "--dim=8"),
            r"out holds the checkpoints of a training: go on with it .*--resume out\), choose an",
        ),
        (("--resume", "--out=none"), "no checkpoint in none/checkpoints to go on from; name the corpus"),
    ],
)
def test_refused(folder: Path, main: Main, left: Main, arguments: tuple[str, ...], why: str) -> None:
    (folder / "other.txt").write_text(TEXT + "word1 word2\n")
    assert left("corpus.txt", *SMALL)[0] == 130
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    code, lines = main(*arguments)
    assert code == 2
    assert re.search(why, lines[-1])
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert main("--resume")[0] == 0


def test_refused_before_the_corpus_is_read(folder: Path, main: Main, left: Main) -> None:
    assert left("corpus.txt", *SMALL)[0] == 130
    (folder / "corpus.txt").unlink()
    _, lines = main("--resume", "--dim=9")
    assert "dim was 8, is 9" in lines[-1]
    code, lines = main("--resume")
    assert (code, lines[-1]) == (2, "embedtrain: corpus.txt: no such file")


def test_overwrite_starts_anew(folder: Path, main: Main, left: Main) -> None:
    assert main("corpus.txt", *SMALL)[0] == 0
    first = (folder / "out/embedding.pt").read_bytes()
    assert left("corpus.txt", *SMALL, "--seed=2", "--overwrite")[0] == 130
    assert (folder / "out/embedding.pt").read_bytes() == first  # until there is something better
    assert main("--resume")[0] == 0
    assert main("corpus.txt", *SMALL, "--seed=2", "--out=whole")[0] == 0
    assert (folder / "out/embedding.pt").read_bytes() == (folder / "whole/embedding.pt").read_bytes()
    assert left("corpus.txt", *SMALL, "--out=other")[0] == 130
    assert main("corpus.txt", *SMALL, "--out=other", "--seed=2", "--overwrite")[0] == 0
    assert (folder / "other/embedding.pt").read_bytes() == (folder / "whole/embedding.pt").read_bytes()


def test_nothing_to_go_on_with(folder: Path, main: Main) -> None:
    code, lines = main("corpus.txt", *SMALL, "--resume")
    assert (code, lines[0]) == (0, "no checkpoint in out/checkpoints: starting from the beginning")
    shutil.rmtree(folder / "out/checkpoints")
    code, lines = main("corpus.txt", *SMALL, "--resume")
    assert (code, "is not empty" in lines[-1]) == (2, True)  # whose result it is nobody knows


def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(folder: Path, main: Main) -> None:
    assert main("corpus.txt", *SMALL, "--out=whole")[0] == 0
    assert main("corpus.txt", *SMALL)[0] == 0
    newest_one = folder / "out/checkpoints/000001.safetensors"
    newest_one.rename(newest_one.with_name("000002.safetensors"))
    shutil.rmtree(folder / "two", ignore_errors=True)
    assert main("corpus.txt", *SMALL, "--epochs=2", "--out=two")[0] == 0
    shutil.copy(folder / "two/checkpoints/000001.safetensors", newest_one)
    content = bytearray((folder / "out/checkpoints/000002.safetensors").read_bytes())
    content[3000] ^= 4
    (folder / "out/checkpoints/000002.safetensors").write_bytes(content)
    code, lines = main("--resume", "--epochs=3")
    assert code == 0
    assert lines[0] == (
        "out/checkpoints/000002.safetensors is damaged or cut off (its checksum does not fit); falling back on the one "
        "before it"
    )
    assert "going on from out/checkpoints/000001.safetensors, 2.00 of 3 epochs" in lines


def test_two_trainings_do_not_share_a_folder(folder: Path, main: Main) -> None:
    with Checkpoints("out/checkpoints"):
        code, lines = main("corpus.txt", *SMALL)
    assert code == 2
    assert re.match("embedtrain: another process trains with its checkpoints in out/checkpoints; wait", lines[-1])
    assert {path.name for path in folder.iterdir()} == {"corpus.txt"}


def test_standard_input_is_given_again(folder: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "-", *SMALL, "--epochs=1000000"],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(TEXT)
        process.stdin.close()
        process.stdin = None
        while not list(folder.glob("out.partial-*/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert re.search(r"; go on with: the same input \| \S+ -m embedtrain.fit --resume out\n$", err)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_disk_that_fills_up(folder: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds two checkpoints, but not three."""
    monkeypatch.setattr(training_state, "available_memory", lambda: 0)  # written at once
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=650k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        code, lines = main("corpus.txt", *SMALL, "--dim=1000", "--checkpoint-every=2ktokens", "--out=disk/out")
        assert code == 2
        assert lines[-1] == (
            "embedtrain: cannot write checkpoint disk/out/checkpoints/000003.safetensors: no space left on device; "
            "free some space or choose a folder on another disk"
        )
        assert re.fullmatch(r"saved in disk/out/checkpoints/000002.safetensors; go on with: .*", lines[-2])
        assert sorted(path.name for path in disk.rglob("*")) == [
            "000001.safetensors", "000002.safetensors", "checkpoints", "out",
        ]  # fmt: skip
        subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
        assert main("--resume", disk / "out")[0] == 0
        assert main("corpus.txt", *SMALL, "--dim=1000")[0] == 0
        assert (disk / "out/embedding.pt").read_bytes() == (folder / "out/embedding.pt").read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_divergence_is_not_gone_on_with(folder: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronise = train.Threads.synchronise

    def spoil(threads: train.Threads) -> None:
        synchronise(threads)
        if threads.input[2, 0].item() != threads.output[2, 0].item():
            spoil.calls += 1  # type: ignore[attr-defined]
        if spoil.calls == 3:  # type: ignore[attr-defined]
            threads.input[2, 1] = float("inf")

    spoil.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(train.Threads, "synchronise", spoil)
    monkeypatch.setattr(training_state, "available_memory", lambda: 0)  # written at once
    code, lines = main("corpus.txt", *SMALL, "--checkpoint-every=500tokens")
    assert code == 2
    assert lines[-1] == (
        "embedtrain: training diverged: the input table has NaN or infinity in row 2; lower --alpha (0.025) and start "
        "anew"
    )
    assert not any("go on with" in line for line in lines)
    saved = newest(folder / "out/checkpoints")
    assert saved is not None
    assert saved.path.name == "000002.safetensors"


# ---- the arguments that a checkpoint keeps


def test_arguments_spelled_out_give_the_same_options(tmp_path: Path) -> None:
    for arguments in (
        [],
        [
            "a.txt",
            "b c.txt",
            "-",
            "--export=npy",
            "--export=glove",
            "--no-shrink-window",
            "--max-vocab=9",
            "--alpha=1e-3",
        ],
        ["--tokenizer=t.json", "--errors=skip", "--sample=0.1", "--checkpoint-every=2h", "x"],
    ):
        options = fit.parse(arguments)
        again = fit.parse(fit.spell(options)) if options.corpus else fit._read(fit.spell(options))
        assert again == options
