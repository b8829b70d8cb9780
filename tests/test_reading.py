from __future__ import annotations

import bz2
import gzip
import importlib
import json
import lzma
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import embedtrain
from embedtrain.embeddings import Embeddings
from embedtrain.errors import EmbedtrainError
from embedtrain.formats import write_glove, write_word2vec, write_word2vec_binary
from embedtrain.native import core
from embedtrain.reading import read

pytestmark = pytest.mark.native

WORDS = ["the", "Zürich", "日本", "a\xa0b", "\u3000", "-1", "42", "nan", "e=mc²", "\ufeffx"]
RNG = np.random.default_rng(1)
VECTORS = RNG.normal(size=(len(WORDS), 5)).astype(np.float32)


def rows(embeddings: Embeddings, words: Sequence[str]) -> np.ndarray:
    return np.stack([embeddings[word].float().numpy() for word in words])


def text(tmp_path: Path, content: str | bytes, name: str = "v.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- numbers


@given(st.one_of(st.floats(width=32), st.floats()))
def test_numbers_are_rounded_correctly(value: float) -> None:
    for form in (repr(value), f"{value:.6f}", f"{value:.5g}", f"{value:e}", f"{value:.17g}", f"+{abs(value):.3f}"):
        if len(form) > 60:
            continue
        # numpy goes through a double, which differs from the right answer in one of 2^29 numbers.
        with np.errstate(over="ignore"):
            expected = np.float32(form)
        parsed = core.parse_number(form.encode())
        assert parsed is not None
        assert np.float32(parsed) == expected or (np.isnan(parsed) and np.isnan(expected)), form


def test_a_double_in_the_middle_of_two_floats() -> None:
    # A hair above the middle of 1 and the next float: through a double it is the middle, and goes down to even.
    middle = "1.0000000596046448"
    assert core.parse_number(middle.encode()) == np.nextafter(np.float32(1), np.float32(2))
    assert np.float32(float(middle)) == 1


@pytest.mark.parametrize("field", [b"", b"-", b".", b"1e", b"0x10", b"1,5", b"1.5.2", b"--1", b"1 ", b"a", b"1" * 99])
def test_not_numbers(field: bytes) -> None:
    assert core.parse_number(field) is None


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_half_precision_rounds_to_nearest_even(value: float) -> None:
    number = torch.tensor(value, dtype=torch.float32)
    assert core.to_half(value, False) == number.half().view(torch.int16).item() & 0xFFFF
    assert core.to_half(value, True) == number.bfloat16().view(torch.int16).item() & 0xFFFF


# ---- the formats, written by their own libraries


def gensim_vectors(words: Sequence[str], vectors: np.ndarray) -> Any:
    models = pytest.importorskip("gensim.models")
    keyed = models.KeyedVectors(vectors.shape[1])
    keyed.add_vectors(list(words), vectors)
    return keyed


@pytest.mark.parametrize("binary", [False, True])
def test_word2vec_of_gensim(tmp_path: Path, binary: bool) -> None:
    gensim_vectors(WORDS, VECTORS).save_word2vec_format(str(tmp_path / "v"), binary=binary)
    embeddings = read(tmp_path / "v")
    assert embeddings.words == ["<pad>", "<unk>", *WORDS]
    assert (embeddings.pad_index, embeddings.unk_index) == (0, 1)
    assert np.array_equal(embeddings.weight[2:].numpy(), VECTORS)
    assert not embeddings.weight[0].any()
    np.testing.assert_allclose(embeddings.weight[1], VECTORS.mean(axis=0), rtol=1e-5)
    assert embeddings.config["source"]["format"] == ("word2vec binary" if binary else "word2vec text")
    assert not embeddings.config["source"]["skipped"]


def test_word2vec_binary_with_newlines_and_glove(tmp_path: Path) -> None:
    write_word2vec_binary(tmp_path / "b", VECTORS, WORDS)
    write_word2vec(tmp_path / "t", VECTORS, WORDS)
    write_glove(tmp_path / "g", VECTORS, WORDS)
    for name, format in (("b", "word2vec binary"), ("t", "word2vec text"), ("g", "GloVe text")):
        embeddings = read(tmp_path / name, special_rows=False)
        assert embeddings.words == WORDS
        assert np.array_equal(embeddings.weight.numpy(), VECTORS)
        assert embeddings.config["source"]["format"] == format
        assert embeddings.pad_index is None
        assert embeddings.unk_index is None


def fasttext_model(
    words: Sequence[str], labels: Sequence[str] = (), *, bucket: int = 50, min_n: int = 2, max_n: int = 4, dim: int = 4
) -> bytes:
    """Return a model file, as fastText's own Model::save writes it."""
    matrix = RNG.normal(size=(len(words) + bucket, dim)).astype("<f4")
    output = np.zeros((len(labels) or len(words), dim), "<f4")
    model = struct.pack("<ii", 793712314, 12)
    model += struct.pack(
        "<12id", dim, 5, 5, 1, 5, 1, 3 if labels else 2, 3 if labels else 2, bucket, min_n, max_n, 100, 1e-4
    )
    model += struct.pack("<iiiqq", len(words) + len(labels), len(words), len(labels), 100, -1)
    for word in words:
        model += word.encode() + b"\0" + struct.pack("<qb", 7, 0)
    for label in labels:
        model += label.encode() + b"\0" + struct.pack("<qb", 5, 1)
    for array in (matrix, output):
        model += struct.pack("<?qq", False, *array.shape) + array.tobytes()
    return model


FASTTEXT_WORDS = ["</s>", "the", "Zürich", "日本", "word", "words", "a", "naïve", "don't"]
UNSEEN = ["the", "unseen", "Zürichs", "日", "q", "</s>", "日本語", "ééé"]


def test_fasttext_model(tmp_path: Path) -> None:
    fasttext = pytest.importorskip("fasttext")
    path = text(tmp_path, fasttext_model(FASTTEXT_WORDS), "model.bin")
    model = fasttext.load_model(str(path))

    embeddings = read(path)
    assert embeddings.words[2:] == FASTTEXT_WORDS == model.words
    # Bit for bit: the same additions in the same order.
    expected = np.stack([model.get_word_vector(word) for word in FASTTEXT_WORDS])
    assert np.array_equal(embeddings.weight[2:].numpy(), expected)

    embeddings = read(path, UNSEEN)
    assert embeddings.words[2:] == UNSEEN
    assert np.array_equal(rows(embeddings, UNSEEN), np.stack([model.get_word_vector(word) for word in UNSEEN]))
    assert embeddings.config["source"]["vocabulary"]["ngrams"] == len(UNSEEN) - 2
    assert embeddings.missing is None

    without = read(path, UNSEEN, missing="zeros")
    assert without.config["source"]["vocabulary"]["ngrams"] == 0
    assert without.missing is not None
    assert without.missing.sum() == len(UNSEEN) - 2
    assert not without["unseen"].any()


def test_fasttext_model_without_ngrams(tmp_path: Path) -> None:
    fasttext = pytest.importorskip("fasttext")
    path = text(tmp_path, fasttext_model(["a", "b"], ["__label__x"], bucket=0, min_n=0, max_n=0), "model.bin")
    model = fasttext.load_model(str(path))
    embeddings = read(path, ["b", "zzz"])
    assert np.array_equal(embeddings["b"].numpy(), model.get_word_vector("b"))
    assert not embeddings["zzz"].any()
    with pytest.raises(EmbedtrainError, match="has no n-grams"):
        read(path, ["b", "zzz"], missing="ngrams")
    assert read(path, limit=1).words == ["<pad>", "<unk>", "a"]


@pytest.mark.parametrize("at", [7, 30, 70, 100, 200, 400])
def test_fasttext_model_cut_off(tmp_path: Path, at: int) -> None:
    path = text(tmp_path, fasttext_model(FASTTEXT_WORDS)[:at], "model.bin")
    with pytest.raises(EmbedtrainError, match="cut off"):
        read(path)


@pytest.mark.parametrize("hash_count", [1, 2, 4])
def test_floret(tmp_path: Path, hash_count: int) -> None:
    pytest.importorskip("spacy")
    from spacy.strings import StringStore
    from spacy.vectors import Mode, Vectors

    table = RNG.normal(size=(40, 6)).astype(np.float32)
    words = ["Zürich", "日本語", "don't", "a"]
    lines = "".join(f"{row} {' '.join(map(str, numbers))} \n" for row, numbers in enumerate(table))
    path = text(tmp_path, f"40 6 2 5 {hash_count} 2166136261 < >\n{lines}")
    spacy = Vectors(
        strings=StringStore(), data=table, mode=Mode.floret, minn=2, maxn=5, hash_count=hash_count,
        hash_seed=2166136261, bow="<", eow=">",
    )  # fmt: skip
    embeddings = read(path, words)
    np.testing.assert_allclose(rows(embeddings, words), np.stack([spacy[word] for word in words]), rtol=1e-5, atol=1e-6)
    with pytest.raises(EmbedtrainError, match="give the vocabulary"):
        read(path)


def test_finalfusion(tmp_path: Path) -> None:
    pytest.importorskip("finalfusion")
    from finalfusion import Embeddings as Finalfusion
    from finalfusion.metadata import Metadata
    from finalfusion.norms import Norms
    from finalfusion.storage import NdArray
    from finalfusion.vocab import SimpleVocab

    norms = np.linalg.norm(VECTORS, axis=1)
    unit = (VECTORS / norms[:, None]).astype(np.float32)
    path = tmp_path / "v.fifu"
    Finalfusion(NdArray(unit), SimpleVocab(WORDS), Norms(norms), Metadata({"made": "by hand"})).write(path)
    embeddings = read(path, special_rows=False)
    assert embeddings.words == WORDS
    assert np.array_equal(embeddings.weight.numpy(), unit * norms[:, None])  # multiplied with the norms
    np.testing.assert_allclose(embeddings.weight.numpy(), VECTORS, rtol=1e-6)
    for cut in (10, 40, len(path.read_bytes()) - 3):
        with pytest.raises(EmbedtrainError, match="cut off"):
            read(text(tmp_path, path.read_bytes()[:cut], "cut.fifu"))


def finalfusion(vocabulary: int, header: bytes, words: Sequence[str], array: np.ndarray) -> bytes:
    """Return a finalfusion file without norms.

    :param vocabulary: the number of the kind of vocabulary. :param header: what it has between its size and the words.
    """
    array = array.astype("<f4")
    entries = struct.pack("<Q", len(words)) + header
    entries += b"".join(struct.pack("<I", len(word.encode())) + word.encode() for word in words)
    content = b"FiFu" + struct.pack("<IIII", 0, 2, vocabulary, 2)
    content += struct.pack("<IQ", vocabulary, len(entries)) + entries
    padding = -(len(content) + 12 + 16) % 4
    content += struct.pack("<IQ", 2, 16 + padding + array.nbytes) + struct.pack("<QII", *array.shape, 10)
    return content + bytes(padding) + array.tobytes()


# From the tests of finalfusion-rust (src/subword.rs): the buckets of the n-grams of 3 to 6 characters.
HALLO_OF_4 = [0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3]
DANIEL_OF_4 = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3]
HALLO_OF_2M = [
    75867, 104120, 136555, 456131, 599360, 722393, 938007, 985859, 1006102, 1163391, 1218704, 1321513, 1505861, 1892376,
]  # fmt: skip
DANIEL_OF_2M = [
    214157, 233912, 311961, 488897, 620206, 741276, 841219, 1167494, 1192256, 1489905, 1532271, 1644730, 1666166,
    1679745, 1680294, 1693100, 2026735, 2065822,
]  # fmt: skip


def test_the_ngrams_of_finalfusion(tmp_path: Path) -> None:
    few = np.concatenate([np.full((1, 4), 9), np.eye(4)])
    embeddings = read(text(tmp_path, finalfusion(3, struct.pack("<III", 3, 6, 2), ["the"], few)), ["hallo", "Daniël"])
    for word, buckets in (("hallo", HALLO_OF_4), ("Daniël", DANIEL_OF_4)):
        np.testing.assert_allclose(embeddings[word], np.bincount(buckets) / len(buckets), rtol=1e-6)
    many = np.zeros((1 + 2**21, 2), np.float32)
    many[1 + np.array(HALLO_OF_2M), 0] = 1
    many[1 + np.array(DANIEL_OF_2M), 1] = 1
    embeddings = read(text(tmp_path, finalfusion(3, struct.pack("<III", 3, 6, 21), ["the"], many)), ["hallo", "Daniël"])
    np.testing.assert_allclose(embeddings.weight[2:], np.eye(2), rtol=1e-6)
    for header in (struct.pack("<III", 3, 6, 3), struct.pack("<III", 0, 6, 2), struct.pack("<III", 6, 3, 2)):
        with pytest.raises(EmbedtrainError, match="contradict each other"):
            read(text(tmp_path, finalfusion(3, header, ["the"], few)))


@pytest.mark.parametrize("kind", ["finalfusion", "fasttext", "explicit"])
def test_ngrams_are_those_of_finalfusion(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("finalfusion")
    from finalfusion import Embeddings as Finalfusion
    from finalfusion.norms import Norms
    from finalfusion.storage import NdArray
    from finalfusion.subword import FastTextIndexer, FinalfusionHashIndexer
    from finalfusion.vocab import FastTextVocab, FinalfusionBucketVocab

    known = ["</s>", "the", "Zürich", "日本", "word"]
    unseen = ["words", "Zürichs", "日本語", "q", "a-b", "zz"]
    if kind == "fasttext":
        vocabulary: Any = FastTextVocab(known, FastTextIndexer(77, 1, 4))
    else:
        vocabulary = FinalfusionBucketVocab(known, FinalfusionHashIndexer(6, 1, 4))
    norms = np.linspace(1, 3, len(known)).astype(np.float32)
    table = RNG.normal(size=(vocabulary.upper_bound, 5)).astype(np.float32)
    made = Finalfusion(NdArray(table), vocabulary, Norms(norms))
    if kind == "explicit":
        made = made.bucket_to_explicit()
    path = tmp_path / "v.fifu"
    made.write(path)
    embeddings = read(path, [*known, *unseen])
    assert np.array_equal(rows(embeddings, known), table[: len(known)] * norms[:, None])
    assert embeddings.config["source"]["vocabulary"]["exact"] == len(known)
    unit = torch.nn.functional.normalize(embeddings.weight, dim=1)
    covered = [word for word in unseen if made.embedding(word) is not None]
    assert embeddings.config["source"]["vocabulary"]["ngrams"] == len(covered) >= 4
    for word in covered:  # finalfusion scales what it puts together to length 1
        np.testing.assert_allclose(unit[embeddings.index(word)], made.embedding(word), rtol=1e-4, atol=1e-5)
    without = read(path, [*known, *unseen], missing="zeros")
    assert without.config["source"]["vocabulary"]["missing"] == len(unseen)
    assert read(path, limit=2).words == ["<pad>", "<unk>", "</s>", "the"]


@pytest.mark.parametrize("mode", ["floret", "fasttext"])
def test_floret_of_floret(tmp_path: Path, mode: str) -> None:
    floret = pytest.importorskip("floret")
    words = ["der", "die", "Zürich", "日本語", "haus", "häuser", "baum", "x"]
    corpus = text(tmp_path, "\n".join(" ".join(RNG.choice(words, 12)) for _ in range(60)))
    model = floret.train_unsupervised(
        str(corpus), model="skipgram", mode=mode, hashCount=2, dim=6, bucket=50, minn=2, maxn=4, minCount=1, epoch=1,
        thread=1, verbose=0,
    )  # fmt: skip
    model.save_model(str(tmp_path / "model.bin"))
    wanted = [*words, "unseen", "Zürichs", "日", "hausbaum"]
    embeddings = read(tmp_path / "model.bin", wanted)
    assert np.array_equal(rows(embeddings, wanted), np.stack([model.get_word_vector(word) for word in wanted]))
    name = {"floret": "floret", "fasttext": "fastText"}[mode]
    assert embeddings.config["source"]["format"] == f"{name} model, n-grams of 2 to 4"
    everything = read(tmp_path / "model.bin")
    for word in everything.words[2:]:
        assert np.array_equal(everything[word].numpy(), model.get_word_vector(word))
    if mode == "floret":
        model.save_floret_vectors(str(tmp_path / "v.floret"))
        embeddings = read(tmp_path / "v.floret", wanted)
        others = [word for word in wanted if word != model.words[0]]  # the first word has a row of its own in the model
        expected = np.stack([model.get_word_vector(word) for word in others])
        np.testing.assert_allclose(rows(embeddings, others), expected, atol=1e-4)  # it prints five digits


def test_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VECTORS.astype(np.float64))
    with pytest.raises(EmbedtrainError, match="words of its rows are missing"):
        read(tmp_path / "v.npy")
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    assert np.array_equal(read(tmp_path / "v.npy", special_rows=False).weight.numpy(), VECTORS)

    np.savez(tmp_path / "v.npz", vectors=VECTORS, words=np.array(WORDS))
    embeddings = read(tmp_path / "v.npz", ["42", "the"])
    assert np.array_equal(rows(embeddings, ["42", "the"]), VECTORS[[6, 0]])
    np.savez_compressed(tmp_path / "w.npz", VECTORS)
    assert np.array_equal(read(tmp_path / "w.npz", special_rows=False).weight.numpy(), VECTORS)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(EmbedtrainError, match="10 rows, but there are 2 words"):
        read(tmp_path / "w.npz")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(EmbedtrainError, match="Python objects"):
        read(tmp_path / "objects.npy", words=tmp_path / "vocab.txt")


def test_model2vec_and_own_folders(tmp_path: Path) -> None:
    weight = torch.cat([torch.zeros(1, 5), torch.ones(1, 5), torch.from_numpy(VECTORS[:3])])
    made = Embeddings(weight, ["<pad>", "<unk>", *WORDS[:3]], pad_index=0, unk_index=1, config={"note": 1})
    made.save(tmp_path / "own", export=["safetensors", "npy"])

    own = read(tmp_path / "own")
    assert own.words == made.words
    assert torch.equal(own.weight, weight)
    assert own.config["note"] == 1
    assert own.config["source"]["format"] == "embedtrain"

    static = tmp_path / "static"
    static.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "modules.json"):
        (static / name).write_bytes((tmp_path / "own" / name).read_bytes())
    for source in (static, static / "model.safetensors"):
        embeddings = read(source)
        assert embeddings.words == made.words
        assert torch.equal(embeddings.weight[2:], weight[2:])
    assert read(static).tokenizer_json is not None
    assert read(static, ["日本"]).words == ["<pad>", "<unk>", "日本"]
    assert torch.equal(read(static, ["日本"])["日本"], weight[4])


def test_model2vec_writes_and_sentence_transformers(tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = RNG.normal(size=(4, 3)).astype(np.float32)
    model2vec.StaticModel(vectors, tokenizer, config={}).save_pretrained(tmp_path / "m2v")
    embeddings = read(tmp_path / "m2v")
    assert embeddings.words == ["[PAD]", "[UNK]", "a", "b"]
    assert (embeddings.pad_index, embeddings.unk_index) == (0, 1)
    assert np.array_equal(embeddings.weight[1:].numpy(), vectors[1:])
    assert not embeddings.weight[0].any()


def test_gensim_native_only_on_request(tmp_path: Path) -> None:
    gensim_vectors(WORDS, VECTORS).save(str(tmp_path / "v.kv"))
    with pytest.raises(EmbedtrainError, match="can run any code"):
        read(tmp_path / "v.kv")
    embeddings = read(tmp_path / "v.kv", gensim=True)
    assert embeddings.words[2:] == WORDS
    assert np.array_equal(embeddings.weight[2:].numpy(), VECTORS)


# ---- compressed, and inside .zip


def test_compressed(tmp_path: Path) -> None:
    write_word2vec(tmp_path / "v.txt", VECTORS, WORDS)
    write_word2vec_binary(tmp_path / "v.bin", VECTORS, WORDS)
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    zstd = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    if importlib.util.find_spec(zstd):
        compress["zst"] = importlib.import_module(zstd).compress
    for name in ("v.txt", "v.bin", "v.npy"):
        content = (tmp_path / name).read_bytes()
        for suffix, function in compress.items():
            path = text(tmp_path, function(content), f"{name}.{suffix}")
            assert np.array_equal(read(path, special_rows=False).weight.numpy(), VECTORS)
            if suffix != "npy":
                path.write_bytes(path.read_bytes()[:-10])
                with pytest.raises(EmbedtrainError, match="damaged or cut off"):
                    read(path)


def test_zip(tmp_path: Path) -> None:
    write_glove(tmp_path / "v.txt", VECTORS, WORDS)
    content = (tmp_path / "v.txt").read_bytes()
    path = tmp_path / "v.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/vectors.txt", content)
        archive.writestr("README.md", "read me")
    embeddings = read(path)
    assert np.array_equal(embeddings.weight[2:].numpy(), VECTORS)
    assert embeddings.config["source"]["member"] == "folder/vectors.txt"

    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.txt.gz", gzip.compress(b"a 1 2\n"))
    with pytest.raises(EmbedtrainError, match=r"2 files .* folder/vectors.txt, other.txt.gz"):
        read(path)
    assert read(path, member="other.txt.gz")["a"].tolist() == [1, 2]
    with pytest.raises(EmbedtrainError, match="no file 'x' in it"):
        read(path, member="x")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(EmbedtrainError, match="zip file is damaged"):
        read(path)


@pytest.mark.once
def test_standard_input(tmp_path: Path) -> None:
    code = "import embedtrain; print(embedtrain.read('-').weight[2:].tolist())"
    done = subprocess.run([sys.executable, "-c", code], input=b"2 2\na 1 2\nb 3 4\n", capture_output=True, check=True)
    assert json.loads(done.stdout) == [[1, 2], [3, 4]]


# ---- what goes wrong in files


@pytest.mark.parametrize(
    ("content", "words", "skipped"),
    [
        ("3 2\na 1 2\nb 3 4\n", "a b", {}),  # the header promises more
        ("1 2\na 1 2\nb 3 4\n", "a b", {}),  # the header promises less
        ("2 3\na 1 2\nb 3 4\n", "a b", {}),  # the header's dimension is wrong
        ("a 1 2\r\nb 3 4\r\n", "a b", {}),
        ("a 1 2 \nb 3 4 \n", "a b", {}),  # word2vec.c, fastText
        ("a\t1\t2\nb\t3\t4\n", "a b", {}),
        ("a 1 2\nb 3 4", "a b", {}),  # no last newline
        ("\ufeffa 1 2\nb 3 4\n", "a b", {}),  # byte order mark
        ("a 1 2\nb 3 4\na 9 9\n", "a b", {"duplicate": "line 3"}),
        ("a 1 2\nc nan 4\nb 3 4\nd 1 inf\n", "a b", {"not_finite": "line 2"}),
        ("a 1 2\nc 1\nb 3 4\n", "a b", {"wrong_dimension": "line 2"}),
        ("a 1 2\nc 1.0 2.0 3.0\nb 3 4\n", "a b", {"wrong_dimension": "line 2"}),
        ("a 1 2\nc 1 x\nb 3 4\n", "a b", {"not_a_number": "line 2"}),
        ("a 1 2\n\nb 3 4\n", "a b", {"blank_line": "line 2"}),
        ("a 1 2\n 5 6\nb 3 4\n", "a b", {"bad_word": "line 2"}),
        ("a 1 2\nb 3 4\nc 5", "a b", {"cut_off": "line 3"}),
        ("a 1 2\nb 3 4\nc", "a b", {"cut_off": "line 3"}),
        (b"a 1 2\n\xe6\x97 1 2\nb 3 4\n", "a b", {"invalid_utf8": "line 2"}),
    ],
)
def test_bad_rows_are_left_out_and_reported(
    tmp_path: Path, content: str | bytes, words: str, skipped: dict[str, str]
) -> None:
    path = text(tmp_path, content)
    embeddings = read(path)
    assert embeddings.words[2:] == words.split()
    assert embeddings.weight[2:].tolist() == [[1, 2], [3, 4]]
    source = embeddings.config["source"]
    assert {name: finding["at"] for name, finding in source["skipped"].items()} == skipped
    if skipped:
        with pytest.raises(EmbedtrainError, match=rf"{next(iter(skipped.values()))}: .*strict"):
            read(path, strict=True)
        assert next(iter(skipped.values())) in embeddings.report


def test_strict_refuses_a_wrong_header(tmp_path: Path) -> None:
    with pytest.raises(EmbedtrainError, match="its header says 3 rows"):
        read(text(tmp_path, "3 2\na 1 2\nb 3 4\n"), strict=True)
    assert len(read(text(tmp_path, "2 2\na 1 2\nb 3 4\n"), strict=True)) == 4
    assert len(read(text(tmp_path, "3 2\na 1 2\nb 3 4\n"), strict=True, limit=1)) == 3


def test_words_with_spaces(tmp_path: Path) -> None:
    path = text(tmp_path, ". . . 1.0 2.0\nat name@domain.com 3.0 4.0\n1 / 2 5.0 6.0\n\u2026 7.0 8.0\n  0.5 0.25\n")
    embeddings = read(path)
    assert embeddings.words[2:] == [". . .", "at name@domain.com", "1 / 2", "…", " "]
    assert embeddings[". . ."].tolist() == [1, 2]
    assert embeddings[" "].tolist() == [0.5, 0.25]


def test_numeric_first_word_is_no_header(tmp_path: Path) -> None:
    embeddings = read(text(tmp_path, "7 0.5\n9 0.25\n"))
    assert embeddings.words[2:] == ["7", "9"]
    assert read(text(tmp_path, "7 5\nx 0.25\n")).words[2:] == ["7", "x"]
    # Rows of two numbers: the first line can only be a header.
    assert read(text(tmp_path, "7 9\na 1 2\n")).words[2:] == ["a"]
    assert read(text(tmp_path, "7 1 2\na 1 2\n")).words[2:] == ["7", "a"]


def test_the_dimension_is_that_of_most_rows(tmp_path: Path) -> None:
    embeddings = read(text(tmp_path, "bad 1\na 1 2\nb 3 4\nc 5 6\n"))
    assert embeddings.words[2:] == ["a", "b", "c"]
    assert embeddings.config["source"]["skipped"] == {"wrong_dimension": {"count": 1, "at": "line 1"}}


@pytest.mark.parametrize("after", [2, 30])
def test_a_dimension_that_changes_midway(tmp_path: Path, after: int) -> None:
    content = "".join(f"w{i} 1 2 3\n" for i in range(30)) + "".join(f"v{i} 1 2\n" for i in range(after))
    with pytest.raises(EmbedtrainError, match="line 31: from here on"):
        read(text(tmp_path, content))


def test_source_special_rows_are_used(tmp_path: Path) -> None:
    embeddings = read(text(tmp_path, "a 1 2\n<unk> 3 4\n<pad> 9 9\nb 5 6\n"))
    assert embeddings.words == ["<pad>", "<unk>", "a", "b"]
    assert embeddings.weight.tolist() == [[0, 0], [3, 4], [1, 2], [5, 6]]


@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_binary_traps(tmp_path: Path, newline: bytes) -> None:
    def row(word: bytes, *numbers: float) -> bytes:
        return word + b" " + np.array(numbers, "<f4").tobytes() + newline

    good = row(b"a", 1, 2) + row("é".encode(), 3, 4)
    bad = row(b"a", 8, 8) + row("é".encode()[:1], 1, 1) + row(b"n", np.nan, 1) + row(b"", 1, 1)
    path = text(tmp_path, b"6 2\n" + good + bad, "v.bin")
    embeddings = read(path)
    assert embeddings.words[2:] == ["a", "é"]
    assert embeddings.weight[2:].tolist() == [[1, 2], [3, 4]]
    assert set(embeddings.config["source"]["skipped"]) == {"duplicate", "invalid_utf8", "not_finite", "bad_word"}
    with pytest.raises(EmbedtrainError, match=r"byte .*strict"):
        read(path, strict=True)
    # A wrong count is a wrong count; a row cut in two is a file cut off.
    assert "header says 9 rows" in read(text(tmp_path, b"9 2\n" + good, "v.bin")).report
    with pytest.raises(EmbedtrainError, match=r"in the row at byte \d+: its header says 9 rows, 2 are complete"):
        read(text(tmp_path, b"9 2\n" + good + row(b"x", 1, 2)[:6], "v.bin"))
    assert read(text(tmp_path, b"9 2\n" + good + b"x \0", "v.bin"), limit=2).words[2:] == ["a", "é"]
    with pytest.raises(EmbedtrainError, match="no word here"):
        read(text(tmp_path, b"9 2\n" + good + b"\0" * 100_000, "v.bin"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"hello world\nthis is a text\n", "none of the formats"),
        (b"\x7fELF\x02\x01\x01\x00" + bytes(range(256)) * 9, "none of the formats"),
        (b"<html><body>404</body></html>\n", "none of the formats"),
        (b"5 300\n", "no vectors"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "none of the formats"),
        (b"a nan nan\nb inf 1\n", "no vectors"),
    ],
)
def test_not_a_source(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(EmbedtrainError, match=message):
        read(text(tmp_path, content))


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(EmbedtrainError, match="no such file"):
        read(tmp_path / "nothing")
    with pytest.raises(EmbedtrainError, match="not a folder of embedtrain"):
        read(tmp_path)


# ---- your vocabulary

SOURCE = "the 1 2\nApple 3 4\napple 5 6\nPear 7 8\npear 9 10\n"


def test_vocabulary(tmp_path: Path) -> None:
    path = text(tmp_path, SOURCE)
    words = ["pear", "zebra", "the"]
    embeddings = read(path, words)
    assert embeddings.words == ["<pad>", "<unk>", *words]
    assert embeddings.weight[2:].tolist() == [[9, 10], [0, 0], [1, 2]]
    assert embeddings.missing is not None
    assert embeddings.missing.tolist() == [False, False, False, True, False]
    assert embeddings.weight.untyped_storage().nbytes() == 5 * 2 * 4  # its rows and no others
    assert "covered 2 of 3 words" in embeddings.report
    # It stays with the result.
    embeddings.save(tmp_path / "out")
    loaded = embedtrain.load(tmp_path / "out")
    assert loaded.missing is not None
    assert loaded.missing.tolist() == embeddings.missing.tolist()
    assert loaded.report == embeddings.report


def test_lowercase_fallback(tmp_path: Path) -> None:
    path = text(tmp_path, "x 0 0\nTHE 9 9\nthe 1 2\nApple 3 4\n")
    words = ["The", "THE", "APPLE", "the"]
    plain = read(path, words)
    assert plain.weight[2:].tolist() == [[0, 0], [9, 9], [0, 0], [1, 2]]
    embeddings = read(path, words, lowercase_fallback=True)
    assert embeddings.weight[2:].tolist() == [[1, 2], [9, 9], [0, 0], [1, 2]]
    assert embeddings.config["source"]["vocabulary"] == {
        "words": 4, "exact": 2, "lowercase": 1, "ngrams": 0, "missing": 1, "missing_rows": "zeros"
    }  # fmt: skip
    # A word of its own later in the file wins over the fallback.
    assert read(text(tmp_path, "a 1 2\nA 3 4\n"), ["A"], lowercase_fallback=True)["A"].tolist() == [3, 4]


def test_missing_rows(tmp_path: Path) -> None:
    vectors = RNG.normal(3, 0.5, size=(500, 4)).astype(np.float32)
    write_glove(tmp_path / "v", vectors, [f"w{i}" for i in range(500)])
    words = [f"w{i}" for i in range(500)] + [f"x{i}" for i in range(3000)]
    mean = read(tmp_path / "v", words, missing="mean")
    np.testing.assert_allclose(mean["x7"], vectors[-100:].mean(axis=0), rtol=1e-5)
    normal = read(tmp_path / "v", words, missing="normal")
    drawn = normal.weight[502:].numpy()
    np.testing.assert_allclose(drawn.mean(axis=0), vectors.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(drawn.std(axis=0), vectors.std(axis=0), rtol=0.06)
    assert torch.equal(normal.weight, read(tmp_path / "v", words, missing="normal").weight)
    assert not torch.equal(normal.weight, read(tmp_path / "v", words, missing="normal", seed=2).weight)
    with pytest.raises(EmbedtrainError, match="no n-grams"):
        read(tmp_path / "v", words, missing="ngrams")


def test_vocabulary_files(tmp_path: Path) -> None:
    path = text(tmp_path, SOURCE)
    plain = read(path, text(tmp_path, "<pad>\n<unk>\npear\nthe\n", "vocab.txt"))
    assert plain.words == ["<pad>", "<unk>", "pear", "the"]
    assert plain.weight[2:].tolist() == [[9, 10], [1, 2]]
    counted = read(path, text(tmp_path, "<pad>\t0\n<unk>\t0\npear\t30\nzzz\t10\n", "vocab.tsv"))
    assert counted.counts is not None
    assert counted.counts.tolist() == [0, 0, 30, 10]
    assert "covered 75.0% of 40 words of running text" in counted.report

    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({"the": 0, "[UNK]": 1, "pear": 2}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = read(path, tmp_path / "tokenizer.json")
    assert ids.words == ["the", "[UNK]", "pear"]
    assert (ids.pad_index, ids.unk_index) == (None, 1)
    assert ids.tokenizer_json is not None
    assert ids["pear"].tolist() == [9, 10]


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ([], "the vocabulary is empty"),
        (["a", "a"], "comes a second time"),
        (["nothing", "of", "it"], "no word of the vocabulary is in it"),
        (["a\nb"], "without line breaks"),
    ],
)
def test_bad_vocabulary(tmp_path: Path, vocabulary: list[str], message: str) -> None:
    with pytest.raises(EmbedtrainError, match=message):
        read(text(tmp_path, SOURCE), vocabulary)


def test_bad_vocabulary_files(tmp_path: Path) -> None:
    source = text(tmp_path, SOURCE)
    for content, message in ((b"", "is empty"), (b"a\n\nb\n", "line 2 is empty"), (b"\xff\n", "must be UTF-8")):
        with pytest.raises(EmbedtrainError, match=message):
            read(source, text(tmp_path, content, "vocab.txt"))
    with pytest.raises(EmbedtrainError, match="not a tokenizer"):
        read(source, text(tmp_path, "{}", "tokenizer.json"))
    with pytest.raises(EmbedtrainError, match="no such file"):
        read(source, tmp_path / "nothing.txt")


# ---- what is kept


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(tmp_path: Path, dtype: str) -> None:
    write_glove(tmp_path / "v", VECTORS, WORDS)
    embeddings = read(tmp_path / "v", special_rows=False, dtype=dtype)
    assert torch.equal(embeddings.weight, torch.from_numpy(VECTORS).to(getattr(torch, dtype)))
    assert embeddings.most_similar("the", topn=1)[0][0] in WORDS
    embeddings.save(tmp_path / "out", export=["word2vec"])
    loaded = embedtrain.load(tmp_path / "out")
    assert loaded.weight.dtype == embeddings.weight.dtype
    assert torch.equal(loaded.weight, embeddings.weight)
    assert torch.equal(read(tmp_path / "out/vectors.txt", special_rows=False).weight, loaded.weight.float())
    with pytest.raises(EmbedtrainError, match="beyond float16"):
        read(text(tmp_path, "a 1 70000\n"), dtype="float16")


def test_limit_and_unit_norm(tmp_path: Path) -> None:
    write_word2vec(tmp_path / "v", VECTORS, WORDS)
    embeddings = read(tmp_path / "v", limit=3, unit_norm=True, special_rows=False)
    assert embeddings.words == WORDS[:3]
    np.testing.assert_allclose(embeddings.weight.norm(dim=1), 1, rtol=1e-6)
    with pytest.raises(EmbedtrainError, match="limit must be a whole number"):
        read(tmp_path / "v", limit=0)
    with pytest.raises(EmbedtrainError, match="unexpected keyword argument 'limits'"):
        read(tmp_path / "v", limits=3)
    with pytest.raises(EmbedtrainError, match="missing must be auto"):
        read(tmp_path / "v", missing="ones")


# ---- properties

_TOKENS = st.lists(
    st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        # A leading "word number" would be a row too wide, and the specials have rows of their own.
        lambda word: word.strip(" \t") == word and word not in ("<pad>", "<unk>") and word[0] != "\ufeff"
    ),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip


@settings(max_examples=200)
@given(data=st.data(), words=_TOKENS, dim=st.integers(2, 6), chunk=st.integers(1, 40))
def test_any_words_come_back(data: st.DataObject, words: list[str], dim: int, chunk: int) -> None:
    """Text and binary, cut into chunks anywhere, give back the words and the bits of the numbers."""
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    weight = data.draw(hnp.arrays(np.float32, (len(words), dim), elements=numbers))
    spaced = [word for word in words if " " in word or "\t" in word]
    text_rows = b"".join(
        word.encode() + b" " + " ".join(map(str, row)).encode() + b"\n" for word, row in zip(words, weight, strict=True)
    )
    binary_rows = b"".join(word.encode() + b" " + row.tobytes() for word, row in zip(words, weight, strict=True))
    for binary, content in ((False, text_rows), (True, binary_rows)):
        if binary and spaced:
            continue
        # "a 1.5" + numbers cannot be told from a row that is too wide.
        if not binary and any(core.parse_number(part.encode()) is not None for w in spaced for part in w.split()[1:]):
            continue
        reader = core.VectorReader(
            dim=dim, type=0, tokens=b"", grow=True, fallback_tokens=b"", fallback_rows=0, unit_norm=False, strict=True,
            limit=-1,
        )  # fmt: skip
        reader.begin_binary(len(words), 0) if binary else reader.begin_text(0)
        for begin in range(0, len(content), chunk):
            reader.feed(content[begin : begin + chunk])
        reader.finish()
        assert not any(count for count, _ in reader.findings()), (content, reader.findings())
        added, states, table = reader.finish_rows(4)
        assert added.decode().split("\n")[:-1] == words
        assert (states == 2).all()
        assert np.array_equal(table.view(np.float32).reshape(-1, dim), weight)


def _mutated(data: st.DataObject, content: bytes) -> bytes:
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken)))
        what = data.draw(st.sampled_from(["cut", "byte", "insert", "drop"]))
        if what == "cut":
            del broken[at:]
        elif what == "byte" and at < len(broken):
            broken[at] = data.draw(st.integers(0, 255))
        elif what == "insert":
            broken[at:at] = data.draw(st.binary(max_size=9))
        else:
            del broken[at : at + data.draw(st.integers(0, 20))]
    return bytes(broken)


def _sources() -> dict[str, bytes]:
    words = ["the", "Zürich", "日本", "b"]
    vectors = VECTORS[:4]
    text_rows = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in zip(words, vectors, strict=True))
    return {
        "word2vec": b"4 5\n" + text_rows.encode(),
        "glove": text_rows.encode(),
        "binary": b"4 5\n" + b"".join(w.encode() + b" " + v.tobytes() for w, v in zip(words, vectors, strict=True)),
        "fasttext": fasttext_model(words, bucket=9),
        "finalfusion": finalfusion(1, b"", words, vectors),
        "finalfusion with n-grams": finalfusion(3, struct.pack("<III", 2, 4, 1), words, VECTORS[:6]),
        "finalfusion with fastText's n-grams": finalfusion(7, struct.pack("<III", 2, 4, 3), words, VECTORS[:7]),
        "floret": b"4 5 2 3 2 7 < >\n"
        + "".join(f"{i} {' '.join(map(str, row))}\n" for i, row in enumerate(vectors)).encode(),
    }


_SOURCES = _sources()


@pytest.mark.parametrize("name", _SOURCES)
def test_fuzzed_sources_are_read(tmp_path: Path, name: str) -> None:
    embeddings = read(text(tmp_path, _SOURCES[name]), ["the", "日本"])
    if name not in ("fasttext", "floret"):
        assert np.array_equal(embeddings.weight[2:].numpy(), VECTORS[[0, 2]])


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("name", _SOURCES)
def test_broken_sources_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    """Whatever happens to a file, the answer is vectors or one clear line."""
    path = tmp_path_factory.getbasetemp() / f"broken-{os.getpid()}"
    path.write_bytes(_mutated(data, _SOURCES[name]))
    vocabulary = data.draw(st.sampled_from([None, ["the", "unseen"]]))
    try:
        embeddings = read(path, vocabulary, strict=data.draw(st.booleans()))
    except EmbedtrainError:
        pass
    else:
        assert torch.isfinite(embeddings.weight).all()
        assert len(embeddings.words) == len(embeddings.weight)
