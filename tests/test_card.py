from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from embedtrain import plots
from embedtrain.card import example_words, model_card, with_evaluation
from embedtrain.embeddings import Embeddings
from embedtrain.evaluation import Accuracy, Correlation, Evaluation, Similarity, Solved
from embedtrain.options import Options

CONFIG: dict[str, Any] = {
    "options": Options(workers=2).to_dict(),
    "corpus": {"sources": [{"name": "news.txt", "size": 1234567}, {"name": "-", "size": None}], "tokens_read": 1234567},
    "results": {"words_per_second": 1234567.0, "wall_seconds": 12.5},
    "versions": {"embedtrain": "0.1.0", "torch": "2.9"},
}


EVALUATION = Evaluation(
    {
        "wordsim353": Similarity(353, 336, Correlation(0.50671, 0.42, 0.59), None),
        "nothing-known": Similarity(9, 0, None, None),
    },
    {
        "questions-words": Solved(
            Accuracy(20, 10, 0.306, 0.25), {"family": Accuracy(8, 4, 0.612, 0.0), "currency": Accuracy(12, 6, 0.1, 0.4)}
        )
    },
    300_000, True, False,
).to_dict()  # fmt: skip


def make(words: list[str] | None = None, **more: Any) -> Embeddings:
    words = ["<pad>", "<unk>", *(words or ["house", "mouse", "garden", "water", "light", "the"])]
    weight = torch.randn(len(words), 4, generator=torch.Generator().manual_seed(0))
    weight[0] = 0
    return Embeddings(weight, words, pad_index=0, unk_index=1, **more)


def python_blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_front_matter_is_valid_for_hugging_face() -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(make(config=CONFIG), ["safetensors"]))
    assert card.data.library_name == "embedtrain"
    assert card.data.tags[:4] == ["word2vec", "static-embeddings", "embeddings", "pytorch"]
    assert card.data.language is None
    assert card.text.lstrip().startswith("# ")


def test_says_how_it_was_trained_and_what_was_measured() -> None:
    card = model_card(make(config=CONFIG, metrics=[{"loss": 0.5}, {"loss": 0.1875}]))
    for option, value in Options(workers=2).to_dict().items():
        assert f"| `{option}` | " in card, value
    assert "| `dim` | 100 |" in card
    assert "| `max_vocab` | – |" in card
    assert "| `sample` | 0.001 |" in card
    assert "| `shrink_window` | yes |" in card
    assert "| `news.txt` | `1,234,567 bytes` |" in card
    assert "| `-` | `unknown size` |" in card
    assert "| `wall_seconds` | 12.5 |" in card
    assert "| `loss` | 0.1875 |" in card
    assert "| `tokens_read` | `1,234,567` |" in card
    assert "| `torch` | `2.9` |" in card
    assert "Row 0 is the padding token (zeros) and row 1 stands for unknown words." in card


def test_what_is_not_known_is_left_out() -> None:
    card = model_card(Embeddings(torch.ones(2, 3), ["a", "b"], pad_index=None, unk_index=None))
    assert not set(re.findall("^## (.*)", card, re.MULTILINE)) - {"Nearest neighbours", "Use"}
    assert "padding" not in card


def test_neighbours_are_those_of_the_embeddings() -> None:
    embeddings = make()
    (nearest, similarity), *_ = embeddings.most_similar("house")
    assert f"| `house` | `{nearest}` {similarity:.2f}, " in model_card(embeddings)


@pytest.mark.parametrize("export", [[], ["word2vec"], ["safetensors", "word2vec-binary"]])
def test_code_works_as_written(tmp_path: Path, export: list[str]) -> None:
    pytest.importorskip("model2vec")
    pytest.importorskip("gensim")
    make(config=CONFIG).save(tmp_path / "out", export=export)
    blocks = python_blocks((tmp_path / "out/README.md").read_text())
    # torch, words, gensim, embedtrain; sentence-transformers, model2vec
    assert len(blocks) == (6 if "safetensors" in export else 4)
    if "safetensors" in export and importlib.util.find_spec("sentence_transformers") is None:
        del blocks[4]
    blocks.insert(
        2, "assert embedding.padding_idx == 0 and torch.equal(embedding.weight[row_of['house']], weight[2])\n"
    )
    blocks.insert(
        4, "assert vectors.index_to_key == words[2:] and torch.equal(torch.tensor(vectors['house']), weight[2])\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", "".join(blocks)], cwd=tmp_path / "out", check=True, env=environment)


def test_evaluation_is_there_for_people_and_for_the_hub() -> None:
    hub, yaml = pytest.importorskip("huggingface_hub"), pytest.importorskip("yaml")
    card = model_card(make(config={**CONFIG, "evaluation": EVALUATION}), ["safetensors"])
    assert "| `wordsim353` | Spearman | 0.507 (0.42 to 0.59) | 336 of 353 pairs |" in card
    assert "| `questions-words` | 3CosAdd | 0.306 | 10 of 20 questions |" in card
    assert "| `family` | 0.612 | 0.000 | 4 |" in card
    assert "`nothing-known`" not in card
    assert card.index("## Evaluation") < card.index("## Nearest neighbours")
    parsed = hub.ModelCard(card, ignore_metadata_errors=False)
    assert parsed.data.library_name == "embedtrain"
    found = {(result.dataset_name, result.metric_name): result for result in parsed.data.eval_results}
    assert len(parsed.data.eval_results) == len(found) == 3
    spearman = found["wordsim353", "Spearman's correlation"]
    assert (spearman.task_type, spearman.metric_type, spearman.metric_value) == ("word-similarity", "spearmanr", 0.5067)
    assert found["questions-words", "Accuracy (3CosMul)"].metric_value == 0.25
    # What the hub itself would read.
    (index,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    assert index["name"] == "Word embeddings, 8 × 4"
    assert [entry["dataset"]["type"] for entry in index["results"]] == ["wordsim353", "questions-words"]


def test_evaluation_takes_the_place_of_an_earlier_one_and_leaves_the_rest() -> None:
    card = model_card(make(config=CONFIG)).replace("library_name: embedtrain", "license: mit\nlibrary_name: embedtrain")
    card += "\n## My own words\n\nWith *care*.\n"
    first = with_evaluation(card, EVALUATION)
    assert first.count("## Evaluation") == 1
    second = with_evaluation(first, {**EVALUATION, "pairs": {}})
    assert second.count("## Evaluation") == 1
    assert "wordsim353" not in second
    assert with_evaluation(second, EVALUATION) == first
    for text in (first, second):
        assert "license: mit" in text
        assert text.endswith("## My own words\n\nWith *care*.\n")
        without = re.sub(r"## Evaluation\n.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)
        assert without.partition("\n---\n")[2] == card.partition("\n---\n")[2]
    assert with_evaluation("# Only a title\n", EVALUATION).startswith("---\nmodel-index:\n- name: Only a title\n")
    with pytest.raises(ValueError, match="the front matter cannot be read: "):
        with_evaluation("---\n- : [\n---\n# x\n", EVALUATION)


def test_neighbours_of_frequent_middling_and_rare_words() -> None:
    words = [f"word{i}" for i in range(1000)]
    card = model_card(make(words, counts=np.array([0, 0, *range(1000, 0, -1)])))
    seen = [int(match) for match in re.findall(r"^\| `word\d+` \| ([\d,]+) \| `", card.replace(",", ""), re.MULTILINE)]
    assert len(seen) == 9
    assert all(count > 980 for count in seen[:3])
    assert all(800 < count <= 980 for count in seen[3:6])
    assert all(count <= 800 for count in seen[6:])


# ---- pictures


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def lines(svg: str) -> list[list[tuple[float, float]]]:
    found = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline")
    return [[(float(x), float(y)) for x, y in (p.split(",") for p in line.attrib["points"].split())] for line in found]


def test_pictures_lie_beside_the_card(tmp_path: Path) -> None:
    metrics = [{"position": i, "epoch": 1, "loss": 3 - i / 10, "rate": 0.1} for i in range(1, 11)]
    make(counts=np.array([0, 0, 9, 5, 3, 2, 1, 1]), metrics=metrics).save(tmp_path / "a")
    make().save(tmp_path / "b")
    for folder, expected in (("a", {"curve.svg", "frequencies.svg"}), ("b", set())):
        assert {path.name for path in (tmp_path / folder).glob("*.svg")} == expected
        assert set(re.findall(r"!\[.*\]\((.*)\)", (tmp_path / folder / "README.md").read_text())) == expected
    make().save(tmp_path / "a", overwrite=True)
    assert not list((tmp_path / "a").glob("*.svg"))


def test_the_curve_shows_loss_and_evaluations() -> None:
    metrics = [{"position": i * 50, "epoch": (i + 1) // 2, "loss": 3 - i / 10} for i in range(1, 11)]
    svg = plots.curve(metrics)
    assert svg is not None
    ((*_, last),) = lines(svg)
    assert [y for _, y in lines(svg)[0]] == sorted(y for _, y in lines(svg)[0])  # it falls: y is downwards
    assert "5" in texts(svg)  # epochs
    metrics[1]["loss"] = float("nan")
    metrics[3]["evaluation"] = metrics[9]["evaluation"] = {"wordsim353": 0.5, "questions-words": 0.3}
    svg = plots.curve(metrics)
    assert svg is not None
    assert {"wordsim353", "questions-words"} < set(texts(svg))
    assert [len(line) for line in sorted(lines(svg), key=len)] == [2, 2, 9]
    assert last in lines(svg)[0]
    assert plots.curve([]) is None
    assert plots.curve([{"loss": 0.5}, {"loss": 0.4}]) is None
    assert plots.curve([{"position": i, "epoch": 1, "loss": 1.0} for i in (1, 2)]) is not None  # flat


@pytest.mark.parametrize("word", ["<b>&amp;", "\x01\ufffe", "日本", "x" * 500, '"'])
def test_frequencies_show_words_whatever_they_hold(word: str) -> None:
    words = ["<pad>", word, *(f"w{i}" for i in range(200))]
    counts = np.array([0, 1_000_000, *(1 + 500_000 // (i + 2) for i in range(200))])
    svg = plots.frequencies(words, counts)
    assert svg is not None
    assert {"w8", "w98", "1M", "100"} < set(texts(svg))  # words of rank 10 and 100, ticks
    shown = next(text for text in texts(svg) if text[:1] == word[:1] or text[:1] == "\ufffd")
    assert len(shown) <= 24
    ((*points, _),) = lines(svg)
    assert [y for _, y in points] == sorted(y for _, y in points)
    assert plots.frequencies(["a", "b"], np.array([3, 0])) is None
    assert plots.frequencies(["a", "b"], np.array([1, 1])) is not None


@pytest.mark.parametrize("word", ["a|b", "`", "``x", "a\u2028b", "<b>", "\t", "]("])
def test_no_word_breaks_a_table(word: str) -> None:
    card = model_card(make([word, "b", "c"], config={"options": {"tokenizer": word}}))
    for line in card.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3, line
            assert line.count("`") % 2 == 0 or "``" in line


def test_example_words_are_frequent_and_rather_long() -> None:
    words = ["the", "of", "it's", *(f"frequent{letter}" for letter in "abcdefghij"), *(f"r{i}" for i in range(2000))]
    assert example_words(make(words)) == [f"frequent{letter}" for letter in "acegi"]
    assert example_words(make(["一", "二", "三"])) == ["一", "二", "三"]
    # Rows by token id are in no order of frequency, but the counts say it.
    backwards = make(words[::-1], counts=np.array([0, 0, *range(1, len(words) + 1)]))
    assert example_words(backwards) == [f"frequent{letter}" for letter in "acegi"]
