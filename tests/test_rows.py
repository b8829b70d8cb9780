"""Tables and sequences of ids: the same result as that of a text file with the same words; broken ones are refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import subprocess
import sys
import tempfile
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedtrain import arrow, sequences
from embedtrain import corpus as corpus_module
from embedtrain.corpus import Corpus, encode
from embedtrain.errors import EmbedtrainError
from embedtrain.options import Options
from embedtrain.vocabulary import Vocabulary

ALL = Options(min_count=1)
SEQUENCES = [[1, 22, 333], [], [1], [333, 4444444, 1, 0], []]


def sentences(corpus: Corpus) -> list[list[str]]:
    words = [corpus.vocabulary.words[i] for i in corpus.ids.tolist()]
    return [words[begin:end] for begin, end in pairwise(corpus.offsets.tolist())]


def as_text(lists: list[list[Any]], path: Path) -> Path:
    path.write_text("".join(" ".join(map(str, each)) + "\n" for each in lists), encoding="utf-8")
    return path


def padded(lists: list[list[int]], dtype: Any = np.int64) -> np.ndarray[Any, Any]:
    table = np.full((len(lists), max(map(len, lists), default=0)), -1, dtype)
    for row, each in zip(table, lists, strict=True):
        row[: len(each)] = each
    return table


def flat(lists: list[list[int]], dtype: Any = np.int64) -> dict[str, np.ndarray[Any, Any]]:
    return {"ids": np.array(list(chain.from_iterable(lists)), dtype), "offsets": np.cumsum([0, *map(len, lists)])}


def same(corpus: Corpus, other: Corpus) -> bool:
    """Compare all but where it came from."""
    facts = ("fingerprint", "tokens_read", "lines", "dropped", "replaced")
    return all(getattr(corpus, name) == getattr(other, name) for name in facts) and (
        corpus.vocabulary.counts.tolist() == other.vocabulary.counts.tolist()
    )


# --- ids -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 120)), st.data())
def test_decimals(ids: list[int], data: st.DataObject) -> None:
    ends = sorted(data.draw(st.sets(st.integers(0, len(ids)))))
    text = "\n" if 0 in ends else ""
    for place, number in enumerate(ids, 1):
        text += f"{number}\n" if place in ends else f"{number} "
    assert bytes(sequences.decimals(np.array(ids, np.uint64), np.array(ends, np.int64))).decode() == text


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 30) | st.integers(0, 2**62), max_size=9), max_size=9), st.integers(1, 7))
def test_ids_are_the_text_of_their_numbers(lists: list[list[int]], piece: int) -> None:
    lists = [[5, 6], *lists]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "_PIECE", piece)
        folder = Path(name)
        expected = encode(as_text(lists, folder / "text"), ALL)
        np.save(folder / "table.npy", padded(lists))
        np.savez(folder / "pair.npz", **flat(lists))
        np.savez_compressed(folder / "small.npz", **flat(lists))
        np.savez(folder / "single.npz", anything=padded(lists))
        for file in ("table.npy", "pair.npz", "small.npz", "single.npz"):
            assert same(encode(folder / file, ALL), expected), file
        line = list(chain.from_iterable(lists))
        np.save(folder / "line.npy", np.array(line))
        assert same(encode(folder / "line.npy", ALL), encode(as_text([line], folder / "text"), ALL))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint16", ">i4", "uint64"])
def test_integers_of_all_kinds(dtype: str, tmp_path: Path) -> None:
    lists = [[number % 50_000 for number in each] for each in SEQUENCES]
    expected = encode(as_text(lists, tmp_path / "text"), ALL)
    np.savez(tmp_path / "ids.npz", **flat(lists, dtype))
    assert same(encode(tmp_path / "ids.npz", ALL), expected)
    if not dtype.startswith("u"):
        np.save(tmp_path / "ids.npy", padded(lists, dtype))
        assert same(encode(tmp_path / "ids.npy", ALL), expected)
        (tmp_path / "ids.gz").write_bytes(gzip.compress((tmp_path / "ids.npy").read_bytes()))
        assert same(encode(tmp_path / "ids.gz", ALL), expected)


def test_options_apply_to_ids(tmp_path: Path) -> None:
    np.savez(tmp_path / "ids.npz", **flat(SEQUENCES))
    text = as_text(SEQUENCES, tmp_path / "text")
    Vocabulary.most_frequent({"1": 5, "333": 2, "77": 9}).save(tmp_path / "vocab")
    for options in (
        Options(min_count=2),
        Options(min_count=1, max_vocab=2),
        Options(read_vocab=tmp_path / "vocab", min_count=1),
    ):
        assert same(encode(tmp_path / "ids.npz", options), encode(text, options))
    assert encode([tmp_path / "ids.npz", tmp_path / "ids.npz"], ALL).lines == 2 * len(SEQUENCES)


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (npy(np.array([1.5])), "ids must be integers, not float64"),
        (npy(np.array([True])), "ids must be integers, not bool"),
        (npy(np.array(["a"])), "ids must be integers"),
        (npy(np.array([{}], object), allow_pickle=True), "ids must be integers, not object"),
        (npy(np.zeros((2, 2, 2), int)), "neither one sequence nor a table"),
        (npy(np.int64(3)), "holds a single number"),
        (npy(np.zeros((2, 3), int, order="F")), "stored column by column"),
        (npy(np.array([3, -1])), "item 1: -1 is no id"),
        (npy(np.array([[3, 1], [4, -2]])), "row 1: -2 is no id"),
        (npy(np.arange(9))[:-3], r"is cut off, 1 numbers are missing"),
        (npy(np.arange(9)) + b"x", "goes on after the array"),
        (npy(np.arange(9))[:60], "the header of the array is damaged"),
        (npy(np.arange(9)).replace(b"(9,)", b"(9))"), "the header of the array is damaged"),
        (npy(np.arange(9)).replace(b"(9,)", b"(99999999999,)"), "header of the array is damaged|is cut off"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "no array in the format of numpy"),
        (npy(np.arange(0)), "is empty|no words"),
        (npz(a=np.arange(3), b=np.arange(3)), "holds a, b; give ids and offsets, or a single array"),
        (npz(), "holds nothing"),
        (npz(ids=np.arange(3), offsets=np.array([0, 2])), "the last offset must be the number of ids, 3"),
        (npz(ids=np.arange(3), offsets=np.array([0, 2, 4])), "the last offset must be the number of ids, 3"),
        (npz(ids=np.arange(3), offsets=np.array([0, 2, 1, 3])), "offsets.npy: sequence 1 ends before it begins"),
        (npz(ids=np.arange(3), offsets=np.array([1, 3])), "the first offset must be 0"),
        (npz(ids=np.arange(3), offsets=np.array([], int)), "the first offset must be 0"),
        (npz(ids=np.arange(3), offsets=np.array([0.0, 3.0])), "integers, not float64"),
        (npz(ids=np.zeros((2, 2), int), offsets=np.array([0, 4])), "must have one dimension"),
        (npz(ids=np.array([1, -1, 2]), offsets=np.array([0, 3])), "ids.npy: item 1: -1 is no id"),
        (npz(ids=np.arange(9), offsets=np.array([0, 9]))[:-40], "the zip file is damaged or cut off"),
    ],
)  # fmt: skip
def test_ids_that_are_none(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_bytes(data)
    with pytest.raises(EmbedtrainError, match=why) as caught:
        encode(path, ALL)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.data())
def test_damaged_arrays_are_refused_or_read(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([npy(padded(SEQUENCES)), npz(**flat(SEQUENCES)), npz(ids=padded(SEQUENCES))]))
    at = data.draw(st.integers(6, len(good) - 1))
    bad = (
        good[:at]
        + (data.draw(st.binary(max_size=8)) if data.draw(st.booleans()) else b"")
        + good[at + data.draw(st.integers(0, 8)) :]
    )
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "ids")
        path.write_bytes(bad)
        with contextlib.suppress(EmbedtrainError):
            encode(path, ALL)


def test_ids_and_text_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(npy(np.arange(9)))
    (tmp_path / "text").write_text("a b\n")
    with pytest.raises(EmbedtrainError, match=r"text holds text, but .*ids holds ids; train on files of one kind"):
        encode([tmp_path / "text", tmp_path / "ids"], ALL)


# --- tables --------------------------------------------------------------------------------------------------------

pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")

ROWS = ["the cat sat", "", "on the\nmat  Größe", None, "the"]
LISTS = [["the", "New York", "中"], [], ["the"], None, ["cat", "the"]]


def write(table: Any, path: Path, kind: str) -> Path:
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    elif kind == "dictionary parquet":
        pq.write_table(table, path, use_dictionary=True, compression="zstd", store_schema=False)
    else:
        compression = "lz4" if "lz4" in kind else None
        new = pa.ipc.new_stream if "stream" in kind else pa.ipc.new_file
        with new(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


KINDS = ["parquet", "dictionary parquet", "file", "stream", "lz4 file", "lz4 stream"]


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_all_files(kind: str, tmp_path: Path) -> None:
    table = pa.table({"number": range(5), "text": pa.array(ROWS)})
    path = write(table, tmp_path / "table", kind)
    text = tmp_path / "text"
    text.write_text("".join(f"{row}\n" for row in ROWS if row is not None), encoding="utf-8")
    lines: list[str] = []
    seen: list[tuple[int, int | None]] = []
    corpus = encode(path, ALL, lambda done, total: seen.append((done, total)), lines.append)
    assert same(corpus, encode(text, ALL))
    assert lines == ["left out 1 rows that are null"]
    assert seen == sorted(seen)
    assert 0.5 * path.stat().st_size < seen[-1][0] <= seen[-1][1] == path.stat().st_size
    assert same(
        encode(path, Options(min_count=1, column="text", lowercase=True)),
        encode(text, Options(min_count=1, lowercase=True)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_ids_of_all_files(kind: str, tmp_path: Path) -> None:
    table = pa.table({"tokens": pa.array(LISTS), "label": range(5)})
    corpus = encode(write(table, tmp_path / "table", kind), ALL)
    assert same(corpus, encode([each for each in LISTS if each is not None], ALL))
    assert sentences(corpus) == [["the", "New York", "中"], ["the"], ["cat", "the"]]
    table = pa.table({"walk": pa.array(SEQUENCES, pa.list_(pa.int32())), "label": range(5)})
    expected = encode(as_text(SEQUENCES, tmp_path / "text"), ALL)
    assert same(encode(write(table, tmp_path / "table", kind), ALL), expected)


@pytest.mark.parametrize(
    "kind", ["string", "large_string", "string_view", "binary", "large_binary", "binary_view", "dictionary"]
)
def test_strings_of_all_types(kind: str, tmp_path: Path) -> None:
    if kind == "dictionary":
        array = pa.array(ROWS).dictionary_encode()
    elif "binary" in kind:
        array = pa.array([None if row is None else row.encode() for row in ROWS], getattr(pa, kind)())
    else:
        array = pa.array(ROWS, getattr(pa, kind)())
    text = tmp_path / "text"
    text.write_text("".join(f"{row}\n" for row in ROWS if row is not None), encoding="utf-8")
    assert same(encode(pa.table({"text": array}), ALL), encode(text, ALL))
    sliced = pa.table({"text": pa.concat_arrays([array.slice(2), array.slice(0, 2)])}).slice(1, 3)
    assert sentences(encode(sliced, ALL)) == [["the"], ["the", "cat", "sat"]]


@pytest.mark.parametrize("of", ["list_", "large_list", "list_view", "large_list_view", "fixed"])
def test_lists_of_all_types(of: str) -> None:
    if of == "fixed":
        array: Any = pa.array([[1, 2], None, [3, 1]], pa.list_(pa.int64(), 2))
        assert sentences(encode(pa.table({"x": array}).slice(1), ALL)) == [["3", "1"]]
        return
    array = pa.array(LISTS, getattr(pa, of)(pa.string()))
    assert sentences(encode(pa.table({"x": array}), ALL)) == [each for each in LISTS if each]
    assert sentences(encode(pa.table({"x": array}).slice(2, 3), ALL)) == [["the"], ["cat", "the"]]
    words = pa.array([["a", "b", "a"], ["b"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    assert sentences(encode(pa.table({"x": words}), ALL)) == [["a", "b", "a"], ["b"]]


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\v\f\r\x1f\0"), min_size=1, max_size=3)
lists = st.lists(st.none() | st.lists(words | st.sampled_from("aAbB"), max_size=5), max_size=8)


@settings(deadline=None)
@given(lists, st.booleans(), st.integers(1, 2), st.integers(1, 40))
def test_any_lists_of_tokens(rows: list[list[str] | None], lowercase: bool, min_count: int, piece: int) -> None:
    rows = [["a", "b"], ["b", "a"], *rows]
    options = Options(min_count=min_count, lowercase=lowercase)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow, "_PIECE_BYTES", piece)
        corpus = encode(pa.table({"x": pa.array(rows, pa.list_(pa.string()))}), options)
    assert same(corpus, encode([row for row in rows if row is not None], options))


@settings(deadline=None)
@given(
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))), st.integers(1, 40)
)
def test_any_text(rows: list[str | None], piece: int) -> None:
    rows = ["a b", *rows]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        path = Path(name, "text")
        path.write_bytes("".join(f"{row}\n" for row in rows if row is not None).encode())
        patch.setattr(arrow, "_PIECE_BYTES", piece)
        assert same(encode(pa.table({"x": pa.array(rows, pa.string())}), ALL), encode(path, ALL))


def test_read_vocab_with_spaces_in_words(tmp_path: Path) -> None:
    Vocabulary.most_frequent({"New York": 5, "the": 2, "York": 9}).save(tmp_path / "vocab")
    options = Options(min_count=1, read_vocab=tmp_path / "vocab")
    rows = [each for each in LISTS if each is not None]
    assert same(encode(pa.table({"x": LISTS}), options), encode(rows, options))


def test_tables_are_cut_into_pieces_of_bounded_size() -> None:
    array = pa.array(["word " * 2000] * 10_000)
    parts = list(arrow.pieces(array))
    assert sum(map(len, parts)) == len(array)
    assert max(part.nbytes for part in parts) < 1.1 * arrow._PIECE_BYTES


@pytest.mark.parametrize(
    ("columns", "column", "why"),
    [
        ({"a": ["x"], "b": ["y"]}, None, r"choose one of the columns with --column: a \(text\), b \(text\)"),
        ({"a": ["x"], "b": [["y"]], "c": [[1]], "d": [1]}, None, r"a \(text\), b \(tokens\), c \(ids\)$"),
        ({"a": [1], "b": [1.5]}, None, "no column holds text"),
        ({"a": ["x"], "n": [1]}, "b", r"there is no column 'b'; those that can be trained on: a \(text\)"),
        ({"a": ["x"], "n": [1]}, "n", r"column 'n' is of type int64, neither text"),
        ({"a": [["x", None]]}, None, "row 0, token 1 is null"),
        ({"a": [["x"], None, ["y", ""]]}, None, "row 2, token 1 is empty"),
        ({"a": [["x"], ["y", "z", "a\nb"]]}, None, "row 1, token 2 holds a tab, a line break"),
        ({"a": [[1], None, [2, -3]]}, None, "row 2: -3 is no id"),
        ({"a": [[1], [2, None]]}, None, "row 1: null is no id"),
        ({"a": [b"good", None, b"\xff"]}, None, "row 2: byte 0xff is not UTF-8 text; pass --errors"),
        ({"a": [b"good", b"a\0b"]}, None, "row 1: byte 0x00 is not UTF-8 text"),
        ({"a": [[b"good", b"\xc3"]]}, None, "row 0, token 1: byte 0xc3 is not UTF-8 text"),
        ({"a": pa.array([], pa.string())}, None, "is empty"),
        ({"a": ["", None]}, None, "has no words"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(columns: dict[str, Any], column: str | None, why: str, tmp_path: Path) -> None:
    width = max(len(values) for values in columns.values())
    table = pa.table({name: values if len(values) == width else [*values] * width for name, values in columns.items()})
    path = write(table, tmp_path / "table", "stream")
    for corpus in (path, table):
        with pytest.raises(EmbedtrainError, match=why) as caught:
            encode(corpus, Options(min_count=1, column=column))
        assert str(caught.value).startswith(str(path) if corpus is path else "pyarrow.Table")
        assert "\n" not in str(caught.value)


def test_bad_bytes_are_replaced_or_skipped(tmp_path: Path) -> None:
    rows = [b"good \xff good", b"x\0y text"]
    (tmp_path / "text").write_bytes(b"\n".join([*rows, b""]))
    for errors in ("replace", "skip"):
        options = Options(min_count=1, errors=errors)  # type: ignore[arg-type]
        assert same(encode(pa.table({"x": rows}), options), encode(tmp_path / "text", options))


def test_tables_and_other_things_do_not_mix(tmp_path: Path) -> None:
    text = write(pa.table({"x": ["a b"]}), tmp_path / "text", "stream")
    tokens = write(pa.table({"x": [["a b"]]}), tmp_path / "tokens", "parquet")
    (tmp_path / "plain").write_text("a b\n")
    assert encode([text, tmp_path / "plain"], ALL).vocabulary.words == ["a", "b"]
    for pair in ([text, tokens], [tmp_path / "plain", tokens]):
        with pytest.raises(EmbedtrainError, match=r"holds text, but .*tokens holds tokens"):
            encode(pair, ALL)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_tables_are_refused(kind: str, tmp_path: Path) -> None:
    table = pa.table({"x": [f"some words {number}" for number in range(1000)], "y": [[1, 2]] * 1000})
    path = write(table, tmp_path / "table", kind)
    whole = path.read_bytes()
    for cut in (8, len(whole) // 3, len(whole) - 9):
        path.write_bytes(whole[:cut])
        if "stream" in kind and cut > 8:
            continue  # a stream may end after any of its batches
        with pytest.raises(EmbedtrainError, match=r"table: (the (Parquet|Arrow) file|rows .* are damaged)"):
            encode(path, Options(min_count=1, column="x"))


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(KINDS), st.data())
def test_changed_bytes_of_tables(kind: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = write(pa.table({"x": pa.array(LISTS)}), Path(name, "table"), kind)
        whole = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(6, len(whole) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(whole[: data.draw(st.none() | st.integers(8, len(whole)))])
        with contextlib.suppress(EmbedtrainError):
            encode(path, Options(min_count=1, errors="replace"))


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(pa.table({"x": ["a b"]}), tmp_path / "table", "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EmbedtrainError, match=r"table: to read it, install pyarrow \(pip install "):
        encode(path, ALL)


def test_text_goes_through_a_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    options = Options(min_count=1, tokenizer=tmp_path / "tokenizer.json")
    assert sentences(encode(pa.table({"x": ["a b\nb", None, "a c"]}), options)) == [["a", "b"], ["b"], ["a", "?"]]
    with pytest.raises(EmbedtrainError, match="holds tokens; a tokenizer cuts raw text into tokens: give it text"):
        encode(pa.table({"x": [["a"]]}), options)


def test_no_word_becomes_a_python_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column is passed to the core as bytes: its text is never decoded whole, nor its rows one by one."""
    chunks: list[Any] = []
    original = corpus_module.sources.read

    def read(*arguments: Any) -> Any:
        for source, chunk in original(*arguments):
            chunks.append(chunk.obj)
            yield source, chunk

    monkeypatch.setattr(corpus_module.sources, "read", read)
    encode(write(pa.table({"x": LISTS}), tmp_path / "table", "file"), ALL)
    assert all(isinstance(chunk, (np.ndarray, bytes)) for chunk in chunks)


# --- the datasets library -------------------------------------------------------------------------------------------


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return pytest.importorskip("datasets")


def test_datasets(datasets: Any, tmp_path: Path) -> None:
    rows = {"text": ["the cat", "sat on", "the mat"], "label": [0, 1, 2]}
    dataset = datasets.Dataset.from_dict(rows)
    assert sentences(encode(dataset, ALL)) == [["the", "cat"], ["sat", "on"], ["the", "mat"]]
    assert sentences(encode(dataset.select([2, 0]), ALL)) == [["the", "mat"], ["the", "cat"]]
    assert sentences(encode(dataset.to_iterable_dataset(), ALL)) == [["the", "cat"], ["sat", "on"], ["the", "mat"]]
    tokens = dataset.map(lambda row: {"tokens": row["text"].split()}, remove_columns=["text"])
    assert sentences(encode(tokens, ALL)) == [["the", "cat"], ["sat", "on"], ["the", "mat"]]
    with pytest.raises(EmbedtrainError, match="give one of its splits: train"):
        encode(datasets.DatasetDict(train=dataset), ALL)
    dataset.save_to_disk(tmp_path / "saved", num_shards=2)
    assert same(encode(tmp_path / "saved", ALL), encode(dataset, ALL))
    datasets.DatasetDict(train=dataset).save_to_disk(tmp_path / "splits")
    with pytest.raises(EmbedtrainError, match="give one of the folders train"):
        encode(tmp_path / "splits", ALL)
    assert same(encode(tmp_path / "splits" / "train", ALL), encode(dataset, ALL))


def test_datasets_are_cached_by_their_fingerprint(datasets: Any, tmp_path: Path) -> None:
    options = Options(min_count=1, cache_dir=tmp_path / "cache")
    dataset = datasets.Dataset.from_dict({"text": ["the cat", "the mat"]})
    lines: list[str] = []
    for _ in range(2):
        encode(dataset, options, note=lines.append)
    encode(dataset.select([0]), options, note=lines.append)
    assert [line.split()[0] for line in lines] == ["kept", "using", "kept"]


def test_importing_is_quick() -> None:
    code = "import sys, embedtrain.corpus; print({'pyarrow', 'fsspec', 'datasets', 'torch'} & set(sys.modules))"
    root = Path(corpus_module.__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
