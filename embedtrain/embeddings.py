"""The result of training or reading: a table of embeddings and the words its rows belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from embedtrain.errors import EmbedtrainError
from embedtrain.layers import Embedding, PartialEmbedding
from embedtrain.spelling import near_spellings
from embedtrain.vocabulary import Vocab

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class UnknownWordError(KeyError):
    """A word that has no row. Its message, put together only when it is shown, offers words spelled like it."""

    def __init__(self, word: object, words: Sequence[str]) -> None:
        super().__init__(word)
        self.word = word
        self._words = words

    def __str__(self) -> str:
        message = f"{self.word!r} is not in the vocabulary"
        if isinstance(self.word, str):
            near = near_spellings(self.word, self._words)
            if near:
                message += f"; did you mean {' or '.join(map(repr, near))}?"
        return message


class Embeddings:
    """Word embeddings: a table (V, D) and the word of each row.

    Behaves like a read-only mapping from word to vector: ``embeddings["word"]`` is a view of its row, a tensor (D,);
    ``"word" in embeddings``, ``len(embeddings)`` (V, special rows included) and iteration over the words work too.

    :param weight: (V, D), float32 as a rule, float16 or bfloat16 if read so; row i belongs to ``words[i]``. Kept on the
        CPU, and not copied if it is there.
    :param words: the V tokens, each once, special rows included.
    :param counts: (V,) how often each word was seen in the corpus, 0 for special rows; None if not known.
    :param pad_index: the row of the padding token, None if there is none.
    :param unk_index: the row of the unknown word, None if there is none.
    :param config: JSON values that say how the embeddings were made; the model card reads ``options``, ``corpus``,
        ``results`` and ``versions``, all of them optional.
    :param metrics: the reports of the training run, in order, for ``metrics.jsonl``.
    :param tokenizer_json: the Hugging Face tokenizer whose ids are the rows, if trained through one.
    :param missing: bool (V,), the rows that the source of the vectors had nothing for (:func:`embedtrain.read` with a
        vocabulary); None if there are none.
    :raises EmbedtrainError: if they do not fit together.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        words: Sequence[str],
        *,
        counts: npt.NDArray[np.int64] | None = None,
        pad_index: int | None,
        unk_index: int | None,
        config: Mapping[str, Any] | None = None,
        metrics: Sequence[Mapping[str, Any]] = (),
        tokenizer_json: str | None = None,
        missing: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.weight = weight.detach().cpu().contiguous()
        self.words = list(words)
        self.counts = None if counts is None else np.asarray(counts, dtype=np.int64)
        self.pad_index = pad_index
        self.unk_index = unk_index
        self.config = dict(config or {})
        self.metrics = list(metrics)
        self.tokenizer_json = tokenizer_json
        self.missing = None if missing is None or not missing.any() else missing
        self._index = {word: row for row, word in enumerate(self.words)}
        self._check()

    def _check(self) -> None:
        size = len(self.words)
        if self.weight.dtype not in _DTYPES or self.weight.ndim != 2 or len(self.weight) != size:
            shape = f"{self.weight.dtype} {tuple(self.weight.shape)}"
            raise EmbedtrainError(f"weight must be float32 (V, D) with a row for each of {size:,} words, not {shape}")
        if self.weight.numel() == 0:
            raise EmbedtrainError(f"weight must have rows and columns, not the shape {tuple(self.weight.shape)}")
        if self.missing is not None and (self.missing.shape != (size,) or self.missing.dtype != np.bool_):
            raise EmbedtrainError(f"missing must be bool ({size},), one per word, not {self.missing.shape}")
        if self.counts is not None and self.counts.shape != (size,):
            raise EmbedtrainError(f"counts must be ({size},), one per word, not {self.counts.shape}")
        if len(self._index) != size:
            twice = next(word for row, word in enumerate(self.words) if self._index[word] != row)
            raise EmbedtrainError(f"token {twice!r} has more than one row; each token must be there once")
        for name, index in (("pad_index", self.pad_index), ("unk_index", self.unk_index)):
            if index is not None and not 0 <= index < size:
                raise EmbedtrainError(f"{name} {index} is not a row of the table, which has {size:,}")

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._index

    def __getitem__(self, word: str) -> torch.Tensor:
        return self.weight[self.index(word)]

    def __repr__(self) -> str:
        return f"Embeddings({len(self):,} words, dim {self.dim})"

    @property
    def dim(self) -> int:
        """Numbers per embedding (D)."""
        return self.weight.shape[1]

    @property
    def report(self) -> str:
        """What :func:`embedtrain.read` read and left out, and what of the vocabulary it covers; empty if trained."""
        from embedtrain.reading import describe

        source = self.config.get("source")
        return "" if source is None else "\n".join(describe(source))

    def index(self, word: str) -> int:
        """Return the row of a word.

        :raises KeyError: if it has none; the message offers words spelled like it.
        """
        try:
            return self._index[word]
        except KeyError:
            raise UnknownWordError(word, self.words) from None

    def most_similar(
        self,
        positive: str | Sequence[str] | torch.Tensor,
        negative: str | Sequence[str] = (),
        topn: int = 10,
    ) -> list[tuple[str, float]]:
        """Return the words nearest to a word, to a vector, or to the mean of several words.

        As in gensim: the query is the mean of the unit vectors of the words, those of ``negative`` turned round, so
        ``most_similar(["king", "woman"], ["man"])`` answers "man is to king as woman is to …".

        :param positive: a word, several words, or a vector (D,).
        :param negative: a word or words to move away from.
        :param topn: how many neighbours, at least 1.
        :return: (word, cosine similarity from -1 to 1), nearest first, without the words of the query and the special
            rows.
        :raises KeyError: if a word is unknown.
        """
        if topn < 1:
            raise EmbedtrainError(f"topn must be at least 1, not {topn}")
        left_out = {index for index in (self.pad_index, self.unk_index) if index is not None}
        query = torch.zeros(self.dim)
        if isinstance(positive, torch.Tensor):
            if positive.shape != (self.dim,):
                raise EmbedtrainError(f"a vector to compare with must be ({self.dim},), not {tuple(positive.shape)}")
            query += positive.detach().to(query)
            positive = ()
        for words, sign in ((positive, 1.0), (negative, -1.0)):
            rows = [self.index(word) for word in ([words] if isinstance(words, str) else words)]
            query += sign * nn.functional.normalize(self.weight[rows].float()).sum(dim=0)
            left_out.update(rows)
        weight = self.weight.float()
        scores = weight @ nn.functional.normalize(query, dim=0)  # (V,)
        scores /= weight.norm(dim=1).clamp_min_(torch.finfo(torch.float32).tiny)
        scores[list(left_out)] = -torch.inf
        best = scores.topk(min(topn, len(self) - len(left_out)))
        return [
            (self.words[row], score) for row, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def rare(self, below: int) -> npt.NDArray[np.bool_]:
        """Return which rows, bool (V,), are words seen less than ``below`` times; special rows are not.

        :raises EmbedtrainError: if the counts are not known.
        """
        if self.counts is None:
            raise EmbedtrainError("the counts of these words are not known, so neither are the rare ones")
        rows: npt.NDArray[np.bool_] = self.counts < below
        rows[[index for index in (self.pad_index, self.unk_index) if index is not None]] = False
        return rows

    def to_torch(
        self,
        *,
        freeze: bool,
        padding_idx: int | Literal["pad"] | None = "pad",
        trainable: npt.NDArray[np.bool_] | torch.Tensor | Sequence[str] | Literal["missing"] | None = None,
    ) -> Embedding | PartialEmbedding:
        """Return a copy of the table as a PyTorch layer.

        >>> embeddings.to_torch(freeze=False)                                          # train all rows
        >>> embeddings.to_torch(freeze=True, trainable=["covid", "vaxxed"])             # these words
        >>> embeddings.to_torch(freeze=True, trainable="missing")                      # those the source had not
        >>> embeddings.to_torch(freeze=True, trainable=embeddings.rare(below=100))

        Rows that are not trained stay as they are to the bit, whatever the optimizer. ``unfreeze()`` of the layer
        trains all rows from then on.

        :param freeze: True keeps the embeddings as they are, False trains them with the model. There is no default
            because PyTorch's own (frozen) surprises those who mean to fine-tune.
        :param padding_idx: the row that gets no gradient; by default the pad row, None for none.
        :param trainable: with ``freeze=True``, rows to train nevertheless: a mask, bool (V,); words; or ``"missing"``,
            those that the source of the vectors had nothing for (:attr:`missing`).
        :return: a ``torch.nn.Embedding``, or if only some rows are trained an
            :class:`embedtrain.layers.PartialEmbedding`, whose ``state_dict()`` is the same.
        :raises KeyError: for a word that has no row.
        :raises EmbedtrainError: if the arguments contradict each other.
        """
        padding = self.pad_index if padding_idx == "pad" else padding_idx
        if padding is not None and not 0 <= padding < len(self):
            raise EmbedtrainError(f"padding_idx {padding} is not a row of the table, which has {len(self):,}")
        if trainable is None:
            layer: Embedding = Embedding.from_pretrained(  # type: ignore[no-untyped-call]
                self.weight.clone(), freeze=freeze, padding_idx=padding
            )
            return layer
        if not freeze:
            raise EmbedtrainError("freeze=False trains all rows; to train only some pass freeze=True with trainable")
        return PartialEmbedding(self.weight, self._mask(trainable), padding)

    def _mask(self, rows: npt.NDArray[np.bool_] | torch.Tensor | Sequence[str] | Literal["missing"]) -> torch.Tensor:
        if isinstance(rows, str):
            if rows != "missing":
                raise EmbedtrainError(f"trainable must be a mask, a list of words or 'missing', not {rows!r}")
            missing = torch.zeros(len(self), dtype=torch.bool)
            return missing if self.missing is None else torch.from_numpy(self.missing)
        if isinstance(rows, (np.ndarray, torch.Tensor)):
            mask = torch.as_tensor(rows).cpu()
            if mask.dtype != torch.bool or mask.shape != (len(self),):
                raise EmbedtrainError(
                    f"trainable as a mask must be bool ({len(self)},), not {mask.dtype} {tuple(mask.shape)}"
                )
            return mask
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[[self.index(word) for word in rows]] = True
        return mask

    @cached_property
    def vocab(self) -> Vocab:
        """The words as a :class:`embedtrain.Vocab`, which turns tokens into rows; made once."""
        return Vocab(self.words, default_index=self.unk_index, pad_index=self.pad_index)

    def save(self, folder: str | Path, overwrite: bool = False, export: Sequence[str] = ()) -> None:
        """Write the result folder: all of it or, if anything fails, nothing.

        :param folder: where; it must not exist, or be empty.
        :param overwrite: replace a folder that holds an earlier result.
        :param export: other formats to write beside ``embedding.pt``, names out of
            :data:`embedtrain.formats.EXPORTS`.
        :raises EmbedtrainError: if the folder cannot be written, or a word cannot be held by a format.
        """
        from embedtrain.checkpoint import OutputFolder

        with OutputFolder(folder, overwrite=overwrite) as output:
            output.commit(self, export=export)
