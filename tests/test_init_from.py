from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedtrain import EmbedtrainError, Word2Vec, fit
from embedtrain.training_state import Checkpoints

SENTENCES = [["a", "b", "c", "d"], ["b", "a", "d", "c"], ["new", "a", "b"]] * 20
# So small a rate that rows stay where they start, up to rounding.
STILL = {"min_count": 1, "dim": 4, "workers": 1, "epochs": 1, "alpha": 1e-12, "min_alpha": 0.0, "sample": 0.0}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.txt"
    rows = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    lines = [f"{word} {' '.join(map(str, row))}\n" for word, row in zip("dcbaz", rows, strict=True)]
    path.write_text("5 4\n" + "".join(lines))
    return path


def test_training_starts_from_the_vectors(source: Path) -> None:
    import embedtrain

    vectors = embedtrain.read(source)
    started = Word2Vec(**STILL, init_from=source).fit(SENTENCES)  # type: ignore[arg-type]
    usual = Word2Vec(**STILL).fit(SENTENCES)  # type: ignore[arg-type]
    for word in "abcd":
        torch.testing.assert_close(started[word], vectors[word], rtol=0, atol=1e-9)
    torch.testing.assert_close(started["new"], usual["new"], rtol=0, atol=1e-9)
    assert "z" not in started
    assert started.config["init_from"]["vocabulary"]["exact"] == 4
    assert started.config["options"]["init_from"] == str(source)


def test_training_goes_on_from_an_earlier_result(tmp_path: Path) -> None:
    first = Word2Vec(min_count=1, dim=4, workers=1, epochs=3).fit(SENTENCES)
    first.save(tmp_path / "out")
    again = Word2Vec(**STILL, init_from=tmp_path / "out").fit(SENTENCES)  # type: ignore[arg-type]
    for word in ("a", "new"):
        torch.testing.assert_close(again[word], first[word], rtol=0, atol=1e-9)


@pytest.mark.parametrize("workers", [1, 2])
def test_locked_words_stay_to_the_bit(source: Path, tmp_path: Path, workers: int) -> None:
    import embedtrain

    vectors = embedtrain.read(source)
    settings = {"min_count": 1, "dim": 4, "workers": workers, "init_from": source, "alpha": 0.1}
    (tmp_path / "lock.txt").write_text("b\nnew\nd\nz\n")  # "new" has no vector, "z" is not in the corpus
    for lock, locked in ((tmp_path / "lock.txt", "bd"), ("source", "abcd")):
        trained = Word2Vec(**settings, lock=lock).fit(SENTENCES * 10)  # type: ignore[arg-type]
        for word in [*"abcd", "new"]:
            if word in locked:
                assert trained[word].numpy().tobytes() == vectors[word].numpy().tobytes()
            elif word != "new":
                assert not torch.allclose(trained[word], vectors[word], atol=1e-3)
        assert trained["new"].abs().max() > 0.2  # far from where it started, within ±0.5 / dim
        assert trained.config["init_from"]["locked"] == len(locked)
        assert trained.config["options"]["lock"] == str(lock)


def test_locked_words_over_a_resume(source: Path, tmp_path: Path) -> None:
    import embedtrain

    vectors = embedtrain.read(source)
    lock = tmp_path / "lock.txt"
    lock.write_text("b\nd\n")

    def go_on(epochs: int, resume: bool = True) -> embedtrain.Embeddings:
        with Checkpoints(tmp_path / "state", resume=resume) as checkpoints:
            settings = Word2Vec(min_count=1, dim=4, workers=1, epochs=epochs, init_from=source, lock=lock, alpha=0.1)
            return settings.fit(SENTENCES, checkpoints=checkpoints)

    first = go_on(1, resume=False)
    second = go_on(2)
    for word in "bd":
        assert second[word].numpy().tobytes() == vectors[word].numpy().tobytes()
    assert not torch.equal(first["a"], second["a"])
    lock.write_text("b\na\n")
    with pytest.raises(EmbedtrainError, match=r"other locked words or vectors; .*lock.txt has changed since"):
        go_on(3)
    lock.write_text("b\n")
    with pytest.raises(EmbedtrainError, match="other locked words or vectors"):
        go_on(3)


def test_says_what_is_locked(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(map(" ".join, SENTENCES)))
    (tmp_path / "lock.txt").write_text("b\nz\n")
    arguments = [str(tmp_path / "corpus.txt"), "--out", str(tmp_path / "out"), "--min-count", "1", "--dim", "4"]
    assert fit.main([*arguments, "--init-from", str(source), "--lock", str(tmp_path / "lock.txt")]) == 0
    error = capsys.readouterr().err
    assert f"1 of the 2 words of {tmp_path / 'lock.txt'} are not in the vocabulary" in error
    assert f"1 of 5 words are locked: their vectors stay as {source} has them" in error


def test_bad_sources(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(map(" ".join, SENTENCES)))

    def run(*arguments: str) -> str:
        assert fit.main([str(corpus), "--min-count", "1", "--out", str(tmp_path / "out"), *arguments]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err.splitlines()[-1]

    assert "not 100; pass --dim 4" in run("--init-from", str(source))
    assert "no such file" in run("--init-from", str(tmp_path / "nothing"))
    assert "none of the formats" in run("--init-from", str(corpus))
    lock = tmp_path / "lock.txt"
    locking = ("--init-from", str(source), "--dim", "4", "--lock", str(lock))
    assert "no such file of words to lock" in run(*locking)
    lock.write_text("new\nz\n")
    assert "not one of these words is both in the corpus and in" in run(*locking)
    lock.write_text("a\n\n")
    assert "lock.txt: line 2 is empty" in run(*locking)
    assert "pass init-from as well" in run("--lock", "source")
    with pytest.raises(EmbedtrainError, match="no word of the vocabulary"):
        Word2Vec(**STILL, init_from=source).fit([["x", "y"]] * 20)  # type: ignore[arg-type]
