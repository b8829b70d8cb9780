"""Vocabulary files: round trips and every way to be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtrain.errors import EmbedtrainError
from embedtrain.vocabulary import Vocabulary

# At the start of a file U+FEFF is a byte order mark.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff"), min_size=1)


@given(st.dictionaries(words, st.integers(1, 10**18 - 1), min_size=1))
def test_what_is_saved_is_read(tmp_path_factory, counts):
    path = tmp_path_factory.getbasetemp() / "vocabulary.txt"
    vocabulary = Vocabulary.most_frequent(counts)
    vocabulary.save(path)
    read = Vocabulary.read(path)
    assert read.words == vocabulary.words
    assert read.counts.dtype == np.int64
    assert dict(zip(read.words, read.counts.tolist(), strict=True)) == counts


@given(st.dictionaries(words, st.integers(0, 5)), st.integers(0, 5), st.none() | st.integers(1, 5))
def test_the_most_frequent_words_come_first_and_ties_by_bytes(counts, min_count, max_vocab):
    by_bytes = sorted(counts, key=lambda word: (-counts[word], word.encode()))
    expected = [word for word in by_bytes if counts[word] >= min_count][:max_vocab]
    assert Vocabulary.most_frequent(counts, min_count, max_vocab).words == expected


@pytest.mark.parametrize(
    "text",
    [
        "the 20\nNew York 7\n",
        "New York 7\nthe 20",
        "\ufeffthe 20\r\nNew York 7\r\n",
        "<pad>\t0\n<unk>\t0\nthe\t20\nNew York\t7\n",
    ],
)
def test_the_formats_that_are_read(tmp_path, text):
    path = tmp_path / "vocab"
    path.write_text(text, encoding="utf-8", newline="")
    vocabulary = Vocabulary.read(path)
    assert vocabulary.words == ["the", "New York"]
    assert vocabulary.counts.tolist() == [20, 7]
    assert len(vocabulary) == 2


def test_special_words_that_were_seen_stay(tmp_path):
    path = tmp_path / "vocab"
    path.write_text("<unk> 3\nthe 2\n")
    assert Vocabulary.read(path).words == ["<unk>", "the"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"the 20\nof\n", r"vocab: line 2: 'of' is not \"word count\""),
        (b"the 20\nof -3\n", r"vocab: line 2"),
        (b"the 20\n of\n 3\n", r"vocab: line 2"),
        (b"the 20\nof 1e3\n", r"vocab: line 2"),
        (b"the 20\nof 99999999999999999999\n", r"vocab: line 2"),
        (b"the 20\nof 3\nthe 2\n", r"vocab: line 3: the word 'the' comes a second time"),
        (b"the 20\nof\xff 3\n", r"vocab: byte 9: .* UTF-8"),
        (b"", r"vocab: the vocabulary is empty"),
        (b"\n\n", r"vocab: the vocabulary is empty"),
        (b"<pad> 0\n", r"vocab: the vocabulary is empty"),
    ],
)
def test_bad_files_are_refused(tmp_path, data, message):
    path = tmp_path / "vocab"
    path.write_bytes(data)
    with pytest.raises(EmbedtrainError, match=message):
        Vocabulary.read(path)


def test_what_cannot_be_read_or_written_is_said(tmp_path):
    with pytest.raises(EmbedtrainError, match="No such file"):
        Vocabulary.read(tmp_path / "missing")
    with pytest.raises(EmbedtrainError, match="cannot be written"):
        Vocabulary.most_frequent({"a": 1}).save(tmp_path / "missing" / "vocab")
