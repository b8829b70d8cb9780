from __future__ import annotations

import numpy as np
import pytest
import torch

from embedtrain.embeddings import Embeddings
from embedtrain.errors import EmbedtrainError


def make(words: int = 200, dim: int = 16, seed: int = 0) -> Embeddings:
    """Return <pad>, <unk> and random vectors of very different lengths for w0, w1 and so on."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(words + 2, dim, generator=generator) * torch.rand(words + 2, 1, generator=generator) * 10
    weight[0] = 0
    return Embeddings(weight, ["<pad>", "<unk>", *(f"w{i}" for i in range(words))], pad_index=0, unk_index=1)


def test_lookup() -> None:
    embeddings = make(words=3, dim=4)
    assert len(embeddings) == 5
    assert list(embeddings) == embeddings.words == ["<pad>", "<unk>", "w0", "w1", "w2"]
    assert "w2" in embeddings
    assert "w3" not in embeddings
    assert embeddings.index("w2") == 4
    assert torch.equal(embeddings["w2"], embeddings.weight[4])
    assert repr(embeddings) == "Embeddings(5 words, dim 4)"


def test_unknown_word_is_a_key_error_that_offers_near_spellings() -> None:
    embeddings = Embeddings(torch.ones(2, 1), ["house", "mouse"], pad_index=None, unk_index=None)
    with pytest.raises(KeyError) as caught:
        embeddings["hous"]
    assert str(caught.value).startswith("'hous' is not in the vocabulary; did you mean 'house'")
    with pytest.raises(KeyError, match=r"'xyz' is not in the vocabulary$"):
        embeddings.most_similar("house", negative="xyz")


@pytest.mark.parametrize(
    ("positive", "negative"),
    [("w3", []), (["w3"], []), (["w3", "w5"], ["w7"]), (["w1"], "w2"), ([], ["w4"])],
)
@pytest.mark.parametrize("topn", [1, 10, 1000])
def test_most_similar_equals_gensim(positive: str | list[str], negative: str | list[str], topn: int) -> None:
    gensim_models = pytest.importorskip("gensim.models")
    embeddings = make()
    vectors = gensim_models.KeyedVectors(vector_size=embeddings.dim)
    vectors.add_vectors(embeddings.words[2:], embeddings.weight[2:].numpy())

    ours = embeddings.most_similar(positive, negative, topn=topn)
    theirs = vectors.most_similar(positive=positive, negative=negative, topn=topn)

    assert [word for word, _ in ours] == [word for word, _ in theirs]
    np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-6)


def test_most_similar_to_a_vector_includes_the_word_itself() -> None:
    embeddings = make()
    (word, similarity), *_ = embeddings.most_similar(embeddings["w9"] * 7)
    assert word == "w9"
    assert similarity == pytest.approx(1)


def test_most_similar_never_returns_nan_for_a_zero_row() -> None:
    embeddings = Embeddings(torch.tensor([[1.0], [0.0], [2.0]]), ["a", "zero", "b"], pad_index=None, unk_index=None)
    assert embeddings.most_similar("a") == [("b", 1.0), ("zero", 0.0)]
    assert embeddings.most_similar("zero") == [("a", 0.0), ("b", 0.0)]


@pytest.mark.parametrize(("positive", "topn"), [(torch.zeros(3), 1), ("w0", 0)])
def test_most_similar_refuses_nonsense(positive: str | torch.Tensor, topn: int) -> None:
    with pytest.raises(EmbedtrainError):
        make().most_similar(positive, topn=topn)


def test_to_torch_is_a_copy_that_trains_all_but_the_pad_row() -> None:
    embeddings = make(words=3)
    before = embeddings.weight.clone()
    layer = embeddings.to_torch(freeze=False)
    assert layer.padding_idx == 0

    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(torch.tensor([0, 1, 2])).sum().backward()
    optimiser.step()

    assert torch.equal(embeddings.weight, before)
    assert torch.equal(layer.weight[0], before[0])
    assert torch.equal(layer.weight[1:3], before[1:3] - 1)
    assert torch.equal(layer.weight[3:], before[3:])


def test_to_torch_frozen() -> None:
    assert not make().to_torch(freeze=True).weight.requires_grad
    with pytest.raises(TypeError, match="freeze"):
        make().to_torch()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("weight", "words", "pad", "counts", "message"),
    [
        (torch.zeros(2, 3), ["a"], None, None, "a row for each of 1 words"),
        (torch.zeros(2, 3, dtype=torch.float64), ["a", "b"], None, None, "float64"),
        (torch.zeros(2), ["a", "b"], None, None, r"\(V, D\)"),
        (torch.zeros(0, 3), [], None, None, r"rows and columns, not the shape \(0, 3\)"),
        (torch.zeros(1, 0), ["a"], None, None, r"rows and columns, not the shape \(1, 0\)"),
        (torch.zeros(2, 3), ["a", "a"], None, None, "'a' has more than one row"),
        (torch.zeros(2, 3), ["a", "b"], 2, None, "pad_index 2"),
        (torch.zeros(2, 3), ["a", "b"], None, np.array([1]), "counts"),
    ],
)
def test_parts_that_do_not_fit(
    weight: torch.Tensor, words: list[str], pad: int | None, counts: np.ndarray | None, message: str
) -> None:
    with pytest.raises(EmbedtrainError, match=message):
        Embeddings(weight, words, counts=counts, pad_index=pad, unk_index=None)
