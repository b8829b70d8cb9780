from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedtrain
from embedtrain import evaluate, fit
from embedtrain.corpus import encode
from embedtrain.examination import Examination
from embedtrain.options import Options
from embedtrain.parts import Part
from embedtrain.testsets import TestSets
from embedtrain.word2vec import Word2Vec

OPTIONS = ["--dim", "8", "--min-count", "1", "--workers", "1", "--sample", "0", "--epochs", "4"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a corpus of words that go together by tens, judgements that say so, and analogies."""
    folder = tmp_path_factory.mktemp("examination")
    random = np.random.default_rng(0)
    words = [f"w{i}" for i in range(100)]
    lines = [" ".join(random.choice(words[10 * topic : 10 * topic + 10], 20)) for topic in random.integers(0, 10, 600)]
    (folder / "corpus.txt").write_text("\n".join(lines))
    pairs = random.integers(0, 100, (80, 2))
    pairs[::2, 1] = pairs[::2, 0] // 10 * 10 + random.integers(0, 10, 40)
    (folder / "pairs.tsv").write_text("".join(f"w{a}\tw{b}\t{int(a // 10 == b // 10)}\n" for a, b in pairs))
    (folder / "questions.txt").write_text(": s\n" + "".join(f"w{a} w{b} W{a} w{b + 1}\n" for a, b in pairs))
    return folder


def test_positions_are_those_of_all_ranks(files: Path) -> None:
    """Of several ranks, this one has half of the ids in memory."""
    corpus = encode(files / "corpus.txt", Options(min_count=1))
    half = corpus.size // 2
    part = Part(0, corpus.size, corpus.sentences, 0)
    examination = Examination(TestSets(pairs=(files / "pairs.tsv",)), 1.0)
    examination.begin(dataclasses.replace(corpus, ids=corpus.ids[:half], part=part), 2, 0)
    assert [examination.due(share * half) for share in (1, 2, 4)] == [False, True, True]


def train(files: Path, out: Path, *more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    assert fit.main([str(files / "corpus.txt"), "--out", str(out), *OPTIONS, *more]) == 0
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return metrics, json.loads((out / "config.json").read_text())


def test_evaluates_during_training(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedtrain.train._BLOCK_TOKENS", 100)
    tests = ["--pairs", str(files / "pairs.tsv"), "--analogies", str(files / "questions.txt"), "--no-case-insensitive"]
    metrics, config = train(files, tmp_path / "a", *tests, "--evaluate-every", "0.5")
    examined = [report for report in metrics if "evaluation" in report]
    size = metrics[-1]["position"] // 4
    positions = [report["position"] for report in examined]
    assert len(positions) == 8
    assert all(0 <= at - place * size / 2 < size / 20 for place, at in enumerate(positions, 1))  # at the next report
    scores = [report["evaluation"]["pairs"] for report in examined]
    assert scores[-1] > 0.6
    printed = capsys.readouterr().err
    assert f"after 4 epochs: pairs {scores[-1]:.3f}" in printed

    # The last one is that of the result, as the command finds it, too.
    assert evaluate.main([str(tmp_path / "a"), *tests, "--json", str(tmp_path / "r.json")]) == 0
    assert config["evaluation"] == json.loads((tmp_path / "r.json").read_text())["a"]
    assert config["evaluation"]["pairs"]["pairs"]["spearman"]["value"] == scores[-1]
    assert "## Evaluation" in (tmp_path / "a/README.md").read_text()
    assert ">pairs</text>" in (tmp_path / "a/curve.svg").read_text()

    # What is looked at does not change, but for the evaluation.
    plain, _ = train(files, tmp_path / "b")
    assert torch.equal(embedtrain.load(tmp_path / "a").weight, embedtrain.load(tmp_path / "b").weight)
    assert [report["loss"] for report in plain] == [report["loss"] for report in metrics]

    # At the end only.
    metrics, config = train(files, tmp_path / "c", *tests)
    assert [report["position"] for report in metrics if "evaluation" in report] == [4 * size]
    assert config["evaluation"]["pairs"]["pairs"]["spearman"]["value"] == scores[-1]


def test_time_of_evaluations_is_not_time_of_training(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from embedtrain import evaluation

    def slow(self: Any, table: torch.Tensor) -> evaluation.Evaluation:
        time.sleep(1)
        return evaluation.Evaluation({}, {}, 1, True, False)

    monkeypatch.setattr(evaluation.Evaluator, "__call__", slow)
    notes: list[str] = []
    examination = Examination(TestSets(pairs=(files / "pairs.tsv",)), 1, notes.append)
    options = Word2Vec(dim=8, min_count=1, workers=1, epochs=2)
    begin = time.perf_counter()
    embeddings = options.fit(files / "corpus.txt", examination=examination)
    assert embeddings.config["results"]["training_seconds"] <= time.perf_counter() - begin - 2
    assert notes == [f"after {epoch} epochs: all words of the test sets are unknown" for epoch in (1, 2)]


def test_goes_on_evaluating_after_a_resume(files: Path, tmp_path: Path) -> None:
    tests = ["--pairs", str(files / "pairs.tsv"), "--evaluate-every", "1"]
    train(files, tmp_path / "a", *tests)
    whole, config = train(files, tmp_path / "b", *tests, "--epochs", "6")
    # With the options of then, test sets included.
    assert fit.main(["--resume", str(tmp_path / "a"), "--epochs", "6"]) == 0
    resumed = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    epochs = [report["epoch"] for report in resumed if "evaluation" in report]
    assert epochs == [report["epoch"] for report in whole if "evaluation" in report] == [1, 2, 3, 4, 5, 6]
    # Nothing left to train: evaluated all the same.
    before = json.loads((tmp_path / "a/config.json").read_text())["evaluation"]
    assert fit.main(["--resume", str(tmp_path / "a")]) == 0
    assert json.loads((tmp_path / "a/config.json").read_text())["evaluation"] == before
    assert config["evaluation"]["pairs"]["pairs"]["known"] == before["pairs"]["pairs"]["known"]


def test_a_tokenizer_s_words_are_evaluated(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[PAD]": 0, "[UNK]": 1, "c": 2, "b": 3, "a": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "corpus.txt").write_text("a b a c a b\n" * 50)
    (tmp_path / "pairs.tsv").write_text("a\tb\t3\na\tc\t2\nb\tc\t1\na\tnever\t1\n")
    (tmp_path / "q.txt").write_text("a b c a\n")
    tests = TestSets(pairs=(tmp_path / "pairs.tsv",), analogies=(tmp_path / "q.txt",), restrict_vocab=3)
    options = Word2Vec(dim=4, tokenizer=tmp_path / "tokenizer.json", workers=1, epochs=1)
    embeddings = options.fit(tmp_path / "corpus.txt", examination=Examination(tests))
    assert embeddings.config["evaluation"]["pairs"]["pairs"]["known"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluate-every", "1"], "evaluate-every needs test sets"),
        (["--evaluate-every", "0", "--pairs", "p.tsv"], "evaluate-every must be a number of epochs above 0"),
        (["--evaluate-every", "nan", "--pairs", "p.tsv"], "evaluate-every must be"),
        (["--pairs", "nothing.tsv"], "nothing.tsv: no such file"),
        (["--analogies", "p.tsv"], "p.tsv: line 1: not four words"),
        (["--pairs", "p.tsv", "--restrict-vocab", "-1"], "restrict-vocab must be"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(
    refusal: Callable[..., str], arguments: list[str], message: str
) -> None:
    Path("p.tsv").write_text("a\tb\t1\n")
    assert message in refusal(fit.main, ["nothing.txt", *arguments])


# ---- TensorBoard


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_the_reports(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tests = ["--pairs", str(files / "pairs.tsv"), "--evaluate-every", "2", "--tensorboard", str(tmp_path / "board")]
    metrics, _ = train(files, tmp_path / "a", *tests)
    found = curves(tmp_path / "board")
    assert set(found) == {"training/loss", "training/rate", "training/words_per_second", "evaluation/pairs"}
    for name in ("loss", "rate", "words_per_second"):
        expected = [(report["position"], pytest.approx(report[name])) for report in metrics]
        assert found[f"training/{name}"] == expected
    assert [step for step, _ in found["evaluation/pairs"]] == [metrics[-1]["position"] // 2, metrics[-1]["position"]]
    # Going on writes on.
    assert fit.main(["--resume", str(tmp_path / "a"), "--epochs", "5"]) == 0
    steps = [step for step, _ in curves(tmp_path / "board")["training/loss"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == metrics[-1]["position"] // 4 * 5


def test_without_tensorboard_that_is_said(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit.importlib.util, "find_spec", lambda name: None)
    arguments = [str(files / "corpus.txt"), "--out", str(tmp_path / "a"), "--tensorboard", str(tmp_path / "b")]
    assert fit.main(arguments) == 2
    assert "tensorboard is not installed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_for_tensorboard_that_cannot_be_written(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    arguments = [str(files / "corpus.txt"), "--out", str(tmp_path / "a"), "--tensorboard", str(tmp_path / "file/x")]
    assert fit.main([*arguments, "--checkpoint-every", "off", *OPTIONS]) == 2
    assert "cannot write for TensorBoard into" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_reading_test_sets_does_not_import_torch(files: Path) -> None:
    code = (
        "import sys\nfrom embedtrain.examination import Examination\nfrom embedtrain.testsets import TestSets\n"
        f"from pathlib import Path\nExamination(TestSets(pairs=(Path({str(files / 'pairs.tsv')!r}),)))\n"
        "import embedtrain.fit\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
