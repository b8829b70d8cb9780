"""The options: what is refused and in which words, and that they are JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtrain import options
from embedtrain.errors import EmbedtrainError
from embedtrain.options import Options


def test_defaults_are_those_people_know() -> None:
    defaults = Options()
    assert (defaults.dim, defaults.window, defaults.negative, defaults.min_count) == (100, 5, 5, 5)
    assert (defaults.sample, defaults.ns_exponent, defaults.epochs) == (1e-3, 0.75, 5)
    assert (defaults.alpha, defaults.min_alpha) == (0.025, 0.0001)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 3), (16, 16), (256, 16)])
def test_default_workers_are_the_cores_up_to_a_limit(cores: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert Options().workers == workers
    assert Options(workers=cores).workers == cores
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert Options().workers == workers


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("dim", 0, "dim must be a whole number, from 1 to 1024, not 0"),
        ("dim", 1025, "not 1025"),
        ("dim", 100.0, "not 100.0"),
        ("dim", True, "not True"),
        ("dim", "100", "not '100'"),
        ("window", 0, "window must be a whole number, from 1"),
        ("window", -1, "not -1"),
        ("negative", 0, "negative must be a whole number, from 1"),
        ("min_count", 0, "min-count must be a whole number, from 1"),
        ("max_vocab", 1, "max-vocab must be a whole number, from 2"),
        ("sample", 7, "sample must be a number from 0 to 1, not 7"),
        ("sample", -1e-9, "not -1e-09"),
        ("sample", None, "not None"),
        ("ns_exponent", math.inf, "ns-exponent must be a number from -10 to 10, not inf"),
        ("epochs", 0, "epochs must be a whole number, from 1"),
        ("epochs", 2**63, "not 9223372036854775808"),
        ("alpha", math.nan, "alpha must be a number from 0 to 10, not nan"),
        ("alpha", 0, "alpha must be above 0, not 0: nothing would be learned"),
        ("min_alpha", 0.1, "min-alpha must be a number from 0 to alpha (0.025), not 0.1"),
        ("seed", -1, "seed must be a whole number, from 0"),
        ("seed", 2**63, "not 9223372036854775808"),
        ("workers", 0, "workers must be a whole number, from 1"),
        ("device", "gpu", "device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        ("device", "cuda:", "not 'cuda:'"),
        ("device", None, "not None"),
        ("shrink_window", 1, "shrink-window must be True or False, not 1"),
        ("lowercase", "no", "lowercase must be True or False, not 'no'"),
        ("errors", "ignore", "errors must be strict, replace or skip, not 'ignore'"),
        ("tokenizer", 5, "tokenizer must be a path, not 5"),
        ("read_vocab", ["a"], "read-vocab must be a path, not ['a']"),
    ],
)
def test_nonsense_is_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(EmbedtrainError) as raised:
        Options(**{name: value})
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("other", [{"lowercase": True}, {"read_vocab": Path("words")}, {"max_vocab": 9}])
def test_a_tokenizer_has_its_own_vocabulary(other: dict[str, Any]) -> None:
    with pytest.raises(EmbedtrainError, match="tokenizer brings its own vocabulary"):
        Options(tokenizer=Path("tokenizer.json"), **other)


def test_replace_checks_again() -> None:
    with pytest.raises(EmbedtrainError, match="dim must be"):
        dataclasses.replace(Options(), dim=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().dim = 7  # type: ignore[misc]


def test_paths_may_be_strings() -> None:
    given_as_text = Options(read_vocab="words.txt")  # type: ignore[arg-type]
    assert given_as_text == Options(read_vocab=Path("words.txt"))
    assert given_as_text.to_dict()["read_vocab"] == "words.txt"


values = {
    "dim": st.integers(1, options.MAX_DIM),
    "window": st.integers(1, 1_000_000),
    "max_vocab": st.none() | st.integers(2, 2**31 - 1),
    "sample": st.floats(0, 1) | st.integers(0, 1),
    "alpha": st.floats(0.01, 10),
    "min_alpha": st.floats(0, 0.01),
    "seed": st.integers(0, 2**63 - 1),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:12"]),
    "errors": st.sampled_from(["strict", "replace", "skip"]),
    "shrink_window": st.booleans(),
}


@given(st.fixed_dictionaries({}, optional=values))
def test_allowed_values_come_back_from_json(chosen: dict[str, Any]) -> None:
    made = Options(**chosen)
    read = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert Options(**read) == made
    assert read.keys() == {field.name for field in dataclasses.fields(Options)}
