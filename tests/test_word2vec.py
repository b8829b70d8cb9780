"""The estimator: what may be fitted, that it learns, and that it equals the reference."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import embedtrain
from embedtrain import Embeddings, EmbedtrainError, Word2Vec, ops, reference, word2vec
from embedtrain import corpus as corpora
from embedtrain import train as training
from embedtrain.progress import Progress

ANIMALS = ["cat", "dog", "horse", "cow", "sheep", "goat", "hen", "pig"]
METALS = ["iron", "gold", "zinc", "lead", "tin", "silver", "copper", "nickel"]
SMALL: dict[str, Any] = {"dim": 8, "min_count": 1, "epochs": 3, "workers": 1, "sample": 0.05}


def two_topics(count: int, seed: int = 0) -> list[list[str]]:
    """Make sentences that speak of animals or of metals, with a few words of both."""
    draw = random.Random(seed)
    return [
        draw.choices(topic, k=8) + draw.choices(["the", "of", "and"], k=2)
        for topic in draw.choices([ANIMALS, METALS], k=count)
    ]


SENTENCES = two_topics(60)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(map(" ".join, SENTENCES)) + "\n")
    return path


@pytest.fixture(scope="module")
def expected() -> Embeddings:
    return Word2Vec(**SMALL).fit(SENTENCES)


def same(one: Embeddings, two: Embeddings) -> bool:
    return one.words == two.words and torch.equal(one.weight, two.weight)


# --- what may be fitted --------------------------------------------------------------------------------------------


def test_paths_lists_and_generators_give_the_same(file: Path, tmp_path: Path, expected: Embeddings) -> None:
    halves = [tmp_path / "a", tmp_path / "b"]
    for path, sentences in zip(halves, (SENTENCES[:20], SENTENCES[20:]), strict=True):
        path.write_text("\n".join(map(" ".join, sentences)))
    reads = 0

    def once() -> Iterator[tuple[str, ...]]:
        nonlocal reads
        reads += 1
        yield from map(tuple, SENTENCES)

    word2vec = Word2Vec(**SMALL)
    for corpus in (file, str(file), [file], halves, tuple(map(str, halves)), once(), iter(SENTENCES)):
        assert same(word2vec.fit(corpus), expected)
    assert reads == 1


def test_the_saved_result_is_that_of_the_command_line(file: Path, tmp_path: Path, expected: Embeddings) -> None:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    subprocess.run(
        [sys.executable, "-m", "embedtrain.fit", file, "--out", tmp_path / "out", *arguments],
        check=True, capture_output=True,
    )  # fmt: skip
    expected.save(tmp_path / "saved")
    for name in ("embedding.pt", "vocab.txt", "vocab.tsv"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    loaded = embedtrain.load(tmp_path / "saved")
    assert same(loaded, expected)
    assert loaded.config["options"] == Word2Vec(**SMALL).to_dict()
    assert loaded.config["corpus"]["fingerprint"] == expected.config["corpus"]["fingerprint"]


def test_one_more_result_with_the_same_estimator_and_another_seed(expected: Embeddings) -> None:
    word2vec = Word2Vec(**SMALL)
    assert same(word2vec.fit(SENTENCES), expected)
    other = dataclasses.replace(word2vec, seed=2).fit(SENTENCES)
    assert other.words == expected.words
    assert not torch.allclose(other.weight[1:], expected.weight[1:], atol=1e-3)


def test_the_embeddings(expected: Embeddings) -> None:
    assert len(expected) == 2 + len({word for sentence in SENTENCES for word in sentence})
    assert "cat" in expected
    assert "bat" not in expected
    assert expected["cat"].shape == (8,)
    assert torch.isfinite(expected.weight).all()
    assert expected.counts is not None
    assert expected.counts[expected.index("cat")] == sum(sentence.count("cat") for sentence in SENTENCES)


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        (5, "the corpus must be a path, a list of paths, or an iterable of lists of words, not int"),
        (None, "not NoneType"),
        (b"corpus.txt", "not bytes"),
        ([], "the corpus is an empty list"),
        ([[]], "has no words"),
        (iter([]), "has no words"),
        ("no-such-file", "no-such-file: no such file"),
        (["the cat sat", "on the mat"], "the cat sat: no such file; a list of strings is a list of files"),
        (iter(["the cat sat"]), "sentence 0 is a string, 'the cat sat'; give a list of words, e.g. sentence.split()"),
        ([["a", "b"], 5], "sentence 1 is not a list of words"),
        ([["a", "b"], ["c", 5]], "sentence 1, token 1 is 5, not a string"),
        ([["a", "b\n"]], "sentence 0, token 1 holds a line break"),
        ([["a"], ["b"], ["a"]], "no sentence has two words"),
        ([["a", "a"]], "only one word"),
    ],
)
def test_a_corpus_that_is_none(corpus: Any, words: str) -> None:
    with pytest.raises(EmbedtrainError) as raised:
        Word2Vec(**SMALL).fit(corpus)
    assert words in str(raised.value)


def test_an_error_in_the_users_own_generator_is_the_users() -> None:
    def broken() -> Iterator[list[str]]:
        yield ["a", "b"]
        raise LookupError("of the user")

    with pytest.raises(LookupError, match="of the user"):
        Word2Vec(**SMALL).fit(broken())


def test_an_import_that_fails_beside_the_reading_is_seen_when_it_is_needed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail(name: str) -> None:
        tried.append((name, threading.current_thread().name))
        raise ImportError("torch is broken")

    monkeypatch.setattr(word2vec, "import_module", fail)
    monkeypatch.setattr(word2vec, "_WORTH_IMPORTING", 1)
    monkeypatch.setitem(sys.modules, "embedtrain.train", None)
    with pytest.raises(ImportError, match=r"embedtrain\.train"):
        Word2Vec(**SMALL).fit(file)
    assert tried == [("embedtrain.train", "embedtrain-import")]


def test_counting_is_over_when_all_is_read_and_not_when_torch_has_come(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, found = threading.Event(), []

    class Shown(Progress):
        def note(self, line: str) -> None:
            if "different words" in line:
                said.set()

    monkeypatch.setattr(word2vec, "import_module", lambda name: found.append(said.wait(60)))
    monkeypatch.setattr(word2vec, "_WORTH_IMPORTING", 1)
    Word2Vec(**SMALL).fit(file, progress=Shown())
    assert found == [True]


def test_a_tokenizer_wants_text() -> None:
    with pytest.raises(EmbedtrainError, match="give it text files, not lists of words"):
        Word2Vec(tokenizer=Path("tokenizer.json")).fit([["a", "b"]])


def test_it_is_a_dataclass() -> None:
    word2vec = Word2Vec(dim=7, workers=1)
    assert repr(word2vec).startswith("Word2Vec(dim=7, window=5, ")
    assert word2vec == Word2Vec(dim=7, workers=1) != Word2Vec(dim=8, workers=1)
    assert dataclasses.replace(word2vec, dim=8) == Word2Vec(dim=8, workers=1)
    with pytest.raises(EmbedtrainError, match=r"window must be .*, not -1"):
        Word2Vec(window=-1)
    with pytest.raises(TypeError, match="vector_size"):
        Word2Vec(vector_size=100)  # type: ignore[call-arg]


def test_it_is_quiet(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Word2Vec(**SMALL).fit(file)
    assert capfd.readouterr() == ("", "")


def test_reports_are_given_as_they_come(expected: Embeddings) -> None:
    seen: list[Any] = []
    result = Word2Vec(**SMALL).fit(SENTENCES, on_corpus=seen.append, on_report=seen.append)
    assert isinstance(seen[0], corpora.Corpus)
    assert seen[1:] == result.metrics
    assert [(report["epoch"], report["position"]) for report in result.metrics] == [(1, 600), (2, 1200), (3, 1800)]
    assert [report["loss"] for report in result.metrics] == [report["loss"] for report in expected.metrics]


# --- it equals the reference ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"sample": 0, "shrink_window": False, "window": 3, "negative": 2, "dim": 20},
        {"ns_exponent": 0, "alpha": 0.1, "min_alpha": 0.0, "seed": 2**63 - 1, "min_count": 32},
    ],
)
def test_one_worker_equals_the_reference(changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    word2vec = Word2Vec(**{**SMALL, **changed})
    corpus = corpora.encode(SENTENCES, word2vec)
    counts = torch.from_numpy(corpus.vocabulary.counts)
    table, _, loss = reference.train(
        corpus.ids,
        corpus.offsets,
        ops.keep_thresholds(counts, word2vec.sample).numpy().view(np.uint32),
        ops.alias_table(counts, word2vec.ns_exponent).numpy().view(np.uint32),
        dim=word2vec.dim, epochs=word2vec.epochs, seed=word2vec.seed, window=word2vec.window,
        negative=word2vec.negative, shrink_window=word2vec.shrink_window, alpha=word2vec.alpha,
        min_alpha=word2vec.min_alpha,
    )  # fmt: skip
    rows = np.concatenate([np.zeros((1, word2vec.dim)), table.mean(axis=0, keepdims=True), table])
    monkeypatch.setattr(training, "_BLOCK_TOKENS", 137)  # several blocks an epoch, which must not matter
    embeddings = word2vec.fit(SENTENCES)
    assert embeddings.words == ["<pad>", "<unk>", *corpus.vocabulary.words]
    np.testing.assert_allclose(embeddings.weight.numpy(), rows, rtol=1e-4, atol=1e-6)

    monkeypatch.undo()
    whole = word2vec.fit(SENTENCES)
    assert torch.equal(whole.weight, embeddings.weight)
    assert whole.metrics[-1]["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_unknown_word_is_the_mean_of_the_rarest_or_trained() -> None:
    many = [[f"w{i}", f"w{i // 2}", f"w{i // 4}"] for i in range(400)]
    embeddings = Word2Vec(**SMALL).fit(many)
    assert embeddings.config["special_rows"] == {"<pad>": "zeros", "<unk>": "mean of the 100 rarest words"}
    torch.testing.assert_close(embeddings["<unk>"], embeddings.weight[-100:].mean(dim=0))

    # Under another name, of the same place in the vocabulary, the word gets the same numbers.
    def renamed(name: str) -> Embeddings:
        return Word2Vec(**SMALL).fit([[name if word == "w7" else word for word in words] for words in many])

    trained, named = renamed("<unk>"), renamed("<unl>")
    assert torch.equal(trained["<unk>"], named["<unl>"])
    assert trained.words == ["<pad>", "<unk>", *(word for word in named.words[2:] if word != "<unl>")]
    rest = [named.index(word) for word in trained.words[2:]]
    assert torch.equal(trained.weight[2:], named.weight[rest])
    assert trained.counts is not None
    assert named.counts is not None
    assert trained.counts.tolist() == [0, named.counts[named.index("<unl>")], *named.counts[rest]]


# --- it learns -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 2], ids=["one-worker", "two-workers"])
def learned(request: pytest.FixtureRequest) -> Embeddings:
    return Word2Vec(dim=16, epochs=10, sample=0, workers=request.param).fit(two_topics(3000))


def test_words_of_a_topic_are_neighbours(learned: Embeddings) -> None:
    for topic in (ANIMALS, METALS):
        for word in topic:
            near = {other for other, _ in learned.most_similar(word, topn=len(topic) - 1)}
            assert near == {*topic} - {word}


def test_the_loss_falls(learned: Embeddings) -> None:
    losses = [report["loss"] for report in learned.metrics]
    assert losses[0] > losses[-1]
    # Where it began: K + 1 = 6 outputs of a table of zeros.
    assert losses[-1] < 0.8 * 6 * math.log(2)


def test_words_used_interchangeably_are_nearest() -> None:
    """Synonyms never stand beside each other: they are alike because their contexts are."""
    draw = random.Random(0)
    pairs = [(f"left{i}", f"right{i}") for i in range(6)]
    contexts = [[f"context{i}{j}" for j in range(5)] for i in range(6)]
    sentences = []
    for _ in range(6000):
        i = draw.randrange(6)
        words = draw.choices(contexts[i], k=4)
        words.insert(2, draw.choice(pairs[i]))
        sentences.append(words)
    embeddings = Word2Vec(dim=16, epochs=10, sample=0, window=2, workers=1).fit(sentences)
    words = [word for pair in pairs for word in pair]
    unit = nn.functional.normalize(torch.stack([embeddings[word] for word in words]))
    similarity = (unit @ unit.T).fill_diagonal_(-1)
    for i, nearest in enumerate(similarity.argmax(dim=1).tolist()):
        assert nearest == i ^ 1, f"the nearest to {words[i]} is {words[nearest]}"


def test_training_that_diverges(tmp_path: Path) -> None:
    with pytest.raises(EmbedtrainError, match=r"training diverged: .* at position [\d,]+ \(epoch \d+\); lower --alpha"):
        Word2Vec(dim=16, alpha=10, epochs=20, sample=0).fit(two_topics(2000))


# --- a model that uses the result ----------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", [True, False])
def test_a_classifier_on_the_embeddings(freeze: bool) -> None:
    embeddings = Word2Vec(dim=16, epochs=5, sample=0, workers=1).fit(two_topics(2000))
    torch.manual_seed(0)
    layer = embeddings.to_torch(freeze=freeze)
    head = nn.Linear(16, 2)
    trained = [parameter for parameter in [*layer.parameters(), *head.parameters()] if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=0.01)

    draw = random.Random(1)
    sentences = [draw.choices(topic, k=draw.randint(3, 7)) for topic in [ANIMALS, METALS] * 64]
    labels = torch.tensor([0, 1] * 64)
    ids = nn.utils.rnn.pad_sequence(
        [torch.tensor([embeddings.index(word) for word in sentence]) for sentence in sentences],
        batch_first=True,
        padding_value=0,
    )
    lengths = (ids > 0).sum(dim=1, keepdim=True)
    for _ in range(60):
        scores = head(layer(ids).sum(dim=1) / lengths)
        loss = nn.functional.cross_entropy(scores, labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert (scores.argmax(dim=1) == labels).float().mean() > 0.95

    moved = (layer.weight.detach() != embeddings.weight).any(dim=1)
    used = torch.zeros(len(embeddings), dtype=torch.bool)
    used[[embeddings.index(word) for word in ANIMALS + METALS]] = True
    assert torch.equal(moved, torch.zeros_like(used) if freeze else used)
    assert not layer.weight[embeddings.pad_index].any()


def test_the_config_is_json_and_says_how_it_was_made(expected: Embeddings) -> None:
    config = json.loads(json.dumps(expected.config, allow_nan=False))
    assert config.keys() == {"options", "corpus", "results", "versions", "special_rows"}
    assert config["options"].keys() == {field.name for field in dataclasses.fields(Word2Vec)}
    assert config["versions"].keys() == {"embedtrain", "torch", "numpy", "python"}
    assert config["results"]["words_per_second"] > 0
    assert config["corpus"]["words"] == len(expected) - 2
