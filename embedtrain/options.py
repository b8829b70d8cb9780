"""Every option of a training run, once.

The command line, the Python API (:class:`embedtrain.Word2Vec`), ``config.json`` and the model card are all made from
the dataclass below; the text under a field is its help.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any, Literal

from embedtrain.distributed import local_size
from embedtrain.errors import EmbedtrainError

MAX_DIM = 1024
# Many lock-free writers to the rows of the frequent words cost quality, so more threads have to be asked for.
MAX_DEFAULT_WORKERS = 16


def _default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(max(cores // local_size(), 1), MAX_DEFAULT_WORKERS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to train. Names and meanings are those of word2vec.c and gensim."""

    dim: int = 100
    """Numbers per embedding (D), 1 to 1024."""
    window: int = 5
    """Words to each side of the centre that may be its context (W), at least 1."""
    negative: int = 5
    """Noise words per centre (K), at least 1; shared by its contexts, and with up to three centres far away."""
    min_count: int = 5
    """Words seen less often than this, in occurrences, are left out."""
    max_vocab: int | None = None
    """Keep at most this many words, the most frequent ones; None keeps all."""
    sample: float = 1e-3
    """Share of the corpus (0 to 1) above which occurrences of a word are randomly dropped; 0 drops none."""
    ns_exponent: float = 0.75
    """Noise words are drawn in proportion to count to this power; 1 follows the counts, 0 is uniform."""
    shrink_window: bool = True
    """Draw each centre's window uniformly from 1 to W words (near words count more); otherwise it is always W."""
    epochs: int = 5
    """Passes over the corpus, at least 1."""
    alpha: float = 0.025
    """Learning rate at the start; it falls linearly with the position."""
    min_alpha: float = 0.0001
    """Learning rate at the end."""
    seed: int = 1
    """Key of every random draw, 0 to 2^63 - 1. One worker and the same seed give the same bytes."""
    workers: int = dataclasses.field(default_factory=_default_workers)
    """Threads that read and train (on a GPU: that read). The default is the number of cores (under torchrun, a rank's share of them), at most 16."""  # noqa: E501
    device: str = "auto"
    """Where to train: auto, cpu, cuda or cuda:N."""
    lowercase: bool = False
    """Lower-case the words of the corpus (by Unicode)."""
    errors: Literal["strict", "replace", "skip"] = "strict"
    """Words with bytes that are not UTF-8: stop (strict), put U+FFFD for the bytes (replace), leave them out (skip)."""
    tokenizer: Path | None = None
    """A Hugging Face tokenizer.json that cuts the raw text into tokens, instead of white space."""
    read_vocab: Path | None = None
    """Take words and counts from this file ("word count" a line), instead of counting the corpus."""
    column: str | None = None
    """The column of Parquet and Arrow files and datasets to train on; None takes it if there is only one."""
    cache: bool = True
    """Train on the encoded corpus that an earlier run kept, and keep one that is too large for memory."""
    cache_dir: Path | None = None
    """Keep the encoded corpus in this folder, however small; None: in ~/.cache/embedtrain, if it is large."""
    local_shard: bool = False
    """Under torchrun: the files on each machine are its own part of the corpus, which its ranks share; otherwise all ranks see the same files."""  # noqa: E501
    init_from: Path | None = None
    """Start from the vectors of this file or folder, in any format that embedtrain.convert reads; words that it lacks start as usual. Its dimension must be dim."""  # noqa: E501
    lock: Literal["source"] | Path | None = None
    """With init-from: words whose vectors stay as they are there, to the bit; a file with a word per line, or "source" for all that it has. Words without a vector there are trained."""  # noqa: E501

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        :raises EmbedtrainError: naming the option, the value and what is allowed.
        """
        require_int("dim", self.dim, 1, MAX_DIM)
        require_int("window", self.window, 1, 1_000_000)
        require_int("negative", self.negative, 1, 1_000)
        require_int("min_count", self.min_count, 1)
        if self.max_vocab is not None:
            require_int("max_vocab", self.max_vocab, 2)
        require_float("sample", self.sample, 0.0, 1.0)
        require_float("ns_exponent", self.ns_exponent, -10.0, 10.0)
        require_int("epochs", self.epochs, 1)
        require_float("alpha", self.alpha, 0.0, 10.0)
        if self.alpha == 0:
            raise EmbedtrainError("alpha must be above 0, not 0: nothing would be learned")
        require_float("min_alpha", self.min_alpha, 0.0, self.alpha, upper_name="alpha")
        require_int("seed", self.seed, 0, 2**63 - 1)
        require_int("workers", self.workers, 1, 1024)
        for name in ("shrink_window", "lowercase", "cache", "local_shard"):
            if not isinstance(value := getattr(self, name), bool):
                raise EmbedtrainError(f"{spell(name)} must be True or False, not {value!r}")
        for name in ("tokenizer", "read_vocab", "cache_dir", "init_from", "lock"):
            if (value := getattr(self, name)) is not None and not (name == "lock" and value == "source"):
                if not isinstance(value, (str, os.PathLike)):
                    raise EmbedtrainError(f"{spell(name)} must be a path, not {value!r}")
                object.__setattr__(self, name, Path(value))  # from Python, paths often come as strings
        if self.lock is not None and self.init_from is None:
            raise EmbedtrainError("lock keeps vectors of init-from as they are; pass init-from as well")
        if self.column is not None and not isinstance(self.column, str):
            raise EmbedtrainError(f"column must be the name of a column, not {self.column!r}")
        if not isinstance(self.device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise EmbedtrainError(f"device must be auto, cpu, cuda or cuda:N, not {self.device!r}")
        if self.errors not in ("strict", "replace", "skip"):
            raise EmbedtrainError(f"errors must be strict, replace or skip, not {self.errors!r}")
        if self.tokenizer is not None and (self.lowercase or self.read_vocab is not None or self.max_vocab is not None):
            raise EmbedtrainError(
                "tokenizer brings its own vocabulary and normalisation; leave out lowercase, read_vocab and max_vocab"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values, for config.json and the model card."""
        return {
            field.name: str(value) if isinstance(value := getattr(self, field.name), Path) else value
            for field in dataclasses.fields(Options)
        }


def spell(name: str) -> str:
    """Return an option's name as it is typed."""
    return name.replace("_", "-")


def require_int(name: str, value: object, low: int, high: int = 2**31 - 1) -> None:
    """Refuse what is no whole number from ``low`` to ``high``.

    :raises EmbedtrainError: naming the option.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise EmbedtrainError(f"{spell(name)} must be a whole number, from {low} to {high}, not {value!r}")


def require_float(name: str, value: object, low: float, high: float, upper_name: str | None = None) -> None:
    """Refuse what is no number from ``low`` to ``high``, which may be another option.

    :raises EmbedtrainError: naming the option.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type, operator]
        upper = f"{upper_name} ({high:g})" if upper_name else f"{high:g}"
        raise EmbedtrainError(f"{spell(name)} must be a number from {low:g} to {upper}, not {value!r}")
