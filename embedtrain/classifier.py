"""A text classifier on word embeddings: embedding, bidirectional LSTM, linear layer.

Shapes: B texts of L tokens at most, D numbers per embedding, H per direction of the LSTM, C labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

# Batches are cut out of so many shuffled batches' worth of texts, sorted by length: little padding, yet random.
_POOL = 50


class Classifier(nn.Module):
    """Embedding, bidirectional LSTM, maximum and mean of its outputs over the text, linear layer.

    Padding has no part in the result, as if the sequences were packed. They are not: on the CPU the backward pass of a
    packed sequence of texts of different lengths takes time with the square of the length, because it adds a gradient
    as large as the whole batch for every step. So each direction runs over padded texts, the other way round for the
    second, and only outputs within the text count. Batches of about equally long texts have little padding.

    :param embedding: a layer (…) -> (…, D), with ``embedding_dim``.
    :param hidden: H.
    :param labels: C.
    :param dropout: share of the numbers before the LSTM and before the linear layer that are dropped in training.
    """

    def __init__(self, embedding: nn.Module, hidden: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.embedding = embedding
        dim: int = embedding.embedding_dim  # type: ignore[assignment]
        self.forwards = nn.LSTM(dim, hidden, batch_first=True)
        self.backwards = nn.LSTM(dim, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(4 * hidden, labels)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits (B, C) of texts.

        :param ids: int64 (B, L), padded.
        :param lengths: int64 (B,), at least 1 each.
        """
        embedded = self.embedding(ids)  # (B, L, D)
        # The same numbers of all words of a text (Gal and Ghahramani 2016).
        embedded = embedded * self.dropout(embedded.new_ones(len(ids), 1, embedded.shape[2]))
        at = torch.arange(ids.shape[1], device=ids.device)
        inside = at < lengths.unsqueeze(1)  # (B, L)
        mirrored = torch.where(inside, lengths.unsqueeze(1) - 1 - at, at)
        turned = embedded.gather(1, mirrored.unsqueeze(2).expand_as(embedded))
        outputs = torch.cat([self.forwards(embedded)[0], self.backwards(turned)[0]], dim=2)  # (B, L, 2 H)
        outside = ~inside.unsqueeze(2)
        largest = outputs.masked_fill(outside, -torch.inf).amax(dim=1)
        mean = outputs.masked_fill(outside, 0.0).sum(dim=1) / lengths.unsqueeze(1)
        pooled = torch.cat([largest, mean], dim=1)  # (B, 4 H)
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits


@dataclass(frozen=True, eq=False)
class Texts:
    """Encoded texts.

    :param rows: N tensors of ids, int32 (L,), L at least 1.
    :param labels: int64 (N,).
    """

    rows: list[Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> Texts:
        """Return some of them."""
        return Texts([self.rows[index] for index in indices], self.labels[list(indices)])


@dataclass(frozen=True)
class Scores:
    """How good predictions are.

    :param confusion: int64 (C, C), how often a text of label r was taken for label c.
    """

    confusion: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of texts that are right, 0 to 1."""
        return float(np.trace(self.confusion) / max(self.confusion.sum(), 1))

    @property
    def macro_f1(self) -> float:
        """Mean over the labels of F1, the harmonic mean of precision and recall, 0 to 1."""
        right = np.diag(self.confusion).astype(float)
        both = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        return float(np.mean(2 * right / np.maximum(both, 1)))


def batches(texts: Texts, size: int, generator: torch.Generator | None) -> Iterator[list[int]]:
    """Yield the indices of batches of texts that are about equally long.

    :param generator: for a new random order; None: by length, the same each time.
    """
    lengths = torch.tensor([len(row) for row in texts.rows])
    if generator is None:
        order = lengths.argsort(descending=True, stable=True)
        yield from (part.tolist() for part in torch.split(order, size))
        return
    cut: list[list[int]] = []
    for pool in torch.split(torch.randperm(len(texts), generator=generator), size * _POOL):
        by_length = pool[lengths[pool].argsort(stable=True)]
        cut += [part.tolist() for part in torch.split(by_length, size)]
    for number in torch.randperm(len(cut), generator=generator).tolist():
        yield cut[number]


def collate(texts: Texts, indices: Sequence[int], pad_index: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a batch: ids int64 (B, L) and lengths int64 (B,)."""
    rows = [texts.rows[index] for index in indices]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad_index).long()
    return ids.to(device), torch.tensor([len(row) for row in rows], device=device)


def predict(model: Classifier, texts: Texts, size: int, pad_index: int, device: torch.device) -> Tensor:
    """Return the probabilities (N, C) of the labels, on the CPU."""
    model.eval()
    result = torch.empty(len(texts), model.linear.out_features)
    with torch.inference_mode():
        for indices in batches(texts, size, None):
            logits = model(*collate(texts, indices, pad_index, device))
            result[indices] = functional.softmax(logits.float(), dim=1).cpu()
    return result


def score(probabilities: Tensor, labels: Tensor) -> Scores:
    """Compare predictions (N, C) with labels (N,)."""
    count = probabilities.shape[1]
    pairs = labels * count + probabilities.argmax(dim=1)
    return Scores(torch.bincount(pairs, minlength=count * count).reshape(count, count).numpy())


def train(
    model: Classifier,
    training: Texts,
    held_out: Texts,
    *,
    epochs: int,
    patience: int,
    batch_size: int,
    learning_rate: float,
    pad_index: int,
    unfreeze_at: int | None,
    seed: int,
    device: torch.device,
    on_step: Callable[[int, float, float], None],
    on_epoch: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train with Adam until the held-out texts get no better, and leave the model as it was when they were best.

    :param learning_rate: at the start; it falls linearly, to 0 at the end of the last epoch.
    :param patience: stop after so many epochs without a better loss on the held-out texts.
    :param unfreeze_at: train all embeddings from this epoch on, counted from 1; None: never.
    :param on_step: called with epoch, share of it that is done, and the mean loss in it so far.
    :param on_epoch: called with the report of each epoch.
    :return: the report of the best epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    steps = -(-len(training) // batch_size) * epochs
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    best: dict[str, Any] = {}
    best_state: dict[str, Tensor] = {}
    for epoch in range(1, epochs + 1):
        if epoch == unfreeze_at:
            model.embedding.unfreeze()  # type: ignore[operator]
        start = time.perf_counter()
        model.train()
        total, done = 0.0, 0
        for indices in batches(training, batch_size, generator):
            ids, lengths = collate(training, indices, pad_index, device)
            loss = functional.cross_entropy(model(ids, lengths), training.labels[indices].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(indices)
            done += len(indices)
            on_step(epoch, done / len(training), total / done)
        probabilities = predict(model, held_out, batch_size, pad_index, device)
        held_out_loss = functional.nll_loss(probabilities.clamp_min(1e-9).log(), held_out.labels).item()
        report = {
            "epoch": epoch,
            "loss": total / done,
            "held_out_loss": held_out_loss,
            "held_out_accuracy": score(probabilities, held_out.labels).accuracy,
            "seconds": round(time.perf_counter() - start, 3),
        }
        on_epoch(report)
        if not best or held_out_loss < best["held_out_loss"]:
            best = report
            best_state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        elif epoch - best["epoch"] >= patience:
            break
    model.load_state_dict(best_state)
    return best
