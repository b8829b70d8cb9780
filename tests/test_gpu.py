"""The kernels on a real GPU. Skipped where there is none; benchmarks/gpu.py runs them first of all."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import test_kernel
import torch
from test_kernel import CROWDED, Case, train_reference

import embedtrain
from embedtrain import cuda, ops
from embedtrain.native import core
from embedtrain.progress import Progress

pytestmark = pytest.mark.skipif(core.cuda_toolkit is None or not torch.cuda.is_available(), reason="no GPU")

CASES = [
    *(Case(dim=dim) for dim in (1, 3, 4, 5, 100, 127, 128, 129, 256, 300, 1023, 1024)),
    *(Case(negative=negative) for negative in (1, 2, 6, 7, 12, 31, 63)),
    Case(dim=1024, negative=64, vocabulary=300, tokens=200),
    Case(negative=64, vocabulary=10, **CROWDED),
    *(Case(window=window, longest=200, vocabulary=300) for window in (1, 7, 8, 9, 20, 60)),
    *(Case(window=window, longest=200, shrink_window=False) for window in (1, 8, 9)),
    Case(window=20, negative=20, dim=141, sample=1e-3, longest=300, vocabulary=200, alpha=0.02),
    *(Case(vocabulary=vocabulary, **CROWDED) for vocabulary in (1, 2, 3, 5)),
    Case(vocabulary=700, tokens=3000, longest=3000, sample=1e-3),
    *(Case(longest=longest) for longest in (1, 2)),
    *(Case(sample=sample, longest=200, tokens=3000) for sample in (1e-1, 1e-3, 1e-6)),
    *(Case(tokens=tokens, longest=5000, epochs=1) for tokens in (1, 255, 256, 257, 1025)),
]


def train(case: Case, block: int | None = None, workers: int = 1) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """As test_kernel.train(), on the GPU; the result comes back."""
    gpu = torch.device("cuda")
    tables = []
    for table in case.new_tables():
        tables.append(ops.new_table(*table.shape, device=gpu))
        tables[-1].copy_(table)
    ids, offsets = torch.from_numpy(case.ids).to(gpu), torch.from_numpy(case.offsets).to(gpu)
    keep, noise = case.keep.to(gpu), case.noise.to(gpu)
    epochs = []
    for epoch in range(case.epochs):
        stats = torch.zeros(3, dtype=torch.float64, device=gpu)
        for begin in range(0, case.tokens, block or case.tokens):
            torch.ops.embedtrain.train_block(
                *tables, stats, ids, offsets, keep, noise, begin, min(begin + (block or case.tokens), case.tokens), 0,
                case.tokens, epoch, **case.schedule, workers=workers,
            )  # fmt: skip
        epochs.append(stats.cpu())
    return tables[0].cpu(), tables[1].cpu(), epochs


@pytest.mark.parametrize("block", [None, 61])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_worker_equals_the_reference(case, block):
    input, output, stats = train(case, block)
    expected_input, expected_output, epochs = train_reference(case)
    for table, expected in ((input, expected_input), (output, expected_output)):
        assert np.abs(table.numpy() - expected).max() <= 3e-5 * np.abs(expected).max()
    for got, (loss, pairs) in zip(stats, epochs, strict=True):
        assert got[1] == pairs
        assert got[0] == pytest.approx(loss, rel=4e-6, abs=1e-6)


def test_one_worker_repeats_itself():
    case = Case(tokens=2000, dim=300)
    first, second = train(case), train(case)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


MANY = Case(tokens=60_000, longest=2000, sample=1e-2, vocabulary=500, dim=16, epochs=1, alpha=0.025)


@pytest.mark.parametrize("workers", [2, 33, 0])
@pytest.mark.parametrize("dim", [16, 300])
def test_workers_train_on_the_same_samples(workers, dim):
    """At a rate of 0 the tables stand still, and the loss is a fingerprint of all windows and their negatives."""
    frozen = dataclasses.replace(MANY, alpha=0.0, min_alpha=0.0, dim=dim)
    one, many = test_kernel.train(frozen), train(frozen, 7777, workers)
    assert torch.equal(many[0], frozen.new_tables()[0])
    assert torch.equal(many[2][0][1:], one[2][0][1:])
    assert many[2][0][0].item() == pytest.approx(one[2][0][0].item(), rel=1e-6)


def test_workers_learn_what_the_cpu_learns():
    frozen = test_kernel.train(dataclasses.replace(MANY, alpha=0.0, min_alpha=0.0))[2][0][0]
    one, many = test_kernel.train(MANY)[2][0], train(MANY, workers=16)[2][0]
    learned = (frozen - one[0]).item()
    assert many[0].item() == pytest.approx(one[0].item(), abs=0.2 * learned)


def test_atomics_lose_nothing():
    """Thousands of windows of two words: what all have added is, to rounding, what one after the other would have."""
    case = Case(vocabulary=2, tokens=200_000, longest=2, epochs=1, alpha=1e-7, min_alpha=1e-7, dim=128)
    before = case.new_tables()
    one, many = train(case), train(case, workers=0)
    for table in (0, 1):
        moved, expected = many[table] - before[table], one[table] - before[table]
        assert torch.allclose(moved, expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


def test_initial_weights_are_those_of_the_cpu():
    for dim in (1, 3, 100, 301):
        expected, table = ops.new_table(5000, dim), ops.new_table(5000, dim, device="cuda")
        torch.ops.embedtrain.initial_weights(expected, 7, 2**40 + 3)
        torch.ops.embedtrain.initial_weights(table, 7, 2**40 + 3)
        assert torch.equal(table.cpu(), expected)


def test_bad_words_show_in_the_loss():
    case = Case(tokens=300, epochs=1)
    case.ids[100] = case.vocabulary
    case.__dict__["keep"], case.__dict__["noise"] = Case().keep, Case().noise
    input, _, stats = train(case)
    assert stats[0][0].isnan()
    assert torch.equal(input, case.new_tables()[0])


def test_runs_on_the_current_stream():
    """Work enqueued before and after on a side stream is in order with it, without any synchronisation."""
    case = Case(tokens=600, epochs=1)
    expected = train(case)[0]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        got = train(case)[0]
    assert torch.equal(got, expected)


def test_operators_pass_opcheck():
    from test_ops import new_block

    block = {name: each.cuda() if isinstance(each, torch.Tensor) else each for name, each in new_block(20).items()}
    torch.library.opcheck(torch.ops.embedtrain.train_block.default, (), block)
    torch.library.opcheck(torch.ops.embedtrain.initial_weights.default, (torch.zeros(5, 8, device="cuda"), 0, 1))


def sentences() -> list[list[str]]:
    rng = np.random.default_rng(1)
    return [[f"w{word}" for word in np.minimum(rng.zipf(1.3, 20), 3000)] for _ in range(3000)]


@pytest.mark.parametrize("free", [None, 0], ids=["resident", "streamed"])
def test_a_whole_training(monkeypatch, free):
    monkeypatch.setattr(cuda, "_BLOCK_TOKENS", 7777)
    if free is not None:
        monkeypatch.setattr(cuda.Card, "free_bytes", lambda self: 0)
    lines = io.StringIO()
    results = {
        device: embedtrain.Word2Vec(dim=50, min_count=1, epochs=3, sample=1e-2, device=device).fit(
            sentences(), progress=Progress(lines)
        )
        for device in ("cpu", "cuda")
    }
    losses = {name: each.metrics[-1]["loss"] for name, each in results.items()}
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05)
    assert results["cuda"].config["results"]["kernel"].startswith("cuda:0, ")


def test_too_little_memory_is_a_sentence():
    from embedtrain.errors import EmbedtrainError
    from embedtrain.options import Options

    with pytest.raises(EmbedtrainError, match="no memory on cuda:0 for two tables of 1,000,000,000 x 1024"):
        cuda.tables(1_000_000_000, Options(dim=1024), "cuda:0")
