from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedtrain.checkpoint import load
from embedtrain.embeddings import Embeddings
from embedtrain.errors import EmbedtrainError
from embedtrain.formats import EXPORTS, FILES, check_export, write_word2vec

WORDS = ["the", "Zürich", "日本", "a\xa0b", "\u2028", "-1", "e=mc²"]


@pytest.fixture
def embeddings() -> Embeddings:
    weight = torch.randn(len(WORDS) + 2, 5, generator=torch.Generator().manual_seed(1))
    weight[0] = 0
    return Embeddings(weight, ["<pad>", "<unk>", *WORDS], pad_index=0, unk_index=1)


@pytest.mark.parametrize("name", EXPORTS)
def test_export_writes_its_files(tmp_path: Path, embeddings: Embeddings, name: str) -> None:
    embeddings.save(tmp_path / "plain")
    embeddings.save(tmp_path / "out", export=[name])
    files, plain = ({path.name for path in (tmp_path / folder).iterdir()} for folder in ("out", "plain"))
    assert files - plain == set(FILES[name])  # type: ignore[index]


def test_npy(tmp_path: Path, embeddings: Embeddings) -> None:
    embeddings.save(tmp_path / "out", export=["npy"])
    array = np.load(tmp_path / "out/embedding.npy", allow_pickle=False)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert np.array_equal(array, embeddings.weight.numpy())
    # Byte for byte what numpy itself writes.
    np.save(tmp_path / "numpy.npy", embeddings.weight.numpy())
    assert (tmp_path / "out/embedding.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    layer = torch.nn.Embedding.from_pretrained(torch.from_numpy(array), padding_idx=0)
    assert torch.equal(layer(torch.tensor(2)), embeddings["the"])


# Without a header gensim opens the file twice and closes it once.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("name", "how"),
    [("word2vec", {}), ("word2vec-binary", {"binary": True}), ("glove", {"no_header": True})],
)
def test_gensim_reads_equal_values(tmp_path: Path, embeddings: Embeddings, name: str, how: dict[str, bool]) -> None:
    models = pytest.importorskip("gensim.models")
    embeddings.save(tmp_path / "out", export=[name])
    vectors = models.KeyedVectors.load_word2vec_format(str(tmp_path / "out" / FILES[name][0]), **how)  # type: ignore[index]
    assert vectors.index_to_key == WORDS  # no special rows
    assert vectors.vectors.dtype == np.float32
    assert np.array_equal(vectors.vectors, embeddings.weight[2:].numpy())


def test_special_rows_are_left_out_wherever_they_are(tmp_path: Path) -> None:
    weight = torch.arange(5.0).reshape(5, 1)
    Embeddings(weight, ["a", "[UNK]", "b", "[PAD]", "c"], pad_index=3, unk_index=1).save(
        tmp_path / "out", export=["word2vec", "glove"]
    )
    assert (tmp_path / "out/vectors.txt").read_text() == "3 1\na 0.0\nb 2.0\nc 4.0\n"
    assert (tmp_path / "out/glove.txt").read_text() == "a 0.0\nb 2.0\nc 4.0\n"


def test_word2vec_binary_bytes(tmp_path: Path) -> None:
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    Embeddings(weight, ["a", "é"], pad_index=None, unk_index=None).save(tmp_path / "out", export=["word2vec-binary"])
    expected = b"2 2\na \x00\x00\x80\x3f\x00\x00\x00\xc0\n\xc3\xa9 \x00\x00\x00\x3f\x00\x00\x00\x00\n"
    assert (tmp_path / "out/vectors.bin").read_bytes() == expected


@given(hnp.arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_nan=False)))
def test_numbers_as_text_are_exact(tmp_path_factory: pytest.TempPathFactory, weight: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("text") / "vectors.txt"
    write_word2vec(path, weight, ["a", "b", "c"])
    header, *lines = path.read_text().splitlines()
    assert header == "3 2"
    numbers = [line.split(" ")[1:] for line in lines]
    assert np.array_equal(np.array(numbers).astype(np.float64).astype(np.float32), weight)
    assert numbers == [[str(number) for number in row] for row in weight]  # the shortest


def test_model2vec_loads_the_folder(tmp_path: Path, embeddings: Embeddings) -> None:
    model2vec = pytest.importorskip("model2vec")
    embeddings.save(tmp_path / "out", export=["safetensors"])
    model = model2vec.StaticModel.from_pretrained(tmp_path / "out")
    assert not model.normalize
    assert model.embedding.dtype == np.float32

    encoded = model.encode(["the 日本", "the  unheard\tof 日本\n", "a\xa0b", "THE", "unheard"])

    mean = ((embeddings["the"] + embeddings["日本"]) / 2).numpy()
    np.testing.assert_allclose(encoded[0], mean, rtol=1e-6)
    np.testing.assert_allclose(encoded[1], mean, rtol=1e-6)  # unknown words do not count
    np.testing.assert_array_equal(encoded[2], embeddings["a\xa0b"].numpy())  # only ASCII white space separates
    assert not encoded[3].any()
    assert not encoded[4].any()


def test_static_embedding_files(tmp_path: Path, embeddings: Embeddings) -> None:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    embeddings.save(tmp_path / "out", export=["safetensors"])
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert list(tensors) == ["embeddings"]
    # sentence-transformers averages over unknown words too, so their row is zero in this export, and only in it.
    assert embeddings["<unk>"].any()
    expected = embeddings.weight.clone()
    expected[1] = 0
    assert np.array_equal(tensors["embeddings"], expected.numpy())
    assert torch.equal(torch.load(tmp_path / "out/embedding.pt")["weight"], embeddings.weight)

    tokenizer = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    assert tokenizer.get_vocab() == {word: row for row, word in enumerate(embeddings.words)}
    assert tokenizer.encode(" the\t\x0bZürich\r\nunheard <unk>").ids == [2, 3, 1, 1]
    (module,) = json.loads((tmp_path / "out/modules.json").read_text())
    assert module == {"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"}


def test_static_embedding_lowercases_if_training_did(tmp_path: Path, embeddings: Embeddings) -> None:
    from tokenizers import Tokenizer

    embeddings.config = {"options": {"lowercase": True}}
    embeddings.save(tmp_path / "out", export=["safetensors"])
    tokenizer = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    assert tokenizer.encode("The THE the").ids == [2, 2, 2]


def tokenizer_json(vocabulary: dict[str, int]) -> str:
    from tokenizers import Tokenizer, models

    text: str = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")).to_str()
    return text


def test_static_embedding_of_a_tokenizer_result_carries_that_tokenizer(tmp_path: Path) -> None:
    words = ["[UNK]", "a", "b"]
    own = tokenizer_json({word: row for row, word in enumerate(words)})
    embeddings = Embeddings(torch.ones(3, 2), words, pad_index=None, unk_index=0, tokenizer_json=own)
    embeddings.save(tmp_path / "out", export=["safetensors"])
    assert (tmp_path / "out/tokenizer.json").read_text() == own


@pytest.mark.parametrize(
    ("export", "words", "more", "message"),
    [
        (["csv"], ["a"], {}, r"no export named 'csv'; choose from npy, safetensors, word2vec, word2vec-binary, glove"),
        (["word2vec"], ["New York"], {}, r"'New York' holds white space, .* formats word2vec;"),
        (["npy", "glove", "word2vec-binary"], ["a\tb"], {}, r"'a\\tb' holds white space, .* glove, word2vec-binary;"),
        (["safetensors"], ["a"], {}, r"needs an <unk> row"),
        (["safetensors"], ["a"], {"tokenizer_json": tokenizer_json({"[UNK]": 0, "b": 1})}, r"its ids have gaps"),
        ([], [""], {}, r"token '' \(row 0\) cannot be a line"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, export: list[str], words: list[str], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(EmbedtrainError, match=message):
        check_export(export, words, unk_index=None, **more)
    embeddings = Embeddings(torch.ones(len(words), 1), words, pad_index=None, unk_index=None, **more)
    with pytest.raises(EmbedtrainError, match=message):
        embeddings.save(tmp_path / "out", export=export)
    assert list(tmp_path.iterdir()) == []


def test_words_with_spaces_can_be_exported_as_npy() -> None:
    check_export(["npy", "safetensors"], ["<unk>", "New York"], unk_index=0)


def test_names_of_exports_come_without_torch() -> None:
    code = "import sys, embedtrain.formats; assert not {'torch', 'tokenizers', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_rows_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("embedtrain.formats._WORDS_AT_ONCE", 3)
    counts = np.arange(rows) + 10**15
    Embeddings(torch.zeros(rows, 2), WORDS[:rows], counts=counts, pad_index=None, unk_index=None).save(tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert loaded.words == WORDS[:rows]
    np.testing.assert_array_equal(loaded.counts, counts)
    bad = [*WORDS[:rows], "a\rb", *WORDS[rows:]]
    with pytest.raises(EmbedtrainError, match=rf"'a\\rb' \(row {rows}\)"):
        check_export([], bad, unk_index=None)
