"""The command line as a user meets it: what is typed, what is shown, what is written, and every way it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import lzma
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import embedtrain
from embedtrain import fit, native
from embedtrain.vocabulary import Vocabulary

COMMAND = [sys.executable, "-m", "embedtrain.fit"]
WORDS = [f"word{i}" for i in range(30)]


def _sentences(count: int, length: int) -> list[str]:
    draw = random.Random(0)
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]
    return [" ".join(draw.choices(WORDS, weights, k=length)) for _ in range(count)]


LINES = _sentences(400, 10)
TEXT = "\n".join(LINES) + "\n"
# What most runs here use: small, and repeatable.
SMALL = ("--dim", "8", "--epochs", "2", "--workers", "1", "--min-count", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder to work in, with a good corpus."""
    (tmp_path / "corpus.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def main(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run the command in this process, which saves importing torch."""
    monkeypatch.chdir(folder)
    handler = signal.getsignal(signal.SIGTERM)
    yield lambda *arguments: fit.main([str(argument) for argument in arguments])
    signal.signal(signal.SIGTERM, handler)


def run(folder: Path, *arguments: object, shell: str = 'exec "$@"', **how: Any) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", shell, "sh", *COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=60, **how)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_refused(folder: Path, *arguments: object, why: str, **how: Any) -> None:
    """Exit code 2, one line that says why, and nothing left behind."""
    before = tree(folder)
    result = run(folder, "--out", "made/for/out", *arguments, **how)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    *progress, line = result.stderr.splitlines()
    assert re.fullmatch(f"embedtrain: .*{why}.*", line)
    assert not [each for each in progress if re.match(r"embedtrain|Traceback|\s", each)]
    assert tree(folder) == before


# --- bad corpora ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "bad: no such file"),
        (b"", "bad is empty"),
        (b"\n \n\t\r\n\n", "bad: has no words, only white space"),
        (b"a b c d\n" * 4, r"bad: no word occurs min-count \(5\) times.*4\); lower --min-count"),
        (b"a a a\n" * 9, "bad: only one word, 'a', occurs min-count"),
        (b"a\nb\n" * 9, "no sentence has two words"),
        (b"text\nand \0 a binary\n", "bad: line 2, byte 9: 0x00: this looks like a binary file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "bad: line 1, byte 0: 0x89 is not UTF-8 text"),
        ("ein Wort\nein schönes Wort\n".encode("latin-1"), "bad: line 2, byte 16: 0xf6 is not UTF-8.*--errors replace"),
        (gzip.compress(TEXT.encode())[:300], "bad: the gzip file is damaged or cut off"),
        (lzma.compress(TEXT.encode())[:-40], "bad: the xz file is damaged or cut off"),
    ],
    ids=["missing", "empty", "blank", "rare", "one-word", "word-a-line", "nul", "png", "latin1", "cut-gz", "cut-xz"],
)
def test_bad_corpus(folder: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (folder / "bad").write_bytes(content)
    assert_refused(folder, "bad", why=why)


def test_a_bad_file_among_good_ones_and_a_folder(folder: Path) -> None:
    (folder / "bad").write_bytes(b"a b\n\xff\n")
    (folder / "texts").mkdir()
    assert_refused(folder, "corpus.txt", "bad", why="bad: line 2, byte 4: 0xff")
    assert_refused(folder, "corpus.txt", "texts", why="texts: there are no files in this folder")


def test_bad_standard_input(folder: Path) -> None:
    assert_refused(folder, "-", why="standard input is empty", stdin=subprocess.DEVNULL)
    assert_refused(folder, "-", why="standard input is closed", shell='exec "$@" <&-')


@pytest.mark.parametrize(
    ("option", "content", "why"),
    [
        ("--tokenizer", None, "given: the tokenizer cannot be read"),
        ("--tokenizer", "{}", "given: this is no tokenizer.json"),
        ("--read-vocab", None, "given: the vocabulary cannot be read"),
        ("--read-vocab", "", "given: the vocabulary is empty"),
        ("--read-vocab", "word0 12\nword1\n", "given: line 2: 'word1' is not \"word count\""),
        ("--read-vocab", "other 12\nwords 7\n", "corpus.txt: none of its words is in the vocabulary given"),
    ],
)
def test_bad_file_for_an_option(folder: Path, option: str, content: str | None, why: str) -> None:
    if content is not None:
        (folder / "given").write_text(content)
    assert_refused(folder, "corpus.txt", option, "given", why=why)


# --- bad output ----------------------------------------------------------------------------------------------------


def test_output_folder_that_cannot_be_written(folder: Path) -> None:
    (folder / "filled").mkdir()
    (folder / "filled" / "thesis.tex").touch()
    for out, why in {
        "filled": "output folder filled is not empty",
        "corpus.txt": "output folder corpus.txt is a file",
        "corpus.txt/out": "cannot write output folder corpus.txt/out: not a directory",
        "/proc/out": "cannot write output folder /proc/out",
    }.items():
        assert_refused(folder, "no-such-corpus", "--out", out, why=why)  # before the corpus is looked at
    assert_refused(folder, "corpus.txt", "--overwrite", "--out", "filled", why="not an embedtrain result")
    assert_refused(folder, "corpus.txt", "--save-vocab", "none/words", why="none/words: the vocabulary cannot be writ")


def test_a_result_is_only_overwritten_when_told(folder: Path, main: Callable[..., int], capsys: Any) -> None:
    assert main("corpus.txt", *SMALL) == 0
    first = (folder / "out" / "embedding.pt").read_bytes()
    assert main("corpus.txt", *SMALL, "--seed", 2) == 2
    assert capsys.readouterr().err.endswith("overwrite it (--overwrite)\n")
    assert (folder / "out" / "embedding.pt").read_bytes() == first
    assert main("corpus.txt", *SMALL, "--seed", 2, "--overwrite") == 0
    assert (folder / "out" / "embedding.pt").read_bytes() != first
    assert {path.name for path in folder.iterdir()} == {"corpus.txt", "out"}


def test_file_size_limit(folder: Path) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = ("corpus.txt", "--dim", 1024)
    assert_refused(folder, *arguments, why="file too large; raise", shell='ulimit -f 40; exec "$@"', env=environment)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_full_disk(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        why = "cannot write output folder disk/made/out: no space left on device; free some space"
        assert_refused(folder, "corpus.txt", "--dim", 1024, "--out", "disk/made/out", why=why)
    finally:
        subprocess.run(["umount", disk], check=True)


# --- bad options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--dim=0", "dim must be a whole number, from 1 to 1024, not 0"),
        ("--dim=1025", "dim must be .* not 1025"),
        ("--window=-1", "window must be .* not -1"),
        ("--sample=7", "sample must be a number from 0 to 1, not 7"),
        ("--epochs=0", "epochs must be .* not 0"),
        ("--negative=0", "negative must be .* not 0"),
        ("--alpha=nan", "alpha must be .* not nan"),
        ("--workers=0", "workers must be .* not 0"),
        ("--min-count=99999999999999999999", "min-count must be .* not 9"),
        ("--checkpoint-every=10", r"checkpoint-every must be a time .*, a number of tokens .*, or off, not '10'"),
        ("--device=tpu", "device must be auto, cpu, cuda or cuda:N, not 'tpu'"),
        ("--device=cuda", "device cuda: .*; or train with --device cpu"),
    ],
)
def test_nonsense_option(folder: Path, option: str, why: str) -> None:
    assert_refused(folder, "no-such-corpus", option, why=why)  # before the corpus is looked at


@pytest.mark.parametrize(
    ("option", "named"), [("--learning-rate=1", "--learning-rate"), ("--dim=many", "--dim"), ("--export=h5", "npy")]
)
def test_option_that_cannot_be_read(folder: Path, option: str, named: str) -> None:
    before = tree(folder)
    result = run(folder, "corpus.txt", option)
    assert (result.returncode, result.stdout) == (2, "")
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("arguments", "hints"),
    [
        (["--vector_size=50", "--min_count", "2"], ["--vector_size is --dim here"]),  # gensim
        (
            ["-train", "x", "-size", "9", "-hs", "0"],
            ["-train is the first argument here", "-size is --dim", "leave out -hs"],
        ),
        (
            ["skipgram", "-input", "x", "-minCount", "3"],
            ["-input is the first argument here", "-minCount is --min-count"],
        ),
        (["--dim", "many", "threads", "size"], []),
    ],
)
def test_options_of_other_trainers(arguments: list[str], hints: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        fit.main(["corpus.txt", *arguments])
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("embedtrain: ")]
    for line, hint in zip(lines, hints, strict=True):
        assert hint in line


def test_every_option_that_a_hint_names_exists() -> None:
    options = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(fit.Fit)}
    named = {hint.split()[0] for hint in fit._ELSEWHERE.values()} - {"the"}
    assert named <= options
    assert not {"--" + name for name in (*fit._ELSEWHERE, *fit._NEEDLESS)} & options  # they would never be hinted at


def test_instruction_set_that_is_not_there(folder: Path) -> None:
    missing = {"avx2", "avx512"} - set(native.core.available_kernels())
    for name in ["nonsense", *missing]:
        why = f"EMBEDTRAIN_ISA asks for {name}, but this processor and build run .*portable"
        assert_refused(folder, "no-such-corpus", why=why, env={**os.environ, "EMBEDTRAIN_ISA": name})


def test_diverging_training(folder: Path) -> None:
    assert_refused(folder, "corpus.txt", "--alpha", 10, why=r"training diverged: .*lower --alpha \(10\)")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux")
def test_tables_larger_than_memory(folder: Path) -> None:
    (folder / "words").write_text("".join(f"word{i} 9\n" for i in range(200_000)))
    before = tree(folder)
    code = """
import resource, sys, torch
from embedtrain import fit
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700_000_000,) * 2)
sys.exit(fit.main(["corpus.txt", "--read-vocab", "words", "--dim", "1024", "--workers", "1"]))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == (
        "embedtrain: no memory for two tables of 200,000 x 1024 (1.6 GB); lower --dim or --max-vocab, or raise "
        "--min-count"
    )
    assert tree(folder) == before


def test_no_memory_elsewhere(main: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def out_of_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("embedtrain.corpus.encode", out_of_memory)
    assert main("corpus.txt") == 2
    assert capsys.readouterr().err.startswith("embedtrain: out of memory; lower")


# --- the run is cut short ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("reading", [True, False], ids=["while-reading", "while-training"])
def test_interrupted(folder: Path, reading: bool, number: signal.Signals, code: int) -> None:
    before = tree(folder)
    corpus = "-" if reading else "corpus.txt"
    with subprocess.Popen(
        [*COMMAND, corpus, "--epochs", "1000000", "--out", "made/out"],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            started = "made/out.partial-*" if reading else "made/out.partial-*/metrics.jsonl"
            deadline = time.monotonic() + 60
            while not any(folder.glob(started)):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            if reading:
                time.sleep(0.2)  # until it waits for the pipe
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert "Fatal" not in err
    if reading:
        assert err == ("embedtrain: interrupted; nothing was written\n" if number is signal.SIGINT else "")
        assert tree(folder) == before
    else:
        saving, saved = err.splitlines()[-2:]
        assert saving == f"{number.name}: saving the training; once more stops at once"
        path = "made/out/checkpoints/000001.safetensors"
        assert re.fullmatch(rf"saved in {path}; go on with: \S+ -m embedtrain\.fit --resume made/out", saved)
        assert tree(folder) == before | {"made", "made/out", "made/out/checkpoints", path}


def test_interrupted_while_torch_is_imported_beside_the_reading(folder: Path) -> None:
    before = tree(folder)
    with subprocess.Popen(
        [*COMMAND, "-"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdin is not None
            process.stdin.write(b"some words\n" * 2_000_000)  # returns when most of it is taken: two chunks are counted
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, b"")
    assert err == b"embedtrain: interrupted; nothing was written\n"
    assert tree(folder) == before


def test_nobody_reads_the_summary(folder: Path) -> None:
    """As in ``fit corpus.txt | head -1``, at its worst: the reader has gone before anything is printed."""
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    for stdout, out in ((writer, "piped"), (full, "full")):
        command = [*COMMAND, "corpus.txt", *SMALL, "--out", out]
        result = subprocess.run(command, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True)
        os.close(stdout)
        assert result.returncode == 0
        assert result.stderr.splitlines()[-1].startswith("trained 2 epochs")
        assert len(embedtrain.load(folder / out)) == 32


def test_nobody_reads_the_progress(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    before = tree(folder)
    result = subprocess.run([*COMMAND, "corpus.txt"], cwd=folder, stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert (result.returncode, result.stdout) == (128 + signal.SIGPIPE, b"")
    assert tree(folder) == before


def test_closed_streams(folder: Path) -> None:
    result = run(folder, "corpus.txt", *SMALL, shell='exec "$@" >&- 2>&-')
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert len(embedtrain.load(folder / "out")) == 32


# --- good runs -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Result:
    folder: Path
    out: Path
    process: subprocess.CompletedProcess[str]
    bytes: bytes


EXPORTS = ("npy", "safetensors", "word2vec", "word2vec-binary", "glove")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Train with everything that writes files, once for all tests."""
    folder = tmp_path_factory.mktemp("result")
    (folder / "corpus.txt").write_text(TEXT)
    exports = [argument for name in EXPORTS for argument in ("--export", name)]
    process = run(folder, "corpus.txt", *SMALL, "--save-vocab", "words.txt", *exports)
    assert process.returncode == 0, process.stderr
    return Result(folder, folder / "out", process, (folder / "out" / "embedding.pt").read_bytes())


def test_what_is_shown(result: Result) -> None:
    progress = result.process.stderr.splitlines()
    assert [line for line in progress if not re.match(r"counting|epoch", line)] == [
        next(line for line in progress if re.fullmatch(r"counted 0\.0 MB in .* s, .* MB/s", line)),
        "4,000 tokens in 400 lines; training on 4,000 tokens of 30 different words",
        next(line for line in progress if re.fullmatch(r"trained 2 epochs in .* s, .* words/s, final loss .*", line)),
    ]
    shown = result.process.stdout
    assert shown.startswith("\nout/: 32 embeddings of 8 numbers. Nearest neighbours:\n\n  word")
    assert len(re.findall(r"^  word\d+ +(word\d+ -?\d\.\d\d(, |$)){5}", shown, re.MULTILINE)) == 6


def test_the_lines_shown_load_the_result_without_embedtrain(result: Result) -> None:
    code = result.process.stdout.partition("Load it in PyTorch:\n")[2].replace("\n  ", "\n")
    code += """
assert embedding.weight.shape == (32, 8) and embedding.weight.requires_grad and embedding.padding_idx == 0
state = torch.load("out/embedding.pt")
assert state.keys() == {"weight"} and state["weight"].dtype == torch.float32
layer = torch.nn.Embedding(32, 8)
layer.load_state_dict(state)
import numpy
exported = torch.nn.Embedding.from_pretrained(torch.from_numpy(numpy.load("out/embedding.npy")))
ids = torch.tensor([0, 1, 31])
assert torch.equal(exported(ids), embedding(ids)) and torch.equal(layer(ids), embedding(ids))
assert not [name for name in __import__("sys").modules if name.startswith("embedtrain")]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=result.folder, check=True)


def test_the_folder(result: Result) -> None:
    assert {path.name for path in result.out.iterdir()} == {
        "embedding.pt", "vocab.txt", "vocab.tsv", "config.json", "metrics.jsonl", "README.md", "embedding.npy",
        "model.safetensors", "tokenizer.json", "modules.json", "vectors.txt", "vectors.bin", "glove.txt",
        "checkpoints", "curve.svg", "frequencies.svg",
    }  # fmt: skip
    assert {path.name for path in result.folder.iterdir()} == {"corpus.txt", "words.txt", "out"}
    embeddings = embedtrain.load(result.out)
    assert embeddings.words[:2] == ["<pad>", "<unk>"]
    assert (embeddings.pad_index, embeddings.unk_index) == (0, 1)
    assert not embeddings["<pad>"].any()
    torch.testing.assert_close(embeddings["<unk>"], embeddings.weight[2:].mean(dim=0))
    counts = {word: TEXT.split().count(word) for word in WORDS}
    assert embeddings.counts is not None
    assert dict(zip(embeddings.words[2:], embeddings.counts[2:], strict=True)) == counts
    assert sorted(embeddings.counts[2:], reverse=True) == embeddings.counts[2:].tolist()
    assert Vocabulary.read(result.folder / "words.txt").words == embeddings.words[2:]

    config = json.loads((result.out / "config.json").read_text())
    assert config["options"]["dim"] == config["dim"] == 8
    assert config["options"]["alpha"] == 0.025
    assert config["corpus"]["sources"] == [{"name": "corpus.txt", "size": len(TEXT), "files": 1}]
    assert (config["corpus"]["tokens"], config["corpus"]["sentences"]) == (4000, 400)
    assert config["results"]["final_loss"] == embeddings.metrics[-1]["loss"]
    assert "corpus.txt" in (result.out / "README.md").read_text()


def test_the_exports_hold_the_same_numbers(result: Result) -> None:
    weight = embedtrain.load(result.out).weight.numpy()
    np.testing.assert_array_equal(np.load(result.out / "embedding.npy"), weight)
    np.testing.assert_array_equal(load_file(result.out / "model.safetensors")["embeddings"][2:], weight[2:])
    np.testing.assert_array_equal(np.loadtxt(result.out / "glove.txt", np.float32, usecols=range(1, 9)), weight[2:])
    assert (result.out / "vectors.txt").read_text() == "30 8\n" + (result.out / "glove.txt").read_text()
    assert (result.out / "vectors.bin").read_bytes().startswith(b"30 8\n" + b"word0 " + weight[2].tobytes())


def test_the_metrics(folder: Path, main: Callable[..., int]) -> None:
    (folder / "long.txt").write_text("\n".join(_sentences(100_000, 10)))
    assert main("long.txt", "--dim", 8, "--epochs", 2, "--workers", 1, "--min-alpha", 0.001) == 0
    reports = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    assert all(report.keys() == {"position", "epoch", "loss", "rate", "words_per_second"} for report in reports)
    positions = [report["position"] for report in reports]
    assert positions == sorted(set(positions))
    assert positions[-1] == 2 * 10 * 100_000
    assert [report["epoch"] for report in reports] == [1 + (position > 1_000_000) for position in positions]
    steps = np.diff([0, *positions])
    assert steps.max() <= 1.01 * steps.min()  # and so each loss is as sure as the others
    assert len(reports) >= 10
    assert all(0 < report["loss"] < 5 and report["words_per_second"] > 0 for report in reports)
    assert reports[0]["loss"] > reports[-1]["loss"]
    np.testing.assert_allclose(
        [report["rate"] for report in reports], 0.025 - (0.025 - 0.001) * np.array(positions) / positions[-1]
    )
    assert reports[-1]["rate"] == pytest.approx(0.001)


def test_same_seed_same_bytes_in_two_processes(result: Result, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT)
    assert run(tmp_path, "corpus.txt", *SMALL, "--out", "another/name").returncode == 0
    assert (tmp_path / "another" / "name" / "embedding.pt").read_bytes() == result.bytes


def test_standard_input_with_other_line_ends(result: Result, tmp_path: Path) -> None:
    text = TEXT.replace("\n", "\r\n").removesuffix("\r\n")
    process = subprocess.run(
        [*COMMAND, "-", *SMALL], cwd=tmp_path, input=text.encode(), capture_output=True, check=True
    )
    assert b"standard input" in (tmp_path / "out" / "config.json").read_bytes()
    assert b"Traceback" not in process.stderr
    assert (tmp_path / "out" / "embedding.pt").read_bytes() == result.bytes


def test_several_files_compressed_or_not(result: Result, folder: Path, main: Callable[..., int]) -> None:
    for name, lines, compress in (
        ("a.gz", LINES[:100], gzip.compress), ("b.xz", LINES[100:200], lzma.compress), ("c", LINES[200:], bytes)
    ):  # fmt: skip
        (folder / name).write_bytes(compress("\n".join(lines).encode()))
    assert main("a.gz", "b.xz", "c", *SMALL) == 0
    assert (folder / "out" / "embedding.pt").read_bytes() == result.bytes


def test_a_folder_a_glob_and_a_cache(result: Result, folder: Path, main: Callable[..., int], capsys: Any) -> None:
    (folder / "parts").mkdir()
    (folder / "parts" / "a.gz").write_bytes(gzip.compress("\n".join(LINES[:100]).encode()))
    (folder / "parts" / "b.txt").write_text("\n".join(LINES[100:]))
    for corpus, verb in (("parts", "kept"), ("parts/?.*", "using")):
        assert main(corpus, *SMALL, "--cache-dir", "cache", "--overwrite") == 0
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == f"{corpus}: 2 files"
        assert any(line.startswith(f"{verb} the encoded corpus") for line in lines)
        assert (folder / "out" / "embedding.pt").read_bytes() == result.bytes


def test_read_vocab(result: Result, folder: Path, main: Callable[..., int]) -> None:
    assert main("corpus.txt", *SMALL, "--read-vocab", result.folder / "words.txt", "--out", "a") == 0
    assert main("corpus.txt", *SMALL, "--read-vocab", result.out / "vocab.tsv", "--out", "b") == 0
    for out in "ab":
        assert (folder / out / "embedding.pt").read_bytes() == result.bytes


@pytest.mark.parametrize("option", ["--seed=2", "--no-shrink-window", "--window=2", "--sample=0", "--ns-exponent=0"])
def test_options_change_the_result(result: Result, folder: Path, main: Callable[..., int], option: str) -> None:
    assert main("corpus.txt", *SMALL, option) == 0
    assert (folder / "out" / "embedding.pt").read_bytes() != result.bytes


def test_two_workers(result: Result, folder: Path, main: Callable[..., int]) -> None:
    assert main("corpus.txt", *SMALL, "--workers", 2) == 0
    one, two = embedtrain.load(result.out), embedtrain.load(folder / "out")
    assert one.words == two.words
    # A thread that is held up trains its words later than one worker would. Of 300 runs the median was 1 - 1e-7, and
    # the lowest, on a busy machine, 0.969.
    assert torch.cosine_similarity(one.weight[2:], two.weight[2:]).min() > 0.95


def test_max_vocab_and_lowercase(folder: Path, main: Callable[..., int], capsys: Any) -> None:
    (folder / "corpus.txt").write_text("The THE the Ärger ärger a\n" * 9)
    assert main("corpus.txt", *SMALL, "--lowercase", "--max-vocab", 2) == 0
    assert embedtrain.load(folder / "out").words == ["<pad>", "<unk>", "the", "ärger"]
    assert "left out 9 tokens that are rare (min-count), beyond max-vocab or not in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("errors", "line", "words"),
    [
        (
            "replace",
            "put U+FFFD for bytes that are not UTF-8 text in 18 tokens",
            ["a", "b", "c", "caf\ufffd", "\ufffd"],
        ),
        ("skip", "left out 18 tokens that are not UTF-8 text", ["a", "b", "c"]),
    ],
)
def test_bytes_that_are_not_text(
    folder: Path, main: Callable[..., int], capsys: Any, errors: str, line: str, words: list[str]
) -> None:
    (folder / "corpus.txt").write_bytes(b"a b caf\xe9 c\n\0 a\n" * 9)
    assert main("corpus.txt", *SMALL, "--errors", errors) == 0
    assert line in capsys.readouterr().err.splitlines()
    assert sorted(embedtrain.load(folder / "out").words[2:]) == words


def test_special_words_in_the_corpus(folder: Path, main: Callable[..., int], capsys: Any) -> None:
    """``<unk>`` is trained like any word, in its row; ``<pad>`` is nothing."""
    plain = folder / "plain.txt"
    plain.write_text(TEXT)
    (folder / "corpus.txt").write_text(TEXT.replace("word1 ", "<unk> <pad> "))
    assert main("plain.txt", *SMALL, "--out", "plain") == 0
    assert main("corpus.txt", *SMALL) == 0
    padding = TEXT.count("word1 ")
    assert f"left out {padding} tokens that are <pad>" in capsys.readouterr().err
    embeddings = embedtrain.load(folder / "out")
    assert embeddings.words[:2] == ["<pad>", "<unk>"]
    assert len(set(embeddings.words)) == len(embeddings.words)
    assert embeddings.counts is not None
    assert embeddings.counts[:2].tolist() == [0, padding]
    assert not embeddings["<pad>"].any()
    assert embeddings["<unk>"].norm() > 0.1
    assert not torch.allclose(embeddings["<unk>"], embeddings.weight[2:].mean(dim=0), atol=1e-3)
    assert embeddings.config["special_rows"] == {"<pad>": "zeros", "<unk>": "trained"}


def test_small_corpus_that_the_subsampling_drops_whole(folder: Path, main: Callable[..., int], capsys: Any) -> None:
    (folder / "corpus.txt").write_text("a b\n" * 5)
    assert main("corpus.txt", *SMALL, "--sample", "1e-9") == 0
    assert "nothing was trained; pass 0" in capsys.readouterr().err
    assert all(report["loss"] is None for report in embedtrain.load(folder / "out").metrics)


def test_python_collects_no_garbage_when_all_is_done() -> None:
    code = (
        "import atexit, gc; from embedtrain.cli import run_command; "
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000)); run_command(lambda: None, '')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_words_that_the_terminal_cannot_show(folder: Path) -> None:
    (folder / "corpus.txt").write_text("größe κόσμος 世界 hélène\n" * 20, encoding="utf-8")
    process = subprocess.run(
        [*COMMAND, "corpus.txt"], cwd=folder, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"}
    )
    assert process.returncode == 0
    assert "größe" in process.stdout.decode("latin-1")
    assert r"\u4e16\u754c" in process.stdout.decode("latin-1")


def test_tokenizer_on_chinese(folder: Path, main: Callable[..., int]) -> None:
    characters = "我你他爱学习中文书水火山人"
    vocabulary = {"[UNK]": 0, "[PAD]": 1, **{character: row for row, character in enumerate(characters, 2)}, "龙": 15}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    tokenizer.enable_padding(pad_id=1, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    draw = random.Random(0)
    (folder / "zh.txt").write_text(
        "".join("".join(draw.choices(characters + "鱼", k=12)) + "。\n" for _ in range(300)), encoding="utf-8"
    )
    assert main("zh.txt", "--tokenizer", "tokenizer.json", *SMALL, "--sample", 0, "--export", "safetensors") == 0

    embeddings = embedtrain.load(folder / "out")
    assert embeddings.words == [tokenizer.id_to_token(row) for row in range(16)]
    assert (embeddings.pad_index, embeddings.unk_index) == (1, 0)
    carried = Tokenizer.from_file(str(folder / "out" / "tokenizer.json"))
    layer = embeddings.to_torch(freeze=True)
    rows = layer(torch.tensor(carried.encode("我爱书").ids))
    torch.testing.assert_close(rows, torch.stack([embeddings[word] for word in "我爱书"]))
    norms = embeddings.weight.norm(dim=1)
    assert norms[1] == 0
    assert norms[[0, *range(2, 15)]].min() > 4 * norms[15] > 0  # a token that is not in the text stays as it began
    assert embeddings.counts is not None
    assert embeddings.counts[[1, 15]].tolist() == [0, 0]
    assert len(embeddings.most_similar("书", topn=3)) == 3


# --- options and start-up ------------------------------------------------------------------------------------------


def test_help_has_every_option_with_text_and_default(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        fit.main(["--help"])
    assert stopped.value.code == 0
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    options = re.findall(r" --([a-z0-9-]+)(?=[ ,])", text.partition("-h, --help")[2])
    positive = [name for name in options if not name.startswith("no-")]
    fields = dataclasses.fields(fit.Fit)
    assert positive == [field.name.replace("_", "-") for field in fields if field.name != "corpus"]
    parts = dict(
        zip(positive, re.split(r" --(?!no-)[a-z0-9-]+(?=[ ,])", text.partition("-h, --help")[2])[1:], strict=True)
    )
    defaults = fit.Fit()
    for name, part in parts.items():
        default = getattr(defaults, name.replace("-", "_"))
        default = "" if default == () else default
        assert "(repeatable)" in part if name == "export" else f"(default: {default})" in part
        assert re.search(r"[A-Z].*\w.*\. \((default|repeatable)", part), f"--{name} has no help text"
    for word in ("occurrences", "centre", "Passes", "Threads", "share of the corpus"):
        assert word.lower() in text.lower()


def test_without_a_corpus(folder: Path, main: Callable[..., int], capsys: Any) -> None:
    options = fit.parse([])
    assert (options.corpus, options.epochs, options.alpha) == ((), 40, 0.05)
    assert fit.parse(["corpus.txt"]).epochs == 5
    assert main("--epochs", 1, "--dim", 8, "--min-count", 50) == 0
    assert capsys.readouterr().err.startswith("no corpus given: reading the documentation of the Python standard lib")
    embeddings = embedtrain.load(folder / "out")
    assert "python" in embeddings
    assert embeddings.config["options"]["alpha"] == 0.05
    assert embeddings.config["options"]["epochs"] == 1


@pytest.mark.parametrize("arguments", [["--help"], ["--nonsense"], ["x", "--dim", "0"], ["no-such-file"]])
def test_nobody_waits_for_torch_to_be_told_of_a_mistake(tmp_path: Path, arguments: list[str]) -> None:
    code = f"""
import sys, embedtrain
from embedtrain import fit
assert "torch" not in sys.modules
try:
    fit.main({arguments!r})
finally:
    slow = {{"torch", "tokenizers", "safetensors"}} & sys.modules.keys()
    open("slow", "w").write(repr(slow))
"""
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "slow").read_text() == "set()"
