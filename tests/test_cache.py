"""The encoded corpus on disk: the same as in memory, used again when it may be, and never when it may not."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedtrain import Word2Vec, cache, memory
from embedtrain import corpus as corpus_module
from embedtrain.corpus import Corpus, encode
from embedtrain.errors import EmbedtrainError
from embedtrain.options import Options
from embedtrain.vocabulary import Vocabulary

TEXT = "the cat sat on the mat\n\nthe dog saw the cat\nΕλλάς Größe the\n" * 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def same(first: Corpus, second: Corpus) -> bool:
    facts = ("fingerprint", "tokens_read", "lines", "dropped", "replaced", "tokenizer_json", "sources")
    return (
        all(getattr(first, name) == getattr(second, name) for name in facts)
        and all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("ids", "offsets"))
        and first.vocabulary.words == second.vocabulary.words
        and np.array_equal(first.vocabulary.counts, second.vocabulary.counts)
    )


def entries(root: Path) -> list[Path]:
    return sorted(root.iterdir()) if root.exists() else []


def one(root: Path) -> Path:
    (entry,) = entries(root)
    return entry


def run(file: Any, root: Path, **options: Any) -> tuple[Corpus, list[str]]:
    """Encode; returns the notes as well, each by its first word."""
    lines: list[str] = []
    corpus = encode(file, Options(**({"min_count": 1, "cache_dir": root} | options)), note=lines.append)
    return corpus, lines


def test_what_other_entries_take_is_said(file: Path, root: Path) -> None:
    for min_count, others in ((1, None), (2, "1 more there take 0.0 MB"), (3, "2 more there take 0.0 MB")):
        _, (line,) = run(file, root, min_count=min_count)
        assert line.endswith(f"to be used again{f'; {others}, delete what you no longer need' if others else ''}")
        (root / "something else").mkdir(exist_ok=True)


def test_kept_used_and_equal(file: Path, root: Path) -> None:
    expected = encode(file, Options(min_count=2))
    made, lines = run(file, root, min_count=2)
    assert [line.split(" in ")[0] for line in lines] == ["kept the encoded corpus (0.0 MB)"]
    assert {path.name for path in one(root).iterdir()} == {
        "ids.bin", "offsets.bin", "counts.bin", "words.json", "tokenizer.json", "meta.json"
    }  # fmt: skip
    used, lines = run(file, root, min_count=2)
    assert lines == [f"using the encoded corpus in {one(root)}"]
    assert same(made, expected)
    assert same(used, expected)
    for corpus in (made, used):
        assert not corpus.ids.flags.writeable
        assert not corpus.offsets.flags.writeable


def test_training_from_disk_is_the_same(file: Path, root: Path) -> None:
    options: dict[str, Any] = {"dim": 8, "min_count": 1, "epochs": 2, "workers": 1, "sample": 0}
    expected = Word2Vec(**options).fit(file)
    for _ in range(2):
        found = Word2Vec(**options, cache_dir=root).fit(file)
        assert torch.equal(found.weight, expected.weight)
    assert len(entries(root)) == 1


def test_small_corpora_leave_nothing(file: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    assert encode(file, Options(min_count=1)).ids.flags.writeable
    run(file, root, cache=False)
    run([["a", "b"]], root)
    assert entries(root) == []


def test_a_corpus_that_does_not_fit_is_kept(file: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    monkeypatch.setattr(corpus_module, "memory_budget", lambda: 10)
    expected = encode(file, Options(min_count=1, cache=False))
    assert not expected.ids.flags.writeable
    assert entries(root / "embedtrain") == []  # --no-cache keeps it no longer than it is used
    lines: list[str] = []
    for _ in range(2):
        assert same(encode(file, Options(min_count=1), note=lines.append), expected)
    assert lines[1:] == [f"using the encoded corpus in {one(root / 'embedtrain')}"]


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
@pytest.mark.parametrize("budget", [10, 100])
def test_lists_and_tokens_that_do_not_fit_go_to_disk(
    file: Path, root: Path, tmp_path: Path, budget: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lists = [line.split() for line in TEXT.split("\n")]
    runs: list[tuple[Any, dict[str, Any]]] = [(lists, {}), (lists, {"min_count": 4})]
    runs += [(file, {"tokenizer": tmp_path / "tokenizer.json", "min_count": count}) for count in (1, 5)]
    expected = [encode(corpus, Options(**({"min_count": 1} | options))) for corpus, options in runs]
    monkeypatch.setattr(corpus_module, "memory_budget", lambda: budget)
    monkeypatch.setattr(corpus_module, "_PIECE_TOKENS", piece)
    for (corpus, options), wanted in zip(runs, expected, strict=True):
        found, _ = run(corpus, root, **options)
        assert same(found, wanted)
        assert not found.ids.flags.writeable
        if corpus is lists:
            assert all(entry.suffix == "" for entry in entries(root))
    assert len(entries(root)) == 2
    for entry in entries(root):
        assert {path.stem for path in entry.iterdir()} == {"ids", "offsets", "counts", "words", "tokenizer", "meta"}


def test_without_a_place_it_is_encoded_in_memory(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    lines: list[str] = []
    corpus = encode("-", Options(min_count=1), note=lines.append)
    assert corpus.fingerprint == encode(file, Options(min_count=1)).fingerprint
    assert lines[0].startswith("cannot write the encoded corpus to ")
    assert lines[0].endswith(". The corpus is encoded in memory")


def test_the_budget_is_a_quarter_of_what_the_process_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "available_memory", lambda: 100)
    assert corpus_module.memory_budget() == 25
    monkeypatch.setattr(corpus_module, "available_memory", lambda: None)
    assert corpus_module.memory_budget() == float("inf")


@pytest.mark.parametrize("limit", [resource.RLIMIT_DATA, resource.RLIMIT_AS])
def test_limits_of_the_process_count(limit: int) -> None:
    code = """
import resource, sys
from embedtrain.memory import available_memory
limit = int(sys.argv[1])
before = available_memory()
resource.setrlimit(limit, (1 << 30, 1 << 30))
assert 0 < available_memory() < 1 << 30 < before, (available_memory(), before)
"""
    root = Path(memory.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code, str(limit)], cwd=root, check=True)


def test_pipes_are_spooled_and_leave_nothing(file: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
        corpus, lines = run("-", root)
        assert corpus.fingerprint == encode(file, Options(min_count=1)).fingerprint
        assert not corpus.ids.flags.writeable
        assert (lines, entries(root)) == ([], [])


# --- what it depends on --------------------------------------------------------------------------------------------


def rewrite(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def rewrite_with_the_old_times(path: Path) -> None:
    """Change a byte in place, and set the modification time back."""
    info = path.stat()
    data = bytearray(path.read_bytes())
    data[0] = ord("T")
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def replace_with_the_old_times(path: Path) -> None:
    info = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"cat", b"cow"))
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    "change",
    [lambda path: rewrite(path, TEXT + "more\n"), rewrite_with_the_old_times, replace_with_the_old_times],
)
def test_a_changed_file_is_encoded_again(file: Path, root: Path, change: Callable[[Path], None]) -> None:
    run(file, root)
    change(file)
    changed, lines = run(file, root)
    assert lines[0].startswith("kept ")
    assert changed.fingerprint == encode(file, Options(min_count=1)).fingerprint
    assert len(entries(root)) == 2


def test_what_is_encoded_depends_on(file: Path, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    shutil.copy(file, other)
    vocab = tmp_path / "vocab"
    Vocabulary.most_frequent({"the": 9, "cat": 5}).save(vocab)
    runs: list[tuple[Any, dict[str, Any]]] = [
        (file, {}),
        (other, {}),
        ([file, other], {}),
        ([other, file], {}),
        (file, {"min_count": 2}),
        (file, {"max_vocab": 3}),
        (file, {"lowercase": True}),
        (file, {"errors": "skip"}),
        (file, {"read_vocab": vocab}),
    ]
    for corpus, options in runs:
        assert run(corpus, root, **options)[1][0].startswith("kept ")
    assert len(entries(root)) == len(runs)
    for corpus, options in runs:
        found, lines = run(corpus, root, **options)
        assert lines[0].startswith("using ")
        assert found.fingerprint == encode(corpus, Options(**({"min_count": 1} | options))).fingerprint
    Vocabulary.most_frequent({"the": 9, "dog": 5}).save(vocab)
    assert run(file, root, read_vocab=vocab)[1][0].startswith("kept ")


def test_what_it_does_not_depend_on(file: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(file, root)
    for options in ({"dim": 7}, {"seed": 3}, {"workers": 1}, {"epochs": 9}, {"window": 2}):
        assert run(file, root, **options)[1][0].startswith("using ")
    monkeypatch.chdir(file.parent)
    found, lines = run(file.name, root)
    assert lines[0].startswith("using ")
    assert [source.name for source in found.sources] == [file.name]


def test_a_tokenizer_by_its_content(file: Path, root: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path / "tokenizer.json"
    for words in ({"the": 0, "cat": 1, "?": 2}, {"the": 1, "cat": 0, "?": 2}):
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(path))
        expected = encode(file, Options(min_count=1, tokenizer=path))
        for verb in ("kept", "using"):
            found, lines = run(file, root, tokenizer=path)
            assert same(found, expected)
            assert lines[0].startswith(verb)


def test_a_file_that_grows_while_it_is_read_is_not_kept(file: Path, root: Path) -> None:
    def on_bytes(done: int, total: int | None) -> None:
        with file.open("a") as more:
            more.write("more\n")

    lines: list[str] = []
    encode(file, Options(min_count=1, cache_dir=root), on_bytes, lines.append)
    assert lines == ["the corpus changed while it was read, so its encoding is not kept"]
    assert entries(root) == []


# --- what must not be trusted --------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["ids.bin", "offsets.bin", "counts.bin", "words.json", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_damage_is_noticed_said_and_mended(file: Path, root: Path, name: str, damage: Callable[[Path], Any]) -> None:
    run(file, root)
    expected = encode(file, Options(min_count=1))
    damage(one(root) / name)
    found, lines = run(file, root)
    assert same(found, expected)
    assert lines[0].startswith(f"the encoded corpus in {one(root)} is damaged (")
    assert lines[1].startswith("kept ")
    assert run(file, root)[1][0].startswith("using ")


def test_an_entry_that_was_copied_is_looked_at_whole(file: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(file, root)
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    assert run(file, copy)[1] == [f"using the encoded corpus in {one(copy)}"]
    flip(one(copy) / "ids.bin")
    found, lines = run(file, copy)
    assert "is damaged (the arrays are not those that were encoded)" in lines[0]
    assert found.fingerprint == encode(file, Options(min_count=1)).fingerprint


@pytest.mark.parametrize(
    "meta", ["", "[]", "{}", '{"sha256": 3}', '{"sha256": null, "files": {}}', "\udce4", '{"a": NaN}', "[" * 100_000]
)
def test_any_meta_json(file: Path, root: Path, meta: str) -> None:
    run(file, root)
    (one(root) / "meta.json").write_bytes(meta.encode("utf-8", "surrogateescape"))
    assert "is damaged" in run(file, root)[1][0]


@pytest.mark.parametrize("name", ["../../secret.bin", "/etc/passwd", "..", ""])
def test_names_in_meta_json_do_not_lead_out_of_the_folder(file: Path, root: Path, name: str) -> None:
    run(file, root)
    path = one(root) / "meta.json"
    meta = json.loads(path.read_bytes())
    meta["files"][name] = meta["files"]["counts.bin"]
    del meta["sha256"]
    meta["sha256"] = cache.hashlib.sha256(cache._json(meta)).hexdigest()
    path.write_bytes(cache._json(meta))
    assert "is damaged" in run(file, root)[1][0]


def test_other_things_are_left_alone(file: Path, root: Path) -> None:
    run(file, root)
    expected = encode(file, Options(min_count=1))
    entry = one(root)
    (entry / "thesis.tex").write_text("mine")
    (entry / "meta.json").unlink()
    found, lines = run(file, root)
    assert same(found, expected)
    assert [re.findall(" is (damaged|left alone)", line) for line in lines] == [["damaged"], ["left alone"]]
    assert (entry / "thesis.tex").read_text() == "mine"
    assert entries(root) == [entry]


def test_a_link_in_an_entry_is_not_followed(file: Path, root: Path, tmp_path: Path) -> None:
    run(file, root)
    ids = one(root) / "ids.bin"
    ids.rename(tmp_path / "elsewhere")
    ids.symlink_to(tmp_path / "elsewhere")
    assert "is damaged (ids.bin is missing)" in run(file, root)[1][0]


# --- processes -----------------------------------------------------------------------------------------------------


def test_what_a_killed_process_left_is_removed(file: Path, root: Path) -> None:
    code = """
import os, signal, sys
from embedtrain.cache import Cache
with Cache(__import__("pathlib").Path(sys.argv[1]), {"a": 1}, print) as cache:
    (cache.folder() / "ids.bin").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    package = Path(cache.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code, str(root)], cwd=package)
    assert len(entries(root)) == 1
    with cache.Cache(root, {"b": 1}, print) as other:  # of a process that is alive
        kept = other.folder()
        run(file, root)
        assert {path.name for path in entries(root)} > {kept.name}
        assert len(entries(root)) == 2
    assert len(entries(root)) == 1


def test_two_processes_at_once(file: Path, root: Path) -> None:
    entry = cache.Entry({"ids": np.arange(5)}, {"words": ["a"]}, {"n": 1})
    lines: list[str] = []
    with cache.Cache(root, {"a": 1}, lines.append) as first, cache.Cache(root, {"a": 1}, lines.append) as second:
        first.folder(), second.folder()
        found = [each.put(entry, frozenset(["ids"])) for each in (first, second)]
    assert len(entries(root)) == len(lines) == 1
    for each in found:  # that of the second lies nowhere any more, but is mapped
        assert each.arrays["ids"].tolist() == [0, 1, 2, 3, 4]
    again = cache.Cache(root, {"a": 1}, lines.append).find(lambda entry: False)
    assert again is not None
    assert (again.values, again.facts) == (entry.values, entry.facts)


def test_an_error_leaves_nothing(file: Path, root: Path) -> None:
    file.write_bytes(b"\xff\n")
    with pytest.raises(EmbedtrainError, match="is not UTF-8"):
        run(file, root)
    with cache.Cache(root, {"a": 1}, print) as made:
        folder = made.folder()
        assert entries(root) == [folder]
    assert entries(root) == []


def test_a_place_that_cannot_be_written_to(file: Path) -> None:
    with pytest.raises(EmbedtrainError, match=r"cannot write the encoded corpus to .*corpus.txt \(--cache-dir\)"):
        run(file, file)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("name", ["words.json", "ids.bin", "offsets.bin"])
def test_a_full_disk(file: Path, root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = cache.Cache.folder

    def folder(self: cache.Cache) -> Path:
        made = original(self)
        if not (made / name).is_symlink():
            (made / name).symlink_to("/dev/full")
        return made

    monkeypatch.setattr(cache.Cache, "folder", folder)
    with pytest.raises(EmbedtrainError, match="no space left on device; free some space"):
        run(file, root)
    assert entries(root) == []


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_root() == tmp_path / "embedtrain"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.default_root() == Path.home() / ".cache" / "embedtrain"
