from __future__ import annotations

import csv
import gzip
import io
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import embedtrain
from embedtrain import Embeddings, EmbedtrainError, classifier, classify
from embedtrain.classifier import Classifier, Scores, Texts
from embedtrain.labelled import choose_cut, read_labelled

GOOD, BAD, OTHER = ["superb", "great", "lovely"], ["dull", "awful", "boring"], ["the", "film", "was", "a", "plot"]


def review(good: bool, generator: random.Random) -> str:
    words = generator.choices(OTHER, k=generator.randint(3, 12)) + generator.choices(GOOD if good else BAD, k=2)
    generator.shuffle(words)
    return " ".join(words).capitalize() + "."


def write_reviews(path: Path, count: int, seed: int) -> None:
    generator = random.Random(seed)
    lines = (f"{'pos' if good else 'neg'}\t{review(bool(good), generator)}\n" for good in [0, 1] * (count // 2))
    path.write_text("".join(lines))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    words = ["<pad>", "<unk>", *GOOD, *BAD, *OTHER]
    weight = torch.randn(len(words), 8, generator=torch.Generator().manual_seed(1))
    weight[0] = 0
    counts = np.array([0, 0, 3, 3, 3, 3, 3, 3, 90, 90, 90, 90, 90])
    Embeddings(weight, words, counts=counts, pad_index=0, unk_index=1).save("emb")
    write_reviews(Path("train.tsv"), 200, 1)
    write_reviews(Path("test.tsv"), 60, 2)
    return tmp_path


SMALL = ["--hidden", "8", "--batch-size", "16", "--epochs", "6", "--learning-rate", "0.02", "--device", "cpu"]


@pytest.mark.parametrize("tune", ["frozen", "full", "rows", "scratch"])
def test_learns_and_keeps_what_it_should(folder: Path, capsys: pytest.CaptureFixture[str], tune: str) -> None:
    arguments = ["train.tsv", "--embeddings", "emb", "--test", "test.tsv", "--tune", tune, *SMALL, "--rare-below", "10"]
    assert classify.main(arguments) == 0
    printed = capsys.readouterr()
    assert "test accuracy" in printed.out
    assert "into words, lower-cased: 100.0% of the tokens have an embedding" in printed.err
    model = embedtrain.load("model")
    results = model.config["results"]
    assert results["test_accuracy"] > 0.9
    assert np.array(results["confusion"]).sum() == 60
    before = embedtrain.load("emb").weight
    moved = (model.weight != before).any(dim=1).tolist()
    rare = [False, False] + [True] * 6 + [False] * 5
    assert moved[2:] == {"frozen": [False] * 11, "full": [True] * 11, "rows": rare[2:], "scratch": [True] * 11}[tune]
    assert not model.weight[0].any()


def test_predict(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert classify.main(["train.tsv", "--embeddings", "emb", "--out", "m", *SMALL]) == 0
    assert "held-out accuracy" in capsys.readouterr().out
    lines = "The film was SUPERB, lovely!\na dull, boring plot\n\nunheard of\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert classify.main(["predict", "m"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[:2]] == ["pos", "neg"]
    assert len(rows) == 4
    assert all(0.5 <= float(row[1]) <= 1 for row in rows)
    # The same whatever shares the batch.
    model = classify.TextClassifier("m")
    together = model.predict(lines.split("\n")[:2])
    alone = [model.predict([text])[0] for text in lines.split("\n")[:2]]
    for (label, share), (other, other_share) in zip(together, alone, strict=True):
        assert label == other
        assert share == pytest.approx(other_share, abs=1e-5)


def test_the_same_seed_gives_the_same_model(folder: Path) -> None:
    for out in ("a", "b"):
        assert classify.main(["train.tsv", "--embeddings", "emb", "--out", out, *SMALL, "--epochs", "2"]) == 0
    assert torch.equal(embedtrain.load("a").weight, embedtrain.load("b").weight)
    first, second = (torch.load(f"{out}/classifier.pt") for out in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_scratch_needs_no_embeddings(folder: Path) -> None:
    assert classify.main(["train.tsv", "--tune", "scratch", "--test", "test.tsv", "--dim", "8", *SMALL]) == 0
    model = embedtrain.load("model")
    assert model.dim == 8
    assert model.config["results"]["test_accuracy"] > 0.9


def test_unfreeze_at(folder: Path) -> None:
    arguments = ["train.tsv", "--embeddings", "emb", "--tune", "frozen", *SMALL, "--patience", "9"]
    assert classify.main([*arguments, "--unfreeze-at", "2"]) == 0
    assert (embedtrain.load("model").weight != embedtrain.load("emb").weight).any()


def test_vectors_of_other_formats(folder: Path) -> None:
    embedtrain.load("emb").save("exported", export=["glove"])
    arguments = ["train.tsv", "--embeddings", "exported/glove.txt", "--tune", "frozen", "--test", "test.tsv", *SMALL]
    assert classify.main(arguments) == 0
    assert embedtrain.load("model").config["results"]["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.tsv"], "--tune full needs embeddings"),
        (["nothing.tsv", "--embeddings", "emb"], "nothing.tsv: no such file"),
        (["train.tsv", "--embeddings", "nothing"], "nothing: no such file"),
        (["bad.tsv", "--embeddings", "emb"], "bad.tsv: line 2"),
        (["one.tsv", "--embeddings", "emb"], "all texts have the label 'a'"),
        (["train.tsv", "--embeddings", "emb", "--test", "one.tsv"], "the test has the label 'a'"),
        (["foreign.tsv", "--embeddings", "emb"], "not one token"),
        (["train.tsv", "--embeddings", "emb", "--train-size", "1"], "too few"),
        (["train.tsv", "--embeddings", "emb", "--hidden", "0"], "hidden must be"),
        (["train.tsv", "--embeddings", "emb", "--unfreeze-at", "2"], "leave out unfreeze-at"),
        (["train.tsv", "--embeddings", "emb", "--device", "nonsense"], "device 'nonsense'"),
        (["named.csv", "--embeddings", "emb"], "name those of label and text"),
        (["empty", "--embeddings", "emb"], "no texts"),
        (["predict", "emb"], "no classifier"),
        (["predict", "nothing"], "nothing is not a folder"),
    ],
)
def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    Path("bad.tsv").write_text("a\tx\nno tab\n")
    Path("one.tsv").write_text("a\tsuperb\na\tdull\n")
    Path("foreign.tsv").write_text("a\txyz\nb\tuvw\n")
    Path("named.csv").write_text("sentiment,review\na,b\n")
    Path("empty").mkdir()
    assert classify.main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("embedtrain: ")
    assert message in error
    assert not Path("model").exists()
    assert not list(Path().glob("*.partial-*"))


def test_help_does_not_import_torch() -> None:
    code = "import sys\nfrom embedtrain import classify\ntry: classify.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--tune" in done.stdout


# ---- reading


def test_layouts(tmp_path: Path) -> None:
    expected = [("neg", "dull, dull"), ("pos", 'a "fine"\nfilm')]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        writer.writerows((number, text, label) for number, (label, text) in enumerate(expected))
    for label, text in expected:
        (tmp_path / "imdb" / "train" / label).mkdir(parents=True)
        (tmp_path / "imdb" / "train" / label / "0_1.txt").write_text(text)
    (tmp_path / "imdb" / "train" / "unsup").mkdir()
    (tmp_path / "imdb" / "train" / "unsup" / "0_0.txt").write_text("not this")
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress("\ufeffneg\tdull, dull\r\n\npos\ta fine film\n".encode()))
    for path in (tmp_path / "a.csv", tmp_path / "imdb" / "train"):
        data = read_labelled(path)
        assert list(zip(data.labels, data.texts, strict=True)) == expected
    data = read_labelled(tmp_path / "a.tsv.gz")
    assert list(zip(data.labels, data.texts, strict=True)) == [expected[0], ("pos", "a fine film")]
    (tmp_path / "named.csv").write_text("review,sentiment\nfine,pos\n")
    assert read_labelled(tmp_path / "named.csv", "sentiment", "review").texts == ["fine"]
    (tmp_path / "latin.tsv").write_bytes(b"pos\tok\nneg\tna\xefve\n")
    with pytest.raises(EmbedtrainError, match=r"line 2 .*not UTF-8"):
        read_labelled(tmp_path / "latin.tsv")
    (tmp_path / "quotes.csv").write_text('label,text\npos,"open\n')
    with pytest.raises(EmbedtrainError, match="line 2"):
        read_labelled(tmp_path / "quotes.csv")


def test_choose_cut() -> None:
    assert choose_cut(["The Film, was"], {"The", "Film,", "was"}, "auto", None) == ("spaces", False, 1.0)
    assert choose_cut(["The Film, was"], {"the", "film", "was"}, "auto", None) == ("words", True, 1.0)
    assert choose_cut(["don't stop"], {"don't", "stop"}, "words", False) == ("words", False, 1.0)


# ---- the model


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Classifier(nn.Embedding(9, 4, padding_idx=0), 3, 2, 0.0).eval()
    texts = Texts([torch.tensor(row, dtype=torch.int32) for row in ([3, 4, 5, 6], [7], [8, 2])], torch.zeros(3))
    together = classifier.predict(model, texts, 3, 0, torch.device("cpu"))
    for row in range(3):
        alone = classifier.predict(model, texts.take([row]), 1, 0, torch.device("cpu"))
        torch.testing.assert_close(together[row], alone[0])
        # By hand: each direction over the text alone, the maximum and the mean over its outputs.
        embedded = model.embedding(texts.rows[row].long())
        outputs = torch.cat([model.forwards(embedded)[0], model.backwards(embedded.flip(0))[0].flip(0)], dim=1)
        pooled = torch.cat([outputs.amax(dim=0), outputs.mean(dim=0)])
        torch.testing.assert_close(alone[0], model.linear(pooled).softmax(dim=0).detach())


def test_the_lstm_is_that_of_packed_sequences() -> None:
    torch.manual_seed(0)
    model = Classifier(nn.Embedding(9, 4, padding_idx=0), 3, 2, 0.0)
    both = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    both.load_state_dict(
        {**model.forwards.state_dict(), **{f"{k}_reverse": v for k, v in model.backwards.state_dict().items()}}
    )
    ids, lengths = torch.tensor([[3, 4, 5, 6], [7, 0, 0, 0], [8, 2, 1, 0]]), torch.tensor([4, 1, 3])
    packed = pack_padded_sequence(model.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(both(packed)[0], batch_first=True, padding_value=torch.nan)
    largest = outputs.nan_to_num(-torch.inf).amax(dim=1)
    torch.testing.assert_close(model(ids, lengths), model.linear(torch.cat([largest, outputs.nanmean(dim=1)], dim=1)))


def test_batches_cover_all_and_are_of_a_length() -> None:
    generator = random.Random(3)
    rows = [torch.ones(generator.randint(1, 300), dtype=torch.int32) for _ in range(1000)]
    texts = Texts(rows, torch.zeros(1000, dtype=torch.int64))
    for order in (None, torch.Generator().manual_seed(1)):
        cut = list(classifier.batches(texts, 16, order))
        assert sorted(index for batch in cut for index in batch) == list(range(1000))
        padded = sum(max(len(rows[index]) for index in batch) * len(batch) for batch in cut)
        assert padded < 1.1 * sum(map(len, rows))
    assert list(classifier.batches(texts, 16, torch.Generator().manual_seed(1))) == cut
    assert list(classifier.batches(texts, 16, torch.Generator().manual_seed(2))) != cut


def test_scores() -> None:
    probabilities = torch.tensor([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1]])
    scores = classifier.score(probabilities, torch.tensor([0, 1, 1, 1]))
    assert scores.confusion.tolist() == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert scores.accuracy == 0.75
    # F1: 2/3 for label 0, 4/5 for label 1, 0 for label 2, of which there is nothing.
    assert scores.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 3)
    assert Scores(np.zeros((2, 2), np.int64)).accuracy == 0
