from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import embedtrain
from embedtrain import evaluate as command
from embedtrain import evaluation
from embedtrain.embeddings import Embeddings
from embedtrain.errors import EmbedtrainError
from embedtrain.evaluation import Evaluator, ranked_rows
from embedtrain.testsets import Analogies, Pairs, TestSets, read_analogies, read_pairs

WORDSIM = "# The WordSimilarity-353 Test Collection\n# with comments\nlove\tsex\t6.77\ntiger\tcat\t7.35\n"
WORDSIM_CSV = "Word 1,Word 2,Human (mean)\nlove,sex,6.77\ntiger,cat,7.35\n"
WORDSIM_RATERS = "Word 1\tWord 2\tHuman (Mean)\t1\t2\nlove\tsex\t6.77\t9\t6\ntiger\tcat\t7.35\t9\t7\n"
SIMLEX = (
    "word1\tword2\tPOS\tSimLex999\tconc(w1)\tconc(w2)\tconcQ\tAssoc(USF)\tSimAssoc333\tSD(SimLex)\r\n"
    "love\tsex\tA\t6.77\t2.72\t2.81\t2\t7.25\t1\t0.41\r\ntiger\tcat\tA\t7.35\t1.75\t2.46\t1\t7.11\t1\t0.67\r\n"
)
SIMVERB = "love\tsex\tV\t6.77\tNONE\ntiger\tcat\tV\t7.35\tSYNONYMS\n"
MEN = "love sex 6.770000\ntiger cat 7.350000\n"
RG65 = "love;sex;6.77\ntiger;cat;7.35"


@pytest.mark.parametrize("text", [WORDSIM, WORDSIM_CSV, WORDSIM_RATERS, SIMLEX, SIMVERB, MEN, RG65, "\ufeff" + MEN])
def test_reads_the_published_formats_of_similarity_judgements(tmp_path: Path, text: str) -> None:
    path = tmp_path / "set.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_pairs(path) == Pairs("set", [("love", "sex", 6.77), ("tiger", "cat", 7.35)])


def test_reads_the_published_formats_of_analogies(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text(": capital\nAthens Greece Oslo Norway\n: plural\na as b bs\n: capital\nOslo Norway Athens Greece\n")
    capitals = [("Athens", "Greece", "Oslo", "Norway"), ("Oslo", "Norway", "Athens", "Greece")]
    assert read_analogies(path) == Analogies("questions", {"capital": capitals, "plural": [("a", "as", "b", "bs")]})
    msr = [("good", "better", "rough", "rougher")]
    for line in ("good better rough JJ_JJR rougher", "good better rough rougher JJ_JJR"):
        path.write_text(line)
        assert read_analogies(path).sections == {"JJ_JJR": msr}
    path.write_text("good better rough rougher\n")
    assert read_analogies(path).sections == {"": msr}


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_pairs, "a\tb\t1\na\tb\n", "line 2: not two words and a score: 'a\\tb'"),
        (read_pairs, "a b one\n", "line 1: not two words and a score"),
        (read_pairs, "# c\na,b,1\n,b,1\n", "line 3: not two words"),
        (read_pairs, "# nothing\n\n", "nothing in it"),
        (read_pairs, "x" * 200, "x…'"),
        (read_analogies, ": s\na b c d\na b c\n", "line 3: not four words: 'a b c'"),
        (read_analogies, "a b c d e\n", "line 1: not four words"),
        (read_analogies, ": s\n", "no question in it"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(
    tmp_path: Path, read: Callable[[Path], Any], text: str, message: str
) -> None:
    path = tmp_path / "set.txt"
    path.write_text(text)
    with pytest.raises(EmbedtrainError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (read_pairs, read_analogies):
        try:
            found = read(path)
        except EmbedtrainError:
            continue
        assert found.pairs if isinstance(found, Pairs) else all(found.sections.values())


WORD = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="#:,;\t"), min_size=1, max_size=5)


@given(st.lists(st.tuples(WORD, WORD, st.floats(-1e6, 1e6)), min_size=1, max_size=5), st.sampled_from("\t,; "))
def test_pairs_come_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str, float]], mark: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "pairs.txt"
    path.write_text("".join(f"{a}{mark}{b}{mark}{score!r}\n" for a, b, score in pairs), encoding="utf-8")
    assert read_pairs(path).pairs == pairs


# ---- the same numbers as gensim


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Embeddings, Path, Path]:
    """Words of a stem and an ending, some in several cases, in a table where analogies hold now and then."""
    random = np.random.default_rng(5)
    stems, endings = (["".join(random.choice(list("bcdé"), 4)) for _ in range(size)] for size in (25, 4))
    stem_vectors, ending_vectors = random.normal(size=(25, 8)), random.normal(size=(4, 8))
    vectors: dict[str, Any] = {}
    for stem, at in zip(stems, stem_vectors, strict=True):
        for ending, to in zip(endings, ending_vectors, strict=True):
            for form in [str.lower, str.title, str.upper][: random.integers(1, 4)]:
                vectors[form(stem + ending)] = at + to + 0.4 * random.normal(size=8)
    words = [str(word) for word in random.permutation(list(vectors))]
    weight = torch.tensor(np.array([vectors[word] for word in words]), dtype=torch.float32)
    embeddings = Embeddings(weight, words, pad_index=None, unk_index=None)
    folder = tmp_path_factory.mktemp("sets")
    pairs = [random.choice([*words, "unheard"], 2, replace=False) for _ in range(60)]
    (folder / "pairs.tsv").write_text("".join(f"{a}\t{b}\t{random.integers(0, 9)}\n" for a, b in pairs))
    lines = []
    for _ in range(400):
        (a, b), (x, y) = random.choice(stems, 2), random.choice([*endings, "q"], 2)
        lines.append(f"{a}{x} {a}{y} {b}{x} {b}{y}")
    lines[:0], lines[150:150], lines[300:300] = [": one"], [": two"], [": three"]
    (folder / "questions.txt").write_text("\n".join(lines))
    return embeddings, folder / "pairs.tsv", folder / "questions.txt"


@pytest.fixture(params=[2048, 64])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_CANDIDATES", request.param)
    monkeypatch.setattr(evaluation, "_QUESTIONS", request.param // 8)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("restrict_vocab", [100, 300_000])
@pytest.mark.parametrize("case_insensitive", [True, False])
@pytest.mark.parametrize("dummy4unknown", [True, False])
def test_equals_gensim(
    files: tuple[Embeddings, Path, Path], restrict_vocab: int, case_insensitive: bool, dummy4unknown: bool
) -> None:
    options: dict[str, Any] = {
        "restrict_vocab": restrict_vocab,
        "case_insensitive": case_insensitive,
        "dummy4unknown": dummy4unknown,
    }
    models = pytest.importorskip("gensim.models")
    embeddings, pairs, analogies = files
    keyed = models.KeyedVectors(embeddings.dim)
    keyed.add_vectors(embeddings.words, embeddings.weight.numpy())
    found = evaluation.evaluate(embeddings, [read_pairs(pairs)], [read_analogies(analogies)], **options)

    pearson, spearman, unknown = keyed.evaluate_word_pairs(str(pairs), **options)
    similarity = found.pairs["pairs"]
    assert similarity.pearson is not None
    assert similarity.spearman is not None
    assert similarity.pearson.value == pytest.approx(pearson[0], abs=1e-6)
    assert similarity.spearman.value == pytest.approx(spearman[0], abs=1e-6)
    assert 1 - similarity.known / similarity.pairs == pytest.approx(unknown / 100)

    accuracy, sections = keyed.evaluate_word_analogies(str(analogies), **options)
    solved = found.analogies["questions"]
    assert solved.total.add == accuracy
    assert 0 < accuracy < 1
    assert list(solved.sections) == ["one", "two", "three"]
    for section in sections[:-1]:
        asked = len(section["correct"]) + len(section["incorrect"])
        assert solved.sections[section["section"]].add == len(section["correct"]) / asked
        assert asked == getattr(solved.sections[section["section"]], "questions" if dummy4unknown else "known")


@pytest.mark.usefixtures("blocks")
def test_3cosmul_equals_gensim(files: tuple[Embeddings, Path, Path]) -> None:
    models = pytest.importorskip("gensim.models")
    embeddings, _, path = files
    keyed = models.KeyedVectors(embeddings.dim)
    keyed.add_vectors(embeddings.words, embeddings.weight.numpy())
    questions = [q for section in read_analogies(path).sections.values() for q in section if all(w in keyed for w in q)]
    answers = [keyed.most_similar_cosmul(positive=[b, c], negative=[a], topn=1)[0][0] for a, b, c, _ in questions]
    right = sum(answer == d for answer, (*_, d) in zip(answers, questions, strict=True))
    assert right > 0
    found = evaluation.evaluate(embeddings, [], [Analogies("q", {"": questions})], case_insensitive=False)
    assert found.analogies["q"].total.mul == right / len(questions)
    # Every answer, not only the right ones.
    said = [(a, b, c, answer) for (a, b, c, _), answer in zip(questions, answers, strict=True)]
    assert evaluation.evaluate(embeddings, [], [Analogies("q", {"": said})], case_insensitive=False).analogies[
        "q"
    ].total.mul == pytest.approx(1, abs=0.01)  # ties


def test_ranks_and_intervals_equal_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    x = random.integers(0, 6, 40).astype(float)
    y = x + random.normal(size=40).round()
    for ours, theirs in ((evaluation.spearman, stats.spearmanr), (evaluation.pearson, stats.pearsonr)):
        found = ours(x, y)
        assert found is not None
        assert found.value == pytest.approx(theirs(x, y).statistic)
    interval = stats.pearsonr(x, y).confidence_interval(0.95)
    pearson = evaluation.pearson(x, y)
    assert pearson is not None
    assert (pearson.low, pearson.high) == pytest.approx((interval.low, interval.high))


def test_spearmans_interval_covers_the_true_value_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    rho = 0.6
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's correlation of the bivariate normal distribution
    hits = 0
    for _ in range(1000):
        x = random.normal(size=100)
        found = evaluation.spearman(x, rho * x + np.sqrt(1 - rho**2) * random.normal(size=100))
        assert found is not None
        hits += found.low <= truth <= found.high
    assert 930 <= hits <= 970  # ± 3 standard deviations


def test_what_is_not_defined_is_none() -> None:
    assert evaluation.spearman(np.ones(5), np.arange(5.0)) is None
    assert evaluation.pearson(np.ones(1), np.ones(1)) is None
    three = evaluation.pearson(np.array([1.0, 2, 3]), np.array([1.0, 2, 4]))
    assert three is not None
    assert (three.low, three.high) == (-1, 1)
    exact = evaluation.pearson(np.arange(9.0), np.arange(9.0))
    assert exact is not None
    assert (exact.low, exact.value, exact.high) == pytest.approx((1, 1, 1))


def test_only_words_with_a_vector_take_part() -> None:
    words = ["<pad>", "<unk>", "b", "a", "lost", "c", "d"]
    weight = torch.tensor([[0, 0], [1, 0], [1, 0], [1, 0.1], [0.0, 0], [0.9, 0.1], [0, 1]])
    missing = np.array([word == "lost" for word in words])
    counts = np.array([0, 0, 3, 9, 8, 5, 5])
    embeddings = Embeddings(weight, words, counts=counts, pad_index=0, unk_index=1, missing=missing)
    assert [words[row] for row in ranked_rows(words, counts, missing)] == ["a", "c", "d", "b"]
    pairs = Pairs("p", [("a", "b", 3), ("a", "c", 2), ("a", "d", 1), ("a", "lost", 1), ("a", "<unk>", 1)])
    found = evaluation.evaluate(embeddings, [pairs]).pairs["p"]
    assert (found.pairs, found.known) == (5, 3)
    restricted = evaluation.evaluate(
        embeddings, [pairs], [Analogies("q", {"s": [("a", "b", "c", "d")]})], restrict_vocab=3
    )
    assert restricted.pairs["p"].known == 2
    assert restricted.analogies["q"].total == evaluation.Accuracy(1, 0, None, None)
    assert restricted.analogies["q"].sections["s"].known == 0
    json.dumps(restricted.to_dict(), allow_nan=False)


def test_an_evaluator_serves_several_tables() -> None:
    words = ["a", "b", "c", "d"]
    judge = Evaluator(words, np.arange(4), [Pairs("p", [("a", "b", 3), ("a", "c", 2), ("a", "d", 1)])])
    table = torch.tensor([[1.0, 0], [1, 0.1], [1, 1], [0, 1]])
    for weight, expected in ((table, 1), (table[[0, 3, 2, 1]], -1)):
        spearman = judge(weight).pairs["p"].spearman
        assert spearman is not None
        assert spearman.value == pytest.approx(expected)


# ---- the command


@pytest.fixture
def model(files: tuple[Embeddings, Path, Path], tmp_path: Path) -> Path:
    files[0].save(tmp_path / "model", export=["word2vec"])
    return tmp_path / "model"


def test_models_of_any_format_side_by_side(
    files: tuple[Embeddings, Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, pairs, analogies = files
    tests = ["--pairs", str(pairs), "--analogies", str(analogies)]
    models = [str(model), str(model / "vectors.txt")]
    assert command.main([*models, *tests, "--json", str(tmp_path / "r.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "vectors.txt"]
    name, *cells = lines[2].split("  ")
    cells = [cell.strip() for cell in cells if cell]
    assert name == "pairs"
    assert cells[:3] == cells[3:]
    results = json.loads((tmp_path / "r.json").read_text())
    assert list(results) == ["model", "vectors.txt"]
    assert results["model"] == results["vectors.txt"]
    found = results["model"]["pairs"]["pairs"]
    assert cells[0] == "{value:.3f} ({low:.2f} to {high:.2f})".format(**found["spearman"])
    assert cells[2] == f"{found['known']} of 60"
    total = results["model"]["analogies"]["questions"]["total"]
    assert lines[-3].split()[:3] == ["questions", f"{total['add']:.3f}", f"{total['mul']:.3f}"]
    assert [line.split()[0] for line in lines[-6:-3]] == ["one", "two", "three"]

    assert command.main([*models[:1], *tests, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": results["model"]}


def test_results_go_into_the_model_card(
    files: tuple[Embeddings, Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, pairs, analogies = files
    tests = ["--pairs", str(pairs), "--analogies", str(analogies)]
    assert command.main([str(model / "vectors.txt"), *tests, "--card"]) == 2
    assert "not an embedtrain folder" in capsys.readouterr().err
    before = {path.name for path in model.iterdir()}
    assert command.main([str(model), *tests, "--card", "--json", str(tmp_path / "r.json")]) == 0
    assert {path.name for path in model.iterdir()} == before
    results = json.loads((tmp_path / "r.json").read_text())["model"]
    embeddings = embedtrain.load(model)
    assert embeddings.config["evaluation"] == results
    assert f"| {results['analogies']['questions']['total']['add']:.3f} |" in (model / "README.md").read_text()
    # Saved again, the card is the same.
    embeddings.save(tmp_path / "again", export=["word2vec"])
    assert (tmp_path / "again/README.md").read_text() == (model / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate with"),
        (["--pairs", "nothing.tsv"], "nothing.tsv: no such file"),
        (["--pairs", "p.tsv", "sub/p.tsv"], "p.tsv and sub/p.tsv have the same name"),
        (["--pairs", "p.tsv", "--restrict-vocab", "0"], "restrict-vocab must be"),
        (["--pairs", "p.tsv", "--json", "nowhere/r.json"], "cannot write nowhere/r.json: no such file"),
    ],
)
def test_bad_input_is_one_line(model: Path, refusal: Callable[..., str], arguments: list[str], message: str) -> None:
    Path("p.tsv").write_text("a\tb\t1\n")
    assert message in refusal(command.main, [model.name, *arguments])


def test_names_tell_models_apart() -> None:
    assert command.names([Path("a/out"), Path("b/out"), Path("c")]) == ["a/out", "b/out", "c"]


def test_two_sets_may_not_have_the_same_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.txt").write_text("a b c d\n")
    with pytest.raises(EmbedtrainError, match="have the same name"):
        TestSets(pairs=(tmp_path / "a/p.txt",), analogies=(tmp_path / "b/p.txt",)).read()


def test_help_does_not_import_torch() -> None:
    code = "import sys\nfrom embedtrain import evaluate\ntry: evaluate.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--analogies" in done.stdout
