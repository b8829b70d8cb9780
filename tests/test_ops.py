"""The operators at their edges: what they refuse, which tensors they take, and how they sit in torch."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from embedtrain import ops
from embedtrain.native import core

pytestmark = pytest.mark.native

KERNELS = core.available_kernels()
V, D, N = 30, 20, 400


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EMBEDTRAIN_ISA", request.param)
    return request.param


@pytest.fixture
def block() -> dict[str, Any]:
    """Arguments of train_block, to be spoiled."""
    return new_block()


def new_block(dim: int = D) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    input, output = ops.new_table(V, dim), ops.new_table(V, dim)
    for table in (input, output):
        table.copy_(torch.from_numpy(rng.normal(size=(V, dim)) / dim**0.5))
    counts = torch.arange(1000, 1000 - V, -1)
    return {
        "input": input,
        "output": output,
        "stats": torch.zeros(3, dtype=torch.float64),
        "ids": torch.from_numpy(rng.integers(0, V, N, dtype=np.int32)),
        "offsets": torch.tensor([0, 7, 8, 150, N]),
        "keep": ops.keep_thresholds(counts, 0.01),
        "noise": ops.alias_table(counts, 0.75),
        "begin": 0,
        "end": N,
        "first_position": 0,
        "corpus_size": N,
        "epoch": 0,
        "epochs": 1,
        "seed": 3,
        "window": 5,
        "negative": 5,
        "shrink_window": True,
        "alpha": 0.05,
        "min_alpha": 0.001,
        "workers": 1,
    }


def train(block: dict[str, Any]) -> None:
    torch.ops.embedtrain.train_block(**block)


def keep_all(block: dict[str, Any]) -> None:
    block["keep"].fill_(-1)


# ---- what is refused


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("word", [V, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("at", [0, 200, N - 1])
def test_refuses_ids_that_are_no_words(kernel, block, at, word, workers):
    block["ids"][at] = word
    with pytest.raises(ValueError, match="must be words of the vocabulary"):
        train(block | {"workers": workers})
    assert not block["stats"].any()


@pytest.mark.parametrize("at", [199, 250])
def test_refuses_ids_that_are_no_words_in_the_margins(kernel, block, at):
    """Only context there: still nothing may be looked up by them."""
    keep_all(block)
    block["ids"][at] = V
    with pytest.raises(ValueError, match="must be words of the vocabulary"):
        train(block | {"begin": 200, "end": 250})
    train(block | {"begin": 8, "end": 150})  # another sentence


def test_list_windows_refuses_ids_that_are_no_words(kernel, block):
    block["ids"][200] = V
    for name in ("input", "output", "stats", "workers"):
        del block[name]
    with pytest.raises(ValueError, match="must be words of the vocabulary"):
        ops.list_windows(**block)


@pytest.mark.parametrize("alias", [V, -1, 2**31 - 1])
def test_refuses_noise_that_is_no_word(kernel, block, alias):
    block["noise"][:, 0] = 0  # always the alias
    block["noise"][5, 1] = alias
    with pytest.raises(ValueError, match="must be words of the vocabulary"):
        train(block)


@pytest.mark.parametrize(
    "offsets",
    [
        [0],
        [0, N - 1],
        [1, N],
        [0, N + 1],
        [0, 10, 10, N],
        [0, 20, 10, N],
        [0, 20, 10, 30, N],
        [-5, N],
        [0, -5, N],
        [0, 10, 2**62],
        [-(2**62), N],
        [N, 0],
        [N, N],
        [0, 0],
        [5, 5, 5, 5],
        [0, 2**63 - 1, -(2**63), N],
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_refuses_offsets_that_do_not_rise_over_all_ids(kernel, block, offsets, workers):
    with pytest.raises(ValueError, match="offsets must rise from 0 to the number of ids"):
        train(block | {"offsets": torch.tensor(offsets), "workers": workers})


def test_offsets_outside_the_span_do_not_matter(kernel):
    """They are not read, however a search may come upon them. Long enough that a worker takes many spans."""
    block = new_block()
    n = 40_000
    block |= {"ids": block["ids"].repeat(n // N), "end": n, "corpus_size": n}
    expected = new_block() | {key: block[key] for key in ("ids", "end", "corpus_size")}
    train(expected | {"offsets": torch.tensor([0, n])})
    train(block | {"offsets": torch.tensor([0, n] + [5] * 50)})
    assert torch.equal(block["input"], expected["input"])
    assert torch.equal(block["stats"], expected["stats"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": N + 1}, "end must be at most the number of ids"),
        ({"begin": -1}, "begin must be at least 0"),
        ({"first_position": -1}, "first_position must be at least 0"),
        ({"window": 0}, "window must be at least 1"),
        ({"negative": 0}, "negative must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"epoch": -1}, "epoch must be at least 0"),
        ({"epoch": 1}, "epochs must be at least 2"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"corpus_size": 0}, "corpus_size must be at least 1"),
        ({"offsets": torch.zeros(0, dtype=torch.int64)}, "sentences must be at least 0"),
        ({"input": torch.zeros(V, D + 1)}, "must have the same shape"),
        ({"output": torch.zeros(V + 1, D)}, "must have the same shape"),
        ({"input": torch.zeros(V, 0), "output": torch.zeros(V, 0)}, "dim must be at least 1"),
        ({"input": torch.zeros(0, D), "output": torch.zeros(0, D)}, "vocabulary must be at least 1"),
        ({"keep": torch.zeros(V - 1, dtype=torch.int32)}, r"keep must have shape \(30\)"),
        ({"noise": torch.zeros(V, dtype=torch.int32)}, r"noise must have shape \(30, 2\)"),
        ({"noise": torch.zeros(V + 1, 2, dtype=torch.int32)}, r"noise must have shape \(30, 2\)"),
        ({"noise": torch.zeros(2, V, dtype=torch.int32).T}, "noise must be contiguous"),
        ({"ids": torch.zeros(2 * N, dtype=torch.int32)[::2]}, "ids must be contiguous"),
        ({"ids": torch.zeros(N, 1, dtype=torch.int32)}, r"ids must have shape \(any\)"),
        ({"stats": torch.zeros(2, dtype=torch.float64)}, r"stats must have shape \(3\)"),
    ],
)
def test_refuses_what_does_not_fit(block, change, message):
    with pytest.raises(ValueError, match=message):
        train(block | change)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("input", torch.float64),
        ("output", torch.float16),
        ("ids", torch.int64),
        ("offsets", torch.int32),
        ("keep", torch.int64),
        ("noise", torch.float32),
        ("stats", torch.float32),
    ],
)
def test_refuses_other_types(block, name, dtype):
    with pytest.raises(TypeError, match=f"{name} must be "):
        train(block | {name: block[name].to(dtype)})


def test_refuses_other_devices():
    """Here "meta", which is everywhere. An operator is chosen by device, so this is seen by the function only."""
    block = new_block()
    for name in ("input", "workers", "output", "stats"):
        block.pop(name)
    with pytest.raises(TypeError, match="keep must be on the CPU, not on meta"):
        ops.list_windows(**block | {"keep": block["keep"].to("meta")})


def test_refuses_numbers_that_the_core_cannot_hold(block):
    for change in ({"window": 2**31}, {"negative": 2**31}, {"epoch": 2**32, "epochs": 2**33}):
        with pytest.raises((RuntimeError, TypeError, ValueError, MemoryError)):
            train(block | change)


def test_refuses_counts_without_a_word():
    for counts in ([], [0, 0], [3, -1]):
        with pytest.raises(ValueError, match="counts must not be negative, and one must be above 0"):
            ops.alias_table(torch.tensor(counts, dtype=torch.int64), 0.75)


def test_refuses_ids_that_have_no_threshold():
    for word in (3, -1):
        with pytest.raises(ValueError, match="ids must be from 0 to 2"):
            ops.draw_tokens(torch.tensor([0, word], dtype=torch.int32), torch.zeros(3, dtype=torch.int32), 0, 5, 0, 1)


def test_an_unknown_kernel_is_refused_in_words(block, monkeypatch):
    monkeypatch.setenv("EMBEDTRAIN_ISA", "mmx")
    with pytest.raises(RuntimeError, match=r"EMBEDTRAIN_ISA asks for mmx, but .* run .*portable"):
        train(block)


def test_nothing_to_train_on(kernel, block):
    before = block["input"].clone()
    train(block | {"begin": 5, "end": 5})
    train(block | {"ids": torch.zeros(0, dtype=torch.int32), "offsets": torch.tensor([0]), "end": 0})
    block["keep"].fill_(0)  # drops all words
    train(block)
    assert torch.equal(block["input"], before)
    assert not block["stats"].any()


# ---- which tables are taken


def misaligned(dim: int) -> torch.Tensor:
    return torch.zeros(V * 64 + 3)[3:].view(V, 64)[:, :dim]


TABLES = {
    "contiguous": lambda dim: torch.zeros(V, dim),
    "transposed": lambda dim: torch.zeros(dim, V).T,
    "columns of a wider one": lambda dim: torch.zeros(V, 3 * dim + 64)[:, 32 : 32 + dim],
    "every other row": lambda dim: ops.new_table(2 * V, dim)[::2],
    "misaligned": misaligned,
}


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("dim", [1, 16, 20, 50])
def test_any_float32_matrix_trains_as_a_padded_table(kernel, make, dim):
    padded, plain = new_block(dim), new_block(dim)
    for name in ("input", "output"):
        plain[name] = make(dim).copy_(plain[name])
    train(padded)
    train(plain)
    for name in ("input", "output", "stats"):
        assert torch.equal(padded[name], plain[name])


@pytest.mark.parametrize(("width", "at"), [(3 * D, D), (32, 0), (32, 5), (64, 32)])
def test_what_lies_around_a_table_is_not_touched(kernel, block, width, at):
    """Even where the strides are those of a padded table."""
    expected = new_block()
    train(expected)
    wide = torch.full((V, width), 7.0)
    block["input"] = wide[:, at : at + D].copy_(block["input"])
    train(block)
    assert torch.equal(block["input"], expected["input"])
    assert (wide[:, :at] == 7).all()
    assert (wide[:, at + D :] == 7).all()


def test_a_table_may_end_with_its_last_number(kernel, block):
    """As clones by torch.compile do, which keep the strides and not the padding."""
    expected = new_block()
    train(expected)
    for name in ("input", "output"):
        block[name] = torch.empty_strided((V, D), (32, 1)).copy_(block[name])
    train(block)
    assert torch.equal(block["input"], expected["input"])
    assert torch.equal(block["output"], expected["output"])


def test_new_tables_have_rows_on_cache_lines():
    for dim in (1, 16, 17, 100):
        table = ops.new_table(3, dim)
        assert table.shape == (3, dim)
        assert not table.any()
        assert {row.data_ptr() % 64 for row in table} == {0}
    assert ops.new_table(0, 5).shape == (0, 5)


# ---- numbers that are none


@pytest.mark.parametrize("table", ["input", "output"])
@pytest.mark.parametrize("dim", [1, D, 100])
@pytest.mark.parametrize("negative", [1, 5, 20])
def test_a_nan_in_a_table_shows_in_the_loss(kernel, table, dim, negative):
    block = new_block(dim) | {"negative": negative}
    keep_all(block)
    block[table][int(block["ids"][100]), dim // 2] = float("nan")
    train(block)
    assert block["stats"][0].isnan()
    assert block["stats"][1] > 0


@pytest.mark.parametrize("sign", [1, -1])
def test_an_infinity_in_a_table_shows_in_the_loss(kernel, block, sign):
    keep_all(block)
    block["input"][int(block["ids"][100])] = sign * float("inf")
    train(block)
    assert not block["stats"][0].isfinite()


@pytest.mark.parametrize("size", [1e2, 1e4, 1e18])
def test_the_loss_of_large_scores_is_exact(kernel, block, size):
    """σ saturates: where the sign is right nothing is lost and nothing moves, elsewhere the loss is the score."""
    ids = torch.tensor([0, 1], dtype=torch.int32)
    noise = torch.tensor([[0, 2]] * V, dtype=torch.int32)  # word 2 (but for one draw in 2^32)
    block |= {"ids": ids, "offsets": torch.tensor([0, 2]), "end": 2, "corpus_size": 2, "noise": noise, "negative": 1}
    keep_all(block)
    input, output = block["input"].zero_(), block["output"].zero_()
    input[:2, 0] = 1
    output[:2, 0], output[2, 0] = size, -size
    train(block)
    assert block["stats"].tolist() == [0, 2, 2]
    input[:2, 0] = -1
    before = block["output"].clone()
    train(block | {"alpha": 0.0, "min_alpha": 0.0})
    assert block["stats"][0].item() == pytest.approx(4 * size, rel=1e-6)
    assert torch.equal(block["output"], before)


# ---- texts


TEXT = "the cat saw the dog\n\nthe dog\tran\r\nzoë saw  中文 the end"


def tensor(text: str | bytes) -> torch.Tensor:
    return torch.tensor(list(text if isinstance(text, bytes) else text.encode()), dtype=torch.uint8)


def text_of(tensor: torch.Tensor) -> str:
    return bytes(tensor.tolist()).decode()


@pytest.mark.parametrize("workers", [1, 3])
def test_counts_and_encodes_a_text(workers):
    words, counts = torch.ops.embedtrain.count_words(tensor(TEXT), workers)
    expected = sorted(Counter(TEXT.split()).items(), key=lambda item: (-item[1], item[0].encode()))
    assert text_of(words) == "".join(f"{word}\n" for word, _ in expected)
    assert counts.tolist() == [count for _, count in expected]
    ids, offsets = torch.ops.embedtrain.encode_text(tensor(TEXT), words, workers)
    assert (ids.dtype, offsets.dtype) == (torch.int32, torch.int64)
    spelled = [text_of(words).split()[i] for i in ids]
    sentences = [spelled[begin:end] for begin, end in itertools.pairwise(offsets)]
    assert sentences == [line.split() for line in TEXT.split("\n") if line]


def test_encodes_with_some_of_the_words():
    ids, offsets = ops.encode_text(tensor("a b\nb b\na"), tensor("unseen\na"), 1)
    assert (ids.tolist(), offsets.tolist()) == ([1, 1], [0, 1, 2])
    ids, offsets = ops.encode_text(tensor("a b"), tensor(""), 1)
    assert (ids.tolist(), offsets.tolist()) == ([], [0])


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_texts_without_words(text):
    words, counts = ops.count_words(tensor(text), 1)
    assert (words.tolist(), counts.tolist()) == ([], [])
    ids, offsets = ops.encode_text(tensor(text), words, 1)
    assert (ids.tolist(), offsets.tolist()) == ([], [0])


def test_refuses_texts_that_are_none():
    with pytest.raises(ValueError, match=r"not UTF-8 at byte 4 \(line 2\)"):
        ops.count_words(tensor(b"ab\nc\xff"), 1)
    with pytest.raises(ValueError, match="not UTF-8 at byte 0"):
        ops.encode_text(tensor(b"\xff"), tensor("a"), 1)
    with pytest.raises(TypeError, match=r"text must be torch\.uint8"):
        ops.count_words(torch.tensor([97]), 1)
    with pytest.raises(ValueError, match="text must be contiguous"):
        ops.count_words(tensor("abab")[::2], 1)
    for call in (lambda: ops.count_words(tensor("a"), 0), lambda: ops.encode_text(tensor("a"), tensor("a"), 0)):
        with pytest.raises(ValueError, match="workers must be at least 1"):
            call()


# ---- in torch

COUNTS = torch.tensor([9, 4, 1])
# Two tables, their base, and rows of them. D is 16, for a copy of them to be padded, too.
EXCHANGED = (*(ops.new_table(rows, 16) for rows in (4, 4, 8)), torch.tensor([0, 3, 6]))
CALLS = {
    "count_words": (tensor(TEXT), 2),
    "encode_text": (tensor(TEXT), tensor("the\ndog"), 2),
    "alias_table": (COUNTS, 0.75),
    "keep_thresholds": (COUNTS, 1e-3),
    "draw_negatives": (ops.alias_table(COUNTS, 0.75), 3, 10, 5, 0, 1),
    "draw_tokens": (torch.tensor([0, 2, 1], dtype=torch.int32), ops.keep_thresholds(COUNTS, 1e-3), 0, 5, 0, 1),
    "initial_weights": (torch.zeros(4, 5), 2, 1),
    "train_block": tuple(new_block().values()),
    "take_differences": (*EXCHANGED, torch.empty(3, 16, dtype=torch.bfloat16)),
    "replace_differences": (*EXCHANGED, *torch.ones(2, 3, 16, dtype=torch.bfloat16), torch.full((3,), 0.5)),
}


def test_every_operator_is_checked():
    registered = {
        name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("embedtrain::")
    }
    assert registered == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.embedtrain, name).default, CALLS[name])


def test_opcheck_with_locked_words():
    arguments = (*new_block().values(), torch.arange(V) % 2 == 0)
    torch.library.opcheck(torch.ops.embedtrain.train_block.default, arguments)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_trains_inside_torch_compile(block, backend):
    def step(input, output, stats, ids):
        torch.ops.embedtrain.train_block(**block | {"input": input, "output": output, "stats": stats, "ids": ids})
        return input.sum() + stats[0]

    eager, compiled = new_block(), new_block()
    names = ("input", "output", "stats", "ids")
    expected = step(*(eager[name] for name in names))
    got = torch.compile(step, fullgraph=True, backend=backend)(*(compiled[name] for name in names))
    assert torch.equal(got, expected)
    for name in names:
        assert torch.equal(eager[name], compiled[name])


def test_counts_and_encodes_inside_torch_compile():
    def encode(text):
        words, counts = torch.ops.embedtrain.count_words(text, 1)
        ids, offsets = torch.ops.embedtrain.encode_text(text, words, 1)
        return counts * 2, ids + 1, offsets

    got = torch.compile(encode, fullgraph=True, backend="aot_eager")(tensor(TEXT))
    for mine, theirs in zip(got, encode(tensor(TEXT)), strict=True):
        assert torch.equal(mine, theirs)


def test_trains_the_weight_of_a_layer():
    """As anyone's own loop would: nn.Embedding's weights, in place."""
    block, plain = new_block(), new_block()
    layers = {name: torch.nn.Embedding.from_pretrained(plain[name].clone()) for name in ("input", "output")}
    train(block)
    train(plain | {name: layer.weight for name, layer in layers.items()})
    for name, layer in layers.items():
        assert torch.equal(layer.weight, block[name])


TRAIN_AND_HASH = """
import hashlib, os, torch
from embedtrain import ops
from embedtrain.native import core

ids = torch.randint(0, 200, (30_000,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
counts, offsets = torch.bincount(ids, minlength=200), torch.arange(0, 30_001, 1000)
keep, noise = ops.keep_thresholds(counts, 1e-3), ops.alias_table(counts, 0.75)
for kernel in core.available_kernels():
    os.environ["EMBEDTRAIN_ISA"] = kernel
    input, output, stats = ops.new_table(200, 50), ops.new_table(200, 50), torch.zeros(3, dtype=torch.float64)
    ops.initial_weights(input, 0, 5)
    for epoch in range(2):
        ops.train_block(
            input, output, stats, ids, offsets, keep, noise,
            0, 30_000, 0, 30_000, epoch, 2, 5, 5, 5, True, 0.025, 0.0001, 1,
        )
    results = b"".join(result.contiguous().numpy().tobytes() for result in (input, output, stats))
    print(kernel, hashlib.sha256(results).hexdigest())
"""


@pytest.mark.once
def test_two_processes_give_the_same_bytes():
    command = [sys.executable, "-c", TRAIN_AND_HASH]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = [process.communicate()[0] for process in processes]
    assert [line.split()[0] for line in first.splitlines()] == KERNELS
    assert first == second
