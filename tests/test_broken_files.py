"""Every reader of a file, given one that was changed, cut or is anything else: it reads it, or says in a line why not.

No other error comes, nothing hangs, and no memory is asked for that the size of the file does not justify. (The text of
a corpus, Parquet and Arrow, formats of vectors and checkpoints have properties like this beside their other tests.)
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

import embedtrain
from embedtrain import checkpoint, corpus, labelled, wanted
from embedtrain.embeddings import Embeddings
from embedtrain.errors import EmbedtrainError
from embedtrain.options import Options
from embedtrain.vocabulary import Vocabulary

MOST_BYTES = 48 << 20  # three chunks are read ahead

WORDS = ["the", "Zürich", "日本", "b"]
VECTORS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
TEXT = b"the b \xe6\x97\xa5\xe6\x9c\xac\nb the b\n" * 40


def make_result(folder: Path) -> None:
    metrics = [{"position": 9, "epoch": 1, "loss": 0.5, "rate": 0.1, "words_per_second": 3}]
    Embeddings(
        torch.from_numpy(VECTORS), ["<pad>", "<unk>", *WORDS], counts=np.array([0, 0, 9, 8, 7, 7]), pad_index=0,
        unk_index=1, config={"options": {"dim": 3}}, metrics=metrics, missing=np.array([False] * 5 + [True]),
    ).save(folder, export=["npy", "safetensors"])  # fmt: skip


def make_npz(folder: Path) -> None:
    np.savez(folder / "v.npz", vectors=VECTORS[:4], words=np.array(WORDS))


def make_npy(folder: Path) -> None:
    np.save(folder / "v.npy", VECTORS[:4])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")


def make_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "v.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/v.txt", "the 1 2\nb 3 4\n" * 20)


def make_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "[UNK]": 1, "the": 2, "b": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "corpus.txt").write_bytes(TEXT)


def writer(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def encode(path: Path, **options: Any) -> Any:
    return corpus.encode(path, Options(min_count=1, errors="replace", workers=1, **options))


def read_ids(path: Path) -> Any:
    return corpus.encode(path, Options(min_count=1, workers=1))


def npz_of_ids() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, ids=np.arange(30) % 7, offsets=np.array([0, 4, 30]))
    return file.getvalue()


def npy_of_ids() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(30, dtype=">u2").reshape(5, 6) % 7)
    return file.getvalue()


CASES: dict[str, tuple[Callable[[Path], None], str, Callable[[Path], Any]]] = {
    # how a folder is filled, which file is damaged, how it is read; the reader gets the folder or the file
    **{
        f"result, {name}": (make_result, name, lambda path: embedtrain.load(path.parent))
        for name in ("embedding.pt", "config.json", "vocab.txt", "vocab.tsv", "missing.txt", "metrics.jsonl")
    },
    "result without torch": (make_result, "embedding.pt", lambda path: checkpoint.load_arrays(path.parent)),
    "safetensors": (make_result, "model.safetensors", lambda path: embedtrain.read(path)),
    "safetensors, tokenizer": (
        make_result, "tokenizer.json", lambda path: embedtrain.read(path.parent / "model.safetensors")
    ),
    "npy of vectors": (make_npy, "v.npy", embedtrain.read),
    "npz of vectors": (make_npz, "v.npz", embedtrain.read),
    "zip of vectors": (make_zip, "v.zip", embedtrain.read),
    "gzip of vectors": (writer("v.gz", gzip.compress(b"the 1 2\nb 3 4\n" * 20)), "v.gz", embedtrain.read),
    "npy of ids": (writer("ids.npy", npy_of_ids()), "ids.npy", read_ids),
    "npz of ids": (writer("ids.npz", npz_of_ids()), "ids.npz", read_ids),
    "corpus, gzip": (writer("c.gz", gzip.compress(TEXT)), "c.gz", encode),
    "corpus, bzip2": (writer("c.bz2", bz2.compress(TEXT)), "c.bz2", encode),
    "corpus, xz": (writer("c.xz", lzma.compress(TEXT)), "c.xz", encode),
    "tokenizer": (
        make_tokenizer, "tokenizer.json", lambda path: encode(path.parent / "corpus.txt", tokenizer=path)
    ),
    "tokenizer as vocabulary": (make_tokenizer, "tokenizer.json", wanted.wanted),
    "vocabulary": (writer("vocab", b"the 20\nNew York 7\n<unk>\t0\n"), "vocab", Vocabulary.read),
    "vocabulary for vectors": (writer("vocab.tsv", b"<pad>\t0\nthe\t20\nb\t7\n"), "vocab.tsv", wanted.wanted),
    "labels": (writer("l.txt", b"a\tsome words\nb\tothers\n"), "l.txt", labelled.read_labelled),
    "labels, CSV": (writer("l.csv", b'label,text\na,"some, ""words"""\nb,others\n'), "l.csv", labelled.read_labelled),
}  # fmt: skip


def damaged(data: st.DataObject, content: bytes) -> bytes:
    if data.draw(st.integers(0, 19)) == 0:
        return data.draw(st.binary(max_size=60))
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken)))
        match data.draw(st.sampled_from(["cut", "byte", "bit", "insert", "drop"])):
            case "cut":
                del broken[at:]
            case "byte":
                broken[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "bit" if at < len(broken):
                broken[at] ^= 1 << data.draw(st.integers(0, 7))
            case "insert":
                broken[at:at] = data.draw(st.binary(max_size=9) | st.sampled_from([b"9" * 9, b"\n", b'"', b"[" * 2000]))
            case _:
                del broken[at : at + data.draw(st.integers(0, 20))]
    return bytes(broken)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp("files") for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_the_whole_file_is_read(folders: dict[str, Path], name: str) -> None:
    make, file, read = CASES[name]
    make(folders[name])
    assert read(folders[name] / file) is not None


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_read_or_refused(folders: dict[str, Path], name: str, data: st.DataObject) -> None:
    make, file, read = CASES[name]
    path = folders[name] / file
    if not path.exists():
        make(folders[name])
    whole = path.read_bytes()
    path.write_bytes(damaged(data, whole))
    said = "read"
    tracemalloc.start()
    try:
        read(path)
    except EmbedtrainError as error:
        said = str(error)
    finally:
        path.write_bytes(whole)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < MOST_BYTES
    assert said
    assert "\n" not in said
