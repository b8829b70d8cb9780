"""Corpora of all kinds: the same words give the same ids; every bad one gets its line."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import json
import lzma
import os
import subprocess
import sys
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtrain import corpus as corpus_module
from embedtrain.corpus import encode
from embedtrain.errors import EmbedtrainError
from embedtrain.options import Options
from embedtrain.vocabulary import Vocabulary

TEXT = "the cat sat on the mat\n\nthe dog saw the cat\nΕλλάς Größe the\n"
SENTENCES = [line.split() for line in TEXT.split("\n") if line]
ALL = Options(min_count=1)

ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
try:
    zstd = importlib.import_module(ZSTD)
except ImportError:
    zstd = None


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def sentences(corpus):
    """Get the words of the sentences back from the ids."""
    bounds = corpus.offsets.tolist()
    words = [corpus.vocabulary.words[i] for i in corpus.ids.tolist()]
    return [words[begin:end] for begin, end in pairwise(bounds)]


def test_a_file_is_encoded(file):
    corpus = encode(file, ALL)
    assert sentences(corpus) == SENTENCES
    assert corpus.vocabulary.words[:2] == ["the", "cat"]
    assert corpus.vocabulary.counts.tolist() == [5, 2, 1, 1, 1, 1, 1, 1, 1]
    assert (corpus.tokens_read, corpus.lines, corpus.dropped, corpus.replaced) == (14, 4, {}, 0)
    assert [(source.name, source.size) for source in corpus.sources] == [(str(file), len(TEXT.encode()))]
    assert corpus.ids.dtype == np.int32
    assert corpus.offsets.dtype == corpus.vocabulary.counts.dtype == np.int64


def test_rare_words_are_dropped_before_the_window(file):
    corpus = encode(str(file), Options(min_count=2, workers=2))
    assert sentences(corpus) == [["the", "cat", "the"], ["the", "the", "cat"], ["the"]]
    assert corpus.dropped == {"out_of_vocabulary": 7}
    assert encode(file, Options(min_count=1, max_vocab=2)).fingerprint == corpus.fingerprint


def test_files_lists_and_generators_agree(file, tmp_path):
    halves = [tmp_path / "a", tmp_path / "b"]
    halves[0].write_bytes(b"\xef\xbb\xbf" + "\r\n".join(TEXT.split("\n")[:2]).encode())
    halves[1].write_text("\n".join(TEXT.split("\n")[2:]), encoding="utf-8")
    for options in (ALL, Options(min_count=2), Options(min_count=1, max_vocab=3), Options(min_count=1, lowercase=True)):
        corpora = [encode(each, options) for each in (file, halves, SENTENCES, (tuple(words) for words in SENTENCES))]
        assert len({corpus.fingerprint for corpus in corpora}) == 1
        assert len({corpus.tokens_read for corpus in corpora}) == 1
        assert all(corpus.dropped == corpora[0].dropped for corpus in corpora)


def test_the_fingerprint_depends_on_words_ids_and_sentences():
    corpora = [[["a", "b", "c"]], [["a", "b", "d"]], [["a", "c", "b"]], [["a"], ["b", "c"]]]
    assert len({encode(corpus, ALL).fingerprint for corpus in corpora}) == len(corpora)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=3)


@given(st.lists(st.lists(words | st.sampled_from("aAbB"))), st.booleans(), st.integers(1, 2))
def test_lists_of_any_words(lists, lowercase, min_count):
    spelled = [[word.lower() if lowercase else word for word in sentence] for sentence in lists]
    counts = Counter(word for sentence in spelled for word in sentence)
    kept = [[word for word in sentence if counts[word] >= min_count] for sentence in spelled]
    if len({word for sentence in kept for word in sentence}) < 2:
        with pytest.raises(EmbedtrainError):
            encode(iter(lists), Options(min_count=min_count, lowercase=lowercase))
        return
    corpus = encode(iter(lists), Options(min_count=min_count, lowercase=lowercase))
    assert sentences(corpus) == [sentence for sentence in kept if sentence]
    assert dict(zip(corpus.vocabulary.words, corpus.vocabulary.counts.tolist(), strict=True)) == {
        word: count for word, count in counts.items() if count >= min_count
    }
    assert corpus.lines == len(lists)


def test_lowercase_is_that_of_unicode(tmp_path):
    path = tmp_path / "corpus"
    path.write_text("ΟΔΟΣ Οδος ΟΔΟς Straße STRASSE İ The THE the\n", encoding="utf-8")
    corpus = encode(path, Options(min_count=1, lowercase=True))
    assert sentences(corpus) == [path.read_text(encoding="utf-8").lower().split()]
    assert encode([path.read_text(encoding="utf-8").split()], Options(min_count=1, lowercase=True)).fingerprint == (
        corpus.fingerprint
    )


def test_pad_is_no_word_and_unk_is_one(tmp_path):
    path = tmp_path / "corpus"
    path.write_text("a <pad> b <unk> <pad>\n")
    for corpus in (encode(path, ALL), encode([path.read_text().split()], ALL)):
        assert sentences(corpus) == [["a", "b", "<unk>"]]
        assert (corpus.dropped, corpus.tokens_read) == ({"pad_token": 2}, 5)


def test_a_vocabulary_may_be_given(file, tmp_path):
    path = tmp_path / "vocab"
    Vocabulary.most_frequent({"cat": 9, "the": 30, "unseen": 12, "dog": 1, "<pad>": 3}).save(path)
    for corpus in (
        encode(file, Options(min_count=2, read_vocab=path)),
        encode(SENTENCES, Options(min_count=2, read_vocab=path)),
    ):
        assert corpus.vocabulary.words == ["the", "unseen", "cat"]
        assert corpus.vocabulary.counts.tolist() == [30, 12, 9]
        assert sentences(corpus) == [["the", "cat", "the"], ["the", "the", "cat"], ["the"]]
        assert corpus.dropped == {"out_of_vocabulary": 7}
    assert encode(file, Options(min_count=1, max_vocab=2, read_vocab=path)).vocabulary.words == ["the", "unseen"]
    with pytest.raises(EmbedtrainError, match="vocab: 1 word has a count of min-count"):
        encode(file, Options(min_count=20, read_vocab=path))
    Vocabulary.most_frequent({"x": 9, "y": 30}).save(path)
    with pytest.raises(EmbedtrainError, match="none of its words is in the vocabulary"):
        encode(file, Options(min_count=2, read_vocab=path))


# --- where the bytes come from -------------------------------------------------------------------------------------

COMPRESSORS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
if zstd is not None:
    # As the zstd command does it.
    COMPRESSORS["zst"] = lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_compressed_files_are_known_by_their_first_bytes(kind, file, tmp_path):
    compress = COMPRESSORS[kind]
    data = TEXT.encode()
    path = tmp_path / "no-suffix"
    path.write_bytes(compress(data[:20]) + compress(data[20:]))  # two members
    seen = []
    corpus = encode(path, ALL, lambda done, total: seen.append((done, total)))
    assert corpus.fingerprint == encode(file, ALL).fingerprint
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    # Damaged: cut off, and with a byte changed.
    whole = compress(os.urandom(5000).hex().encode())
    for damaged in (
        whole[:-9],
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 255]) + whole[len(whole) // 2 + 1 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(EmbedtrainError, match=r"no-suffix: the .* file is damaged or cut off"):
            encode(path, ALL)


@pytest.mark.parametrize("chunk", [3, 1000, 1 << 20])
@pytest.mark.parametrize("kind", COMPRESSORS)
def test_all_members_are_read(kind, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_CHUNK_BYTES", chunk)
    compress = COMPRESSORS[kind]
    lines = [f"{number % 97} {number % 89}\n".encode() * (number % 3) for number in range(1, 60)]  # some are empty
    path = tmp_path / "corpus"
    path.write_bytes(b"".join(map(compress, lines)) + compress(b"repeated " * 100_000) + bytes(512))
    corpus = encode(path, ALL)
    expected = b"".join(lines).decode().split("\n")[:-1]
    assert sentences(corpus) == [line.split() for line in expected] + [["repeated"] * 100_000]

    path.write_bytes(compress(b"some words\n") + b"rubbish" * 3)
    with pytest.raises(EmbedtrainError, match=r"the .* file is damaged or cut off"):
        encode(path, ALL)
    path.write_bytes(compress(b"some words\n") + compress(b"some more\n" * 1000)[:20])
    with pytest.raises(EmbedtrainError, match=r"the .* file is damaged or cut off"):
        encode(path, ALL)


@pytest.mark.skipif(zstd is None, reason="needs zstd")
def test_zstd_files_of_pzstd(tmp_path):
    path = tmp_path / "corpus.zst"
    frame = zstd.compress(b"some words\n")
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + len(frame).to_bytes(4, "little")
    path.write_bytes(skipped + frame + skipped + frame)
    assert sentences(encode(path, ALL)) == [["some", "words"]] * 2


def test_zstd_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, ZSTD, None)
    path = tmp_path / "corpus.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    with pytest.raises(EmbedtrainError, match=r"pip install backports.zstd"):
        encode(path, ALL)


def test_text_that_starts_like_bzip2(tmp_path):
    path = tmp_path / "corpus"
    path.write_text("BZh9 is a sign\n")
    assert sentences(encode(path, ALL)) == [["BZh9", "is", "a", "sign"]]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_standard_input_and_pipes(compress, file, tmp_path, monkeypatch):
    data = compress(TEXT.encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    seen = []
    corpus = encode("-", ALL, lambda done, total: seen.append((done, total)))
    assert corpus.fingerprint == encode(file, ALL).fingerprint
    assert [(source.name, source.size) for source in corpus.sources] == [("standard input", None)]
    assert seen[-1] == (len(data), None)

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def write():
        with fifo.open("wb", buffering=0) as pipe:
            for byte in data:
                pipe.write(bytes([byte]))

    writer = threading.Thread(target=write)
    writer.start()
    assert encode(fifo, ALL).fingerprint == corpus.fingerprint
    writer.join()


def test_chunks_and_files_meet_anywhere(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "abc"]
    for path, data in zip(paths, [b"one two\n three", b"", b"four\n\xef\xbb\xbffive"], strict=True):
        path.write_bytes(data)
    for chunk in (1, 2, 3, 5, 100):
        monkeypatch.setattr(corpus_module, "_CHUNK_BYTES", chunk)
        corpus = encode(paths, ALL)
        assert sentences(corpus) == [["one", "two"], ["three"], ["four"], ["\ufefffive"]]
        assert corpus.lines == 4


def test_progress_reaches_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_CHUNK_BYTES", 100)
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("some words\n" * 100)
    seen = []
    encode(paths, ALL, lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [2200] * len(seen)
    assert seen == sorted(seen)
    assert seen[-1][0] == 2200
    assert len(seen) > 20


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "corpus is empty"),
        (b" \n\t\r\n", "has no words, only white space"),
        (b"a b c\n", r"no word occurs min-count \(5\) times \(the most frequent one: 1\)"),
        (b"a a a a a b c\n", "only one word, 'a', occurs min-count"),
        (b"<pad> " * 9, r"no words are left, all were dropped \(pad_token\)"),
        (b"ok\nline \xc3\xa4 \xff here\n\xfe", "corpus: line 2, byte 11: 0xff is not UTF-8 text; convert the file"),
        (b"ok\nELF\0\1\2", "corpus: line 2, byte 6: 0x00: this looks like a binary file"),
    ],
)
def test_bad_text_is_refused(tmp_path, data, message):
    path = tmp_path / "corpus"
    path.write_bytes(data)
    with pytest.raises(EmbedtrainError, match=message) as caught:
        encode(path, Options())
    assert "\n" not in str(caught.value)
    tokenizer = tiny_tokenizer(tmp_path)
    if b"a" not in data and b"pad" not in data:  # the tokenizer has its own words
        with pytest.raises(EmbedtrainError, match=message.split(";")[0]):
            encode(path, Options(tokenizer=tokenizer))


def test_bad_bytes_are_replaced_or_skipped(tmp_path):
    path = tmp_path / "corpus"
    path.write_bytes(b"good \xffbad\n \xe4\xb8 \0x good\n")
    replaced = encode(path, Options(min_count=1, errors="replace"))
    assert sentences(replaced) == [["good", "\ufffdbad"], ["\ufffd", "\ufffdx", "good"]]
    assert (replaced.replaced, replaced.dropped) == (3, {})
    path.write_bytes(b"good \xffbad\n \xe4\xb8 \0x good text\n")
    skipped = encode(path, Options(min_count=1, errors="skip"))
    assert sentences(skipped) == [["good"], ["good", "text"]]
    assert (skipped.replaced, skipped.dropped, skipped.tokens_read) == (0, {"invalid_utf8": 3}, 6)
    path.write_bytes(b"\xff \xff")
    with pytest.raises(EmbedtrainError, match="all were dropped"):
        encode(path, Options(min_count=1, errors="skip"))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(EmbedtrainError, match=r"missing.txt: no such file$"):
        encode(tmp_path / "missing.txt", ALL)
    with pytest.raises(EmbedtrainError, match="no such file; a list of strings is a list of files"):
        encode(["the cat sat", "on the mat"], ALL)
    with pytest.raises(EmbedtrainError, match="there are no files in this folder"):
        encode(tmp_path, ALL)
    with pytest.raises(EmbedtrainError, match="cannot be read"):
        encode("nul\0byte", ALL)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(file):
    file.chmod(0)
    with pytest.raises(EmbedtrainError, match="cannot be read"):
        encode(file, ALL)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        (3, "not int"),
        (b"bytes", "not bytes"),
        ([], "empty list"),
        (iter([]), "has no words"),
        ([[], []], "has no words"),
        ((line for line in ["the cat", "sat"]), "sentence 0 is a string, 'the cat'; give a list of words"),
        ([["a"], "b"], "sentence 1 is a string"),
        ([["a", "b"], None], "sentence 1 is not a list of words"),
        ([["a", "b"], [["c"]]], "sentence 1 is not a list of words"),
        ([["a", "b"], [], ["c", 3]], "sentence 2, token 1 is 3, not a string"),
        ([["a", "b"], ["c", None]], "sentence 1, token 1 is None, not a string"),
        ([["a", b"b"]], "sentence 0, token 1 is b'b', not a string"),
        ([["a", ""]], "sentence 0, token 1 is empty"),
        ([["a", "b\nc"]], "sentence 0, token 1 holds a line break"),
        ([["a", "b\rc"]], "sentence 0, token 1 holds a line break"),
        ([["a", "\ud800"]], "sentence 0, token 1 is not valid Unicode"),
    ],
)
def test_bad_lists_are_refused(corpus, message):
    with pytest.raises(EmbedtrainError, match=message):
        encode(corpus, ALL)


def test_errors_of_a_generator_are_its_own():
    def broken():
        yield ["a", "b"]
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        encode(broken(), ALL)


# --- tokenizers ----------------------------------------------------------------------------------------------------


def tiny_tokenizer(folder, **vocab):
    """Cuts into characters; ids have a hole, truncation and padding are on, "<s>" is added around a text."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

    vocab = {"<unk>": 0, "<pad>": 1, "<s>": 2, "t": 3, "h": 4, "e": 5, "中": 6, "文": 7, "q": 8, "last": 12}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    tokenizer.add_special_tokens([AddedToken("<pad>"), AddedToken("<s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 2)])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>", length=20)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_a_tokenizer_cuts_raw_text(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(corpus_module, "_TOKENIZER_CHUNK_BYTES", chunk)
    tokenizer = tiny_tokenizer(tmp_path)
    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].write_bytes("\ufeffthe the\r\n\n中文中文 q".encode())
    paths[1].write_bytes("文 z\n".encode())
    environment = dict(os.environ)
    corpus = encode(paths, Options(min_count=2, tokenizer=tokenizer, workers=2))
    assert dict(os.environ) == environment
    assert sentences(corpus) == [list("thethe"), list("中文中文"), list("文")]
    words = [
        "<unk>",
        "<pad>",
        "<s>",
        "t",
        "h",
        "e",
        "中",
        "文",
        "q",
        "<unused-9>",
        "<unused-10>",
        "<unused-11>",
        "last",
    ]
    assert corpus.vocabulary.words == words
    assert corpus.vocabulary.counts.tolist() == [0, 0, 0, 2, 2, 2, 2, 3, 0, 0, 0, 0, 0]
    assert (corpus.lines, corpus.tokens_read, corpus.dropped) == (4, 13, {"out_of_vocabulary": 2})
    assert json.loads(corpus.tokenizer_json) == json.loads(tokenizer.read_text(encoding="utf-8"))


def test_the_padding_token_of_a_tokenizer_is_not_trained(tmp_path):
    path = tmp_path / "corpus"
    path.write_text("the <pad> the\n<pad>\n")
    corpus = encode(path, Options(min_count=1, tokenizer=tiny_tokenizer(tmp_path)))
    assert sentences(corpus) == [list("thethe")]
    assert corpus.dropped == {"pad_token": 2}
    assert corpus.vocabulary.counts[1] == 0


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_a_tokenizer_and_bad_bytes(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(corpus_module, "_TOKENIZER_CHUNK_BYTES", chunk)
    path = tmp_path / "corpus"
    path.write_bytes(b"\xef\xbb\xbfthe\nt\xffe the\nh\0t")
    options = {"min_count": 1, "tokenizer": tiny_tokenizer(tmp_path)}
    with pytest.raises(EmbedtrainError, match="corpus: line 2, byte 8: 0xff is not UTF-8"):
        encode(path, Options(**options))
    skipped = encode(path, Options(**options, errors="skip"))
    assert sentences(skipped) == [list("the"), list("the")]
    assert skipped.dropped == {"invalid_utf8": 2}
    replaced = encode(path, Options(**options, errors="replace"))
    assert sentences(replaced) == [list("the"), ["t", "<unk>", *"ethe"], ["h", "<unk>", "t"]]
    assert replaced.replaced == 2


def test_bad_tokenizers_are_refused(file, tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(EmbedtrainError, match="the tokenizer cannot be read"):
        encode(file, Options(tokenizer=path))
    for text in ("", "{}", "[1", "\ufffd"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(EmbedtrainError, match=r"is no tokenizer.json"):
            encode(file, Options(tokenizer=path))
    path.write_bytes(b"\xff")
    with pytest.raises(EmbedtrainError, match=r"is no tokenizer.json"):
        encode(file, Options(tokenizer=path))
    with pytest.raises(EmbedtrainError, match="give it text files"):
        encode(SENTENCES, Options(tokenizer=tiny_tokenizer(tmp_path)))
    file.write_text("the zzzz")
    with pytest.raises(EmbedtrainError, match="only one word, '<unk>', occurs"):
        encode(file, Options(min_count=4, tokenizer=tiny_tokenizer(tmp_path)))


def test_importing_the_reader_is_quick():
    code = "import sys, embedtrain.corpus; print({'torch', 'tokenizers', 'embedtrain._native'} & set(sys.modules))"
    root = Path(corpus_module.__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
