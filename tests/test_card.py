from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedtrain.card import example_words, model_card
from embedtrain.embeddings import Embeddings
from embedtrain.options import Options

CONFIG: dict[str, Any] = {
    "options": Options(workers=2).to_dict(),
    "corpus": {"sources": [{"name": "news.txt", "size": 1234567}, {"name": "-", "size": None}], "tokens_read": 99},
    "results": {"words_per_second": 1234567.0, "wall_seconds": 12.5},
    "versions": {"embedtrain": "0.1.0", "torch": "2.9"},
}


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


def test_code_works_as_written(tmp_path: Path) -> None:
    pytest.importorskip("model2vec")
    make(config=CONFIG).save(tmp_path / "out", export=["safetensors"])
    blocks = python_blocks((tmp_path / "out/README.md").read_text())
    assert len(blocks) == 4  # torch, words, embedtrain, model2vec
    check = "assert embedding.padding_idx == 0 and torch.equal(embedding.weight[row_of['house']], weight[2])\n"
    command = [sys.executable, "-c", blocks[0] + blocks[1] + check + "".join(blocks[2:])]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(command, cwd=tmp_path / "out", check=True, env=environment)


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
