"""The CUDA kernels, run on the host (tests/cuda/emulation.h), against the float64 reference and the CPU's kernel.

The cases and tolerances are those of test_kernel.py. With one worker they equal the reference pair for pair, in
whatever order the threads of a block run; with several they train on the same samples. What runs on a real GPU, where
there is one, is in test_gpu.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import emulated_cuda
import numpy as np
import pytest
import test_kernel
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernel import CROWDED, Case, assert_locked_rows_are_kept, flat, train_reference

from embedtrain import cuda, ops

pytestmark = pytest.mark.native

CASES = [
    *(Case(dim=dim, tokens=200, epochs=1) for dim in (1, 2, 3, 4, 5, 100, 127, 128, 129, 255, 256, 300, 1023, 1024)),
    *(Case(negative=negative, tokens=300) for negative in (1, 2, 5, 6, 10, 11, 12, 31, 63)),
    *(Case(dim=dim, negative=negative, tokens=100) for dim in (140, 260) for negative in (1, 6, 20)),
    Case(negative=64, vocabulary=300, tokens=200),
    Case(negative=64, vocabulary=10, tokens=200, **CROWDED),
    Case(dim=1024, negative=64, tokens=30, epochs=1),
    *(Case(window=window, longest=200, vocabulary=300, tokens=400, epochs=1) for window in (1, 2, 7, 8, 9, 20, 60)),
    *(Case(window=window, longest=200, shrink_window=False, tokens=400, epochs=1) for window in (1, 2, 8, 9)),
    Case(window=60, longest=2000, epochs=1, shrink_window=False, vocabulary=400, **CROWDED),
    Case(window=20, negative=20, dim=141, sample=1e-3, longest=300, vocabulary=200, alpha=0.02),
    *(Case(vocabulary=vocabulary, tokens=300, **CROWDED) for vocabulary in (1, 2, 3, 5)),
    Case(vocabulary=700, tokens=1500, longest=3000, sample=1e-3),
    *(Case(longest=longest) for longest in (1, 2)),
    Case(longest=3, window=60, sample=1e-2),
    Case(tokens=1),
    *(Case(sample=sample, longest=200) for sample in (1e-1, 1e-3, 1e-6)),
    *(Case(tokens=tokens, longest=5000, epochs=1) for tokens in (255, 256, 257, 511, 513)),
    Case(seed=2**63 - 1, alpha=0.02, min_alpha=0.02, tokens=100),
    *(Case(lock=lock, tokens=300) for lock in (0.1, 0.5, 1.0)),
    Case(lock=0.5, dim=140, negative=7, window=12, longest=200, tokens=100),
]


def train(
    case: Case, block: int | None = None, workers: int = 1, factors: Any = None
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """As test_kernel.train(), by the CUDA kernels."""
    input, output = case.new_tables()
    epochs = []
    for epoch in range(case.epochs):
        stats = torch.zeros(3, dtype=torch.float64)
        for begin in range(0, case.tokens, block or case.tokens):
            cuda.train_block(
                input, output, stats, torch.from_numpy(case.ids), torch.from_numpy(case.offsets), case.keep, case.noise,
                begin, min(begin + (block or case.tokens), case.tokens), 0, case.tokens, epoch, **case.schedule,
                workers=workers, locked=case.locked, factors=factors, kernels=emulated_cuda,
            )  # fmt: skip
        epochs.append(stats)
    return input, output, epochs


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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_worker_equals_the_reference(case):
    assert_equals_reference(case)


@settings(max_examples=30, deadline=None)
@given(
    case=st.builds(
        Case,
        dim=st.integers(1, 300),
        negative=st.integers(1, 24),
        window=st.integers(1, 24),
        vocabulary=st.integers(2, 200),
        tokens=st.integers(1, 150),
        longest=st.integers(1, 200),
        sample=st.sampled_from([0.0, 1e-1, 1e-2, 1e-3]),
        shrink_window=st.booleans(),
        epochs=st.just(1),
        alpha=st.just(0.01),
        seed=st.integers(0, 2**63 - 1),
        corpus=st.integers(0, 10**6),
    ),
    block=st.integers(10, 150),
    order=st.integers(0, 9),
)
def test_any_case_equals_the_reference(case, block, order):
    with emulated_cuda.running(order=order):
        assert_equals_reference(case, block)


@pytest.mark.parametrize("case", [Case(tokens=150), Case(tokens=60, dim=260, negative=9, window=12)], ids=str)
def test_the_order_of_threads_does_not_matter(case):
    expected = train(case)
    for order in range(1, 6):
        with emulated_cuda.running(order=order):
            got = train(case)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
        assert torch.equal(torch.stack(got[2]), torch.stack(expected[2]))


@pytest.mark.parametrize("block", [7, 255, 256, 257])
def test_one_worker_gives_the_same_bits_in_blocks_of_any_size(block):
    case = Case(tokens=300, longest=700, sample=1e-2, dim=33, vocabulary=40, epochs=1)
    whole, parts = train(case), train(case, block)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    assert torch.allclose(whole[2][0], parts[2][0], rtol=1e-12)


MANY = Case(tokens=2000, longest=700, sample=1e-2, vocabulary=500, dim=8, epochs=1, alpha=0.025)


@pytest.mark.parametrize(("workers", "host_threads", "resident"), [(2, 1, 2), (7, 1, 4), (40, 1, 16), (16, 2, 4)])
def test_workers_train_on_the_same_samples(workers, host_threads, resident):
    """At a rate of 0 the tables stand still, and the loss is a fingerprint of all windows and their negatives."""
    frozen = dataclasses.replace(MANY, alpha=0.0, min_alpha=0.0)
    one = test_kernel.train(frozen)
    with emulated_cuda.running(host_threads=host_threads, resident=resident):
        many = train(frozen, 777, workers)
    assert torch.equal(many[0], frozen.new_tables()[0])
    assert torch.equal(many[2][0][1:], one[2][0][1:])
    assert many[2][0][0].item() == pytest.approx(one[2][0][0].item(), rel=1e-6)


@pytest.mark.parametrize("workers", [1, 8])
def test_locked_rows_stay_to_the_bit(workers):
    case = dataclasses.replace(MANY, lock=0.5)
    with emulated_cuda.running(resident=8):
        input, output, _ = train(case, 777, workers)
    assert_locked_rows_are_kept(case, input)
    seen = torch.from_numpy(np.bincount(case.ids, minlength=case.vocabulary) > 20)
    before = case.new_tables()
    assert torch.equal((input != before[0]).any(dim=1)[seen], ~case.locked[seen])
    assert (output != before[1]).any(dim=1)[seen].all()


def test_workers_learn_what_the_cpu_learns():
    frozen = test_kernel.train(dataclasses.replace(MANY, alpha=0.0, min_alpha=0.0))[2][0][0]
    one = test_kernel.train(MANY)[2][0]
    with emulated_cuda.running(resident=8):
        many = train(MANY, workers=8)[2][0]
    assert torch.equal(many[1:], one[1:])
    learned = (frozen - one[0]).item()
    assert learned > 0.02 * frozen
    assert many[0].item() == pytest.approx(one[0].item(), abs=0.1 * learned)


# ---- the windows, and what they are made of


@settings(max_examples=30, deadline=None)
@given(
    case=st.builds(
        Case,
        tokens=st.integers(1, 900),
        longest=st.sampled_from([1, 3, 40, 300, 2000]),
        window=st.sampled_from([1, 5, 60, 2000]),
        sample=st.sampled_from([0.0, 1e-2, 1e-3, 1e-6]),
        shrink_window=st.booleans(),
        corpus=st.integers(0, 10**6),
    ),
    edges=st.lists(st.integers(0, 900), min_size=2, max_size=2),
    order=st.integers(0, 3),
)
def test_finds_the_windows_of_the_reference(case, edges, order):
    begin, end = sorted(min(edge, case.tokens) for edge in edges)
    block = {
        "ids": case.ids.ctypes.data, "tokens": case.tokens, "offsets": case.offsets.ctypes.data,
        "sentences": len(case.offsets) - 1, "keep": case.keep.data_ptr(), "vocabulary": case.vocabulary,
        "seed": case.seed, "epoch": 1, "window": case.window, "shrink_window": case.shrink_window,
    }  # fmt: skip
    if begin == end:
        return
    with emulated_cuda.running(order=order, resident=2):
        centres, words, margin = emulated_cuda.find_windows(**block, begin=begin, end=end)
    expected = [each for each in case.reference_windows(1) if begin <= each.centre < end]
    found = []
    for index, (at, word, left, right) in enumerate(centres.tolist()):
        assert case.ids[begin + at] == word == words[margin + index]
        contexts = [*words[left : margin + index], *words[margin + index + 1 : right]]
        if contexts:
            found.append((begin + at, contexts))
    assert found == [(each.centre, case.ids[each.contexts].tolist()) for each in expected]


@pytest.mark.parametrize("first_position", [0, 2**32 - 100, 2**50])
def test_positions_beyond_32_bits(first_position):
    case = Case(tokens=300, longest=300, vocabulary=20, sample=0.01)
    schedule = {**case.schedule, "epochs": 4}
    stats = []
    for module, extra in ((ops, {}), (cuda, {"kernels": emulated_cuda})):
        input, output = case.new_tables()
        stats.append(torch.zeros(3, dtype=torch.float64))
        module.train_block(
            input, output, stats[-1], torch.from_numpy(case.ids), torch.from_numpy(case.offsets), case.keep, case.noise,
            0, 300, first_position, 2**51, 3, **schedule, workers=1, **extra,
        )  # fmt: skip
    assert torch.allclose(*stats, rtol=1e-6)
    assert len(flat(case.reference_windows(0), 5)[0]) > 100


@pytest.mark.parametrize("dim", [1, 3, 4, 100, 301])
def test_initial_weights_are_those_of_the_cpu(dim):
    expected, table = ops.new_table(50, dim), ops.new_table(50, dim)
    ops.initial_weights(expected, 7, 2**40 + 3)
    cuda.initial_weights(table, 7, 2**40 + 3, kernels=emulated_cuda)
    assert torch.equal(table, expected)


# ---- what is refused, and what is not touched


def test_a_word_that_is_none_shows_in_the_loss_and_nothing_is_trained():
    for place in (0, 150, 299):
        case = Case(tokens=300, longest=300, epochs=1)
        case.ids[place] = (case.vocabulary, -1, 2**31 - 1)[place % 3]
        case.__dict__["keep"], case.__dict__["noise"] = Case().keep, Case().noise
        input, _, stats = train(case)
        assert stats[0][0].isnan()
        assert not stats[0][1:].any()
        assert torch.equal(input, case.new_tables()[0])


def test_a_noise_word_that_is_none_shows_in_the_loss():
    case = Case(tokens=300, epochs=1)
    case.noise[:, 0] = 0  # always the alias
    case.noise[5, 1] = case.vocabulary
    _, _, stats = train(case)
    assert stats[0][0].isnan()
    assert stats[0][1] > 0


@pytest.mark.parametrize(
    "offsets",
    [[0, 299], [1, 300], [0, 301], [-5, 300], [0, -5, 300], [0, 2**62], [300, 0], [0, 0], [0, 2**63 - 1, 300]],
)
def test_offsets_that_do_not_fit_show_in_the_loss(offsets):
    case = Case(tokens=300, epochs=1)
    case.__dict__["offsets"] = np.array(offsets)
    _, _, stats = train(case)
    assert stats[0][0].isnan()


def test_a_nan_in_a_table_shows_in_the_loss():
    case = Case(tokens=100, epochs=1)
    input, output = case.new_tables()
    for table in (input, output):
        table[int(case.ids[50]), 7] = float("nan")
        stats = torch.zeros(3, dtype=torch.float64)
        cuda.train_block(
            input, output, stats, torch.from_numpy(case.ids), torch.from_numpy(case.offsets), case.keep, case.noise,
            0, 100, 0, 100, 0, **case.schedule, workers=1, kernels=emulated_cuda,
        )  # fmt: skip
        assert stats[0].isnan()


# ---- the real compiler

LIMITS = {"train_windows": 128}
"""Registers: with 128, sixteen warps fit a multiprocessor."""


@pytest.mark.skipif(not (shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")), reason="no nvcc")
@pytest.mark.skipif("EMBEDTRAIN_SANITIZE" in os.environ, reason="says nothing new with sanitizers")
def test_the_kernels_compile_without_warnings_and_spills():
    script = emulated_cuda.ROOT / "benchmarks" / "registers.py"
    report = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stdout
    rows = re.findall(r"^(sm_\d+) +(\w+) +(\d+) +(\d+) +(\d+)", report, re.M)
    assert {row[0] for row in rows} == {"sm_80", "sm_90", "sm_100"}
    assert {row[1] for row in rows} >= {"train_windows", "keep_tokens", "sum_and_take_margins", "find_windows"}
    for _, kernel, registers, stack, spilled in rows:
        assert int(registers) <= LIMITS.get(kernel, 64)
        assert int(stack) == int(spilled) == 0


@pytest.mark.skipif("EMBEDTRAIN_SANITIZE" in os.environ, reason="sanitizers do not mix")
def test_no_race_in_shared_memory():
    """Under the thread sanitizer, to which each CUDA thread is a thread."""
    program = emulated_cuda.compile_sources("race.cpp", ["-O1", "-fsanitize=thread"], "")
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:3000]
    assert result.stdout.count("loss") == 3
