"""The CPU kernels against the float64 reference: the same windows, the same tables and the same loss.

Rounding: a float32 update is off by 2^-24 of the row, and the errors of the few thousand updates that a row sees here
add up like a random walk, to 1e-5 of it; one pair missing or too many moves a row by about rate / 2, a percent of it.
The tolerances, 1e-4 of the largest value for tables and 1e-5 for losses, lie between.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import platform
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedtrain import ops, reference
from embedtrain.native import core

pytestmark = pytest.mark.native

KERNELS = core.available_kernels()


@dataclasses.dataclass(frozen=True)
class Case:
    """A random corpus and how to train on it. Hashable, so that the reference runs once for all kernels."""

    dim: int = 20
    negative: int = 5
    window: int = 5
    vocabulary: int = 60
    tokens: int = 700
    longest: int = 40  # sentence
    sample: float = 0.0
    shrink_window: bool = True
    epochs: int = 2
    alpha: float = 0.05
    min_alpha: float = 0.001
    seed: int = 2**62 + 12345
    corpus: int = 0  # another number: another corpus
    lock: float = 0.0  # share of the words

    @functools.cached_property
    def ids(self) -> np.ndarray:
        shares = 1 / np.arange(1, self.vocabulary + 1)
        return (
            np.random.default_rng(self.corpus)
            .choice(self.vocabulary, self.tokens, p=shares / shares.sum())
            .astype(np.int32)
        )

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        lengths = np.random.default_rng(self.corpus + 1).integers(1, self.longest + 1, self.tokens)
        ends = np.cumsum(lengths)
        return np.concatenate([[0], ends[ends < self.tokens], [self.tokens]])

    @functools.cached_property
    def keep(self) -> torch.Tensor:
        counts = np.maximum(np.bincount(self.ids, minlength=self.vocabulary), 1)
        return ops.keep_thresholds(torch.from_numpy(counts), self.sample)

    @functools.cached_property
    def noise(self) -> torch.Tensor:
        counts = np.maximum(np.bincount(self.ids, minlength=self.vocabulary), 1)
        return ops.alias_table(torch.from_numpy(counts), 0.75)

    @functools.cached_property
    def locked(self) -> torch.Tensor | None:
        if self.lock == 0:
            return None
        return torch.from_numpy(np.random.default_rng(self.corpus + 3).random(self.vocabulary) < self.lock)

    @property
    def schedule(self) -> dict[str, Any]:
        names = ("epochs", "seed", "window", "negative", "shrink_window", "alpha", "min_alpha")
        return {name: getattr(self, name) for name in names}

    def new_tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both random and of a size at which every pair counts, unlike the start of a real training."""
        rng = np.random.default_rng(self.corpus + 2)
        tables = ops.new_table(self.vocabulary, self.dim), ops.new_table(self.vocabulary, self.dim)
        for table in tables:
            table.copy_(torch.from_numpy(rng.normal(size=table.shape) / np.sqrt(self.dim)))
        if self.locked is not None:
            tables[0][self.locked, 0] = -0.0  # which adding 0 would change
        return tables

    def reference_windows(self, epoch: int) -> list[reference.Window]:
        keep, noise = self.keep.numpy().view(np.uint32), self.noise.numpy().view(np.uint32)
        return list(reference.windows(self.ids, self.offsets, keep, noise, epoch=epoch, **self.schedule))

    def native_windows(self, epoch: int, begin: int, end: int) -> tuple[torch.Tensor, ...]:
        return ops.list_windows(
            torch.from_numpy(self.ids), torch.from_numpy(self.offsets), self.keep, self.noise, begin, end,
            first_position=0, corpus_size=self.tokens, epoch=epoch, **self.schedule,
        )  # fmt: skip


@functools.cache
def train_reference(case: Case) -> tuple[np.ndarray, np.ndarray, list[tuple[float, int]]]:
    """Return the tables and, for each epoch, the loss and the number of pairs."""
    input, output = (table.numpy().astype(np.float64) for table in case.new_tables())
    locked = None if case.locked is None else case.locked.numpy()
    epochs = []
    for epoch in range(case.epochs):
        windows = case.reference_windows(epoch)
        loss = sum(reference.train_window(input, output, case.ids, window, locked) for window in windows)
        epochs.append((loss, sum(len(window.contexts) for window in windows)))
    return input, output, epochs


def train(
    case: Case, block: int | None = None, workers: int = 1
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Return the tables and the stats of each epoch."""
    input, output = case.new_tables()
    epochs = []
    for epoch in range(case.epochs):
        stats = torch.zeros(3, dtype=torch.float64)
        for begin in range(0, case.tokens, block or case.tokens):
            torch.ops.embedtrain.train_block(
                input, output, stats, torch.from_numpy(case.ids), torch.from_numpy(case.offsets), case.keep, case.noise,
                begin, min(begin + (block or case.tokens), case.tokens), 0, case.tokens, epoch, **case.schedule,
                workers=workers, locked=case.locked,
            )  # fmt: skip
        epochs.append(stats)
    return input, output, epochs


def assert_locked_rows_are_kept(case: Case, input: torch.Tensor) -> None:
    if case.locked is not None:
        before, after = (table[case.locked].contiguous().view(torch.int32) for table in (case.new_tables()[0], input))
        assert torch.equal(before, after)


def assert_equals_reference(case: Case, block: int | None = None) -> None:
    input, output, stats = train(case, block)
    expected_input, expected_output, epochs = train_reference(case)
    for table, expected in ((input, expected_input), (output, expected_output)):
        assert np.abs(table.numpy() - expected).max() <= 3e-5 * np.abs(expected).max()
        padding = table.as_strided(
            (case.vocabulary, table.stride(0) - case.dim), (table.stride(0), 1), table.storage_offset() + case.dim
        )
        assert not padding.any()
    assert_locked_rows_are_kept(case, input)
    for got, (loss, pairs) in zip(stats, epochs, strict=True):
        assert got[1] == pairs
        assert got[0] == pytest.approx(loss, rel=4e-6, abs=1e-6)


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EMBEDTRAIN_ISA", request.param)
    assert core.kernel_name() == request.param
    return request.param


# Many updates of a few words from the same old values oscillate at a large rate, and then amplify any rounding.
CROWDED = {"alpha": 0.005, "min_alpha": 0.0001}
CASES = [
    *(Case(dim=dim) for dim in (1, 2, 7, 8, 9, 15, 16, 17, 24, 32, 40, 41, 99, 100, 101, 128, 300, 1023, 1024)),
    *(Case(negative=negative) for negative in (1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 17, 20)),
    Case(negative=64, vocabulary=300),
    Case(negative=64, vocabulary=10, **CROWDED),
    *(Case(window=window, longest=200, vocabulary=300) for window in (1, 2, 3, 8, 9, 20, 60)),
    *(Case(window=window, longest=200, shrink_window=False) for window in (1, 2, 8, 9)),
    Case(window=60, longest=2000, tokens=1500, epochs=1, shrink_window=False, vocabulary=400, **CROWDED),
    Case(window=20, negative=20, dim=101, sample=1e-3, longest=300, vocabulary=200, alpha=0.02),
    *(Case(vocabulary=vocabulary, **CROWDED) for vocabulary in (2, 3, 5)),
    Case(vocabulary=2, negative=20, window=20, dim=33, **CROWDED),
    Case(vocabulary=1, **CROWDED),
    Case(vocabulary=700, tokens=3000, longest=3000, sample=1e-3),
    Case(longest=1),
    Case(longest=2),
    Case(longest=3, window=60, sample=1e-2),
    Case(tokens=1),
    Case(tokens=2, longest=2),
    *(Case(sample=sample, tokens=3000, longest=200, epochs=4) for sample in (1e-1, 1e-2, 1e-3, 1e-6)),
    *(Case(tokens=tokens, longest=5000, epochs=1) for tokens in (511, 512, 513, 1024, 1025)),
    Case(epochs=6, tokens=300, seed=0, corpus=3),
    Case(seed=2**63 - 1, alpha=0.02, min_alpha=0.02),
    *(Case(lock=lock) for lock in (0.1, 0.5, 1.0)),
    *(Case(lock=0.5, dim=dim, negative=7, window=12, longest=200) for dim in (1, 99, 300)),
    Case(lock=0.5, vocabulary=5, **CROWDED),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(kernel, case):
    assert_equals_reference(case)


@settings(max_examples=60)
@given(
    case=st.builds(
        Case,
        dim=st.integers(1, 140),
        negative=st.integers(1, 24),
        window=st.integers(1, 24),
        vocabulary=st.integers(2, 200),
        tokens=st.integers(1, 250),
        longest=st.integers(1, 300),
        sample=st.sampled_from([0.0, 1e-1, 1e-2, 1e-3]),
        shrink_window=st.booleans(),
        epochs=st.integers(1, 3),
        alpha=st.just(0.01),
        seed=st.integers(0, 2**63 - 1),
        corpus=st.integers(0, 10**6),
        lock=st.sampled_from([0.0, 0.3]),
    ),
    block=st.integers(1, 300),
)
def test_any_case_equals_the_reference(case, block):
    for name in KERNELS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EMBEDTRAIN_ISA", name)
            assert_equals_reference(case, block)


def test_a_whole_training_equals_the_reference(kernel):
    """From the initial weights and a zero output table, as users train."""
    case = Case(dim=100, tokens=4000, vocabulary=200, longest=60, sample=1e-2, epochs=3)
    keep, noise = case.keep.numpy().view(np.uint32), case.noise.numpy().view(np.uint32)
    expected = reference.train(case.ids, case.offsets, keep, noise, dim=case.dim, **case.schedule)
    input, output = ops.new_table(case.vocabulary, case.dim), ops.new_table(case.vocabulary, case.dim)
    ops.initial_weights(input, 0, case.seed)
    for epoch in range(case.epochs):
        stats = torch.zeros(3, dtype=torch.float64)
        ops.train_block(
            input, output, stats, torch.from_numpy(case.ids), torch.from_numpy(case.offsets), case.keep, case.noise,
            0, case.tokens, 0, case.tokens, epoch, **case.schedule, workers=1,
        )  # fmt: skip
    assert np.abs(input.numpy() - expected[0]).max() <= 3e-5 * np.abs(expected[0]).max()
    assert np.abs(output.numpy() - expected[1]).max() <= 3e-5 * np.abs(expected[1]).max()
    assert (stats[0] / stats[1]).item() == pytest.approx(expected[2], rel=1e-6)


def test_the_reference_descends_the_loss():
    """Its updates are the gradient of its loss: of targets exactly, of contexts but for terms of second order."""
    case = Case(dim=6, vocabulary=8, negative=4)
    window = max(case.reference_windows(0), key=lambda each: len(each.contexts))
    word = case.ids[window.centre]
    targets = [word, *window.negatives[window.negatives != word]]
    input, output = (
        torch.tensor(table.numpy(), dtype=torch.float64, requires_grad=True) for table in case.new_tables()
    )
    scores = input[case.ids[window.contexts]] @ output[targets].T
    loss = -torch.nn.functional.logsigmoid(torch.cat([scores[:, :1], -scores[:, 1:]], dim=1)).sum()
    loss.backward()
    moved_input, moved_output = input.detach().numpy().copy(), output.detach().numpy().copy()
    assert reference.train_window(moved_input, moved_output, case.ids, window) == pytest.approx(loss.item(), rel=1e-12)
    assert np.allclose(moved_output, (output - window.rate * output.grad).detach().numpy(), rtol=0, atol=1e-14)
    start, slow = input.detach().numpy(), dataclasses.replace(window, rate=1e-9)
    moved_input = start.copy()
    reference.train_window(moved_input, output.detach().numpy().copy(), case.ids, slow)
    assert np.allclose((moved_input - start) / slow.rate, -input.grad.numpy(), rtol=0, atol=1e-6)


def test_the_reference_moves_one_context_after_the_other_as_word2vec_c_does():
    """Pair by pair, in its order and with its accumulator (neu1e), but with errors from the values before."""
    case = Case(dim=6, vocabulary=500, negative=4, tokens=300)
    unlike = (
        each
        for each in case.reference_windows(0)
        if len({*case.ids[each.contexts]}) == len(each.contexts) and len({case.ids[each.centre], *each.negatives}) == 5
    )
    window = dataclasses.replace(max(unlike, key=lambda each: len(each.contexts)), rate=0.1)
    assert len(window.contexts) > 6
    before = [table.numpy().astype(np.float64) for table in case.new_tables()]
    input, output = before[0].copy(), before[1].copy()
    for context in case.ids[window.contexts]:
        accumulator = np.zeros(case.dim)
        for k, target in enumerate([case.ids[window.centre], *window.negatives]):
            error = (k == 0) - 1 / (1 + np.exp(-before[0][context] @ before[1][target]))
            accumulator += window.rate * error * output[target]
            output[target] += window.rate * error * input[context]
        input[context] += accumulator
    reference.train_window(*before, case.ids, window)
    assert np.allclose(before[0], input, rtol=0, atol=1e-14)
    assert np.allclose(before[1], output, rtol=0, atol=1e-14)


# ---- which windows are drawn


def flat(windows: list[reference.Window], negative: int) -> tuple[np.ndarray, ...]:
    """Return the reference's windows as ops.list_windows() gives them."""
    contexts = [window.contexts for window in windows]
    return (
        np.array([window.centre for window in windows], dtype=np.int64),
        np.concatenate([[0], np.cumsum([len(each) for each in contexts], dtype=np.int64)]),
        np.array([position for each in contexts for position in each], dtype=np.int64),
        np.array([window.negatives for window in windows], dtype=np.int32).reshape(-1, negative),
        np.array([window.rate for window in windows]),
    )


def joined(parts: list[tuple[torch.Tensor, ...]]) -> tuple[np.ndarray, ...]:
    """Return the windows of consecutive spans as those of one."""
    sizes = [part[1].diff() for part in parts]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), *sizes]).cumsum(0)
    centres, contexts, negatives, rates = (torch.cat([part[i] for part in parts]).numpy() for i in (0, 2, 3, 4))
    return centres, offsets.numpy(), contexts, negatives, rates


def assert_same_windows(got: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for mine, theirs in zip(got[:4], expected[:4], strict=True):
        assert np.array_equal(mine, theirs)
    assert np.allclose(got[4], expected[4], rtol=2.0**-23, atol=0)  # float32


LISTED = [
    Case(tokens=1500, longest=100, sample=1e-2),
    Case(tokens=1500, longest=1500, sample=1e-3, window=20, negative=7),
    Case(tokens=1500, longest=5, shrink_window=False),
    Case(tokens=1500, longest=1500, window=60, vocabulary=2, sample=0.1),
]


@settings(max_examples=40)
@given(case=st.sampled_from(LISTED), cuts=st.sets(st.integers(1, 1499), max_size=12), epoch=st.integers(0, 1))
def test_lists_the_windows_of_the_reference_however_it_is_cut(case, cuts, epoch):
    edges = [0, *sorted(cuts), case.tokens]
    expected = flat(case.reference_windows(epoch), case.negative)
    for name in KERNELS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EMBEDTRAIN_ISA", name)
            parts = [case.native_windows(epoch, *span) for span in itertools.pairwise(edges)]
        assert_same_windows(joined(parts), expected)


@pytest.mark.parametrize("case", LISTED, ids=str)
@pytest.mark.parametrize("block", [1, 16, 511, 512, 513])
def test_lists_the_windows_of_the_reference_in_blocks(kernel, case, block):
    parts = [case.native_windows(1, at, min(at + block, case.tokens)) for at in range(0, case.tokens, block)]
    assert_same_windows(joined(parts), flat(case.reference_windows(1), case.negative))


@settings(max_examples=40)
@given(case=st.sampled_from([LISTED[0], LISTED[2]]), cuts=st.sets(st.integers(0, 10**6), max_size=5))
def test_a_block_may_be_a_slice_of_the_corpus(case, cuts):
    """Whole sentences in a buffer of their own, with first_position, as a corpus on disk is streamed."""
    edges = sorted({0, *(cut % (len(case.offsets) - 1) for cut in cuts), len(case.offsets) - 1})
    parts = []
    for first, last in itertools.pairwise(edges):
        begin, end = case.offsets[first], case.offsets[last]
        ids, offsets = torch.tensor(case.ids[begin:end]), torch.tensor(case.offsets[first : last + 1] - begin)
        part = ops.list_windows(
            ids, offsets, case.keep, case.noise, 0, len(ids),
            first_position=int(begin), corpus_size=case.tokens, epoch=1, **case.schedule,
        )  # fmt: skip
        parts.append(part)
    assert_same_windows(joined(parts), flat(case.reference_windows(1), case.negative))


@pytest.mark.parametrize(
    ("alpha", "window", "shrink_window", "sharers"),
    [(0.025, 5, True, 4), (0.0, 50, True, 4), (0.025, 5, False, 2), (0.025, 10, True, 2), (0.05, 10, True, 1)],
)
def test_centres_far_apart_share_their_noise(kernel, alpha, window, shrink_window, sharers):
    """As many as the learning rate allows; the others have noise of their own."""
    case = Case(
        tokens=4096, longest=4096, sample=0.0, vocabulary=9000, alpha=alpha, window=window, shrink_window=shrink_window
    )
    centres, _, _, negatives, _ = case.native_windows(0, 0, case.tokens)
    first_of = centres // (128 * sharers) * (128 * sharers) + centres % 128
    sets = {}
    for first, noise in zip(first_of.tolist(), negatives.tolist(), strict=True):
        assert sets.setdefault(first, noise) == noise
    assert len(set(map(tuple, sets.values()))) == len(sets) == pytest.approx(4096 / sharers, rel=0.01)


@pytest.mark.parametrize("first_position", [2**32 - 300, 2**33 + 7, 2**50])
def test_positions_beyond_32_bits(kernel, first_position):
    case = Case(tokens=700, longest=700, vocabulary=20, sample=0.01)
    epoch, size = 3, 2**51
    schedule = {**case.schedule, "epochs": 4}
    ids = torch.from_numpy(case.ids)
    centres, offsets, contexts, negatives, rates = ops.list_windows(
        ids, torch.tensor([0, 700]), case.keep, case.noise, 0, 700,
        first_position=first_position, corpus_size=size, epoch=epoch, **schedule,
    )  # fmt: skip
    positions = first_position + np.arange(700)
    bits = reference.draw(case.seed, epoch, positions, reference.TOKEN)
    kept = positions[bits[:, 0] <= case.keep.numpy().view(np.uint32)[case.ids]]
    assert 100 < len(kept) < 600
    assert np.array_equal(centres, kept)
    widths = 1 + (bits[:, 1].astype(np.int64) * case.window >> 32)[kept - first_position]
    around = [np.r_[kept[max(0, i - w) : i], kept[i + 1 : i + 1 + w]] for i, w in enumerate(widths)]
    assert np.array_equal(contexts, np.concatenate(around))
    assert np.array_equal(offsets.diff(), [len(each) for each in around])
    noise = case.noise.numpy().view(np.uint32)
    sharing = reference.noise_positions(kept, case.alpha, case.window, shrink_window=True)
    assert np.array_equal(negatives, reference.noise_words(case.seed, epoch, sharing, case.negative, noise))
    share = (epoch * size + kept) / (4 * size)
    assert np.allclose(rates, case.alpha + (case.min_alpha - case.alpha) * share, rtol=2.0**-23, atol=0)


# ---- blocks and threads


@pytest.mark.parametrize("block", [1, 7, 100, 511, 512, 513])
def test_one_worker_gives_the_same_bits_in_blocks_of_any_size(kernel, block):
    case = Case(tokens=1500, longest=700, sample=1e-2, dim=33, vocabulary=40)
    whole, parts = train(case), train(case, block)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    for a, b in zip(whole[2], parts[2], strict=True):
        assert torch.equal(a[1:], b[1:])
        assert torch.allclose(a[0], b[0], rtol=1e-5)


MANY = Case(tokens=60_000, longest=2000, sample=1e-2, vocabulary=500, dim=16, epochs=1, alpha=0.025)
# Words enough that a thread copies the rows of the first ones only. At a low rate, what threads learn late hardly
# matters, however they are scheduled: an update that is lost does.
MOST = dataclasses.replace(MANY, vocabulary=80_000, dim=100, alpha=0.0025)


@pytest.mark.parametrize("block", [None, 7_777])
@pytest.mark.parametrize("workers", [2, 3, 4, 16])
def test_workers_train_on_the_same_samples(kernel, workers, block):
    """At a rate of 0 the tables stand still, and the loss is a fingerprint of all windows and their negatives."""
    frozen = dataclasses.replace(MANY, alpha=0.0, min_alpha=0.0)
    one, many = train(frozen), train(frozen, block, workers)
    assert torch.equal(many[0], frozen.new_tables()[0])
    assert torch.equal(many[2][0][1:], one[2][0][1:])
    assert many[2][0][0].item() == pytest.approx(one[2][0][0].item(), rel=1e-6)
    another_seed = train(dataclasses.replace(frozen, seed=1))[2][0][0].item()
    assert another_seed != pytest.approx(one[2][0][0].item(), rel=1e-5)


def test_workers_find_the_rows_that_they_copy_and_the_others(kernel):
    # In short lines many centres are alone: the noise words of a set have to be copied for one that is not.
    for longest, sample in ((MOST.longest, MOST.sample), (2, 0.0), (4, 1e-4)):
        frozen = dataclasses.replace(MOST, alpha=0.0, min_alpha=0.0, longest=longest, sample=sample)
        one, many = train(frozen), train(frozen, workers=2)
        assert many[2][0][1:].tolist() == one[2][0][1:].tolist()
        assert many[2][0][0].item() == pytest.approx(one[2][0][0].item(), rel=1e-6)
    for one, many, start in zip(train(MOST)[:2], train(MOST, workers=2)[:2], MOST.new_tables(), strict=True):
        for rows in (slice(0, 1000), slice(1000, None)):
            assert (many - one)[rows].norm() < 0.2 * (one - start)[rows].norm()


@pytest.mark.threads
def test_workers_learn_the_same(kernel):
    frozen = train(dataclasses.replace(MANY, alpha=0.0, min_alpha=0.0))[2][0]
    one, many = train(MANY)[2][0], train(MANY, workers=4)[2][0]
    assert torch.equal(many[1:], one[1:])
    learned = (frozen - one)[0].item()
    assert learned > 0.05 * frozen[0]
    assert many[0].item() == pytest.approx(one[0].item(), abs=0.1 * learned)


@pytest.mark.parametrize(("workers", "alpha"), [(2, 0.05), (8, 0.025), (16, 0.05)])
def test_workers_do_not_overshoot(kernel, workers, alpha):
    """All learn the same few rows at a high rate: the most that adding up what each thread has learned can go wrong."""
    case = dataclasses.replace(MANY, vocabulary=20, sample=0.0, epochs=2, alpha=alpha)
    one, many = train(case), train(case, 20_000, workers)
    assert many[2][-1][0].item() == pytest.approx(one[2][-1][0].item(), rel=0.01)
    # Of the scores: the tables may differ by a factor in one and its inverse in the other, which changes nothing.
    scores, expected = (input @ output.T for input, output, _ in (many, one))
    assert scores.norm().item() == pytest.approx(expected.norm().item(), rel=0.1)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_locked_rows_stay_to_the_bit(kernel, workers):
    """While the others, and all rows of output, are trained as much as ever."""
    case = dataclasses.replace(MANY, lock=0.5, epochs=2)
    input, output, stats = train(case, 20_000, workers)
    assert_locked_rows_are_kept(case, input)
    seen = torch.from_numpy(np.bincount(case.ids, minlength=case.vocabulary) > 50)
    before = case.new_tables()
    moved = (input != before[0]).any(dim=1)
    assert torch.equal(moved[seen], ~case.locked[seen])
    assert (output != before[1]).any(dim=1)[seen].all()
    assert stats[-1][0].item() == pytest.approx(train_once_locked(kernel)[-1][0].item(), rel=0.01)


@functools.cache
def train_once_locked(kernel: str) -> list[torch.Tensor]:
    return train(dataclasses.replace(MANY, lock=0.5, epochs=2))[2]


@pytest.mark.threads
def test_tables_are_complete_after_synchronising(kernel):
    """What the threads have learned is in the tables then, once, and the next block goes on from there."""
    input, output = MANY.new_tables()
    schedule = ops.Schedule(corpus_size=MANY.tokens, **MANY.schedule)
    trainer = ops.Trainer(input, output, MANY.keep, MANY.noise, schedule, workers=3)
    ids, offsets = torch.from_numpy(MANY.ids), torch.from_numpy(MANY.offsets)
    incomplete = 0
    for _ in range(100):  # on a busy machine the first thread, which has no copies, may be through before others start
        stats = torch.zeros(3, dtype=torch.float64)
        trainer.train(stats, ids, offsets, 0, MANY.tokens, first_position=0, epoch=0)
        tables = input.clone(), output.clone()
        trainer.synchronise()
        incomplete += not torch.equal(input, tables[0]) and not torch.equal(output, tables[1])
        tables = input.clone(), output.clone()
        trainer.synchronise()
        assert torch.equal(input, tables[0])
        assert torch.equal(output, tables[1])
        if incomplete == 2:
            break
    assert incomplete == 2
    assert stats[0] < train(MANY)[2][0][0]  # of the first time


@functools.cache
def million_words() -> Case:
    case = Case(tokens=1_000_000, vocabulary=300, dim=8, sample=1e-5, epochs=1, alpha=0.025)
    case.__dict__["offsets"] = np.array([0, case.tokens])
    return case


@functools.cache
def reference_windows_of_a_million_words() -> list[reference.Window]:
    return million_words().reference_windows(0)


@pytest.mark.once
@pytest.mark.parametrize("block", [None, 99_991])
def test_one_line_of_a_million_words(kernel, block):
    case = million_words()
    assert_equals_reference(case, block)


@pytest.mark.parametrize("block", [1_000_000, 262_144, 33_333])
def test_the_windows_of_one_line_of_a_million_words(kernel, block):
    case = million_words()
    parts = [case.native_windows(0, at, min(at + block, case.tokens)) for at in range(0, case.tokens, block)]
    assert_same_windows(joined(parts), flat(reference_windows_of_a_million_words(), case.negative))


def test_tables_of_more_than_four_billion_numbers(kernel, tmp_path):
    """In sparse files, of which only the rows of the last words are ever touched: no index wraps around."""
    dim, used, tokens = 1024, 50, 400
    vocabulary = 2**32 // dim + 1000
    first = vocabulary - used
    rng = np.random.default_rng(5)
    ids = rng.integers(first, vocabulary, tokens).astype(np.int32)
    offsets = np.array([0, 150, tokens])
    counts = np.zeros(vocabulary, np.int64)
    counts[first:] = 1 + np.bincount(ids - first, minlength=used)
    keep, noise = ops.keep_thresholds(torch.from_numpy(counts), 1e-2), ops.alias_table(torch.from_numpy(counts), 0.75)
    schedule = Case().schedule
    expected = [rng.normal(size=(used, dim)) / np.sqrt(dim) for _ in range(2)]
    files = [np.memmap(tmp_path / name, np.float32, "w+", shape=(vocabulary, dim)) for name in ("input", "output")]
    for table, start in zip(files, expected, strict=True):
        table[first:] = start
    stats = torch.zeros(3, dtype=torch.float64)
    torch.ops.embedtrain.train_block(
        *map(torch.from_numpy, files), stats, torch.from_numpy(ids), torch.from_numpy(offsets), keep, noise,
        0, tokens, 0, tokens, 0, **schedule, workers=1,
    )  # fmt: skip
    for window in reference.windows(
        ids, offsets, keep.numpy().view(np.uint32), noise.numpy().view(np.uint32), epoch=0, **schedule
    ):
        own = dataclasses.replace(window, negatives=window.negatives - first)
        reference.train_window(*expected, ids - first, own)
    assert stats[1] > tokens
    for table, trained in zip(files, expected, strict=True):
        assert np.abs(table[first:] - trained).max() <= 3e-5 * np.abs(trained).max()
        assert not table[: 2 * used].any()
    for name in ("input", "output"):
        assert (tmp_path / name).stat().st_blocks * 512 < 64 << 20


@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("objdump") is None, reason="needs x86-64 and objdump"
)
def test_rows_to_come_are_asked_for() -> None:
    """A function that does nothing but prefetch has no effects to a compiler, which may leave it out."""
    disassemble = ["objdump", "--disassemble", "--no-show-raw-insn", core.__file__]
    code = subprocess.run(disassemble, check=True, capture_output=True, text=True).stdout
    # Into the second-level cache: rows to come, at two places in the code of each kernel, one line or many.
    assert code.count("prefetcht1") >= len(("portable", "avx2", "avx512")) * 2 * 2
