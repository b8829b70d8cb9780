"""The native encoder against a few lines of plain Python."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

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


def encode(
    files,
    workers=1,
    chunk=1 << 20,
    errors="strict",
    lowercase=False,
    vocabulary=None,
    folder=None,
    memory=1 << 30,
    spills=(),
    **choice,
):
    """Encode; with a folder, in files, and with all words spilled after the chunks whose numbers are in ``spills``."""
    encoder = _native.Encoder(workers, errors, folder, memory)
    chunks = 0
    for data in files:
        for start in range(0, len(data), chunk):
            # A copy of its own, so that a sanitizer sees each byte read beyond it.
            bad = encoder.feed(bytes(data[start : start + chunk]))
            if bad is not None:
                return bad
            chunks += 1
            if chunks in spills:
                encoder.spill()
        bad = encoder.end_file()
        if bad is not None:
            return bad
    if lowercase:
        choice["lower"] = lambda words: words.decode().lower().encode()
    if vocabulary is not None:
        choice["vocabulary"] = b"".join(word + b"\n" for word in vocabulary)
    result = encoder.finish(**choice)
    if folder is not None:
        assert sorted(path.name for path in Path(folder).iterdir()) == ["ids.bin", "offsets.bin"]
        assert [result["ids"], result["offsets"]] == [f"{folder}/ids.bin", f"{folder}/offsets.bin"]
        result["ids"] = np.fromfile(result["ids"], np.int32)
        result["offsets"] = np.fromfile(result["offsets"], np.int64)
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


@pytest.mark.threads
@pytest.mark.parametrize(("workers", "chunk"), [(1, 1 << 30), (2, 1 << 30), (3, 700_001), (7, 131_072), (2, 999)])
def test_large_texts_do_not_depend_on_workers_or_chunks(workers, chunk):
    files = [large_text(1), large_text(2).replace(b"\n", b" ")]
    assert encode(files, workers, chunk, min_count=2) == expected(files, min_count=2)


@pytest.mark.threads
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


@pytest.mark.threads
@pytest.mark.parametrize("workers", [2, 5])
def test_a_table_grows_while_several_threads_fill_it(workers):
    draw = random.Random(3)
    words = [f"w{i}" if i % 7 else f"a-rather-long-word-number-{i}" for i in range(100_000)]
    tokens = draw.sample(words, len(words)) + draw.choices(words, k=200_000)
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


# --- more than fits in memory --------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    files=st.lists(texts, min_size=1, max_size=3),
    workers=st.integers(1, 3),
    chunk=st.integers(1, 200),
    errors=st.sampled_from(["replace", "skip"]),
    spills=st.sets(st.integers(1, 12)),
    lowercase=st.booleans(),
    min_count=st.integers(1, 3),
    max_vocab=st.none() | st.integers(2, 5),
    pad=st.sampled_from(["", "<pad>"]),
    vocabulary=st.none() | st.lists(st.sampled_from([b"a", b"b", b"f" * 16, b"g" * 17, b"never"]), unique=True),
)
def test_spilling_changes_nothing(files, workers, chunk, errors, spills, **options):
    with tempfile.TemporaryDirectory() as folder:
        spilled = encode(files, workers, chunk, errors, folder=folder, spills=spills, **options)
    assert spilled == expected(files, errors, **options)


@pytest.mark.threads
@pytest.mark.parametrize(
    ("workers", "chunk", "memory"), [(1, 1 << 30, 1), (2, 99_999, 1), (3, 1 << 30, 1 << 20), (2, 999, 1 << 22)]
)
@pytest.mark.parametrize("options", [{"min_count": 2}, {"lowercase": True, "max_vocab": 300}], ids=str)
def test_the_memory_given_changes_nothing(workers, chunk, memory, options, tmp_path):
    files = [large_text(4, 300_000), large_text(5, 100_000).replace(b"\n", b" ")]
    assert encode(files, workers, chunk, folder=str(tmp_path), memory=memory, **options) == expected(files, **options)


def slowly_encoded(folder, workers, on_share):
    """Choose a vocabulary and make ids final, of text with a word that takes a while to be put in lower case."""

    def lower(words):
        time.sleep(0.15)  # longer than what is between two reports
        return words.decode().lower().encode()

    encoder = _native.Encoder(workers, "strict", folder)
    for seed in range(3):
        encoder.feed("É ".encode() + large_text(seed))
        if folder is not None:
            encoder.spill()
    encoder.end_file()
    return encoder.finish(1, None, "", lower, None, on_share)


@pytest.mark.parametrize("spilled", [False, True])
def test_what_follows_the_reading_says_how_far_it_is(spilled, tmp_path):
    shares = []
    folder = str(tmp_path) if spilled else None
    result = slowly_encoded(folder, 1, shares.append)
    assert shares
    assert all(0 < share <= 1 for share in shares)
    assert shares == sorted(shares)
    assert result["words"] == slowly_encoded(folder, 3, None)["words"]


@pytest.mark.parametrize(("workers", "spilled"), [(1, False), (1, True), (3, True)])
def test_what_follows_the_reading_can_be_interrupted(workers, spilled, tmp_path):
    def interrupt(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slowly_encoded(str(tmp_path) if spilled else None, workers, interrupt)


def test_the_first_bad_byte_is_reported_when_words_were_spilled(tmp_path):
    data = large_text(6, 400_000)[:350_000] + b" \xff\n \xff"
    assert encode([data], 2, folder=str(tmp_path), memory=1) == first_bad(data)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the peak memory of a process")
@pytest.mark.skipif("EMBEDTRAIN_SANITIZE" in os.environ, reason="sanitizers take memory of their own")
def test_only_the_words_of_the_vocabulary_are_in_memory(tmp_path):
    source = """
import sys
from pathlib import Path
from embedtrain import _native

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10

encoder = _native.Encoder(2, "strict", *sys.argv[1:2], *map(int, sys.argv[2:3]))
before = peak()
for part in range(40):
    encoder.feed(b" ".join(b"%x" % (i * 0x9E3779B1 % 2**32) for i in range(part * 25_000, (part + 1) * 25_000)))
    encoder.feed(b" a\\n")
result = encoder.finish(min_count=2)
print(result["distinct_words"], result["words"], peak() - before)
"""
    used = []
    for arguments in ([], [str(tmp_path), str(4 << 20)]):
        command = [sys.executable, "-c", source, *arguments]
        words, kept, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert (int(words), kept) == (1_000_001, r"b'a\n'")
        used.append(int(peak))
    assert used[1] < used[0] / 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        _native.Encoder(1, "strict", str(tmp_path / "missing"))
    assert caught.value.filename == str(tmp_path / "missing" / "ids.bin")
    with pytest.raises(ValueError, match="memory_bytes"):
        _native.Encoder(1, "strict", str(tmp_path), 0)


def test_a_full_disk_is_reported(tmp_path):
    source = (
        "import resource, signal, sys\n"
        "from embedtrain import _native\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "encoder = _native.Encoder(2, 'strict', sys.argv[1], 1 << 20)\n"
        "try:\n"
        "    encoder.feed(b'some words\\n' * 20_000)\n"
        "except OSError as error:\n"
        "    print(error.filename, error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", source, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "ids.bin"), str(errno.EFBIG)]


# --- text that lies in memory --------------------------------------------------------------------------------------


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
