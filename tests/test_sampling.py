"""Random numbers, the noise distribution, subsampling and window widths, against the reference and the exact chances.

Every draw is a function of (seed, epoch, position, purpose), so the statistical tests always see the same numbers:
with those a p-value is far from the bound or there is a bug.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from embedtrain import ops, reference

pytestmark = pytest.mark.native

draws = torch.ops.embedtrain
seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 2**32 - 1)
# Around the places where the two halves of a position carry, and anywhere.
positions = st.one_of(st.integers(0, 2**62), st.integers(2**32 - 50, 2**32 + 50), st.integers(0, 100))
P_VALUE = 1e-3


def zipf(size, occurrences_of_first=10**8):
    return np.maximum(occurrences_of_first // np.arange(1, size + 1), 1)


def alias_table(counts, exponent=0.75):
    return draws.alias_table(torch.from_numpy(np.asarray(counts, dtype=np.int64)), exponent)


def unsigned(table):
    return table.numpy().view(np.uint32)


# ---- Philox

# Random123's own test vectors (tests/kat_vectors): counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, answer):
    def words(text):
        return [int(word, 16) for word in text.split()]

    # Among others, so that one row cannot leak into the next.
    counters = np.array([[1, 2, 3, 4], words(counter), [5, 6, 7, 8]], dtype=np.uint32)
    assert reference.philox(counters, tuple(words(key)))[1].tolist() == words(answer)


@given(seed=seeds, epoch=epochs, first=positions, window=st.integers(1, 2**31 - 1), n=st.integers(0, 40))
def test_draw_tokens_equals_the_reference(seed, epoch, first, window, n):
    rng = np.random.default_rng(n)
    keep = rng.integers(0, 2**32, 7, dtype=np.uint32)
    keep[:2] = 0, 2**32 - 1
    ids = rng.integers(0, 7, n, dtype=np.int32)
    kept, widths = draws.draw_tokens(
        torch.from_numpy(ids), torch.from_numpy(keep.view(np.int32)), first, window, epoch, seed
    )
    bits = reference.draw(seed, epoch, first + np.arange(n), reference.TOKEN)
    assert kept.dtype == torch.bool
    assert kept.tolist() == (bits[:, 0] <= keep[ids]).tolist()
    assert widths.tolist() == [1 + (int(lane) * window >> 32) for lane in bits[:, 1]]


@given(seed=seeds, epoch=epochs, first=positions, n=st.integers(0, 20), k=st.integers(1, 9), size=st.integers(1, 300))
def test_draw_negatives_equals_the_reference(seed, epoch, first, n, k, size):
    noise = alias_table(zipf(size))
    drawn = draws.draw_negatives(noise, first, n, k, epoch, seed)
    expected = reference.noise_words(seed, epoch, first + np.arange(n), k, unsigned(noise))
    assert drawn.dtype == torch.int32
    assert drawn.tolist() == expected.tolist()


@given(seed=seeds, first=positions, rows=st.integers(0, 5), dim=st.integers(1, 40), padded=st.booleans())
def test_initial_weights_equal_the_reference(seed, first, rows, dim, padded):
    table = ops.new_table(rows, dim) if padded else torch.zeros(rows, dim)
    draws.initial_weights(table, first, seed)
    bits = [reference.draw(seed, 0, first + np.arange(rows), reference.INITIAL, i) for i in range(-(-dim // 4))]
    uniform = (np.concatenate(bits, axis=1)[:, :dim] + 0.5) / 2.0**32
    assert np.array_equal(table.numpy(), ((uniform - 0.5) / dim).astype(np.float32))


@pytest.mark.parametrize("dim", [1, 3, 4, 100, 1024])
def test_initial_weights_are_uniform(dim):
    table = torch.zeros(20_000 // dim + 50, dim)
    draws.initial_weights(table, 0, 5)
    assert np.array_equal(table.numpy(), reference.initial_weights(len(table), dim, 5).astype(np.float32))
    assert table.abs().max() <= 0.5 / dim
    # In float32 the values lie up to 2^-25 / D off; the test sees steps of about 1 / sqrt(n).
    assert stats.kstest(table.numpy().ravel().astype(np.float64) * dim + 0.5, "uniform").pvalue > P_VALUE


# ---- the noise distribution


def probabilities(table):
    """Return the exact chance of each word that an alias table stands for."""
    threshold, alias = unsigned(table).T.astype(np.int64)
    own = (threshold + 1) / 2.0**32
    return (own + np.bincount(alias, weights=1 - own, minlength=len(own))) / len(own)


@pytest.mark.parametrize("exponent", [0.75, 1.0, 0.0, -0.5])
@pytest.mark.parametrize("size", [1, 2, 3, 1000, 50_000, 5_000_000])
def test_alias_table_has_the_exact_probabilities(size, exponent):
    counts = zipf(size)
    exact = reference.noise_probabilities(counts, exponent)
    table = alias_table(counts, exponent)
    error = np.abs(probabilities(table) - exact)
    # All in all: one draw in 2^32 falls otherwise than it should, at most.
    assert error.sum() / 2 <= 2.0**-32
    # Word by word: a threshold is off by up to 2^-32 of a column, and a word may be the alias of many columns. What
    # float64 rounds off in the V sums of the construction (V 2^-53 columns each, at the very worst) falls on one word.
    columns = 1 + np.bincount(unsigned(table)[:, 1], minlength=size)
    over = np.sort(error * size - columns * 2.0**-32)[::-1]
    assert over[0] <= size**2 * 2.0**-53
    assert (over[1:] <= 0).all()


def test_alias_table_of_a_corpus_like_vocabulary():
    """Ties, steps and a long tail of the same count."""
    counts = np.concatenate([np.full(3, 10**12), np.full(100, 12_345), np.arange(5000, 5, -1), np.full(100_000, 5)])
    exact = reference.noise_probabilities(counts, 0.75)
    error = np.abs(probabilities(alias_table(counts)) - exact)
    assert (error <= 2.0**-32 * (1 / len(counts) + exact)).all()


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=50).filter(any), st.floats(-2, 2))
def test_alias_table_of_any_counts(counts, exponent):
    table = alias_table(counts, exponent)
    assert ((unsigned(table)[:, 1] >= 0) & (unsigned(table)[:, 1] < len(counts))).all()
    counts = np.array(counts)
    exact = np.zeros(len(counts))
    exact[counts > 0] = reference.noise_probabilities(counts[counts > 0], exponent)
    got = probabilities(table)
    assert np.abs(got - exact).max() <= 2.0**-31
    assert (got[counts == 0] <= 2.0**-32 / len(counts)).all()  # one draw in V * 2^32: never, in words


@pytest.mark.parametrize("exponent", [0.75, 0.0, -0.5])
def test_words_that_never_occur_are_no_noise(exponent):
    counts = np.array([0, 7, 0, 3, 0, 0])
    drawn = draws.draw_negatives(alias_table(counts, exponent), 0, 20_000, 5, 0, 1)
    assert drawn.unique().tolist() == [1, 3]


@pytest.mark.parametrize("size", [2, 10, 1000, 50_000, 5_000_000])
def test_noise_words_follow_the_distribution(size):
    counts = zipf(size)
    drawn = draws.draw_negatives(alias_table(counts), 10**10, 400_000, 5, 3, 11).numpy()
    # Neighbouring words are put together until about 500 draws are due; a most frequent word stands alone.
    expected = reference.noise_probabilities(counts, 0.75) * drawn.size
    group = (np.cumsum(expected) - expected / 2) // 500
    group = np.unique(group, return_inverse=True)[1]
    observed = np.bincount(group, weights=np.bincount(drawn.ravel(), minlength=size))
    assert stats.chisquare(observed, np.bincount(group, weights=expected)).pvalue > P_VALUE
    # Each of the five draws of a position on its own.
    for k in range(5):
        observed = np.bincount(group[drawn[:, k]], minlength=group.max() + 1)
        assert stats.chisquare(observed, np.bincount(group, weights=expected) / 5).pvalue > P_VALUE


def test_the_only_word_is_the_noise():
    assert not draws.draw_negatives(alias_table([9]), 0, 100, 3, 0, 0).any()


# ---- subsampling and windows


@pytest.mark.parametrize("sample", [1e-5, 1e-3, 0.1, 1.0, 0.0])
def test_keep_thresholds_are_the_exact_probabilities(sample):
    counts = zipf(100_000)
    thresholds = draws.keep_thresholds(torch.from_numpy(counts), sample)
    chance = (unsigned(thresholds).astype(np.float64) + 1) / 2.0**32
    assert np.abs(chance - reference.keep_probabilities(counts, sample)).max() <= 2.0**-32
    # As word2vec.c writes it.
    frequency = counts / counts.sum()
    if sample > 0:
        ran = (np.sqrt(counts / (sample * counts.sum())) + 1) * (sample * counts.sum()) / counts
        assert np.allclose(chance, np.minimum(ran, 1), rtol=0, atol=2.0**-32)
    else:
        assert (chance[frequency > 0] == 1).all()


def test_a_word_without_occurrences_is_kept():
    thresholds = draws.keep_thresholds(torch.tensor([1000, 0, 1]), 1e-3)
    assert unsigned(thresholds)[1] == 2**32 - 1


def test_subsampling_keeps_each_word_at_its_rate():
    rng = np.random.default_rng(0)
    counts = zipf(400, 300_000)
    ids = rng.permutation(np.repeat(np.arange(400, dtype=np.int32), counts))
    thresholds = draws.keep_thresholds(torch.from_numpy(counts), 3e-4)
    kept = draws.draw_tokens(torch.from_numpy(ids), thresholds, 0, 5, 1, 2)[0].numpy()
    chance = reference.keep_probabilities(counts, 3e-4)
    observed = np.bincount(ids[kept], minlength=400)
    always = chance == 1
    assert 100 < (~always).sum() < 300
    assert np.array_equal(observed[always], counts[always])
    z = (observed - counts * chance)[~always] / np.sqrt(counts * chance * (1 - chance))[~always]
    assert stats.chi2.sf((z**2).sum(), len(z)) > P_VALUE
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("window", [1, 2, 5, 8, 10, 60])
def test_window_widths_are_uniform(window):
    n = 300_000
    ids, keep = torch.zeros(n, dtype=torch.int32), torch.full((1,), -1, dtype=torch.int32)
    kept, widths = draws.draw_tokens(ids, keep, 2**33, window, 0, 9)
    assert kept.all()
    assert int(widths.min()) == 1
    assert int(widths.max()) == window
    if window > 1:
        assert stats.chisquare(np.bincount(widths.numpy())[1:]).pvalue > P_VALUE


# ---- independence


def independent(a, b):
    """Return the p-value of two series of small numbers being independent."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    return stats.chi2_contingency(table).pvalue


N = 200_000


def tokens(seed=3, epoch=0, first=0, threshold=2**31 - 1):
    """Return kept (about one in two) and widths, 0 to 7, of many positions."""
    ids, keep = torch.zeros(N, dtype=torch.int32), torch.tensor([threshold], dtype=torch.int32)
    kept, widths = draws.draw_tokens(ids, keep, first, 8, epoch, seed)
    return kept.numpy().astype(int), widths.numpy() - 1


def negatives(seed=3, epoch=0, first=0):
    return draws.draw_negatives(alias_table(zipf(8, 100)), first, N, 5, epoch, seed).numpy()


@pytest.mark.parametrize("lag", [1, 2, 15, 16, 512])
def test_neighbouring_positions_are_independent(lag):
    kept, widths = tokens()
    noise = negatives()
    for series in (kept, widths, noise[:, 0], noise[:, 1], noise[:, 4]):
        assert independent(series[:-lag], series[lag:]) > P_VALUE
    assert independent(noise[:-lag, 4], noise[lag:, 0]) > P_VALUE


def test_purposes_and_lanes_are_independent():
    kept, widths = tokens()
    noise = negatives()
    assert independent(kept, widths) > P_VALUE
    for k in range(5):
        assert independent(kept, noise[:, k]) > P_VALUE
        assert independent(widths, noise[:, k]) > P_VALUE
        for other in range(k):
            assert independent(noise[:, other], noise[:, k]) > P_VALUE


@pytest.mark.parametrize("change", [{"seed": 4}, {"seed": 3 + 2**32}, {"epoch": 1}, {"first": 2**32}, {"first": 2**40}])
def test_seeds_epochs_and_far_positions_are_independent(change):
    for a, b in zip(tokens(), tokens(**change), strict=True):
        assert independent(a, b) > P_VALUE
    noise, other = negatives(), negatives(**change)
    for k in range(5):
        assert independent(noise[:, k], other[:, k]) > P_VALUE


@settings(max_examples=20)
@given(first=st.integers(0, 2**40), cut=st.integers(0, 100))
def test_draws_do_not_depend_on_where_a_call_starts(first, cut):
    noise = alias_table(zipf(50))
    whole = draws.draw_negatives(noise, first, 100, 5, 0, 1)
    parts = (
        draws.draw_negatives(noise, first, cut, 5, 0, 1),
        draws.draw_negatives(noise, first + cut, 100 - cut, 5, 0, 1),
    )
    assert torch.equal(whole, torch.cat(parts))


def test_keep_thresholds_refuse_negative_counts():
    with pytest.raises(ValueError, match="counts must not be negative"):
        draws.keep_thresholds(torch.tensor([5, -1]), 1e-3)
