"""The native encoder against a few lines of plain Python."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedtrain import _native

pytestmark = pytest.mark.native

SPACES = b" \t\n\v\f\r"
PIECES = [b" ", b"\n", b"\t", b"\r\n", b"\v", b"\f", b"a", b"b", b"B", b"cd", b"E" * 8, b"f" * 16, b"g" * 17, b"h" * 63]
PIECES += [b"i" * 64, b"j" * 200, b"<pad>", b"<PAD>", "ä".encode(), "Ä".encode(), "Σ".encode(), "İ".encode()]
PIECES += ["中".encode(), "😀".encode(), b"\xef\xbb\xbf", b"\x1c", b"\x85", b"\xa0"]
BAD_PIECES = [b"\0", b"\xff", b"\xc0\x80", b"\xe4\xb8", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\x80"]

texts = st.one_of(st.lists(st.sampled_from(PIECES + BAD_PIECES)).map(b"".join), st.binary())
good_texts = st.lists(st.sampled_from([piece for piece in PIECES if piece not in (b"\x85", b"\xa0")])).map(b"".join)


def first_bad(data):
    """(line, offset, byte) as a whole-file decoder sees it."""
    places = [data.index(0)] if 0 in data else []
    try:
        data.decode()
    except UnicodeDecodeError as error:
        places.append(error.start)
    if not places:
        return None
    offset = min(places)
    return data.count(b"\n", 0, offset) + 1, offset, data[offset]


def expected(files, errors="strict", min_count=1, max_vocab=None, pad="", lowercase=False, vocabulary=None):
    sentences, replaced, invalid, lines = [], 0, 0, 0
    for data in files:
        lines += data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
        for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
            sentences.append([])
            for token in line.split():
                word = token.decode(errors="replace").replace("\0", "\ufffd")
                if first_bad(token):
                    if errors == "skip":
                        invalid += 1
                        continue
                    replaced += 1
                sentences[-1].append((word.lower() if lowercase else word).encode())
    counts = Counter(word for sentence in sentences for word in sentence)
    padding = counts.pop(pad.encode(), 0)
    words = vocabulary
    if words is None:
        words = sorted((word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word))
        words = words[:max_vocab]
    rows = {word: row for row, word in enumerate(words)}
    kept = [[rows[word] for word in sentence if word in rows] for sentence in sentences]
    kept = [sentence for sentence in kept if sentence]
    ids = [row for sentence in kept for row in sentence]
    return {
        "words": b"".join(word + b"\n" for word in words),
        "counts": [counts[word] for word in words],
        "ids": ids,
        "offsets": np.cumsum([0, *map(len, kept)]).tolist(),
        "tokens_read": sum(counts.values()) + padding + invalid,
        "lines": lines,
        "distinct_words": len(counts),
        "largest_count": max(counts.values(), default=0),
        "replaced": replaced,
        "invalid": invalid,
        "padding": padding,
        "out_of_vocabulary": sum(counts.values()) - len(ids),
    }


def encode(files, workers=1, chunk=1 << 20, errors="strict", lowercase=False, vocabulary=None, **choice):
    encoder = _native.Encoder(workers, errors)
    for data in files:
        for start in range(0, len(data), chunk):
            # A copy of its own, so that a sanitizer sees each byte read beyond it.
            bad = encoder.feed(bytes(data[start : start + chunk]))
            if bad is not None:
                return bad
        bad = encoder.end_file()
        if bad is not None:
            return bad
    if lowercase:
        choice["lower"] = lambda words: words.decode().lower().encode()
    if vocabulary is not None:
        choice["vocabulary"] = b"".join(word + b"\n" for word in vocabulary)
    result = encoder.finish(**choice)
    assert result["ids"].dtype == np.int32
    assert result["offsets"].dtype == result["counts"].dtype == np.int64
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in result.items()}


@settings(max_examples=300)
@given(
    files=st.lists(texts, min_size=1, max_size=3),
    workers=st.integers(1, 3),
    chunk=st.integers(1, 200),
    errors=st.sampled_from(["replace", "skip"]),
    lowercase=st.booleans(),
    min_count=st.integers(1, 3),
    max_vocab=st.none() | st.integers(2, 5),
    pad=st.sampled_from(["", "<pad>"]),
)
def test_any_bytes_are_encoded_as_python_would(files, workers, chunk, errors, **options):
    assert encode(files, workers, chunk, errors, **options) == expected(files, errors, **options)


@settings(max_examples=300)
@given(data=texts | good_texts, workers=st.integers(1, 3), chunk=st.integers(1, 200))
def test_the_first_bad_byte_is_reported(data, workers, chunk):
    bad = first_bad(data)
    assert encode([data], workers, chunk) == (expected([data]) if bad is None else bad)


@given(good_texts, st.lists(st.sampled_from([b"a", b"b", "ä".encode(), b"never", b"f" * 16, b"g" * 17]), unique=True))
def test_a_given_vocabulary_is_mapped_to(data, vocabulary):
    if first_bad(data) is None:
        assert encode([data], workers=2, vocabulary=vocabulary) == expected([data], vocabulary=vocabulary)


def large_text(seed, size=1_500_000):
    """Longer than many pieces of work, with tokens and lines across all their borders."""
    draw = random.Random(seed)
    words = [b"%x" % draw.getrandbits(draw.randint(4, 100)) for _ in range(5000)] + [
        "ж".encode() * n for n in range(1, 60)
    ]
    parts, length = [b"z" * 300_000, b" "], 0
    while length < size:
        parts += [draw.choice(words), draw.choice([b" "] * 12 + [b"\n", b"\r\n", b"\t \n\n"])]
        length += len(parts[-2]) + 1
    return b"".join(parts)


@pytest.mark.parametrize(("workers", "chunk"), [(1, 1 << 30), (2, 1 << 30), (3, 700_001), (7, 131_072), (2, 999)])
def test_large_texts_do_not_depend_on_workers_or_chunks(workers, chunk):
    files = [large_text(1), large_text(2).replace(b"\n", b" ")]
    assert encode(files, workers, chunk, min_count=2) == expected(files, min_count=2)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("bad", [b"\xff", b"a\0b"])
def test_the_first_of_many_bad_bytes_is_the_same_for_any_number_of_workers(workers, bad):
    data = bytearray(large_text(3))
    for offset in (1_400_003, 1_000_001, 650_001, 650_003):
        data[offset : offset + len(bad)] = bad
    assert encode([bytes(data)], workers) == first_bad(bytes(data))


def test_many_distinct_words_make_the_table_grow():
    data = (
        b" ".join(b"word%d" % (i % 200_003) for i in range(400_000))
        + b" "
        + b" ".join(b"a-rather-long-word-%d" % i for i in range(100_000))
    )
    for workers in (1, 3):
        result = encode([data], workers)
        assert result["distinct_words"] == 300_003
        assert result == expected([data])


tricky_bytes = st.sampled_from([*SPACES, 0, 8, 14, 31, 33, 127, 128, 137, 160, 255])


@pytest.mark.parametrize("workers", [2, 5])
def test_large_tables_are_merged_in_parallel(workers):
    draw = random.Random(3)
    words = [f"w{i}" if i % 7 else f"a-rather-long-word-number-{i}" for i in range(200_000)]
    tokens = draw.sample(words, len(words)) + draw.choices(words, k=600_000)
    encoder = _native.Encoder(workers, "strict")
    encoder.feed(" ".join(tokens).encode())
    encoder.end_file()
    result = encoder.finish(1, None, "", None, None)
    ranked = sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0]))
    assert result["words"].decode().split() == [word for word, _ in ranked]
    assert result["counts"].tolist() == [count for _, count in ranked]
    rows = {word: row for row, (word, _) in enumerate(ranked)}
    assert result["ids"].tolist() == [rows[token] for token in tokens]
    assert result["distinct_words"] == len(words)


@given(st.binary(min_size=64, max_size=64) | st.lists(tricky_bytes, min_size=64, max_size=64).map(bytes))
def test_both_scanners_find_white_space(block):
    bits = [sum(1 << i for i, byte in enumerate(block) if byte in kind) for kind in (SPACES, b"\n", b"\0")]
    assert list(_native.scan_text(block, portable=True)) == bits
    assert list(_native.scan_text(block, portable=False)) == bits


def test_text_in_memory_is_counted_and_encoded():
    data = "b a\nä b\n\nb c".encode()
    buffer = np.frombuffer(data, np.uint8)
    words, counts = _native.count_words(buffer.ctypes.data, len(data), 2)
    assert words == "b\na\nc\nä\n".encode()
    assert counts.tolist() == [3, 1, 1, 1]
    ids, offsets = _native.encode_text(buffer.ctypes.data, len(data), b"a\nb\n", 2)
    assert ids.tolist() == [1, 0, 1, 1]
    assert offsets.tolist() == [0, 2, 3, 4]
    with pytest.raises(ValueError, match="byte 4 "):
        _native.count_words(buffer.ctypes.data, 5, 1)  # cuts the ä
