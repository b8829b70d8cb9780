from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedtrain import checkpoint, files
from embedtrain.checkpoint import OutputFolder, load
from embedtrain.embeddings import Embeddings
from embedtrain.errors import EmbedtrainError
from embedtrain.formats import EXPORTS
from embedtrain.training_state import Checkpoints

FILES = {"embedding.pt", "vocab.txt", "vocab.tsv", "config.json", "metrics.jsonl", "README.md", "frequencies.svg"}
CONFIG: dict[str, Any] = {
    "options": {"dim": 4, "lowercase": False, "seed": 1},
    "corpus": {"sources": [{"name": "a.txt", "size": 12}], "fingerprint": "00ff"},
    "versions": {"embedtrain": "0.1.0"},
}


def make(value: float = 1.0, words: tuple[str, ...] = ("the", "cat", "sat"), **more: Any) -> Embeddings:
    weight = torch.arange(len(words) * 4 + 8, dtype=torch.float32).reshape(-1, 4) * value
    weight[0] = 0
    return Embeddings(
        weight,
        ["<pad>", "<unk>", *words],
        counts=np.array([0, 0, *range(len(words), 0, -1)]),
        pad_index=0,
        unk_index=1,
        config=CONFIG,
        metrics=[{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}],
        **more,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- what is in the folder


def test_files(tmp_path: Path) -> None:
    embeddings = make()
    embeddings.save(tmp_path / "out")
    assert set(names(tmp_path / "out")) == FILES
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out/vocab.txt").read_bytes() == b"<pad>\n<unk>\nthe\ncat\nsat\n"
    assert (tmp_path / "out/vocab.tsv").read_bytes() == b"<pad>\t0\n<unk>\t0\nthe\t3\ncat\t2\nsat\t1\n"
    assert (tmp_path / "out/metrics.jsonl").read_text() == '{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": 0.25}\n'
    config = json.loads((tmp_path / "out/config.json").read_text())
    own = {"format": "embedtrain", "format_version": 1, "vocab_size": 5, "dim": 4, "pad_index": 0, "unk_index": 1}
    assert config == {**own, "embedding_dtype": "float32", "normalize": False, **CONFIG}


def test_result_loads_where_only_torch_is(tmp_path: Path) -> None:
    make().save(tmp_path / "out")
    script = """
import sys, torch
state = torch.load("embedding.pt")
assert list(state) == ["weight"] and type(state) is dict and type(state["weight"]) is torch.Tensor
layer = torch.nn.Embedding(5, 4, padding_idx=0)
layer.load_state_dict(state)
words = open("vocab.txt", encoding="utf-8").read().split("\\n")[:-1]
other = torch.nn.Embedding.from_pretrained(state["weight"], freeze=False, padding_idx=0)
row = torch.tensor(words.index("cat"))
assert layer(row).tolist() == other(row).tolist() == [12, 13, 14, 15]
assert "embedtrain" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "out", check=True, env={"PATH": os.environ["PATH"]})


def test_round_trip(tmp_path: Path) -> None:
    embeddings = make(tokenizer_json='{"model": {}}')
    embeddings.save(tmp_path / "out")
    back = load(tmp_path / "out")
    assert torch.equal(back.weight, embeddings.weight)
    assert back.words == embeddings.words
    assert back.counts is not None
    assert back.counts.tolist() == [0, 0, 3, 2, 1]
    assert (back.pad_index, back.unk_index) == (0, 1)
    assert back.config == CONFIG
    assert back.metrics == embeddings.metrics
    assert back.tokenizer_json == embeddings.tokenizer_json
    back.save(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_without_counts_pad_and_unk(tmp_path: Path) -> None:
    Embeddings(torch.ones(2, 3), ["a", "b"], pad_index=None, unk_index=None).save(tmp_path / "out")
    assert set(names(tmp_path / "out")) == FILES - {"vocab.tsv", "frequencies.svg"}
    back = load(tmp_path / "out")
    assert back.counts is None
    assert back.pad_index is None
    assert back.unk_index is None


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1)
        | st.sampled_from(["\u2028", "a\u2029b", "\x85", "\x0b", "\x1c", "a\xa0b", "\t", "a\t1", " ", "\ufeff", "\0"]),
        min_size=1,
        unique=True,
    )
)
def test_any_token_survives(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        embeddings = Embeddings(
            torch.zeros(len(words), 1), words, counts=np.arange(len(words)), pad_index=None, unk_index=None
        )
        embeddings.save(out)
        back = load(out)
        assert back.words == words
        assert back.counts is not None
        assert back.counts.tolist() == list(range(len(words)))
        # As a user without embedtrain reads it.
        assert (out / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1] == words


@pytest.mark.parametrize("token", ["", "a\nb", "a\r", "\ud800"])
def test_token_that_is_no_line_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(EmbedtrainError, match=r"token .* cannot be a line of vocab.txt"):
        make(words=("a", token)).save(tmp_path / "out")
    assert names(tmp_path) == []


def test_a_view_is_saved_without_the_rest_of_its_storage(tmp_path: Path) -> None:
    padded = torch.ones(1000, 16)
    for name, weight in {"rows": padded[:2], "columns": padded[:2, :3]}.items():
        Embeddings(weight, ["a", "b"], pad_index=None, unk_index=None).save(tmp_path / name)
        state = torch.load(tmp_path / name / "embedding.pt")
        assert state["weight"].is_contiguous()
        assert (tmp_path / name / "embedding.pt").stat().st_size < 3000


def test_same_bytes_in_two_processes_whatever_the_name(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from embedtrain.embeddings import Embeddings;"
        "w = torch.randn(50, 7, generator=torch.Generator().manual_seed(3));"
        "words = ['<pad>', '<unk>', *map(str, range(48))];"
        "Embeddings(w, words, pad_index=0, unk_index=1).save(sys.argv[1], export=sys.argv[2:])"
    )
    for name in ("out", "something-élse"):
        command = [sys.executable, "-c", script, str(tmp_path / name), *EXPORTS]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
    first, second = (
        {name: hashlib.sha256(data).hexdigest() for name, data in contents(tmp_path / folder).items()}
        for folder in ("out", "something-élse")
    )
    assert first == second
    assert len(first) == 15  # the six that are always there, and nine of exports


def test_nan_is_null_in_json(tmp_path: Path) -> None:
    embeddings = make()
    embeddings.metrics = [{"loss": float("nan"), "rates": [float("inf"), 1.0]}]
    embeddings.save(tmp_path / "out")
    assert json.loads((tmp_path / "out/metrics.jsonl").read_text()) == {"loss": None, "rates": [None, 1.0]}


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    embeddings = make()
    name = os.fsdecode(b"caf\xe9.txt")
    embeddings.config = {"corpus": {"sources": [{"name": name, "size": None}]}, "note": "é"}
    embeddings.save(tmp_path / "out")
    assert load(tmp_path / "out").config == embeddings.config
    assert '"é"' in (tmp_path / "out/config.json").read_text(encoding="utf-8")


# ---- where it may be written


def test_parents_are_made_and_an_empty_folder_is_taken(tmp_path: Path) -> None:
    make().save(tmp_path / "a/b/out")
    (tmp_path / "empty").mkdir()
    make().save(tmp_path / "empty")
    assert contents(tmp_path / "a/b/out") == contents(tmp_path / "empty")
    mode = (tmp_path / "empty").stat().st_mode & 0o777
    (tmp_path / "usual").mkdir()
    assert mode == (tmp_path / "usual").stat().st_mode & 0o777


def test_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    make().save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert set(names(tmp_path / "real")) == FILES


def test_filled_folder_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(EmbedtrainError, match="is not empty"):
        OutputFolder(tmp_path)
    with pytest.raises(EmbedtrainError, match=r"note.txt is a file"):
        OutputFolder(tmp_path / "note.txt")
    with pytest.raises(EmbedtrainError, match=r"not a directory"):
        OutputFolder(tmp_path / "note.txt" / "out")
    assert names(tmp_path) == ["note.txt"]


@pytest.mark.parametrize("folder", [".", "..", "/"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_current_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, overwrite: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EmbedtrainError, match="the folder you are in"):
        OutputFolder(folder, overwrite=overwrite)


def test_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "out")
    with pytest.raises(EmbedtrainError, match="mount point; choose a folder in it"):
        OutputFolder(tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EmbedtrainError, match="permission denied; choose another folder"):
        OutputFolder(tmp_path / "out")


def test_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(EmbedtrainError, match=r"cannot write output folder .*/out: read-only file system; choose"):
        OutputFolder(tmp_path / "out")


def test_overwrite_replaces_a_result(tmp_path: Path) -> None:
    make(1.0).save(tmp_path / "out", export=["npy"])
    with pytest.raises(EmbedtrainError, match="is not empty"):
        make(2.0).save(tmp_path / "out")
    make(2.0).save(tmp_path / "out", overwrite=True)
    assert torch.equal(load(tmp_path / "out").weight, make(2.0).weight)
    assert set(names(tmp_path / "out")) == FILES
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("config", [None, "{}", "not json", '{"format": "other"}', '["format"]'])
def test_overwrite_never_deletes_what_is_no_result(tmp_path: Path, config: str | None) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("mine")
    if config is not None:
        (home / "config.json").write_text(config)
    before = contents(home)
    with pytest.raises(EmbedtrainError, match="is not an embedtrain result, so it is not overwritten"):
        OutputFolder(home, overwrite=True)
    assert contents(home) == before
    assert names(tmp_path) == ["home"]


def test_overwrite_never_deletes_files_put_beside_a_result(tmp_path: Path) -> None:
    make().save(tmp_path / "out")
    (tmp_path / "out/.git").mkdir()
    with pytest.raises(EmbedtrainError, match=r"also holds \.git, not made by embedtrain"):
        OutputFolder(tmp_path / "out", overwrite=True)


# ---- all or nothing


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    def train() -> None:
        with OutputFolder(tmp_path / "a/b/out") as output:
            output.log({"loss": 1.0})
            assert names(tmp_path / "a/b") == [output.metrics_path.parent.name]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert names(tmp_path) == []


def test_metrics_can_be_watched(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as output:
        output.log({"epoch": 1, "loss": 0.5})
        assert output.metrics_path.read_text() == '{"epoch": 1, "loss": 0.5}\n'
        assert not (tmp_path / "out").exists()
        output.commit(make())
    assert len(load(tmp_path / "out").metrics) == 2
    assert names(tmp_path) == ["out"]


def test_a_report_that_cannot_be_written_does_not_stop_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OutputFolder, "metrics_path", Path("/dev/full"))
    with OutputFolder(tmp_path / "out") as output:
        output.log({"loss": 0.5})
        output.log({"loss": 0.25})


# Limits just below the size of each file, so that a different one fails each time.
@pytest.mark.parametrize("export", [(), *((name,) for name in EXPORTS)])
def test_file_too_large(tmp_path: Path, export: tuple[str, ...]) -> None:
    make(1.0).save(tmp_path / "old")
    before = contents(tmp_path / "old")
    embeddings = Embeddings(
        torch.rand(1002, 3), ["<pad>", "<unk>", *(f"w{i}" for i in range(1000))], pad_index=0, unk_index=1
    )
    embeddings.save(tmp_path / "whole", export=export)
    sizes = sorted({path.stat().st_size for path in (tmp_path / "whole").iterdir()} - {0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in [0, *(size - 1 for size in sizes)]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(EmbedtrainError, match=r"cannot write .*: file too large; raise the file size limit"):
                embeddings.save(tmp_path / "new", export=export)
            with pytest.raises(EmbedtrainError, match="file too large"):
                embeddings.save(tmp_path / "old", overwrite=True, export=export)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert names(tmp_path) == ["old", "whole"]
        assert contents(tmp_path / "old") == before


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EmbedtrainError, match=r"no space left on device; free some space"):
        make().save(tmp_path / "out")
    assert names(tmp_path) == []


def test_everything_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync
    rename = Path.rename

    def record_fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def record_rename(path: Path, target: Path) -> Path:
        synced.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    make().save(tmp_path / "out", export=["npy"])
    assert set(synced[:8]) == FILES | {"embedding.npy"}
    assert synced[8].startswith("out.partial-")
    assert synced[9:] == ["rename", tmp_path.name]


@pytest.fixture(params=[True, False], ids=["exchange", "two-renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let the system swap folders in one step, or be one that cannot."""
    if not request.param:
        monkeypatch.setattr(checkpoint, "exchange", lambda first, second: False)
    return bool(request.param)


def test_interrupted_swap_puts_the_old_result_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool) -> None:
    make(1.0).save(tmp_path / "out")
    before = contents(tmp_path / "out")
    rename = Path.rename

    def fail_for_the_new(path: Path, target: Path) -> Path:
        if ".partial-" in path.name and target.name == "out":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    if swap:
        monkeypatch.setattr(checkpoint, "exchange", fail_for_the_new)
    with pytest.raises(EmbedtrainError, match="the complete result is in") as caught:
        make(2.0).save(tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before
    # What hours of training gave is not thrown away, and the message says where it is.
    (kept,) = set(tmp_path.iterdir()) - {tmp_path / "out"}
    assert str(kept) in str(caught.value)
    monkeypatch.undo()
    make(3.0).save(tmp_path / "out", overwrite=True)
    assert torch.equal(load(kept).weight, make(2.0).weight)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["sync", "exchange", "rmtree"])
def test_an_interrupt_waits_until_the_result_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, overwrite: bool
) -> None:
    make(1.0).save(tmp_path / "new")
    new = contents(tmp_path / "new")
    if overwrite:
        make(0.5).save(tmp_path / "out")
    where = checkpoint.shutil if step == "rmtree" else checkpoint
    function = getattr(where, step)

    def interrupted(*arguments: Any, **more: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(where, step, function)
        return function(*arguments, **more)

    before = len(list(Path("/proc/self/fd").iterdir()))
    with OutputFolder(tmp_path / "out", overwrite=True) as output:
        monkeypatch.setattr(where, step, interrupted)
        interrupt = pytest.raises(KeyboardInterrupt) if overwrite or step == "sync" else nullcontext()
        with interrupt:
            output.commit(make(1.0))
        monkeypatch.undo()
    placed = step != "sync"  # before that, nothing has happened yet
    assert names(tmp_path) == (["new", "out"] if overwrite or placed else ["new"])
    if overwrite or placed:
        assert (contents(tmp_path / "out") == new) == placed
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_interrupt_that_torch_hides_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.BytesIO):
        def write(self, data: Any) -> int:
            raise KeyboardInterrupt

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: save(state, Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        make().save(tmp_path / "out")
    assert names(tmp_path) == []


def test_swap_where_the_system_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "exchange", lambda first, second: False)
    make(1.0).save(tmp_path / "out")
    make(2.0).save(tmp_path / "out", overwrite=True)
    assert torch.equal(load(tmp_path / "out").weight, make(2.0).weight)
    assert names(tmp_path) == ["out"]


def test_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "b").write_text("file")
    assert files.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "inner").is_dir()
    with pytest.raises(FileNotFoundError):
        files.exchange(tmp_path / "a", tmp_path / "none")
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())  # a C library without the function
    assert not files.exchange(tmp_path / "a", tmp_path / "b")


def test_target_filled_during_training_is_kept(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as output:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine").write_text("mine")
        with pytest.raises(EmbedtrainError, match=r"is not empty.*the complete result is in"):
            output.commit(make())
    assert names(tmp_path / "out") == ["mine"]


def test_killed_at_any_rename_or_sync_old_or_new_is_complete(tmp_path: Path, swap: bool) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from embedtrain import checkpoint, files
from tests.test_checkpoint import make
steps, swap = int(sys.argv[2]), sys.argv[3] == "True"
def step(function):
    def wrapped(*args):
        global steps
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return wrapped
os.fsync, Path.rename = step(os.fsync), step(Path.rename)
checkpoint.exchange = step(checkpoint.exchange) if swap else lambda first, second: False
make(2.0).save(sys.argv[1], overwrite=True)
"""
    # 7 files and the folder are synced, then old and new change places, then the parent is synced.
    for steps in (9, 10) if swap else (9, 10, 11):
        parent = tmp_path / str(steps)
        make(1.0).save(parent / "out")
        command = [sys.executable, "-c", script, str(parent / "out"), str(steps), str(swap)]
        assert subprocess.run(command, cwd=Path(__file__).parents[1]).returncode == -9
        complete = [
            folder for folder in parent.iterdir() if set(names(folder)) == FILES and "partial" not in folder.name
        ]
        for folder in complete:
            value = 2.0 if folder.name == "out" and steps == (10 if swap else 11) else 1.0
            assert torch.equal(load(folder).weight, make(value).weight)
        assert complete
        if swap:
            assert complete == [parent / "out"]
            make(3.0).save(parent / "out", overwrite=True)
            assert names(parent) == ["out"]  # what the killed one left is gone


# ---- beside each other


def test_leftovers_of_the_dead_are_removed_those_of_the_living_are_not(tmp_path: Path) -> None:
    for name in ("out.partial-00000000", "out.partial-mine", "other.partial-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "embedding.pt").touch()
    with OutputFolder(tmp_path / "out") as first:
        assert names(tmp_path) == ["other.partial-00000000", first.path("README.md").parent.name, "out.partial-mine"]
        with OutputFolder(tmp_path / "out") as second:
            assert first.path("README.md").parent.exists()
            second.commit(make(2.0))
        with pytest.raises(EmbedtrainError, match="is not empty"):
            first.commit(make(1.0))
    assert torch.equal(load(tmp_path / "out").weight, make(2.0).weight)


# ---- checkpoints in it


def save_checkpoints(folder: Path, count: int = 2) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / f"{number:06d}.safetensors").write_bytes(b"%d" % number)


def test_checkpoints_are_not_overwritten_unasked(tmp_path: Path) -> None:
    save_checkpoints(tmp_path / "out/checkpoints")
    with pytest.raises(EmbedtrainError, match=r"holds the checkpoints of a training: go on with it .*--resume"):
        OutputFolder(tmp_path / "out")
    make().save(tmp_path / "out", overwrite=True)
    assert set(names(tmp_path / "out")) == FILES
    (tmp_path / "empty/checkpoints").mkdir(parents=True)  # of a training that was killed before it had any
    make().save(tmp_path / "empty")
    assert set(names(tmp_path / "empty")) == FILES


def test_what_lies_among_checkpoints_is_not_overwritten(tmp_path: Path) -> None:
    make().save(tmp_path / "out")
    save_checkpoints(tmp_path / "out/checkpoints")
    (tmp_path / "out/checkpoints/notes.txt").touch()
    with pytest.raises(EmbedtrainError, match=r"also holds checkpoints/notes\.txt, not made by embedtrain"):
        OutputFolder(tmp_path / "out", overwrite=True)


def test_the_last_checkpoint_goes_into_the_result(tmp_path: Path, swap: bool) -> None:
    with OutputFolder(tmp_path / "out") as output:
        save_checkpoints(output.checkpoints)
        output.commit(make(), checkpoint=output.checkpoints / "000002.safetensors")
    assert set(names(tmp_path / "out")) == {*FILES, "checkpoints"}
    assert contents(tmp_path / "out/checkpoints") == {"000002.safetensors": b"2"}
    assert names(tmp_path) == ["out"]
    assert torch.equal(load(tmp_path / "out").weight, make().weight)
    with pytest.raises(EmbedtrainError, match="is not empty"):
        make(2.0).save(tmp_path / "out")
    make(2.0).save(tmp_path / "out", overwrite=True)
    assert set(names(tmp_path / "out")) == FILES


def test_checkpoints_of_somebody_else_are_kept(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as output:
        save_checkpoints(output.checkpoints)
        with pytest.raises(EmbedtrainError, match="holds the checkpoints of a training"):
            output.commit(make())
    assert len(names(tmp_path / "out/checkpoints")) == 2


def test_a_training_that_goes_on_is_not_overwritten(tmp_path: Path) -> None:
    make().save(tmp_path / "out")
    with Checkpoints(tmp_path / "out/checkpoints"), pytest.raises(EmbedtrainError, match="another process trains"):
        make(2.0).save(tmp_path / "out", overwrite=True)
    make(2.0).save(tmp_path / "out", overwrite=True)


def test_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    test_the_last_checkpoint_goes_into_the_result(tmp_path, True)


# ---- reading


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def broken(name: str, data: bytes | None) -> str:
        make().save(out, overwrite=True)
        before = (out / name).read_bytes()
        if data is None:
            (out / name).unlink()
        else:
            (out / name).write_bytes(data)
        with pytest.raises(EmbedtrainError) as caught:
            load(out)
        (out / name).write_bytes(before)
        return str(caught.value)

    def saved(value: object) -> bytes:
        torch.save(value, tmp_path / "x.pt")
        return (tmp_path / "x.pt").read_bytes()

    for name in ("embedding.pt", "vocab.txt", "config.json"):
        assert broken(name, None) == f"{out / name} is missing: {out} is not a complete embedtrain result"
        assert f"{out / name} " in broken(name, b"")
    assert "embedding.pt is broken" in broken("embedding.pt", b"PK nonsense")
    assert "embedding.pt is broken" in broken("embedding.pt", saved({"weight": make()}))  # needs a pickle
    assert "exactly {'weight'" in broken("embedding.pt", saved({"weight": torch.ones(5, 4), "x": 1}))
    assert "exactly {'weight'" in broken("embedding.pt", saved({"weight": torch.ones(5, 4).double()}))
    assert "holds a table (6, 4), but config.json says (5, 4)" in broken(
        "embedding.pt", saved({"weight": torch.ones(6, 4)})
    )
    assert "vocab.txt has 2 lines, but embedding.pt has 5 rows" in broken("vocab.txt", b"a\nb\n")
    assert "vocab.txt is cut off" in broken("vocab.txt", b"<pad>\n<unk>\nthe\ncat\nsa")
    assert "vocab.txt is broken: not UTF-8 at byte 2" in broken("vocab.txt", b"a\n\xff\n")
    assert "vocab.tsv:5 is 'sat 1', not 'sat', a tab and a count" in broken(
        "vocab.tsv", b"<pad>\t0\n<unk>\t0\nthe\t3\ncat\t2\nsat 1\n"
    )
    assert "vocab.tsv has 1 lines" in broken("vocab.tsv", b"a\t1\n")
    assert "config.json is broken: not JSON" in broken("config.json", b"{")
    assert 'lacks "format"' in broken("config.json", b"{}")
    assert "format version 2" in broken("config.json", b'{"format": "embedtrain", "format_version": 2}')
    assert "lacks vocab_size" in broken("config.json", b'{"format": "embedtrain", "format_version": 1}')
    assert "metrics.jsonl is broken" in broken("metrics.jsonl", b"loss 1\n")
    with pytest.raises(EmbedtrainError, match="is not a folder"):
        load(tmp_path / "nowhere")


def test_checking_the_output_folder_does_not_import_torch() -> None:
    code = (
        "import sys, embedtrain.checkpoint, embedtrain.formats; assert not {'torch', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(checkpoint.__file__).parents[1])
