"""The benchmark harness, end to end on a tiny made-up corpus, and its readers of evaluation files."""

import collections
import hashlib
import importlib
import importlib.util
import json
import lzma
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import embedtrain

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
CITIES = {"rome": "italy", "paris": "france", "oslo": "norway", "cairo": "egypt"}


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write a corpus of 2,000 short lines, packed, and questions about its words."""
    draw = random.Random(1)
    lines = [f"{city} lies in {country} they say {draw.choice('abcdefg')}" for city, country in CITIES.items()] * 500
    with lzma.open(tmp_path / "corpus.txt.xz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    (tmp_path / "pairs.tsv").write_text(
        "word1\tword2\tscore\n"
        + "".join(f"{city}\t{country}\t9.5\n{city}\tsay\t1\n" for city, country in CITIES.items())
    )
    (tmp_path / "analogies.txt").write_text(": capitals\nrome italy paris france\noslo norway cairo egypt\n")
    return tmp_path


@pytest.mark.parametrize("tools", [["gensim"], ["embedtrain", "gensim"]], ids=" ".join)
def test_comparison(data: Path, tools: list[str]) -> None:
    command = [sys.executable, str(BENCHMARKS / "compare.py"), str(data / "corpus.txt.xz"), "--tools", *tools]
    command += ["--pairs", str(data / "pairs.tsv"), "--analogies", str(data / "analogies.txt"), "--seeds", "2"]
    command += ["--dim", "8", "--epochs", "2", "--json", str(data / "out.json")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr

    results = json.loads((data / "out.json").read_text())
    text = lzma.decompress((data / "corpus.txt.xz").read_bytes())
    assert results["corpus"]["sha256"] == hashlib.sha256(text).hexdigest()
    assert results["corpus"]["tokens"] == len(text.split()) == 14_000
    assert results["machine"]["cores"] >= 1
    assert str(data) not in results["command"]
    assert [(run["seed"], run["tool"]) for run in results["runs"]] == [
        (seed, tool) for seed in (1, 2) for tool in tools
    ]
    for run in results["runs"]:
        assert 0 < 14_000 * 2 / run["words_per_second"] < run["wall_seconds"]
        assert run["peak_memory_mb"] > 20
        assert set(run["quality"]) == set(run["unknown"]) == {"pairs", "analogies"}
        assert run["unknown"] == {"pairs": 0, "analogies": 0}
    assert len({run["vocabulary"] for run in results["runs"]}) == 1
    for tool in tools:
        wall = results["summary"][tool]["wall_seconds"]
        assert wall["min"] <= wall["median"] <= wall["max"]
    assert results["corpus"]["sha256"] in ran.stdout
    assert all(tool in ran.stdout for tool in tools)


def test_table_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    compare, report, harness = map(importlib.import_module, ("compare", "report", "harness"))
    runs = [
        {
            "tool": tool,
            "seed": seed,
            "words_per_second": speed * 1e6 * (1 + seed / 10),
            "wall_seconds": 100 / speed,
            "peak_memory_mb": 500.0,
            "vocabulary": 50_000,
            "quality": {"wordsim353": 0.5 + seed / 100, "unheard-of": 0.25},
        }
        for seed in (1, 2, 4)
        for tool, speed in (("embedtrain", 8.0), ("gensim", 0.5))
    ]
    results = {
        "command": "python benchmarks/compare.py corpus.txt",
        "date": "2024-02-29T12:00:00+00:00",
        "machine": harness.describe_machine(),
        "versions": harness.describe_versions(),
        "settings": {"dim": 100, "window": 5, "negative": 5, "sample": 1e-3, "epochs": 5, "workers": 2},
        "corpus": {"name": "corpus.txt", "bytes": 10**8, "tokens": 2 * 10**7, "sha256": "0" * 64},
        "runs": runs,
        "summary": compare.summarise(runs),
    }
    speed, wall, memory, known, unheard_of = report.table(results).splitlines()[2:7]
    assert "9.60 (8.80–11.20)" in speed
    assert speed.split("|")[-2].strip() == "16.0 times as fast"
    assert wall.split("|")[-2].strip() == "16.0 times as fast"
    assert memory.split("|")[-2].strip() == "1.00 times as much"
    assert "WordSim-353" in known
    assert "0.523 (0.510–0.540)" in known  # the mean of the seeds, not the median
    assert unheard_of.split("|")[-2].strip() == "+0.000"

    report.draw(results, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_walks_in_graphs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "walks.py"), "--nodes", "60", "--communities", "6", "--across", "1"]
    command += ["--length", "30", "--dim", "16", "--windows", "3", "--negatives", "2", "6", "--seeds", "1"]
    ran = subprocess.run([*command, "--json", str(tmp_path / "out.json")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["corpus"]["tokens"] == 60 * 10 * 30
    assert [(run["negative"], run["tool"]) for run in results["runs"]] == [
        (negative, tool) for negative in (2, 6) for tool in ("gensim", "embedtrain")
    ]
    for run in results["runs"]:
        assert run["of_community"] > 0.3  # by chance 0.15; of nodes that are alike 0.9
        assert run["length"] > 0.1
    assert ran.stdout.count("| embedtrain |") == 2


def test_the_graph_and_the_walks() -> None:
    walks = importlib.import_module("walks")
    random = np.random.default_rng(0)
    edges, community = walks.planted_partition(1000, 20, 6, 3, random)
    pairs = {tuple(pair) for pair in edges.tolist()}
    assert len(pairs) == len(edges)
    assert pairs == {(other, one) for one, other in pairs}
    assert not any(one == other for one, other in pairs)
    inside = (community[edges[:, 0]] == community[edges[:, 1]]).mean()
    assert inside == pytest.approx((6 + 3 / 20) / 9, abs=0.03)
    assert len(edges) / 1000 == pytest.approx(9, rel=0.1)
    paths = walks.walk(edges, 1000, 3, 20, random)
    assert paths.shape[1] == 20
    assert sorted(paths[:, 0].tolist()) == sorted([*{one for one, _ in pairs}] * 3)
    assert {tuple(step) for path in paths for step in zip(path[:-1].tolist(), path[1:].tolist(), strict=True)} <= pairs


@pytest.mark.parametrize("workers", [1, 2])
def test_embeddings_of_walks_are_as_long_and_as_good_as_those_of_gensim(workers: int) -> None:
    """They were a fifth shorter and worse when the contexts of a window did not move one after the other."""
    models = pytest.importorskip("gensim.models")
    walks = importlib.import_module("walks")
    random = np.random.default_rng(0)
    edges, community = walks.planted_partition(600, 20, 10, 8, random)
    sentences = [[str(node) for node in path] for path in walks.walk(edges, 600, 8, 40, random).tolist()]
    names = [str(node) for node in range(600)]
    options = {"window": 10, "sample": 0, "epochs": 3}
    ours = embedtrain.Word2Vec(dim=64, workers=workers, **options).fit(sentences)
    theirs = models.Word2Vec(sentences, vector_size=64, sg=1, workers=1, seed=1, **options)
    got = walks.measure(np.stack([ours[name].numpy() for name in names]), community)
    expected = walks.measure(theirs.wv[names], community)
    # What a second thread learns late makes them a little shorter, too.
    assert got["length"] == pytest.approx(expected["length"], rel=0.05 if workers == 1 else 0.13)
    assert got["of_community"] > expected["of_community"] - (0.02 if workers == 1 else 0.03)


def test_a_run_that_fails_says_why(data: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "compare.py"), str(data / "corpus.txt.xz"), "--tools", "gensim"]
    ran = subprocess.run([*command, "--min-count", "1000000"], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "this command failed" in ran.stderr
    assert "gensim_fit.py" in ran.stderr


def test_speed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # fastText 0.9.3 leaves most of its input table as it finds it in memory, and stops if that is NaN. Tables of real
    # size lie in fresh pages, which are zeros; glibc fills small ones with the complement of this.
    monkeypatch.setenv("MALLOC_PERTURB_", "255")
    tools = ["embedtrain", "gensim", *(["fasttext"] if importlib.util.find_spec("fasttext") else [])]
    command = [sys.executable, str(BENCHMARKS / "speed.py"), str(data / "corpus.txt.xz"), "--tools", *tools]
    command += ["--dim", "8", "--workers", "1", "2", "--rounds", "1", "--megabytes", "0.02", "--json"]
    ran = subprocess.run([*command, str(data / "out.json")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr

    results = json.loads((data / "out.json").read_text())
    text = lzma.decompress((data / "corpus.txt.xz").read_bytes())
    used = text[: text.index(b"\n", 20_000) + 1]
    assert results["corpus"]["sha256"] == hashlib.sha256(used).hexdigest()
    assert [(run["workers"], run["tool"]) for run in results["runs"]] == [
        (workers, tool) for workers in (1, 2) for tool in tools
    ]
    for run in results["runs"]:
        assert 0 < len(used.split()) / run["words_per_second"] < run["wall_seconds"]
    assert results["corpus"]["sha256"] in ran.stdout

    again = subprocess.run(
        [sys.executable, str(BENCHMARKS / "speed.py"), "--results", str(data / "out.json")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert again.stdout == ran.stdout


def test_speed_is_compared_within_a_round(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    speed, harness = importlib.import_module("speed"), importlib.import_module("harness")
    speeds = {  # the machine is twice as slow in the second round: the ratios do not notice
        "embedtrain": {1: (4e6, 2e6, 4.4e6), 2: (8e6, 4e6, 8.8e6)},
        "gensim": {1: (4e5, 2e5, 4e5), 2: (6e5, 3e5, 6e5)},
    }
    runs = [
        {
            "round": round_ + 1,
            "dim": 100,
            "workers": workers,
            "tool": tool,
            "words_per_second": speeds[tool][workers][round_],
            "wall_seconds": 1e7 / speeds[tool][workers][round_],
            "peak_memory_mb": 100.0,
        }
        for round_ in range(3)
        for workers in (1, 2)
        for tool in speeds
    ]
    summary = {(row["tool"], row["workers"]): row for row in speed.summarise(runs)}
    assert summary["gensim", 1]["times_as_fast"] == pytest.approx({"median": 10, "min": 10, "max": 11})
    assert summary["gensim", 2]["sooner"]["median"] == pytest.approx(8 / 0.6)
    assert summary["gensim", 2]["scaling"]["median"] == pytest.approx(1.5)
    assert summary["embedtrain", 2]["scaling"]["median"] == pytest.approx(2)

    results = {
        **harness.describe_run("speed.py", ["corpus.txt"]),
        "settings": {"window": 5, "negative": 5},
        "corpus": {"name": "corpus.txt", "bytes": 10**8, "tokens": 2 * 10**7, "sha256": "0" * 64},
        "runs": runs,
        "summary": speed.summarise(runs),
    }
    assert "| 10.0x (10.0–11.0) |" in speed.table(results)
    speed.draw(results, tmp_path / "out.svg")
    assert b"<svg" in (tmp_path / "out.svg").read_bytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("love\tsex\t6.77\ntiger\ttiger\t10.00\n", [("love", "sex", 6.77), ("tiger", "tiger", 10.0)]),
        ("old new 1.58\n", [("old", "new", 1.58)]),
        ("Word 1,Word 2,Human (mean)\nnew york,city,7.5\n", [("new york", "city", 7.5)]),
        ("word1\tword2\tPOS\tSimLex999\tconc\nold\tnew\tA\t1.58\t2\n", [("old", "new", 1.58)]),
        ("\ufeff# a comment\r\n\r\nold\tnew\t-1\r\n", [("old", "new", -1.0)]),
    ],
)
def test_pairs_in_any_published_form(tmp_path: Path, text: str, expected: list[tuple[str, str, float]]) -> None:
    path = tmp_path / "pairs"
    path.write_text(text, encoding="utf-8")
    assert importlib.import_module("evaluate").read_pairs(path) == expected


@pytest.mark.parametrize("text", ["", "word1 word2 score\n", "old new 1.58\nsmart intelligent\n"])
def test_pairs_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pairs"
    path.write_text(text)
    with pytest.raises(SystemExit, match="score"):
        importlib.import_module("evaluate").read_pairs(path)


def test_tokens_are_counted_across_chunks(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    path.write_bytes(b"ab " * ((1 << 20) // 3) + b"over the edge" + b" " * (1 << 20) + b"last")
    described = importlib.import_module("harness").describe_corpus(path, "corpus")
    assert described["tokens"] == len(path.read_bytes().split())


def test_zipf(tmp_path: Path) -> None:
    zipf = importlib.import_module("zipf")
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        with path.open("wb") as file:
            zipf.write(file, tokens=2_500_000, vocabulary=20_000, shortest=2, longest=6)
    text = paths[0].read_bytes()
    assert text == paths[1].read_bytes()
    assert text.endswith(b"\n")
    assert len(text.split()) == 2_500_000  # more than a chunk
    lines = text.split(b"\n")[:-1]
    assert {len(line.split()) for line in lines[:-1]} == {2, 3, 4, 5, 6}

    counts = collections.Counter(text.split())
    letters, lengths = zipf.spell(20_000)
    words = [bytes(row[:size]) for row, size in zip(letters, lengths, strict=True)]
    assert len(set(words)) == 20_000
    assert counts.keys() <= set(words)
    law = [1 / (rank + 3.2) for rank in range(20_000)]
    for rank in (0, 1, 9, 99, 999):
        assert counts[words[rank]] == pytest.approx(2_500_000 * law[rank] / sum(law), rel=0.1)


def test_zipf_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "zipf.py"), str(tmp_path / "out"), "--tokens", "1000", "--one-line"]
    subprocess.run(command, check=True)
    text = (tmp_path / "out").read_bytes()
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    assert len(text.split()) == 1000


def test_growth(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a b c d e f g h " * 2000)
    command = [sys.executable, str(BENCHMARKS / "growth.py"), "--only", "lines", "counting", "--workers", "1"]
    command += ["--tokens", "5000", "--vocabulary", "50", "--dim", "8", "--rounds", "1", "--text-tokens", "20000"]
    command += ["--text-vocabulary", "3000", "--text", str(tmp_path / "text"), "--json", str(tmp_path / "out.json")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    tables = json.loads((tmp_path / "out.json").read_text())["tables"]
    assert {title: len(rows) for title, rows in tables.items()} == {"lines": 3, "counting": 4}
    assert tables["counting"][0]["rounds"][0]["words"] == 8
    assert tables["lines"][1]["rounds"][0]["tokens"] == 5000
    assert all(each["speed"] > 0 for rows in tables.values() for row in rows for each in row["rounds"])
    assert "bytes a word" in ran.stdout


def test_distinct(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "distinct.py"), "--words-log2", "14", "--min-count", "5"]
    command += ["--limit", "2000", "--folder", str(tmp_path), "--json", str(tmp_path / "out.json")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    measured = json.loads((tmp_path / "out.json").read_text())
    assert measured["different words"] == 2**14
    assert measured["tokens"] == 2**15 - 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    distinct = importlib.import_module("distinct")
    path = tmp_path / "text"
    assert distinct.write(path, 10) == 2047
    words, counts, _ = distinct.vocabulary(10, 1)
    seen = collections.Counter(path.read_bytes().split())
    assert seen == dict(zip(words, counts.tolist(), strict=True))
    assert words == sorted(seen, key=lambda word: (-seen[word], word))


def test_memory(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(BENCHMARKS / "memory.py"),
        "--tokens",
        "200_000",
        "--vocabulary",
        "2000",
        "--dim",
        "8",
    ]
    command += ["--limit", "2000", "--rounds", "1", "--folder", str(tmp_path), "--json", str(tmp_path / "out.json")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (measured,) = json.loads((tmp_path / "out.json").read_text())["rounds"]
    assert list(measured) == ["memory", "disk", "again"]
    assert all(row["words_per_second"] > 0 and row["anonymous_mb"] > 20 for row in measured.values())
    assert "limited, encoded to disk" in ran.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
