from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import embedtrain
from embedtrain import Embeddings, EmbedtrainError, Vocab
from embedtrain.layers import Embedding, PartialEmbedding

WORDS = ["<pad>", "<unk>", "the", "film", "was", "superb", "dull"]
TRAINED = ["superb", "dull"]
ROWS = [5, 6]


@pytest.fixture
def embeddings() -> Embeddings:
    weight = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
    weight[0] = 0
    missing = np.array([False] * 6 + [True])
    counts = np.array([0, 0, 90, 50, 40, 3, 1])
    return Embeddings(weight, WORDS, counts=counts, pad_index=0, unk_index=1, missing=missing)


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.5, amsgrad=True),
}


def steps(layer: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    generator = torch.Generator().manual_seed(5)
    head = torch.randn(4, generator=generator)
    for _ in range(count):
        ids = torch.randint(0, 7, (3, 5), generator=generator)
        optimizer.zero_grad()
        (layer(ids) @ head).sigmoid().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kept_rows_stay_to_the_bit(embeddings: Embeddings, name: str) -> None:
    layer = embeddings.to_torch(freeze=True, trainable=TRAINED)
    assert isinstance(layer, PartialEmbedding)
    steps(layer, OPTIMIZERS[name](layer.parameters()), 50)
    weight = layer.state_dict()["weight"]
    kept = [row for row in range(7) if row not in ROWS]
    assert torch.equal(weight[kept], embeddings.weight[kept])
    assert (weight[ROWS] != embeddings.weight[ROWS]).all()
    assert not weight[0].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unfreeze(embeddings: Embeddings, name: str) -> None:
    for layer in (
        embeddings.to_torch(freeze=True, trainable=TRAINED),
        embeddings.to_torch(freeze=True),
    ):
        optimizer = OPTIMIZERS[name](layer.parameters())
        if isinstance(layer, PartialEmbedding):
            steps(layer, optimizer, 10)
        before = layer.weight.detach().clone()
        layer.unfreeze()
        steps(layer, optimizer, 10)
        after = layer.weight.detach().clone()
        assert (after[1:] != before[1:]).all()
        assert not after[0].any()  # the padding


def test_trains_as_an_ordinary_embedding_does(embeddings: Embeddings) -> None:
    """The rows that are trained get the gradients and steps of torch.nn.Embedding."""
    layer = embeddings.to_torch(freeze=True, trainable=np.array([False] + [True] * 6))
    ordinary = nn.Embedding.from_pretrained(embeddings.weight.clone(), freeze=False, padding_idx=0)
    for each in (layer, ordinary):
        steps(each, OPTIMIZERS["adamw"](each.parameters()), 20)
    torch.testing.assert_close(layer.state_dict()["weight"], ordinary.state_dict()["weight"], rtol=0, atol=0)


def test_forward_and_gradient(embeddings: Embeddings) -> None:
    layer = embeddings.to_torch(freeze=True, trainable=TRAINED)
    ids = torch.tensor([[5, 5, 2], [0, 6, 1]])
    assert torch.equal(layer(ids), embeddings.weight[ids])
    assert torch.equal(layer(ids.int()), embeddings.weight[ids])
    layer(ids).sum().backward()
    assert isinstance(layer, PartialEmbedding)
    assert layer.trained.grad is not None
    assert layer.trained.grad.tolist() == [[2.0] * 4, [1.0] * 4]
    assert layer.kept.grad is None
    assert layer(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3, 4)


@pytest.mark.parametrize("mask", [[False] * 7, [True] * 7, [False, True, True, True, True, True, True]])
def test_all_or_no_rows(embeddings: Embeddings, mask: list[bool]) -> None:
    for padding_idx in (None, "pad"):
        layer = embeddings.to_torch(freeze=True, trainable=torch.tensor(mask), padding_idx=padding_idx)  # type: ignore[arg-type]
        ids = torch.arange(7)
        assert torch.equal(layer(ids), embeddings.weight)
        assert torch.equal(layer.state_dict()["weight"], embeddings.weight)


def test_state_dict_is_that_of_an_embedding(embeddings: Embeddings, tmp_path: Path) -> None:
    layer = embeddings.to_torch(freeze=True, trainable=TRAINED)
    model = nn.ModuleDict({"embedding": layer, "head": nn.Linear(4, 2)})
    steps(layer, OPTIMIZERS["adam"](layer.parameters()), 5)
    state = model.state_dict()
    assert set(state) == {"embedding.weight", "head.weight", "head.bias"}
    plain = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "head": nn.Linear(4, 2)})
    plain.load_state_dict(state)
    assert torch.equal(plain["embedding"](torch.arange(7)), layer(torch.arange(7)))
    # And back, into a layer that trains other rows.
    torch.save(plain.state_dict(), tmp_path / "state.pt")
    other = nn.ModuleDict({"embedding": embeddings.to_torch(freeze=True, trainable=["the"]), "head": nn.Linear(4, 2)})
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(other["embedding"].weight, layer.weight)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict({"weight": torch.zeros(3, 4)})
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        layer.load_state_dict({"weight": torch.zeros(7, 4), "bias": torch.zeros(1)})
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)


def test_which_rows(embeddings: Embeddings) -> None:
    def rows(layer: nn.Module) -> list[int]:
        assert isinstance(layer, PartialEmbedding)
        return torch.nonzero(layer.place >= len(layer.kept)).flatten().tolist()

    assert rows(embeddings.to_torch(freeze=True, trainable="missing")) == [6]
    assert rows(embeddings.to_torch(freeze=True, trainable=embeddings.rare(below=10))) == [5, 6]
    assert rows(embeddings.to_torch(freeze=True, trainable=["the", "<pad>"])) == [2]  # the padding never
    assert "trained=1" in repr(embeddings.to_torch(freeze=True, trainable="missing"))
    with pytest.raises(KeyError, match="did you mean 'superb'"):
        embeddings.to_torch(freeze=True, trainable=["superbe"])
    with pytest.raises(EmbedtrainError, match="pass freeze=True with trainable"):
        embeddings.to_torch(freeze=False, trainable=["the"])
    with pytest.raises(EmbedtrainError, match=r"must be bool \(7,\)"):
        embeddings.to_torch(freeze=True, trainable=np.zeros(3, np.bool_))
    with pytest.raises(EmbedtrainError, match="'missing', not 'rare'"):
        embeddings.to_torch(freeze=True, trainable="rare")
    with pytest.raises(EmbedtrainError, match="padding_idx 9"):
        embeddings.to_torch(freeze=True, padding_idx=9)


def test_whole_layer(embeddings: Embeddings) -> None:
    layer = embeddings.to_torch(freeze=True)
    assert isinstance(layer, Embedding)
    assert isinstance(layer, nn.Embedding)
    assert not layer.weight.requires_grad
    assert layer.padding_idx == 0
    assert embeddings.to_torch(freeze=False, padding_idx=None).padding_idx is None
    assert embeddings.to_torch(freeze=False, padding_idx=3).padding_idx == 3
    assert embeddings.to_torch(freeze=False).weight.requires_grad


@pytest.mark.filterwarnings("ignore")
def test_compile(embeddings: Embeddings) -> None:
    layer = embeddings.to_torch(freeze=True, trainable=TRAINED)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    ids = torch.tensor([[5, 2], [0, 6]])
    assert torch.equal(compiled(ids), embeddings.weight[ids])
    steps(compiled, OPTIMIZERS["sgd"](layer.parameters()), 5)
    assert torch.equal(layer.weight[:5], embeddings.weight[:5])
    layer.unfreeze()
    compiled(ids).sum().backward()
    assert layer.kept.grad is not None  # type: ignore[union-attr]


_DISTRIBUTED = """
import os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import embedtrain

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}/rendezvous", rank=rank, world_size=2)
embeddings = embedtrain.load(f"{sys.argv[2]}/out")
layer = embeddings.to_torch(freeze=True, trainable=["superb", "dull"])
model = DistributedDataParallel(torch.nn.Sequential(layer, torch.nn.Linear(4, 1)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
for step in range(10):
    optimizer.zero_grad()
    ids = torch.full((2, 3), 5 + rank)  # each process sees a word of its own
    model(ids).sum().backward()
    optimizer.step()
torch.save(layer.state_dict(), f"{sys.argv[2]}/rank{rank}.pt")
layer.unfreeze()
again = DistributedDataParallel(model.module)
del model
for step in range(5):  # the same optimizer
    optimizer.zero_grad()
    again(torch.arange(2 + rank, 7)).sum().backward()
    optimizer.step()
torch.save(layer.state_dict(), f"{sys.argv[2]}/unfrozen{rank}.pt")
del again  # its reducer holds the group
dist.barrier()  # gloo may abort a process whose peer is gone already
dist.destroy_process_group()
"""


def test_distributed(embeddings: Embeddings, tmp_path: Path) -> None:
    embeddings.save(tmp_path / "out")
    processes = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", _DISTRIBUTED, str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt")["weight"] for rank in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[:5], embeddings.weight[:5])
    assert (first[5:] != embeddings.weight[5:]).all()
    unfrozen, other = (torch.load(tmp_path / f"unfrozen{rank}.pt")["weight"] for rank in range(2))
    assert torch.equal(unfrozen, other)
    assert (unfrozen[2:] != first[2:]).all()
    assert not unfrozen[0].any()  # the padding


# ---- Vocab


def test_vocab() -> None:
    vocab = Vocab.from_iterator([["b", "a", "film", "a"], ["film", "a", "rare"]], min_freq=2)
    assert vocab.get_itos() == ["<pad>", "<unk>", "a", "film"]
    assert (vocab["<pad>"], vocab["<unk>"], vocab["a"], vocab["rare"]) == (0, 1, 2, 1)
    assert vocab(["a", "film", "rare"]) == vocab.lookup_indices(["a", "film", "rare"]) == [2, 3, 1]
    assert vocab.lookup_tokens([3, 0]) == ["film", "<pad>"]
    assert "rare" not in vocab
    assert len(vocab) == 4
    assert vocab.get_stoi()["film"] == 3
    ids, lengths = vocab.batch([["a", "film", "a"], [], ["film"]], max_length=2)
    assert ids.tolist() == [[2, 3], [0, 0], [3, 0]]
    assert lengths.tolist() == [2, 0, 1]
    with pytest.raises(IndexError):
        vocab.lookup_token(-1)


def test_vocab_options() -> None:
    texts = [["c", "c", "b", "b", "a", "<unk>"]]
    last = Vocab.from_iterator(texts, specials=["<unk>"], special_first=False, max_tokens=3)
    assert last.words == ["b", "c", "<unk>"]  # by frequency, then by the word
    assert last["x"] == 2
    with pytest.raises(EmbedtrainError, match="need a pad index"):
        last.batch([["b"]])
    without = Vocab.from_iterator(texts, specials=[])
    with pytest.raises(KeyError, match="no index for unknown"):
        without["x"]
    without.set_default_index(0)
    assert without["x"] == 0
    with pytest.raises(EmbedtrainError, match="'a' comes twice"):
        Vocab(["a", "a"], default_index=None, pad_index=None)


def test_vocab_of_a_checkpoint(embeddings: Embeddings, tmp_path: Path) -> None:
    embeddings.save(tmp_path / "out")
    vocab = embedtrain.load(tmp_path / "out").vocab
    assert vocab.words == WORDS
    assert vocab(["film", "unheard"]) == [3, 1]
    ids, _ = vocab.batch([["the", "film"], ["dull"]])
    assert embeddings.to_torch(freeze=True)(ids).shape == (2, 2, 4)
    again = embedtrain.read(tmp_path / "out", Vocab(["x", "dull", "_"], default_index=0, pad_index=2))
    assert again.words == ["x", "dull", "_"]
    assert (again.unk_index, again.pad_index) == (0, 2)
    assert torch.equal(again["dull"], embeddings["dull"])
