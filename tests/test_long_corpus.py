"""Corpora of more than 2^31 and 2^32 tokens: no index, position or count wraps around.

The corpus is a sparse file of 17 GB: tokens around these borders are written, the others are holes, which read as the
word 0 and take no room on the disk. A training starts shortly before a border, and the float64 reference trains the
stretch around it with the draws of the same positions.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulated_cuda
import numpy as np
import pytest
import torch
from test_cuda import FakeCard

from embedtrain import cuda, ops, reference, train
from embedtrain.cache import map_array
from embedtrain.corpus import Corpus
from embedtrain.loop import State
from embedtrain.options import Options
from embedtrain.progress import Progress
from embedtrain.training_state import Checkpoints, newest
from embedtrain.vocabulary import Vocabulary

pytestmark = pytest.mark.native

WORDS = 30
TOKENS = 2**32 + 3000
BORDERS = (2**31, 2**32)
AROUND = 1500  # tokens on each side of a border that are no holes
OPTIONS = Options(
    dim=12, window=4, negative=3, sample=1e-2, epochs=3, min_count=1, seed=3**39, alpha=0.05, min_alpha=0.01, workers=1
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    path = tmp_path_factory.mktemp("sparse") / "ids.bin"
    try:
        with path.open("wb") as file:
            file.truncate(4 * TOKENS)
    except OSError as error:
        pytest.skip(f"no file of 17 GB can be made here: {error}")
    if path.stat().st_blocks * 512 > 1 << 20:
        path.unlink()
        pytest.skip("this file system has no sparse files")
    draw = np.random.default_rng(1)
    written = np.memmap(path, np.int32, "r+")
    ends = [0]
    for border in BORDERS:
        written[border - AROUND : border + AROUND] = draw.integers(0, WORDS, 2 * AROUND)
        # Of the two sentences of billions, the first ends before 2^31 and the second after it; one crosses each border.
        ends += [border - 700, border - 30, border + 45, border + 900]
    counts = np.full(WORDS, 2**33)  # as if it were one of several parts; whatever they are, they are above 2^32
    counts[1:] -= np.arange(1, WORDS) * 2**27
    yield Corpus(
        map_array(path, np.dtype(np.int32)), np.array([*ends, TOKENS]),
        Vocabulary([f"word{row}" for row in range(WORDS)], counts),
        sources=(), tokens_read=TOKENS, lines=len(ends), dropped={}, replaced=0, fingerprint="sparse",
    )  # fmt: skip
    path.unlink()


def start() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    tables = ops.new_table(WORDS, OPTIONS.dim), ops.new_table(WORDS, OPTIONS.dim)
    return [table.copy_(torch.randn(table.shape, generator=draw) / 3) for table in tables]


def expected(corpus: Corpus, tables: list[torch.Tensor], epoch: int, begin: int, end: int) -> Any:
    """Train [begin, end) by the reference; returns the tables, the loss, and the number of pairs and centres."""
    first, last = begin - 400, min(end + 400, TOKENS)  # no window sees further
    ids = np.array(corpus.ids[first:last])
    inner = corpus.offsets[(corpus.offsets > first) & (corpus.offsets < last)]
    offsets = np.array([first, *inner, last]) - first
    frequency = corpus.vocabulary.counts.astype(float)
    # The thresholds are tested against the formulas elsewhere; that the counts did not wrap around shows here.
    keep = ops.keep_thresholds(torch.from_numpy(corpus.vocabulary.counts), OPTIONS.sample)
    keep = keep.numpy().view(np.uint32)
    share = reference.keep_probabilities(frequency, OPTIONS.sample)
    assert np.allclose((keep + 1.0) / 2**32, share, rtol=1e-6)
    noise = ops.alias_table(torch.from_numpy(corpus.vocabulary.counts), OPTIONS.ns_exponent).numpy().view(np.uint32)
    drawn = np.bincount(noise[:, 1], 1 - (noise[:, 0] + 1.0) / 2**32, WORDS) + (noise[:, 0] + 1.0) / 2**32
    assert np.allclose(drawn / WORDS, reference.noise_probabilities(frequency, OPTIONS.ns_exponent), rtol=1e-6)
    schedule = {
        name: getattr(OPTIONS, name)
        for name in ("epochs", "seed", "window", "negative", "shrink_window", "alpha", "min_alpha")
    }
    input, output = (table.double().numpy() for table in tables)
    loss, pairs = 0.0, 0
    for window in reference.windows(
        ids, offsets, keep, noise, epoch=epoch, first_position=first, corpus_size=TOKENS, **schedule
    ):
        if begin <= first + window.centre < end:
            loss += reference.train_window(input, output, ids, window)
            pairs += len(window.contexts)
    positions = np.arange(begin, end)
    bits = reference.draw(OPTIONS.seed, epoch, positions, reference.TOKEN)[:, 0]
    return (input, output), [loss, pairs, int((bits <= keep[corpus.ids[begin:end]]).sum())]


def assert_near(tables: Any, others: Any) -> None:
    for table, other in zip(tables, others, strict=True):
        assert np.abs(table.numpy() - other).max() <= 1e-4 * np.abs(other).max()


@pytest.mark.parametrize("engine", ["threads", "resident", "streamed"])
@pytest.mark.parametrize("border", BORDERS)
def test_a_block_across_the_border(corpus: Corpus, border: int, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = start()
    others, sums = expected(corpus, tables, 1, border - 200, border + 150)
    if engine == "threads":
        trained: Any = train.Threads(corpus, OPTIONS, *tables)
    else:
        monkeypatch.setattr(emulated_cuda, "cuda_default_workers", lambda *_: 1)
        monkeypatch.setattr(cuda, "REACH", math.inf)
        trained = cuda.Gpu(corpus, OPTIONS, *tables, card=FakeCard(1 << 40 if engine == "resident" else 0))
    found = trained.train(1, border - 200, border + 150)()
    trained.synchronise()
    assert sums[1] > 300
    assert found[1:] == sums[1:]
    assert found[0] == pytest.approx(sums[0], rel=1e-5)
    assert_near(tables, others)


def test_a_training_goes_on_beyond_the_border(corpus: Corpus, tmp_path: Path) -> None:
    """From a checkpoint in the last of three epochs to the end: positions, rates and reports beyond 2^33."""
    tables = start()
    begin = 2**32 - 300
    position = 2 * TOKENS + begin
    with Checkpoints(tmp_path, every="1tokens") as checkpoints:
        checkpoints.begin(OPTIONS, {"fingerprint": "sparse"}, None)
        checkpoints.save(State(position, (0.0, 0.0, 0.0), [{"position": position, "loss": 1.0}]), *tables)
    reports: list[dict[str, Any]] = []
    with Checkpoints(tmp_path, every="1Gtokens", resume=True) as checkpoints:
        embeddings = train.train(corpus, OPTIONS, Progress(io.StringIO()), reports.append, checkpoints=checkpoints)
    (input, _), (loss, pairs, _) = expected(corpus, tables, 2, begin, TOKENS)
    assert_near([embeddings.weight[2:]], [input])
    (report,) = reports
    assert report["position"] == 3 * TOKENS
    assert report["epoch"] == 3
    assert report["loss"] == pytest.approx(loss / pairs, rel=1e-5)
    assert report["rate"] == pytest.approx(OPTIONS.min_alpha)
    assert embeddings.config["corpus"]["tokens"] == TOKENS
    saved = newest(tmp_path)
    assert saved is not None
    assert saved.state.position == 3 * TOKENS
