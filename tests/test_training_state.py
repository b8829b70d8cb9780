"""Checkpoints of a training: what is in the file, how it is written, and that nothing wrong in it goes unnoticed."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import resource
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

import embedtrain
from embedtrain import training_state
from embedtrain.errors import EmbedtrainError
from embedtrain.interrupt import HeldSignals
from embedtrain.loop import State
from embedtrain.ops import new_table
from embedtrain.options import Options
from embedtrain.training_state import Checkpoints, Diverged, Interval, newest

OPTIONS = Options(dim=5, workers=1, epochs=3)
CORPUS = {"sources": [{"name": "a.txt", "size": 12}], "tokens": 100, "fingerprint": "00ff"}
REPORT = {"position": 100, "epoch": 1, "loss": float("nan"), "rate": 0.1, "words_per_second": 7}


def tables(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(new_table(7, 5).copy_(torch.randn(7, 5, generator=draw)) for _ in range(2))  # type: ignore[return-value]


def state(position: int = 0) -> State:
    return State(position, (0.1, 2.0, 3.0), [REPORT], seconds=1.5, reported_at=1.0)


def begun(folder: Path, **how: Any) -> Checkpoints:
    checkpoints = Checkpoints(folder, **({"every": "1tokens"} | how))
    checkpoints.begin(OPTIONS, CORPUS, {"name": "glove"})
    return checkpoints


def save(folder: Path, *positions: int) -> None:
    with begun(folder, resume=True) as checkpoints:
        for position in positions:
            checkpoints.save(state(position), *tables(position))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- how often


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("30s", Interval(seconds=30)),
        ("10m", Interval(seconds=600)),
        ("1.5h", Interval(seconds=5400)),
        ("500tokens", Interval(tokens=500)),
        ("50Mtokens", Interval(tokens=50e6)),
        ("2Gtokens", Interval(tokens=2e9)),
        ("off", Interval()),
    ],
)
def test_interval(text: str, interval: Interval) -> None:
    assert Interval.parse(text) == interval
    assert bool(interval) == (text != "off")


@pytest.mark.parametrize("text", ["", "10", "10M", "m", "0s", "-1m", "1d", "10m ", "1e3tokens", "nan", "٣m"])
def test_interval_that_could_be_misread(text: str) -> None:
    with pytest.raises(EmbedtrainError, match="checkpoint-every must be a time"):
        Interval.parse(text)


def test_due_by_tokens_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(training_state.time, "monotonic", lambda: now)
    with begun(tmp_path / "a", every="1ktokens") as checkpoints:
        assert [checkpoints.due(position) for position in (1, 999, 1000)] == [False, False, True]
        checkpoints.save(state(1000), *tables())
        checkpoints.finish(state(1000), *tables())
        assert [checkpoints.due(position) for position in (1999, 2000)] == [False, True]
    with begun(tmp_path / "b", every="1m") as checkpoints:
        now = 159.0
        assert not checkpoints.due(10**9)
        now = 160.0
        assert checkpoints.due(1)


def test_off_writes_nothing(tmp_path: Path) -> None:
    with begun(tmp_path / "none", every="off") as checkpoints:
        assert not checkpoints.every
        assert not checkpoints.due(10**12)
    assert names(tmp_path) == []


# ---- the file


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 100)
    saved = newest(tmp_path)
    assert saved is not None
    assert repr(saved.state.reports) == repr([REPORT])
    assert dataclasses.replace(saved.state, reports=[]) == State(100, [0.1, 2.0, 3.0], [], 1.5, 1.0)  # type: ignore[arg-type]
    assert (saved.options, saved.corpus, saved.source) == (OPTIONS.to_dict(), CORPUS, {"name": "glove"})
    assert saved.shape == (7, 5)
    input, output = new_table(7, 5), torch.zeros(7, 5)
    saved.load(input, output)
    assert torch.equal(input, tables(100)[0])
    assert torch.equal(output, tables(100)[1])


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    save(tmp_path, 100)
    path = tmp_path / "000001.safetensors"
    content = load_file(path)
    assert np.array_equal(content["input"], tables(100)[0].numpy())
    assert np.array_equal(content["output"], tables(100)[1].numpy())
    assert content["sha256"].tobytes() == hashlib.sha256(path.read_bytes()[:-32]).digest()
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["embedtrain"])["state"]["position"] == 100


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    assert names(tmp_path) == ["000002.safetensors", "000003.safetensors"]
    save(tmp_path, 4)
    assert names(tmp_path) == ["000003.safetensors", "000004.safetensors"]


INTACT: dict[str, bytes] = {}


@pytest.fixture(scope="module", autouse=True)
def intact() -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), 1, 2)
        INTACT.update({path.name: path.read_bytes() for path in Path(folder).iterdir()})


@contextlib.contextmanager
def damaged(content: bytes) -> Iterator[Path]:
    """Return a folder whose newest checkpoint has this content."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "000001.safetensors").write_bytes(INTACT["000001.safetensors"])
        (folder / "000002.safetensors").write_bytes(content)
        yield folder


def assert_noticed(content: bytes) -> None:
    notes: list[str] = []
    with damaged(content) as folder:
        saved = newest(folder, notes.append)
        assert saved is not None
        assert (saved.path.name, saved.state.position) == ("000001.safetensors", 1)
        (note,) = notes
        assert "000002.safetensors is damaged or cut off" in note
        assert "falling back" in note


@given(st.data())
def test_any_flipped_byte_is_noticed(data: st.DataObject) -> None:
    content = bytearray(INTACT["000002.safetensors"])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert_noticed(bytes(content))


@given(st.data())
def test_any_cut_and_anything_added_is_noticed(data: st.DataObject) -> None:
    content = INTACT["000002.safetensors"]
    assert_noticed(content[: data.draw(st.integers(0, len(content) - 1))])
    assert_noticed(content + data.draw(st.binary(min_size=1)))


@given(st.binary() | st.binary().map(lambda text: len(text).to_bytes(8, "little") + text))
@example(b"\x02" + bytes(7) + b"{}")
@example(b"\xff" * 8 + b"{}")
@example((lambda text: len(text).to_bytes(8, "little") + text)(b"[" * 100_000))
def test_a_right_checksum_over_something_else(content: bytes) -> None:
    message = r"000002\.safetensors is not a checkpoint of an embedtrain training"
    with (
        damaged(content + hashlib.sha256(content).digest()) as folder,
        pytest.raises(EmbedtrainError, match=message),
    ):
        newest(folder)


def test_another_version_is_not_misread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_state, "FORMAT_VERSION", 2)
    monkeypatch.setattr(embedtrain, "__version__", "9.9")
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(
        EmbedtrainError, match=r"has format version 2, this embedtrain reads 1; use .* wrote it \(9\.9\)"
    ):
        newest(tmp_path)


def test_none_is_intact(tmp_path: Path) -> None:
    (tmp_path / "000001.safetensors").write_bytes(b"")
    (tmp_path / "000002.safetensors").mkdir()
    notes: list[str] = []
    with pytest.raises(EmbedtrainError, match=r"no checkpoint in .* is intact; start anew"):
        newest(tmp_path, notes.append)
    assert ["cannot be read" in note for note in notes] == [True, False]


def test_a_damaged_one_is_not_among_the_two_that_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    (tmp_path / "000003.safetensors").write_bytes(b"torn")
    save(tmp_path, 4)
    assert names(tmp_path) == ["000002.safetensors", "000004.safetensors"]


def test_changed_between_the_check_and_the_reading(tmp_path: Path) -> None:
    save(tmp_path, 1)
    saved = newest(tmp_path)
    assert saved is not None
    content = bytearray(saved.path.read_bytes())
    content[-50] ^= 1
    for damage in (content, content[:-40]):
        saved.path.write_bytes(damage)
        with pytest.raises(EmbedtrainError, match="was changed or damaged after it was checked"):
            saved.load(*tables())
    saved.path.unlink()
    with pytest.raises(EmbedtrainError, match=r"cannot read .*: No such file"):
        saved.load(*tables())


# ---- going on with something else


def test_what_may_not_change(tmp_path: Path) -> None:
    save(tmp_path, 1)
    saved = newest(tmp_path)
    assert saved is not None
    saved.require_same_options(dataclasses.replace(OPTIONS, workers=9, device="cpu", epochs=4, read_vocab=Path("x")))
    with pytest.raises(EmbedtrainError, match=r"other options: dim was 5, is 6; ns-exponent was 0\.75, is 0\.5\. Go"):
        saved.require_same_options(dataclasses.replace(OPTIONS, dim=6, ns_exponent=0.5))
    with pytest.raises(EmbedtrainError, match="with epochs 3; they may be raised, not lowered to 2"):
        saved.require_same_options(dataclasses.replace(OPTIONS, epochs=2))
    saved.require_same_corpus({**CORPUS, "sources": []})
    other = {**CORPUS, "fingerprint": "1234"}
    with pytest.raises(EmbedtrainError, match="another corpus: as many tokens and words, but not the same or in anoth"):
        saved.require_same_corpus(other)
    other |= {"tokens": 1234, "sources": [{"name": "a.txt", "size": None}, {"name": "b", "size": 1000}]}
    with pytest.raises(
        EmbedtrainError,
        match=r"sources a\.txt \(12 bytes\), now a\.txt \(unknown size\), b \(1,000 bytes\); tokens 100, now 1,234\.",
    ):
        saved.require_same_corpus(other)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Options)])
def test_every_option_is_compared_or_named_as_free(tmp_path: Path, field: str) -> None:
    """So that an option that is added later is not forgotten."""
    save(tmp_path, 1)
    saved = newest(tmp_path)
    assert saved is not None
    assert set(saved.options) == {field.name for field in dataclasses.fields(Options)}
    other = object.__new__(Options)
    for name in saved.options:
        object.__setattr__(other, name, getattr(OPTIONS, name))
    object.__setattr__(other, field, 7 if field == "epochs" else "something else")
    free = {"epochs", "workers", "device", "tokenizer", "read_vocab", "cache", "cache_dir"}
    with contextlib.nullcontext() if field in free else pytest.raises(EmbedtrainError, match="is something else"):
        saved.require_same_options(other)


# ---- writing


def test_written_beside_synced_renamed_then_the_oldest_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, 2)
    done: list[str] = []
    fsync, rename, unlink = os.fsync, Path.rename, Path.unlink

    def record_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def record_rename(path: Path, target: Path) -> Path:
        done.append(f"rename {path.name} {Path(target).name}")
        return rename(path, target)

    def record_unlink(path: Path, missing_ok: bool = False) -> None:
        done.append(f"unlink {path.name}")
        unlink(path, missing_ok)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    monkeypatch.setattr(Path, "unlink", record_unlink)
    save(tmp_path, 3)
    assert done == [
        "sync 000003.safetensors.partial",
        "rename 000003.safetensors.partial 000003.safetensors",
        f"sync {tmp_path.name}",
        "unlink 000001.safetensors",
    ]


def test_training_goes_on_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, disk = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        writing.set()
        assert disk.wait(30)
        fsync(descriptor)

    with begun(tmp_path) as checkpoints:
        monkeypatch.setattr(os, "fsync", slow)
        input, output = tables(1)
        checkpoints.save(state(1), input, output)
        assert writing.wait(30)
        assert not checkpoints.due(10)  # not two at a time
        assert names(tmp_path) == ["000001.safetensors.partial"]
        input.zero_()
        disk.set()
    saved = newest(tmp_path)
    assert saved is not None
    assert saved.state.position == 1
    saved.load(input, output)
    assert torch.equal(input, tables(1)[0])
    assert not [thread for thread in threading.enumerate() if thread.name == "embedtrain-checkpoint"]


def test_without_memory_for_a_copy_training_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_state, "available_memory", lambda: 100)
    with begun(tmp_path) as checkpoints:
        checkpoints.save(state(1), *tables(1))
        assert names(tmp_path) == ["000001.safetensors"]
    assert (tmp_path / "000001.safetensors").read_bytes() == INTACT["000001.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("signalled", [False, True])
def test_a_diverged_table_never_becomes_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, which: int, signalled: bool
) -> None:
    monkeypatch.setattr(training_state, "_CHUNK_BYTES", 40)  # two rows
    save(tmp_path, 1, 2)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    bad = tables()
    bad[which][5, 3] = value
    message = rf"training diverged: the {('input', 'output')[which]} table has NaN or infinity in row 5; lower --alpha"
    with begun(tmp_path, resume=True) as checkpoints:
        if signalled:
            checkpoints.signals.held = signal.SIGINT
            with pytest.raises(Diverged, match=message):
                checkpoints.save(state(3), *bad)
        else:
            checkpoints.save(state(3), *bad)
            with pytest.raises(Diverged, match=message):
                checkpoints.finish(state(3), *bad)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_stops_the_training_and_leaves_the_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)
    notes: list[str] = []
    message = r"cannot write checkpoint .*/000003.safetensors: no space left on device; free some space"
    with begun(tmp_path, resume=True, note=notes.append) as checkpoints:
        monkeypatch.setattr(os, "fsync", no_space)
        checkpoints.save(state(3), *tables())
        thread = checkpoints._thread
        assert thread is not None
        thread.join()
        with pytest.raises(EmbedtrainError, match=message):
            checkpoints.due(4)
        checkpoints.signals.held = signal.SIGINT
        with pytest.raises(EmbedtrainError, match=message):
            checkpoints.save(state(4), *tables())
        checkpoints.signals.held = None
        # At the end there is a result, which may fit: its training is not thrown away.
        checkpoints.finish(state(5), *tables())
        assert "no space left" in notes[-1]
        assert checkpoints.last == tmp_path / "000002.safetensors"
    monkeypatch.undo()
    assert names(tmp_path) == ["000001.safetensors", "000002.safetensors"]
    saved = newest(tmp_path)
    assert saved is not None
    assert saved.state.position == 2


def test_a_file_that_may_not_grow_so_large(tmp_path: Path) -> None:
    """The write itself fails, somewhere in the middle."""
    save(tmp_path, 1)
    size = (tmp_path / "000001.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with begun(tmp_path, resume=True) as checkpoints:
        for limit in (0, 1, size // 2, size - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                checkpoints.save(state(2), *tables())
                with pytest.raises(EmbedtrainError, match="file too large; raise the file size limit"):
                    checkpoints._wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert names(tmp_path) == ["000001.safetensors"]


# ---- the folder


def test_one_training_at_a_time(tmp_path: Path) -> None:
    message = r"another process trains with its checkpoints in .*; wait for it"
    with begun(tmp_path / "state"), pytest.raises(EmbedtrainError, match=message):
        Checkpoints(tmp_path / "state")
    Checkpoints(tmp_path / "state").close()
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "000002.safetensors.partial").write_bytes(b"half")
    (tmp_path / "mine.partial").write_bytes(b"mine")
    with begun(tmp_path, resume=True):
        pass
    assert names(tmp_path) == ["000001.safetensors", "mine.partial"]


def test_a_new_training_takes_the_place_of_another(tmp_path: Path) -> None:
    save(tmp_path, 100, 200)
    with begun(tmp_path) as checkpoints:
        assert checkpoints.saved is None
        assert names(tmp_path) == ["000001.safetensors", "000002.safetensors"]  # not before it has something to save
        checkpoints.save(state(1), *tables())
    assert names(tmp_path) == ["000003.safetensors"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbedtrainError, match=r"cannot write checkpoints to .*: not a directory"):
        Checkpoints(tmp_path / "file" / "state")


# ---- signals


def test_signals_are_held_back_once() -> None:
    done: list[str] = []

    def work() -> None:
        with HeldSignals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.held is signal.SIGINT
            done.append("the rest")
        done.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_signal_is_not() -> None:
    def work() -> None:
        with HeldSignals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_others_are_called_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    old = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        mine = signal.getsignal(signal.SIGTERM)
        with HeldSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.held is None
            signal.raise_signal(signal.SIGTERM)
            assert called == []
            signals.deliver()
            assert called == [signal.SIGTERM]
            assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, old)
        signal.signal(signal.SIGHUP, ignored)


def test_outside_the_main_thread_nothing_is_held() -> None:
    held: list[Any] = []

    def work() -> None:
        with HeldSignals() as signals:
            held.append(signals._previous)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert held == [{}]


# ---- memory


V2 = ("memory.max", "max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", f"{2**63 - 4096}", "memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize(
    ("groups", "where", "names"),
    [
        ("0::/batch/job\n", "batch/job", V2),
        ("0::/outside/batch/job\n", "", V2),  # in a container, whose root it is
        ("5:cpu,cpuacct:/other\n4:memory,hugetlb:/batch/a:b\n0::/\n", "memory/batch/a:b", V1),
        ("4:memory:/docker/1234\n", "memory", V1),
    ],
)
def test_available_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, where: str, names: tuple[str, ...]
) -> None:
    from embedtrain import memory

    whole = memory.available_memory()
    assert whole is not None
    assert 0 < whole <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, unlimited, used, freeable = names
    group = tmp_path / where
    group.mkdir(parents=True, exist_ok=True)
    (group / limit).write_text(f"{unlimited}\n")
    (group / used).write_text("900\n")
    read = memory._read
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_read", lambda path: groups if path == Path("/proc/self/cgroup") else read(path))
    assert memory.available_memory() == pytest.approx(whole, rel=0.2)
    around = group.parent if where.count("/") else group
    (around / limit).write_text("1000\n")
    (around / used).write_text("700\n")
    (around / "memory.stat").write_text(f"anon 600\n{freeable} 50\n")
    assert memory.available_memory() == 350


def test_importing_it_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, embedtrain.training_state, embedtrain.fit; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
