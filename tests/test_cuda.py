"""The GPU's training loop and operators, with a card that computes on the CPU; and which GPU is chosen.

What needs a real one is in test_gpu.py.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulated_cuda
import numpy as np
import pytest
import torch
from test_device import READY

from embedtrain import corpus as corpora
from embedtrain import cuda, device, ops, reference, train
from embedtrain.errors import EmbedtrainError
from embedtrain.loop import State, train_blocks
from embedtrain.options import Options
from embedtrain.progress import Progress
from embedtrain.training_state import Checkpoints

pytestmark = pytest.mark.native


class FakeCard(cuda.Card):
    """Host memory and the emulated kernels. Work is done at once, so an event is past when it is made."""

    kernels = emulated_cuda

    def __init__(self, free: int = 1 << 40) -> None:
        self.device = torch.device("cpu")
        self.free = free
        self.waited = 0

    def free_bytes(self) -> int:
        return self.free

    def host_buffer(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype)

    buffer = host_buffer

    def event(self) -> Callable[[], None]:
        def wait() -> None:
            self.waited += 1

        return wait

    def upload(self, host: torch.Tensor, card: torch.Tensor) -> None:
        card.copy_(host)


OPTIONS = Options(dim=8, min_count=1, sample=1e-2, epochs=2, window=3, negative=2, workers=1, seed=5)


def new_corpus(tokens: int = 1500, longest: int = 60, options: Options = OPTIONS) -> corpora.Corpus:
    rng = np.random.default_rng(0)
    words = [f"w{int(rank)}" for rank in np.minimum(rng.zipf(1.5, tokens), 40)]
    sentences = []
    while words:
        length = int(rng.integers(1, longest + 1))
        sentences.append(words[:length])
        words = words[length:]
    return corpora.encode(sentences, options)


def run(corpus: corpora.Corpus, options: Options, card: cuda.Card) -> tuple[Any, list[tuple[dict[str, Any], bool]]]:
    input, output = cuda.tables(len(corpus.vocabulary), options, "cpu", kernels=emulated_cuda)
    engine = cuda.Gpu(corpus, options, input, output, card=card)
    return (input, output), list(train_blocks(engine, len(corpus.ids), options, State()))


def run_on_cpu(corpus: corpora.Corpus, options: Options) -> tuple[Any, list[tuple[dict[str, Any], bool]]]:
    input, output = train._tables(len(corpus.vocabulary), options)
    engine = train.Threads(corpus, options, input, output)
    return (input, output), list(train_blocks(engine, len(corpus.ids), options, State()))


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated_cuda, "cuda_default_workers", lambda *_: 1)
    monkeypatch.setattr(cuda, "REACH", math.inf)


@pytest.mark.parametrize("block", [1 << 22, 400, 37])
@pytest.mark.parametrize("free", [1 << 40, 0], ids=["resident", "streamed"])
@pytest.mark.parametrize("longest", [60, 1500], ids=["sentences", "one line"])
def test_the_loop_trains_what_the_cpu_trains(monkeypatch, one_worker, block, free, longest):
    monkeypatch.setattr(cuda, "_BLOCK_TOKENS", block)
    corpus = new_corpus(tokens=600, longest=longest)
    tables, reports = run(corpus, OPTIONS, FakeCard(free))
    expected_tables, expected = run_on_cpu(corpus, OPTIONS)
    for table, other in zip(tables, expected_tables, strict=True):
        assert (table - other).abs().max() <= 1e-5 * other.abs().max()
    finished = [report for report, done in reports if done]
    last = finished[-1]
    assert last["position"] == 1200
    assert last["epoch"] == 2
    assert last["rate"] == pytest.approx(expected[-1][0]["rate"])
    if block > 600:
        assert [report["loss"] for report in finished] == pytest.approx(
            [report["loss"] for report, done in expected if done], rel=1e-5
        )
    assert [report["position"] for report, _ in reports] == sorted({report["position"] for report, _ in reports})


def test_streamed_blocks_wait_until_their_place_is_free(monkeypatch, one_worker):
    monkeypatch.setattr(cuda, "_BLOCK_TOKENS", 100)
    card = FakeCard(0)
    _, reports = run(new_corpus(tokens=600), OPTIONS, card)
    assert len(reports) == 12
    assert card.waited == 12 + (12 - 2) + 1  # the loss of each block, the slots but for the first use, the end


def test_only_finished_reports_make_the_curve(monkeypatch, one_worker):
    monkeypatch.setattr(cuda, "_BLOCK_TOKENS", 2)
    options = dataclasses.replace(OPTIONS, epochs=1, dim=1)
    _, reports = run(new_corpus(tokens=500), options, FakeCard())
    assert len(reports) == 250
    assert 80 <= sum(done for _, done in reports) <= 101
    assert reports[-1][1]


def test_many_workers_learn_as_well(monkeypatch):
    monkeypatch.setattr(emulated_cuda, "cuda_default_workers", lambda *_: 12)
    corpus = new_corpus()
    with emulated_cuda.running(resident=12):
        _, reports = run(corpus, dataclasses.replace(OPTIONS, alpha=0.05), FakeCard())
    assert reports[-1][0]["loss"] < reports[0][0]["loss"]


def test_divergence_is_reported(one_worker):
    with pytest.raises(EmbedtrainError, match=r"training diverged: the loss is \w+ at .*; lower --alpha \(10\)"):
        run(new_corpus(), dataclasses.replace(OPTIONS, alpha=10.0, epochs=30, sample=0.0, negative=20), FakeCard())


# ---- the damping of hot rows


def test_damping_bounds_the_reach_of_windows_in_flight():
    counts = torch.tensor([1_000_000, 10_000, 100, 1])
    keep, noise = ops.keep_thresholds(counts, 0.0), ops.alias_table(counts, 0.75)
    workers, window, negative, alpha = 1000, 5, 5, 0.05
    input, output = cuda.damping(counts, keep, noise, workers, window, negative, True, alpha)
    kept, drawn = (counts / counts.sum()).double(), (counts**0.75 / (counts**0.75).sum()).double()
    for factor, touches in (
        (input, workers * 6 * kept),
        (output, workers * (kept + negative * drawn)),
    ):
        assert torch.allclose(factor.double(), (cuda.REACH / (alpha * touches)).clamp(max=1), rtol=1e-5)
        assert (alpha * factor.double() * touches <= cuda.REACH * (1 + 1e-6)).all()
        assert factor[0] < 0.01
        assert factor[3] == 1


def test_damping_follows_the_subsampling():
    """A word's share is that of what is kept."""
    counts = torch.tensor([1_000_000, 10_000, 100])
    noise = ops.alias_table(counts, 0.75)
    input, _ = cuda.damping(counts, ops.keep_thresholds(counts, 1e-4), noise, 500, 5, 5, False, 0.05)
    kept = counts.numpy() * reference.keep_probabilities(counts.numpy(), 1e-4)
    touches = 500 * 10 * kept / kept.sum()
    assert np.allclose(input, np.minimum(1, cuda.REACH / (0.05 * touches)), rtol=1e-5)


def test_damping_is_what_the_kernels_multiply_with():
    """A row that is damped to nothing stays."""
    import test_kernel
    from test_cuda_kernel import train as train_emulated

    case = test_kernel.Case(tokens=100, epochs=1)
    frozen = torch.ones(60)
    frozen[::2] = 0
    half = torch.full((60,), 0.5)
    input, output, _ = train_emulated(case, factors=(frozen, half))
    before_input, before_output = case.new_tables()
    assert torch.equal(input[::2], before_input[::2])
    assert not torch.equal(input[1::2], before_input[1::2])
    first = train_emulated(dataclasses.replace(case, tokens=2, longest=2), factors=(half, half))
    full = train_emulated(dataclasses.replace(case, tokens=2, longest=2))
    assert not torch.equal(output, before_output)
    assert torch.allclose(first[0] - before_input, (full[0] - before_input) / 2, atol=3e-3)


# ---- the operator at its edges (the kernels' own are in test_cuda_kernel.py)


def new_block(dim: int = 20) -> dict[str, Any]:
    from test_ops import new_block as new

    return new(dim)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"end": 401}, ValueError, "end must be at most the number of ids"),
        ({"begin": -1}, ValueError, "begin must be at least 0"),
        ({"window": 0}, ValueError, "window must be at least 1"),
        ({"negative": 65}, ValueError, "negative at most 64"),
        ({"workers": -1}, ValueError, "workers must be at least 0"),
        ({"epoch": 1}, ValueError, "epochs must be at least 2"),
        ({"offsets": torch.zeros(1, dtype=torch.int64)}, ValueError, "offsets must rise"),
        ({"input": torch.zeros(30, 21)}, ValueError, "must have the same shape"),
        ({"input": torch.zeros(30, 20, device="meta")}, TypeError, "output must be a float32 matrix on meta"),
        ({"keep": torch.zeros(30, dtype=torch.int32, device="meta")}, TypeError, "keep must be on cpu, as input is"),
        ({"keep": torch.zeros(29, dtype=torch.int32)}, ValueError, r"keep must have shape \(30\)"),
        ({"ids": torch.zeros(400)}, TypeError, "ids must be torch.int32"),
        ({"ids": torch.zeros(800, dtype=torch.int32)[::2]}, ValueError, "ids must be contiguous"),
    ],
)
def test_refuses_what_does_not_fit(change, error, message):
    with pytest.raises(error, match=message):
        cuda.train_block(**new_block() | change, kernels=emulated_cuda)


TABLES = {
    "contiguous": lambda dim: torch.zeros(30, dim),
    "transposed": lambda dim: torch.zeros(dim, 30).T,
    "columns of a wider one": lambda dim: torch.full((30, 3 * dim + 64), 7.0)[:, 32 : 32 + dim],
    "misaligned": lambda dim: torch.full((30 * 64 + 3,), 7.0)[3:].view(30, 64)[:, :dim],
}


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("dim", [1, 16, 20, 21, 50])
def test_any_float32_matrix_trains_as_a_padded_table(make, dim):
    padded, plain = new_block(dim), new_block(dim)
    for name in ("input", "output"):
        plain[name] = make(dim).copy_(plain[name])
    cuda.train_block(**padded, kernels=emulated_cuda)
    cuda.train_block(**plain, kernels=emulated_cuda)
    for name in ("input", "output", "stats"):
        assert torch.equal(padded[name], plain[name])


def test_what_lies_around_a_table_is_not_touched():
    for dim in (20, 21):
        block = new_block(dim)
        wide = torch.full((30, 64), 7.0)
        block["input"] = wide[:, 4 : 4 + dim].copy_(block["input"])
        cuda.train_block(**block, kernels=emulated_cuda)
        assert (wide[:, :4] == 7).all()
        assert (wide[:, 4 + dim :] == 7).all()


def test_workers_may_be_left_to_the_device():
    block = new_block() | {"workers": 0}
    cuda.train_block(**block, kernels=emulated_cuda)
    assert block["stats"][1] > 0


def test_without_cuda_in_the_build_the_operator_says_so(monkeypatch):
    monkeypatch.setattr(ops.core, "cuda_toolkit", None)
    assert torch._C._dispatch_has_kernel_for_dispatch_key("embedtrain::train_block", "CUDA")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("embedtrain::initial_weights", "CUDA")


# ---- what goes wrong on a card


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
            "no memory on cuda:1 for training; lower",
        ),
        (
            RuntimeError("CUDA error: unspecified failure\nmore"),
            "cuda:1 failed during training: CUDA error: uns",
        ),
        (torch.AcceleratorError("CUDA error: lost"), "cuda:1 failed during training.*; see nvidia-smi"),
    ]
    if hasattr(torch, "AcceleratorError")
    else [],
)
def test_failures_of_the_card_are_sentences(error, message):
    with pytest.raises(EmbedtrainError, match=message) as raised, cuda.explained(torch.device("cuda:1"), "training"):
        raise error
    assert "\n" not in str(raised.value)


def test_a_failure_while_the_training_is_saved_is_one_too(monkeypatch, tmp_path, one_worker):
    """Whoever waits for the card first is told; where tables are copied, too."""
    monkeypatch.setattr(cuda, "tables", lambda rows, options, device: train._tables(rows, options))
    monkeypatch.setattr(cuda, "Gpu", functools.partial(cuda.Gpu, card=FakeCard()))

    def fails(table):
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")

    with Checkpoints(tmp_path, every="1tokens") as checkpoints:
        monkeypatch.setattr(torch.Tensor, "cpu", fails)
        monkeypatch.setattr("embedtrain.training_state._copies", lambda *tables: None)
        with pytest.raises(EmbedtrainError, match="cuda:0 failed during training: CUDA error: unspecified") as raised:
            train.train(new_corpus(), OPTIONS, Progress(io.StringIO()), print, "cuda:0", checkpoints)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="a bug"), cuda.explained(torch.device("cuda:1"), "training"):
        raise RuntimeError("a bug")


def test_tables_that_do_not_fit(monkeypatch):
    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ops, "new_table", no_memory)
    with pytest.raises(EmbedtrainError, match=r"no memory on cuda:0 for two tables of 1,000 x 8 .*; lower --dim"):
        cuda.tables(1000, OPTIONS, "cuda:0")


# ---- the choice of the device

H200 = ("NVIDIA H200", 9, 0, 150_000_000_000)
T4 = ("Tesla T4", 7, 5, 16_000_000_000)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def pretend(*devices: Any, torch_sees_them: bool = True) -> None:
        monkeypatch.setattr(device, "cuda_problem", lambda: None)
        monkeypatch.setattr(ops.core, "cuda_report", lambda: {**READY, "devices": list(devices)}, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_sees_them)

    return pretend


def test_a_gpu_is_taken_where_there_is_one(gpus):
    gpus(H200, H200)
    assert [device.resolve(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda:0", "cuda:0", "cuda:1", "cpu"]
    assert device.describe("cuda:1") == "cuda:1, NVIDIA H200"
    assert device.describe("cpu") == ops.core.kernel_name()


@pytest.mark.parametrize(
    ("devices", "name", "negative", "sees", "message"),
    [
        (
            [H200],
            "cuda:1",
            5,
            True,
            "device cuda:1: there is no such GPU: this process sees only cuda:0; check",
        ),
        ([H200, T4], "cuda:2", 5, True, "sees cuda:0 to cuda:1"),
        ([H200, T4], "cuda:1", 5, True, "Tesla T4 is too old: embedtrain needs compute capability 8.0"),
        (
            [H200],
            "cuda",
            65,
            True,
            "on a GPU, negative must be at most 64, not 65; lower it; or train with",
        ),
        ([H200], "cuda", 5, False, r"the installed torch .* cannot use the GPU; install a build of it with CUDA"),
    ],
)
def test_a_gpu_that_cannot_be_had(gpus, devices, name, negative, sees, message):
    gpus(*devices, torch_sees_them=sees)
    with pytest.raises(EmbedtrainError, match=message):
        device.resolve(name, negative)
    if name == "cuda":
        assert device.resolve("auto", negative) == "cpu"


def test_the_whole_way_with_a_card(monkeypatch, gpus, tmp_path: Path):
    """From the command line to the folder."""
    from embedtrain import fit

    gpus(H200)
    monkeypatch.setattr(emulated_cuda, "cuda_default_workers", lambda *_: 2)
    monkeypatch.setattr(cuda, "Card", lambda device: FakeCard())
    tables = cuda.tables
    monkeypatch.setattr(cuda, "tables", lambda rows, options, name: tables(rows, options, "cpu", kernels=emulated_cuda))
    text = tmp_path / "corpus.txt"
    text.write_text("a b c d e f g a b c\n" * 30)
    options = fit.parse([str(text), "--out", str(tmp_path / "out"), "--dim", "8", "--epochs", "1", "--device", "cuda"])
    embeddings = fit.run(options)
    assert embeddings.config["results"]["kernel"] == "cuda:0, NVIDIA H200"
    assert embeddings.weight.shape == (9, 8)
    assert (tmp_path / "out" / "embedding.pt").exists()


def test_progress_names_the_gpu(gpus, monkeypatch):
    import io

    import embedtrain

    gpus(H200)
    lines = io.StringIO()

    def no_tables(*_: Any) -> None:
        raise EmbedtrainError("enough")

    monkeypatch.setattr(cuda, "tables", no_tables)
    with pytest.raises(EmbedtrainError, match="enough"):
        embedtrain.Word2Vec(min_count=1).fit([["a", "b"]], progress=Progress(lines))
    assert "training on cuda:0, NVIDIA H200\n" in lines.getvalue()


# ---- what measures it


@pytest.mark.once
def test_the_benchmark_measures(monkeypatch, gpus):
    """All of benchmarks/gpu.py that is not the GPU's; its table is as in the README beside it."""
    monkeypatch.syspath_prepend(str(emulated_cuda.ROOT / "benchmarks"))
    import argparse

    import gpu

    gpus(H200)
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "machine", lambda: {"multiprocessors": 1, "torch": "2"})
    monkeypatch.setattr(emulated_cuda, "cuda_default_workers", lambda *_: 16)
    monkeypatch.setattr(cuda, "core", emulated_cuda)
    monkeypatch.setattr(cuda, "Card", lambda device: FakeCard())
    monkeypatch.setattr(cuda, "_BLOCK_TOKENS", 100)
    monkeypatch.setattr(cuda, "tables", functools.partial(cuda.tables, kernels=emulated_cuda))
    monkeypatch.setattr(gpu, "VOCABULARIES", (50,))
    options = argparse.Namespace(tokens=4000, billion=3000, vocabulary=400)
    speed = gpu.speed(options)
    assert {row["workers"] for row in speed} == {2, 4, 8, 12, 16, 18}
    epoch = gpu.billion(options)
    assert epoch["resident"]["tokens"] == 3000
    assert epoch["resident"]["loss"] == pytest.approx(epoch["streamed"]["loss"], rel=1e-3)
    lines = gpu.table({"machine": {"torch": "2"}, "speed": speed, "billion": epoch}, {"memory": "no\nGPU"}).splitlines()
    assert lines[-1] == "memory    not run: no"
    assert sum("M words/s" in line for line in lines) == 5
    one = speed[0]
    assert one["row_bytes_per_second"] == pytest.approx(one["row_bytes_per_word"] * one["words_per_second"])
    # A centre reads and writes its contexts, itself and five noise words, 400 bytes each.
    contexts = one["pairs_per_second"] / one["centres_per_second"]
    per_centre = one["row_bytes_per_second"] / one["centres_per_second"]
    assert per_centre == pytest.approx(2 * 400 * (contexts + 6), rel=0.5)
