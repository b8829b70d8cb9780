"""Embedding layers whose rows are trained all, none, or some."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class Embedding(nn.Embedding):
    """``torch.nn.Embedding`` that can be unfrozen.

    While frozen, its weight has no gradient, and optimizers leave parameters without one alone: momentum and weight
    decay included. One that was made from all parameters of the model trains it after :meth:`unfreeze`.
    """

    def unfreeze(self) -> None:
        """Train all rows but the padding from now on."""
        self.weight.requires_grad_(True)


class PartialEmbedding(nn.Module):
    """An embedding layer that trains some of its rows and keeps the others, to the bit.

    Setting ``requires_grad`` on a slice of a weight does nothing, and zeroing the gradient of rows does not keep them:
    momentum from earlier steps and weight decay go on moving them. So the rows that are kept are a parameter of their
    own, which has no gradient, and which no optimizer touches for that reason.

    ``state_dict()`` has one entry, ``weight`` (V, D), with the rows in their order, as ``torch.nn.Embedding`` has it:
    each loads the other's. Under DistributedDataParallel wrap the model again after :meth:`unfreeze`: the gradients
    that processes exchange are settled when it is wrapped.

    :param weight: (V, D) float; copied.
    :param trainable: bool (V,), the rows to train. The padding row is never trained.
    :param padding_idx: its row, which gets no gradient; None if there is none.
    """

    place: Tensor

    def __init__(self, weight: Tensor, trainable: Tensor, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = padding_idx
        trainable = trainable.clone()
        if padding_idx is not None:
            trainable[padding_idx] = False
        kept = int((~trainable).sum())
        place = torch.empty(len(weight), dtype=torch.int64)
        place[~trainable] = torch.arange(kept)
        place[trainable] = torch.arange(kept, len(weight))
        # Where each row is: below F in `kept`, from there on in `trained`. It follows from the arguments: not saved.
        self.register_buffer("place", place, persistent=False)
        self.kept = nn.Parameter(weight.detach()[~trainable].clone(), requires_grad=False)  # (F, D)
        self.trained = nn.Parameter(weight.detach()[trainable].clone())  # (V - F, D)
        self._kept_padding = None if padding_idx is None else int(place[padding_idx])

    @property
    def weight(self) -> Tensor:
        """The table (V, D), put together anew; gradients flow through it to the rows that are trained."""
        return torch.cat([self.kept, self.trained])[self.place]

    def unfreeze(self) -> None:
        """Train all rows but the padding from now on.

        An optimizer that was made from ``model.parameters()`` goes on to train them; one that was given only those with
        ``requires_grad`` needs ``optimizer.add_param_group({"params": layer.kept})``.
        """
        self.kept.requires_grad_(True)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids: int32 or int64 (…) -> (…, D)."""
        places = self.place[ids]
        first = len(self.kept)
        if first == 0:
            return functional.embedding(places, self.trained)
        kept = functional.embedding(places.clamp(max=first - 1), self.kept, self._kept_padding)
        if first == self.num_embeddings:
            return kept
        # Rows of the other part are looked up in row 0, and `where` gives that no gradient.
        trained = functional.embedding((places - first).clamp(min=0), self.trained)
        return torch.where((places >= first).unsqueeze(-1), trained, kept)

    def extra_repr(self) -> str:
        """Describe the layer as ``torch.nn.Embedding`` does."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}, trained={len(self.trained)}{padding}"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight if keep_vars else self.weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = f"{prefix}weight"
        weight = cast("Tensor | None", state_dict.get(key))
        if strict:
            unexpected_keys += [
                name
                for name in state_dict
                if name.startswith(prefix) and name != key and "." not in name[len(prefix) :]
            ]
        if weight is None:
            if strict:
                missing_keys.append(key)
            return
        if weight.shape != (self.num_embeddings, self.embedding_dim):
            error_msgs.append(
                f"size mismatch for {key}: a table {tuple(weight.shape)} for a layer "
                f"({self.num_embeddings}, {self.embedding_dim})"
            )
            return
        with torch.no_grad():
            first = len(self.kept)
            place = self.place.to(weight.device)
            self.kept.copy_(weight[place < first])
            self.trained.copy_(weight[place >= first])
