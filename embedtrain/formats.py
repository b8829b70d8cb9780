"""Other people's formats, written on request next to ``embedding.pt``.

============================  ==============================================================================
``npy``                       ``embedding.npy``: float32 (V, D), for ``numpy.load``
``safetensors``               ``model.safetensors``, ``tokenizer.json``, ``modules.json``: the static embedding of
                              Hugging Face, loaded by sentence-transformers' ``SentenceTransformer`` and model2vec's
                              ``StaticModel.from_pretrained``
``word2vec``                  ``vectors.txt``: word2vec text, for gensim's ``KeyedVectors.load_word2vec_format``
``word2vec-binary``           ``vectors.bin``: the same in word2vec's binary form
``glove``                     ``glove.txt``: GloVe text, which is word2vec text without the header
``projector``                 ``tensors.tsv``, ``metadata.tsv``, ``projector_config.pbtxt``: the 50,000 first words for
                              TensorBoard's embedding projector (``tensorboard --logdir FOLDER``)
============================  ==============================================================================

``npy`` and ``safetensors`` hold every row of ``embedding.pt``. The others hold words only: the
special rows ``<pad>`` and ``<unk>`` are left out, because their readers would take them for words and return them as
neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from embedtrain.errors import EmbedtrainError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from embedtrain.embeddings import Embeddings

Export = Literal["npy", "safetensors", "word2vec", "word2vec-binary", "glove", "projector"]
EXPORTS: tuple[Export, ...] = get_args(Export)

FILES: dict[Export, tuple[str, ...]] = {
    "npy": ("embedding.npy",),
    "safetensors": ("model.safetensors", "tokenizer.json", "modules.json"),
    "word2vec": ("vectors.txt",),
    "word2vec-binary": ("vectors.bin",),
    "glove": ("glove.txt",),
    "projector": ("tensors.tsv", "metadata.tsv", "projector_config.pbtxt"),
}
"""The files each export writes."""

_SEPARATED_BY_SPACE: frozenset[str] = frozenset({"word2vec", "word2vec-binary", "glove"})
_ASCII_SPACE = " \t\n\r\x0b\x0c"
_HAS_ASCII_SPACE = re.compile(f"[{_ASCII_SPACE}]")
# A lone surrogate is the only character that UTF-8 cannot hold.
_NOT_A_LINE = re.compile("[\n\r\ud800-\udfff]")
# Bounds the memory of the numbers as text (16 bytes each).
_NUMBERS_AT_ONCE = 1_000_000
_WORDS_AT_ONCE = 1 << 16
# The projector runs in a browser.
_PROJECTOR_WORDS = 50_000

Matrix = npt.NDArray[np.float32]
_Items = TypeVar("_Items", Sequence[str], npt.NDArray[np.int64])


def check_export(
    export: Sequence[str], words: Sequence[str], *, unk_index: int | None, tokenizer_json: str | None = None
) -> None:
    """Refuse, before anything is trained or written, words that the result's files cannot hold.

    :param export: names out of :data:`EXPORTS`.
    :param words: the tokens of the rows, special rows included.
    :param unk_index: the row of the unknown word, if there is one.
    :param tokenizer_json: the tokenizer of the result, if it was trained through one.
    :raises EmbedtrainError: naming the token or the export, and what to do.
    """
    for name in export:
        if name not in EXPORTS:
            raise EmbedtrainError(f"there is no export named {name!r}; choose from {', '.join(EXPORTS)}")
    if (row := _first(words, _NOT_A_LINE)) is not None:
        raise EmbedtrainError(
            f"token {words[row]!r} (row {row}) cannot be a line of vocab.txt: a token must be UTF-8 text, "
            "not empty, without line breaks; replace it in the corpus"
        )
    if (spaced := _SEPARATED_BY_SPACE.intersection(export)) and (row := _first(words, _HAS_ASCII_SPACE)) is not None:
        raise EmbedtrainError(
            f"token {words[row]!r} holds white space, which separates the columns of the formats "
            f"{', '.join(sorted(spaced))}; leave them out or replace the white space in the corpus"
        )
    if "safetensors" in export:
        _static_tokenizer(words, unk_index=unk_index, lowercase=False, tokenizer_json=tokenizer_json)


def batches(items: _Items) -> Iterator[_Items]:
    """Cut rows into pieces, because what is done to thousands of words at once takes a fraction of the time."""
    return (items[start : start + _WORDS_AT_ONCE] for start in range(0, len(items), _WORDS_AT_ONCE))


def _first(words: Sequence[str], unfit: re.Pattern[str]) -> int | None:
    """Return the first row whose token is empty or matches."""
    for number, batch in enumerate(batches(words)):
        if not all(batch) or unfit.search("".join(batch)):
            rows = (row for row, word in enumerate(batch) if not word or unfit.search(word))
            return number * _WORDS_AT_ONCE + next(rows)
    return None


def write_export(name: Export, folder: Path, embeddings: Embeddings) -> None:
    """Write one export into a folder that exists.

    :param name: one of :data:`EXPORTS`, checked before by :func:`check_export`.
    :raises OSError: as the file system gives it.
    """
    weight: Matrix = embeddings.weight.float().numpy()
    if name == "npy":
        write_npy(folder / "embedding.npy", weight)
    elif name == "safetensors":
        write_static_embedding(folder, embeddings)
    else:
        special = {embeddings.pad_index, embeddings.unk_index}
        rows = [row for row in range(len(embeddings)) if row not in special]
        words = [embeddings.words[row] for row in rows]
        if name == "projector":
            rows = rows[:_PROJECTOR_WORDS]
            counts = None if embeddings.counts is None else embeddings.counts[rows]
            write_projector(folder, weight[rows], words[:_PROJECTOR_WORDS], counts)
            return
        write = {"word2vec": write_word2vec, "word2vec-binary": write_word2vec_binary, "glove": write_glove}[name]
        write(folder / FILES[name][0], weight[rows], words)


def write_npy(path: Path, weight: Matrix) -> None:
    """Write float32 (V, D) in C order as a ``.npy`` file, which numpy.load reads without pickle."""
    weight = np.ascontiguousarray(weight)
    with path.open("wb") as file:
        # numpy.save hands the data to C's stdio, which loses the reason of a failed write.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(weight))
        file.write(weight.data)


def write_word2vec(path: Path, weight: Matrix, words: Sequence[str]) -> None:
    """Write word2vec text: a line ``V D``, then ``word number … number`` per row.

    The numbers have as few digits as give back the same float32.
    """
    with path.open("wb") as file:
        file.write(b"%d %d\n" % weight.shape)
        _write_rows(file, weight, words)


def write_word2vec_binary(path: Path, weight: Matrix, words: Sequence[str]) -> None:
    """Write word2vec binary: a line ``V D``, then word, space, D little-endian float32, newline per row."""
    with path.open("wb") as file:
        file.write(b"%d %d\n" % weight.shape)
        little_endian = weight.astype("<f4", copy=False)
        for word, row in zip(words, little_endian, strict=True):
            # word2vec.c ends a row with a newline and readers skip it; some need it.
            file.write(b"%b %b\n" % (word.encode(), row.tobytes()))


def write_glove(path: Path, weight: Matrix, words: Sequence[str]) -> None:
    """Write GloVe text: :func:`write_word2vec` without its first line."""
    with path.open("wb") as file:
        _write_rows(file, weight, words)


def write_projector(
    folder: Path, weight: Matrix, words: Sequence[str], counts: npt.NDArray[np.int64] | None = None
) -> None:
    """Write the files of TensorBoard's embedding projector; the paths in its configuration are relative to the folder.

    :param counts: (V,) a second column of metadata. With two columns the first line is a header, with one it must not.
    """
    with (folder / "tensors.tsv").open("wb") as file:
        file.writelines(b"\t".join(row) + b"\n" for row in _rows_as_text(weight))
    labels = [" ".join(word.splitlines()).replace("\t", " ") or "·" for word in words]
    if counts is None:
        lines = [f"{label}\n" for label in labels]
    else:
        lines = ["word\tcount\n", *(f"{label}\t{count}\n" for label, count in zip(labels, counts, strict=True))]
    (folder / "metadata.tsv").write_bytes("".join(lines).encode())
    (folder / "projector_config.pbtxt").write_text(
        'embeddings {\n  tensor_name: "embedtrain"\n  tensor_path: "tensors.tsv"\n  metadata_path: "metadata.tsv"\n}\n',
        encoding="utf-8",
    )


def write_static_embedding(folder: Path, embeddings: Embeddings) -> None:
    """Write the static embedding of Hugging Face: ``model.safetensors``, ``tokenizer.json`` and ``modules.json``.

    The unk row is zero here, whatever it is in ``embedding.pt``: sentence-transformers averages over unknown words too,
    and a zero row leaves the direction of the average as if they were not there.
    """
    from safetensors.numpy import save

    weight: Matrix = embeddings.weight.float().numpy()
    if embeddings.unk_index is not None and weight[embeddings.unk_index].any():
        weight = weight.copy()
        weight[embeddings.unk_index] = 0
    tokenizer = _static_tokenizer(
        embeddings.words,
        unk_index=embeddings.unk_index,
        lowercase=bool(embeddings.config.get("options", {}).get("lowercase")),
        tokenizer_json=embeddings.tokenizer_json,
    )
    # The type's name is the one every version of sentence-transformers knows.
    modules = [{"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"}]
    (folder / "model.safetensors").write_bytes(save({"embeddings": weight}))
    (folder / "tokenizer.json").write_bytes(tokenizer.encode())
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")


def _static_tokenizer(
    words: Sequence[str], *, unk_index: int | None, lowercase: bool, tokenizer_json: str | None
) -> str:
    """Return a tokenizer.json whose ids are the rows: the result's own, or one that splits as training did."""
    from tokenizers import Tokenizer

    if tokenizer_json is not None:
        tokenizer = Tokenizer.from_str(tokenizer_json)
        size = tokenizer.get_vocab_size()
        if size != len(words):
            raise EmbedtrainError(
                f"export safetensors needs a row for each of the tokenizer's {size:,} tokens, not {len(words):,} rows: "
                "its ids have gaps; leave out this export"
            )
        return tokenizer_json
    if unk_index is None:
        raise EmbedtrainError("export safetensors needs an <unk> row for unknown words; leave out this export")
    return _whitespace_tokenizer(words, words[unk_index], lowercase).to_str(pretty=False)


def _whitespace_tokenizer(words: Sequence[str], unk: str, lowercase: bool) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token=unk))
    # Not WhitespaceSplit: that also splits at Unicode spaces, which are letters like any other in training.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"[{_ASCII_SPACE}]+"), behavior="removed")
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def _write_rows(file: BinaryIO, weight: Matrix, words: Sequence[str]) -> None:
    file.writelines(
        b"%b %b\n" % (word.encode(), b" ".join(row)) for word, row in zip(words, _rows_as_text(weight), strict=True)
    )


def _rows_as_text(weight: Matrix) -> Iterator[list[bytes]]:
    """Yield the numbers of each row (D,) as the shortest text that reads back as the same float32."""
    step = max(1, _NUMBERS_AT_ONCE // max(1, weight.shape[1]))
    for first in range(0, len(weight), step):
        # The longest is -1.1754944e-38, 14 bytes.
        yield from weight[first : first + step].astype("S16").tolist()
