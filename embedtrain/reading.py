"""Reads other people's vectors, into a row for each word of *your* vocabulary if you have one.

The formats are in :mod:`embedtrain.vectorfiles`; what is kept of them, and what becomes of the rest, is decided here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedtrain.errors import EmbedtrainError
from embedtrain.options import require_int, spell
from embedtrain.vocabulary import PAD, UNK
from embedtrain.wanted import VocabularyLike, Wanted, wanted

if TYPE_CHECKING:
    import torch

    from embedtrain.embeddings import Embeddings
    from embedtrain.progress import Progress
    from embedtrain.vectorfiles import Found

Missing = Literal["auto", "zeros", "mean", "normal", "ngrams"]
DType = Literal["float32", "float16", "bfloat16"]

# The unknown word, and missing ones on request, are the mean of so many of the rarest words, as in GloVe.
_RARE_WORDS = 100

# In the order of Defect in csrc/vectors/rows.h: key in the report, and the words for it.
DEFECTS = {
    "duplicate": "whose word had a row before (the first is kept)",
    "invalid_utf8": "whose word is not UTF-8 text",
    "bad_word": "whose word is empty or holds a line break",
    "not_finite": "with NaN or infinity",
    "wrong_dimension": "with more or fewer numbers than the others",
    "not_a_number": "with something else where a number should be",
    "blank_line": "that are blank",
    "cut_off": "that the end of the file cuts off",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What to keep of a file of vectors, and how."""

    limit: int | None = None
    """Read at most this many rows of the source, the first ones; None reads all."""
    lowercase_fallback: bool = False
    """A word of the vocabulary that the source lacks takes the vector of its lower-case form."""
    missing: Missing = "auto"
    """Rows that the source has nothing for: zeros; the mean of rare words; drawn from a normal distribution with the table's mean and spread; from n-grams (fastText, floret). auto is n-grams if the source has them, else zeros."""  # noqa: E501
    dtype: DType = "float32"
    """Type of the numbers that are kept."""
    unit_norm: bool = False
    """Scale every row to length 1."""
    strict: bool = False
    """Refuse a source with anything wrong in it, instead of leaving out bad rows and saying so."""
    special_rows: bool = True
    """Put rows for <pad> (zeros) and <unk> (the source's, or the mean of its 100 rarest words) in front, where they are not there."""  # noqa: E501
    words: Path | None = None
    """The words of a .npy, .npz or .safetensors source, one per line; by default looked for beside it."""
    member: str | None = None
    """Which file inside a .zip to read, if it holds several."""
    gensim: bool = False
    """Let gensim load the source: its own files are pickles, which can run any code. Only for files you trust."""
    seed: int = 1
    """Key of the random draws of missing rows."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        :raises EmbedtrainError: naming the option and what is allowed.
        """
        if self.limit is not None:
            require_int("limit", self.limit, 1, 2**62)
        require_int("seed", self.seed, 0, 2**63 - 1)
        for name, allowed in (("missing", Missing), ("dtype", DType)):
            if (value := getattr(self, name)) not in allowed.__args__:  # type: ignore[attr-defined]
                raise EmbedtrainError(f"{spell(name)} must be {', '.join(allowed.__args__)}, not {value!r}")  # type: ignore[attr-defined]


def read(
    source: str | Path,
    vocabulary: VocabularyLike | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Embeddings:
    """Read vectors in any known format; the format is recognised by the content.

    word2vec text and binary, GloVe text, fastText ``.vec`` and ``.bin``, floret, finalfusion, ``.npy`` and ``.npz``
    with a vocabulary, safetensors, and the folders of model2vec, sentence-transformers' StaticEmbedding and embedtrain.
    Files may be compressed (gz, bz2, xz, zst) or inside a ``.zip``. Nothing that is read is executed.

    >>> embeddings = embedtrain.read("glove.6B.zip", "vocab.txt", member="glove.6B.300d.txt")
    >>> print(embeddings.report)

    :param source: a file or folder; "-" is standard input.
    :param vocabulary: the words to read vectors for, in the order of the result's rows: a ``vocab.txt``, ``vocab.tsv``
        or ``tokenizer.json``, a list of words, or words with their counts. Without one, all words of the source.
    :param progress: where to show progress; by default it is not shown.
    :param options: the fields of :class:`ReadOptions`.
    :return: the vectors, with a row 0 for padding and a row 1 for unknown words where there were none, unless
        ``special_rows=False``. What was skipped and what is covered is in ``.report``, and as JSON values in
        ``.config["source"]``; the rows that the source had nothing for are in ``.missing``.
    :raises EmbedtrainError: what is wrong with the source or the vocabulary, and where.
    """
    try:
        chosen = ReadOptions(**options)
    except TypeError as error:
        raise EmbedtrainError(f"read: {str(error).removeprefix('ReadOptions.__init__() ')}") from None
    return read_with(chosen, source, None if vocabulary is None else wanted(vocabulary), progress)


def read_with(
    options: ReadOptions, source: str | Path, vocabulary: Wanted | None, progress: Progress | None = None
) -> Embeddings:
    """Do what :func:`read` does, with its options and vocabulary made before."""
    from embedtrain import vectorfiles
    from embedtrain.progress import Progress

    progress = progress or Progress(quiet=True)
    if vocabulary is not None and options.special_rows:
        vocabulary = vocabulary.with_special_rows()
    with progress.counting("reading", "read") as update:
        found = vectorfiles.read_source(Path(source), options, vocabulary, update)
    embeddings = _assemble(found, options)
    for line in describe(embeddings.config["source"]):
        progress.note(line)
    return embeddings


def describe(source: Mapping[str, Any]) -> list[str]:
    """Say in words what ``config["source"]`` holds: what was read, what was left out, what is covered."""
    member = f", {source['member']}" if source["member"] else ""
    lines = [f"{source['name']}{member}: {source['format']}, {source['rows_read']:,} rows of {source['dim']} numbers"]
    if source["rows_in_header"] is not None and source["rows_in_header"] != source["rows_read"]:
        lines.append(f"its header says {source['rows_in_header']:,} rows")
    if source["dim_in_header"] not in (None, source["dim"]):
        lines.append(f"its header says {source['dim_in_header']} numbers per row")
    for name, finding in source["skipped"].items():
        place = "at" if finding["count"] == 1 else "the first at"
        rows = "row" if finding["count"] == 1 else "rows"
        lines.append(f"left out {finding['count']:,} {rows} {DEFECTS[name]}, {place} {finding['at']}")
    if (covered := source.get("vocabulary")) is not None:
        parts = [f"{covered['exact']:,} as they are"]
        parts += [f"{covered['lowercase']:,} in lower case"] if covered["lowercase"] else []
        parts += [f"{covered['ngrams']:,} from n-grams"] if covered["ngrams"] else []
        have = covered["words"] - covered["missing"]
        lines.append(
            f"covered {have:,} of {covered['words']:,} words of the vocabulary ({have / covered['words']:.1%}): "
            + ", ".join(parts)
        )
        if (text := source.get("running_text")) is not None:
            share = text["covered"] / text["tokens"] if text["tokens"] else math.nan
            lines.append(f"covered {share:.1%} of {text['tokens']:,} words of running text")
        if covered["missing"]:
            lines.append(f"{covered['missing']:,} words are missing; their rows are {covered['missing_rows']}")
    return lines


def _assemble(found: Found, options: ReadOptions) -> Embeddings:
    import torch

    from embedtrain.embeddings import Embeddings

    words, weight, states = found.words, found.weight, found.states
    special = {index for index in (found.pad_index, found.unk_index) if index is not None}
    ordinary = np.ones(len(words), np.bool_)
    ordinary[list(special)] = False
    if not ordinary.any() or not (states[ordinary] > 0).any():
        if found.vocabulary is None:
            raise EmbedtrainError(f"{found.name}: no vectors in it")
        example = next((word for word, wanted in zip(words, ordinary, strict=True) if wanted), "")
        raise EmbedtrainError(
            f"{found.name}: no word of the vocabulary is in it (looked for {example!r} and "
            f"{max(ordinary.sum() - 1, 0):,} more); is it for another language or another tokenizer?"
        )
    if weight.dtype == torch.float16 and not torch.isfinite(weight.sum(dtype=torch.float32)):
        raise EmbedtrainError(f"{found.name}: a number is beyond float16 (65,504); choose bfloat16 or float32")
    missing = ordinary & (states == 0)
    how = _fill_missing(weight, np.flatnonzero(missing), np.flatnonzero(ordinary & (states > 0)), found, options)
    config: dict[str, Any] = {**found.config, "source": _report(found, ordinary, missing, how)}
    return Embeddings(
        weight,
        words,
        counts=found.counts,
        pad_index=found.pad_index,
        unk_index=found.unk_index,
        config=config,
        tokenizer_json=found.tokenizer_json,
        missing=missing,
    )


def _fill_missing(weight: torch.Tensor, missing: Any, covered: Any, found: Found, options: ReadOptions) -> str:
    """Give the special and the missing rows their values, in place; return how, in words."""
    import torch

    rare = weight[covered[-_RARE_WORDS:]].float().mean(dim=0)
    if found.pad_index is not None:
        weight[found.pad_index] = 0
    if found.unk_index is not None and found.states[found.unk_index] == 0:
        weight[found.unk_index] = _scaled(rare, options).to(weight.dtype)
    if options.missing == "ngrams" and not found.has_ngrams:
        raise EmbedtrainError(
            f"{found.name}: {found.format} has no n-grams; choose another value for missing (zeros, mean, normal)"
        )
    if options.missing == "mean":
        weight[missing] = _scaled(rare, options).to(weight.dtype)
        return f"the mean of the {min(_RARE_WORDS, len(covered))} rarest covered words"
    if options.missing == "normal":
        # Moments of a sample: the whole table in float32 would double the memory of a float16 one.
        sample = weight[covered[:: max(1, len(covered) // 50_000)]].float()
        spread = sample.std(dim=0, correction=0)
        draws = torch.randn(len(missing), weight.shape[1], generator=torch.Generator().manual_seed(options.seed))
        weight[missing] = _scaled(draws * spread + sample.mean(dim=0), options).to(weight.dtype)
        return "drawn from a normal distribution with the table's mean and spread"
    return "zeros"


def _scaled(rows: torch.Tensor, options: ReadOptions) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(rows, dim=-1) if options.unit_norm else rows


def _report(found: Found, ordinary: Any, missing: Any, how: str) -> dict[str, Any]:
    """Return what was read and what not, as JSON values."""
    report: dict[str, Any] = {
        "name": found.name,
        "member": found.member,
        "format": found.format,
        "dim": found.weight.shape[1],
        "rows_read": found.rows_read,
        "rows_in_header": found.rows_in_header,
        "dim_in_header": found.dim_in_header,
        "skipped": {
            name: {"count": count, "at": f"{found.place} {first:,}"}
            for name, (count, first) in zip(DEFECTS, found.findings, strict=True)
            if count
        },
    }
    if found.vocabulary is not None:
        state = found.states[ordinary]
        report["vocabulary"] = {
            "words": int(ordinary.sum()),
            "exact": int((state == EXACT).sum()),
            "lowercase": int((state == LOWERCASE).sum()),
            "ngrams": int((state == NGRAMS).sum()),
            "missing": int(missing.sum()),
            "missing_rows": how,
        }
        if found.counts is not None:
            report["running_text"] = {
                "tokens": int(found.counts[ordinary].sum()),
                "covered": int(found.counts[ordinary & ~missing].sum()),
            }
    return report


LOWERCASE, EXACT, NGRAMS = 1, 2, 3
"""States of a row above 0, which is missing. The first two are those of csrc/vectors/rows.h."""

__all__ = ["DEFECTS", "PAD", "UNK", "ReadOptions", "describe", "read", "read_with"]
