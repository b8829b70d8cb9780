from __future__ import annotations

import base64
import gzip
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import embedtrain
from embedtrain import explore, wordmap
from embedtrain.progress import Progress
from embedtrain.vocabulary import PAD, UNK

pytest.importorskip("openTSNE", reason="the map needs the extra: pip install 'embedtrain[explore]'")

HOSTILE = [
    *("</script><script>alert(1)</script>", "<!--title-->", "<!--", "]]>", "&amp;", '"', "'", "\\u003c", "${x}", "`"),
    *("שלום", "مرحبا", "\u202eright-to-left", "👩‍👩‍👧", "日本語", "e\u0301", "\u0301", "a b", " ", "\x00", "\x1b[31m"),
    *("\u2028", "-", "x" * 300),
]


class Blocks(HTMLParser):
    """What a browser takes for the scripts of a page, by their id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.blocks: dict[str, str] = {}
        self.tags: list[str] = []
        self._id: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._id = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._id = None

    def handle_data(self, data: str) -> None:
        if self._id is not None:
            self.blocks[self._id] = self.blocks.get(self._id, "") + data

    def unpack(self, name: str) -> bytes:
        return gzip.decompress(base64.b64decode(self.blocks[name], validate=True))

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.unpack("words"))
        return facts

    def vectors(self, number: int, dim: int) -> np.ndarray:
        low, middle, high = np.frombuffer(self.unpack(f"vectors-{number}"), np.uint8).reshape(3, -1).astype(np.int32)
        return ((high.astype(np.int8).astype(np.int32) << 16 | middle << 8 | low) / 2**23).reshape(-1, dim)


def make(words: list[str], dim: int = 8, counts: bool = True, seed: int = 0) -> embedtrain.Embeddings:
    weight = np.random.default_rng(seed).normal(size=(len(words) + 2, dim)).astype(np.float32)
    weight[0] = 0
    return embedtrain.Embeddings(
        torch.from_numpy(weight),
        [PAD, UNK, *words],
        counts=np.array([0, 0, *range(len(words), 0, -1)]) if counts else None,
        pad_index=0,
        unk_index=1,
    )


def show(first: embedtrain.Embeddings, second: embedtrain.Embeddings | None = None, **options: Any) -> Blocks:
    progress = Progress(quiet=True)
    models = [explore.usable(model, name, progress) for model, name in ((first, "a"), (second, "b")) if model]
    return Blocks(explore.page(*models, **{"max_vocab": 20_000, "seed": 1, "progress": progress, **options}))


def test_the_page_holds_words_vectors_and_places() -> None:
    words = [f"word{i}" for i in range(200)]
    embeddings = make(words)
    page = show(embeddings)
    facts = page.facts()
    assert facts["words"] == words
    assert facts["counts"] == list(range(200, 0, -1))
    assert facts["spaces"] == [{"name": "a", "dim": 8, "total": 200}]
    assert sorted(set(facts["cluster"])) == list(range(len(facts["clusters"])))
    assert all(facts["cluster"][row] == at for at, rows in enumerate(facts["clusters"]) for row in rows)
    unit = torch.nn.functional.normalize(embeddings.weight[2:].double()).numpy()
    assert np.abs(page.vectors(0, 8) - unit).max() <= 2.0**-24
    places = np.frombuffer(page.unpack("places-0"), "<f4").reshape(2, 200)
    assert np.linalg.norm(places, axis=0).max() <= 1.0001


def test_cosines_of_the_stored_vectors_are_nearly_those_of_float64() -> None:
    embeddings = make([str(i) for i in range(500)], dim=100)
    stored = show(embeddings).vectors(0, 100)
    exact = torch.nn.functional.normalize(embeddings.weight[2:].double()).numpy()
    off = np.abs(stored @ stored.T - exact @ exact.T)
    assert off.max() < 3e-7
    assert off.mean() < 5e-8


@pytest.mark.parametrize("size", [2, 3, 7, 8, 10, 40])
@pytest.mark.parametrize("dim", [1, 2, 8])
def test_few_words(size: int, dim: int) -> None:
    page = show(make([str(i) for i in range(size)], dim=dim), make([str(i) for i in range(size)], dim=3, seed=1))
    places = np.frombuffer(page.unpack("places-0"), "<f4")
    assert np.isfinite(places).all()
    assert places.shape == (2 * size,)
    assert max(page.facts()["shared"]) <= page.facts()["nearest_compared"] == max(1, size // 20)


@pytest.mark.parametrize("words", [["a", "b"], ["a", "b", "c"] * 20])
def test_equal_vectors_have_a_place_each(words: list[str]) -> None:
    names = [f"{word}{i}" for i, word in enumerate(words)]
    embeddings = make(names)
    embeddings.weight[2:] = 1
    assert np.isfinite(np.frombuffer(show(embeddings).unpack("places-0"), "<f4")).all()


def test_no_word_gets_into_the_markup() -> None:
    plain = show(make([str(i) for i in range(len(HOSTILE))]))
    page = show(make(HOSTILE))
    assert page.tags == plain.tags
    assert page.facts()["words"] == HOSTILE


def test_no_name_gets_into_the_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "<img src=x onerror=alert(1)>"
    make(["a", "b", "c"]).save(name)
    assert explore.main([name]) == 0
    page = Blocks(Path("explore.html").read_text(encoding="utf-8"))
    assert "img" not in page.tags
    assert page.facts()["spaces"][0]["name"] == name


def test_what_cannot_be_shown_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    embeddings = make(["rare", "zero", "never", "often", "nan"])
    assert embeddings.counts is not None
    embeddings.counts[2:] = [3, 9, 0, 8, 7]
    embeddings.weight[3] = 0
    embeddings.weight[6, 0] = torch.nan
    words = explore.usable(embeddings, "model", Progress())
    assert words.words == ["often", "rare"]
    assert words.counts is not None
    assert words.counts.tolist() == [8, 3]
    assert torch.equal(words.weight, embeddings.weight[[5, 2]])
    error = capsys.readouterr().err
    assert "model: left out 1 words never seen" in error
    assert "model: left out 2 words without a vector" in error


def test_the_most_frequent_words_and_how_many_there_are() -> None:
    page = show(make([str(i) for i in range(50)]), max_vocab=20)
    assert page.facts()["words"] == [str(i) for i in range(20)]
    assert page.facts()["spaces"][0]["total"] == 50


def test_without_counts() -> None:
    page = show(make(["b", "a", "c"], counts=False))
    assert page.facts()["words"] == ["b", "a", "c"]
    assert page.facts()["counts"] is None


def test_the_same_words_make_the_same_page() -> None:
    words = [str(i) for i in range(60)]
    assert show(make(words), make(words, seed=1)).blocks == show(make(words), make(words, seed=1)).blocks


# ---- comparison


def test_two_models_are_compared_over_the_words_that_both_have() -> None:
    a, b = make([str(i) for i in range(120)]), make([str(i) for i in range(150, 20, -1)], dim=5, seed=1)
    page = show(a, b)
    facts = page.facts()
    assert facts["words"] == [str(i) for i in range(21, 120)]
    assert [space["dim"] for space in facts["spaces"]] == [8, 5]
    assert facts["only"][0] == {"total": 21, "words": [str(i) for i in range(21)]}
    assert facts["only"][1]["total"] == 31
    # By another way: sets of rows sorted by numpy.
    k = facts["nearest_compared"]
    near = []
    for embeddings in (a, b):
        unit = torch.nn.functional.normalize(torch.stack([embeddings[word] for word in facts["words"]])).numpy()
        similar = unit @ unit.T
        np.fill_diagonal(similar, -2)
        near.append(np.argsort(-similar, axis=1)[:, :k])
    shared = [len(set(one) & set(other)) for one, other in zip(*near, strict=True)]
    assert facts["shared"] == shared


def test_a_model_compared_with_itself_agrees_and_stays_in_place() -> None:
    words = [str(i) for i in range(300)]
    page = show(make(words), make(words))
    assert set(page.facts()["shared"]) == {page.facts()["nearest_compared"]}
    places = [np.frombuffer(page.unpack(f"places-{i}"), "<f4").reshape(2, -1) for i in (0, 1)]
    assert np.corrcoef(places[0].ravel(), places[1].ravel())[0, 1] > 0.9


def test_words_whose_vectors_were_exchanged_differ_most() -> None:
    words = [str(i) for i in range(300)]
    a, b = make(words, dim=20), make(words, dim=20)
    b.weight[2:6] = make(words, dim=20, seed=9).weight[2:6]
    shared = np.array(show(a, b).facts()["shared"])
    assert shared[:4].max() < np.median(shared[4:]) / 2


# ---- the map


@given(arrays(np.float32, (23, 4), elements=st.floats(-1, 1, width=32)), st.integers(1, 40))
def test_nearest_neighbours(weight: np.ndarray, count: int) -> None:
    weight = weight + np.eye(23, 4, dtype=np.float32) + 3  # none is zero
    unit = wordmap.unit_rows(torch.from_numpy(weight))
    found = wordmap.nearest(unit, count)
    cosine = (unit @ unit.T).numpy()
    np.fill_diagonal(cosine, -2)
    best = -np.sort(-cosine, axis=1)[:, : min(count, 22)]
    assert np.abs(found.cosine - best).max() < 1e-6
    assert np.abs(np.take_along_axis(cosine, found.rows.astype(np.int64), 1) - best).max() < 1e-6
    assert all(len(set(row)) == len(row) for row in found.rows.tolist())


def test_words_that_are_alike_lie_together() -> None:
    """Of 40 clouds of 20 words, nearly every word's nearest ones on the map are of its own cloud."""
    random = np.random.default_rng(4)
    cloud = np.repeat(np.arange(40), 20)
    weight = random.normal(size=(40, 30))[cloud] + 0.3 * random.normal(size=(800, 30))
    unit = wordmap.unit_rows(torch.from_numpy(weight))
    places = wordmap.lay_out(unit, wordmap.nearest(unit, 90), None, 1, lambda _: None)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    near = np.argsort(distance, axis=1)[:, 1:11]
    assert (cloud[near] == cloud[:, None]).mean() > 0.95
    groups, names = wordmap.group(unit, places, 1)
    assert len(names) == wordmap.GROUPS
    assert np.mean([len(set(groups[cloud == one])) == 1 for one in range(40)]) > 0.9


# ---- the command


def test_reads_foreign_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "glove.txt"
    source.write_text("the 1 0 0\nof 0 1 0\n<unk> 1 1 1\nto 0 0.5 1\n", encoding="utf-8")
    out = tmp_path / "page.html"
    assert explore.main([str(source), "--out", str(out)]) == 0
    assert Blocks(out.read_text(encoding="utf-8")).facts()["words"] == ["the", "of", "to"]
    assert "open it in a browser" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".txt"] == ["page.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no such file"),
        (["model", "--compare", "nothing"], "no such file"),
        (["model", "--compare", "other"], "have 0 words in common"),
        (["one.txt"], "at least 2 words"),
        (["model", "--out", "model"], "is a folder"),
        (["model", "--out", "there.html"], "is there already"),
        (["model", "--out", "no/where.html"], "no is not a folder"),
        (["model", "--max-vocab", "1"], "max-vocab must be"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    refusal: Callable[..., str], arguments: list[str], message: str
) -> None:
    make(["a", "b", "c"]).save("model")
    make(["d", "e", "f"]).save("other")
    Path("one.txt").write_text("a 1 2\n")
    Path("there.html").write_text("mine")
    assert message in refusal(explore.main, arguments)
    assert Path("there.html").read_text() == "mine"


def test_overwrite_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(["a", "b", "c"]).save("model")
    Path("explore.html").write_text("old")
    assert explore.main(["model", "--overwrite"]) == 0
    assert Path("explore.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_opens_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(["a", "b", "c"]).save("model")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert explore.main(["model", "--open"]) == 0
    assert opened == [(tmp_path / "explore.html").as_uri()]


def test_missing_libraries_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(["a", "b", "c"]).save("model")
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    assert explore.main(["model"]) == 2
    assert "pip install 'embedtrain[explore]'" in capsys.readouterr().err


def test_progress_of_the_map_is_shown() -> None:
    shown = io.StringIO()
    words = explore.usable(make([str(i) for i in range(60)]), "a", Progress(quiet=True))
    explore.page(words, max_vocab=100, seed=1, progress=Progress(shown))
    assert re.fullmatch(r"map: laid out 60 words in \d+\.\d s\n", shown.getvalue())


def test_help_does_not_import_torch() -> None:
    code = "import sys\nfrom embedtrain import explore\ntry: explore.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--compare" in done.stdout


def test_everything_the_page_is_made_of_is_in_the_package() -> None:
    """What pyproject.toml ships is what the page asks for."""
    folder = Path(explore.__file__).parent / "page"
    named = set(re.findall(r"<!--([\w.]+)-->", (folder / "page.html").read_text(encoding="utf-8")))
    assert {name for name in named if "." in name} | {"page.html"} == {path.name for path in folder.iterdir()}
