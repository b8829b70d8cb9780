from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import embedtrain
from embedtrain import convert
from embedtrain.formats import EXPORTS

WORDS = ["the", "Zürich", "日本", "don't", "e=mc²", "42"]
VECTORS = np.random.default_rng(3).normal(size=(len(WORDS), 8)).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "glove.txt"
    lines = (f"{word} {' '.join(map(str, row))}\n" for word, row in zip(WORDS, VECTORS, strict=True))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_writes_a_folder_in_every_format(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert convert.main([str(source), str(out), *(part for name in EXPORTS for part in ("--to", name))]) == 0
    printed = capsys.readouterr()
    assert "GloVe text, 6 rows of 8 numbers" in printed.err
    assert "8 embeddings of 8 numbers" in printed.out
    embeddings = embedtrain.load(out)
    assert embeddings.words == ["<pad>", "<unk>", *WORDS]
    assert np.array_equal(embeddings.weight[2:].numpy(), VECTORS)
    layer = torch.nn.Embedding(8, 8, padding_idx=0)
    layer.load_state_dict(torch.load(out / "embedding.pt"))
    # What was written is read again, by every reader.
    for name in ("vectors.txt", "vectors.bin", "glove.txt", "embedding.npy", "model.safetensors", "."):
        again = embedtrain.read(out / name, WORDS)
        assert np.array_equal(again.weight[2:].numpy(), VECTORS), name


def test_vocabulary_options(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vocab.txt").write_text("42\nunheard\n", encoding="utf-8")
    arguments = [str(source), str(tmp_path / "a"), "--vocab", str(tmp_path / "vocab.txt"), "--missing", "mean"]
    assert convert.main(arguments) == 0
    assert embedtrain.load(tmp_path / "a").words == ["<pad>", "<unk>", "42", "unheard"]
    (tmp_path / "corpus.txt").write_text("the The 日本 unheard\nthe\n", encoding="utf-8")
    arguments = [str(source), str(tmp_path / "b"), "--corpus", str(tmp_path / "corpus.txt"), "--min-count", "1"]
    assert convert.main([*arguments, "--lowercase"]) == 0
    embeddings = embedtrain.load(tmp_path / "b")
    assert embeddings.words[2:] == ["the", "unheard", "日本"]
    assert embeddings.counts is not None
    assert embeddings.counts.tolist() == [0, 0, 3, 1, 1]
    assert "covered 80.0% of 5 words of running text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.txt", "out"], "nothing.txt: no such file"),
        (["glove.txt", "out", "--vocab", "v", "--corpus", "c"], "leave out one of them"),
        (["glove.txt", "out", "--limit", "0"], "limit must be"),
        (["empty.txt", "out"], "is empty"),
        (["changes.txt", "out"], "changes.txt: line 3"),
        (["cut.bin", "out"], "cut off in the row at byte"),
        (["glove.txt", "out", "--vocab", "other.txt"], "no word of the vocabulary"),
        (["glove.txt", "out", "--vocab", "empty.txt"], "the vocabulary is empty"),
        (["glove.txt", "glove.txt"], "is a file"),
        (["spaced.txt", "out", "--to", "glove"], "white space"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    source: Path, refusal: Callable[..., str], arguments: list[str], message: str
) -> None:
    Path("empty.txt").write_text("")
    Path("other.txt").write_text("unheard\n")
    Path("changes.txt").write_text("a 1 2\nb 1 2\nc 1\nd 1\n")
    Path("spaced.txt").write_text(". . 1.5 2.5\na 1.5 2.5\n")
    Path("cut.bin").write_bytes(b"3 2\na " + bytes([0, 0, 128, 63] * 2) + b"b \0\0")
    assert message in refusal(convert.main, arguments)


def test_help_does_not_import_torch() -> None:
    code = "import sys\nfrom embedtrain import convert\ntry: convert.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--lowercase-fallback" in done.stdout


# ---- the real consumers


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    assert convert.main([str(source), str(out), *(part for name in EXPORTS for part in ("--to", name))]) == 0
    return out


def test_spacy_reads_word2vec_text(folder: Path) -> None:
    spacy = pytest.importorskip("spacy")
    from spacy.training.initialize import convert_vectors

    nlp = spacy.blank("xx")
    convert_vectors(nlp, folder / "vectors.txt", truncate=-1, prune=-1)
    for word, row in zip(WORDS, VECTORS, strict=True):
        np.testing.assert_allclose(nlp.vocab[word].vector, row, rtol=1e-6)


def test_fasttext_reads_word2vec_text(folder: Path, tmp_path: Path) -> None:
    """As its -pretrainedVectors; with a rate of 0 they stay as they are read."""
    fasttext = pytest.importorskip("fasttext")
    (tmp_path / "train.txt").write_text(
        "__label__a the Zürich 日本\n__label__b don't e=mc² 42\n" * 50, encoding="utf-8"
    )
    for _ in range(100):  # this build of fastText starts some runs with NaN
        try:
            model = fasttext.train_supervised(
                str(tmp_path / "train.txt"), dim=8, pretrainedVectors=str(folder / "vectors.txt"), lr=0.0, epoch=1,
                thread=1, verbose=0, minCount=1,
            )  # fmt: skip
            break
        except RuntimeError as error:
            assert "NaN" in str(error)  # noqa: PT017
    else:
        pytest.skip("this build of fastText does not train")
    for word, row in zip(WORDS, VECTORS, strict=True):
        np.testing.assert_allclose(model.get_word_vector(word), row, rtol=1e-5)


def test_sentence_transformers_loads_the_folder(folder: Path) -> None:
    pytest.importorskip("sentence_transformers")
    code = """
import sys, warnings
warnings.simplefilter("ignore")
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
print(*model.encode(["the 日本"])[0].tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(folder)},
    )  # fmt: skip
    np.testing.assert_allclose(
        np.array(done.stdout.split(), np.float32), (VECTORS[0] + VECTORS[2]) / 2, rtol=1e-5, atol=1e-6
    )


def test_projector_files(folder: Path, tmp_path: Path) -> None:
    tensors = np.loadtxt(folder / "tensors.tsv", delimiter="\t", dtype=np.float32)
    assert np.array_equal(tensors, VECTORS)
    # One column of metadata: no header.
    assert (folder / "metadata.tsv").read_text(encoding="utf-8").splitlines() == WORDS
    config = (folder / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "tensors.tsv"' in config
    # Two columns: a header.
    vectors = embedtrain.Embeddings(
        torch.ones(2, 2), ["a\tb", "c"], counts=np.array([3, 1]), pad_index=None, unk_index=None
    )
    vectors.save(tmp_path / "counted", export=["projector"])
    assert (tmp_path / "counted/metadata.tsv").read_text() == "word\tcount\na b\t3\nc\t1\n"
