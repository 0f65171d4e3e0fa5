from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from heartvit_edge.bench import statistics


@pytest.mark.parametrize("count", [1, 7, 50, 500, 9_000, 600_000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_binomial_law_is_scipys(count, share):
    first, below = statistics.binomial_below(count, share)
    expected = scipy.stats.binom.cdf(np.arange(first, first + len(below)), count, share)
    np.testing.assert_allclose(below, expected, atol=1e-9)


def test_binomial_law_refuses_a_share_of_one():
    with pytest.raises(ValueError, match="share"):
        statistics.binomial_below(10, 1.0)


@pytest.mark.parametrize("count", [50, 100, 500, 501, 777, 2_000, 60_000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_rank_interval_misses_no_more_than_five_percent_and_no_rank_can_be_drawn_in(count, share):
    low, high = statistics.rank_interval(count, share)

    def missed(low, high):
        law = scipy.stats.binom(count, share)
        return law.cdf(low - 1) + law.sf(high - 1)

    assert missed(low, high) <= 0.05 + 1e-9
    assert missed(low + 1, high) > 0.05
    assert missed(low, high - 1) > 0.05


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_percentile_is_the_inverted_empirical_distribution(share):
    samples = np.random.default_rng(0).exponential(size=1000)
    value, low, high = statistics.percentile(samples, share)
    assert value == np.quantile(samples, share, method="inverted_cdf")
    assert low is not None
    assert high is not None
    assert low <= value <= high


def test_percentile_interval_of_the_median_of_ten_is_the_second_and_ninth_value():
    # P(2 <= Binomial(10, 1/2) <= 8) = 0.9785 is the least symmetric cover above 95 % (any textbook's sign-test table).
    value, low, high = statistics.percentile(np.arange(1.0, 11.0), 0.5)
    assert (value, low, high) == (5.0, 2.0, 9.0)


def test_percentile_interval_has_no_end_where_no_sample_can_bound_it():
    _, low, high = statistics.percentile(np.array([1.0, 2.0, 3.0]), 0.9)
    assert low is not None
    assert high is None


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_percentile_interval_covers_the_true_percentile_as_often_as_it_says(share):
    truth, random, hits = -math.log(1 - share), np.random.default_rng(1), 0
    for _ in range(1000):
        _, low, high = statistics.percentile(random.exponential(size=600), share)
        hits += low is not None and high is not None and low <= truth <= high
    assert 930 <= hits <= 970


def test_percentile_refuses_no_samples():
    with pytest.raises(ValueError, match="at least one"):
        statistics.percentile(np.array([]), 0.5)


@pytest.mark.parametrize(("successes", "count"), [(0, 5), (5, 5), (81, 263), (9_500, 10_000)])
def test_wilson_interval_is_scipys(successes, count):
    expected = scipy.stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert statistics.wilson(successes, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_refuses_more_successes_than_draws():
    with pytest.raises(ValueError, match="6 of 5"):
        statistics.wilson(6, 5)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 1001])
@pytest.mark.parametrize("t", [-3.0, 0.0, 0.5, 2.0, 12.0])
def test_student_distribution_is_scipys(freedom, t):
    assert statistics.student_cdf(t, freedom) == pytest.approx(scipy.stats.t.cdf(t, freedom), abs=1e-12)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_half_width_is_the_student_interval_of_scipy(count):
    samples = np.random.default_rng(2).normal(5, 2, count)
    low, high = scipy.stats.t.interval(0.95, count - 1, loc=samples.mean(), scale=scipy.stats.sem(samples))
    assert statistics.half_width(samples.tolist()) == pytest.approx((high - low) / 2, rel=1e-6)


def test_half_width_of_one_sample_is_unknown():
    assert statistics.half_width([3.0]) is None


def test_ratio_of_constant_samples_is_exact_and_certain():
    got = statistics.ratio_of_means(
        [np.full(30, 6.0), np.full(20, 6.0)], [np.full(40, 4.0), np.full(10, 4.0)], np.random.default_rng(0)
    )
    assert got == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (3, 3), (7, 2), (2, 7), (0, 30), (45, 23), (812, 700)])
def test_mcnemar_is_scipys_exact_binomial_test_of_one_half(counts):
    count = sum(counts)
    expected = scipy.stats.binomtest(counts[0], count, 0.5).pvalue if count else 1.0
    assert statistics.mcnemar(*counts) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_ten_thousand_images_that_all_differ_is_zero_and_not_an_error():
    assert statistics.mcnemar(10_000, 0) == 0.0


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="must not be negative"):
        statistics.mcnemar(-1, 3)


def test_ratio_cancels_a_drift_that_both_sides_share():
    # Round r runs r times slower on both sides: unpaired rounds would spread the ratio from 1/6 to 3/2.
    slow = [np.full(25, 1.0 * r) for r in (1, 2, 3)]
    fast = [np.full(25, 2.0 * r) for r in (1, 2, 3)]
    assert statistics.ratio_of_means(slow, fast, np.random.default_rng(0)) == pytest.approx((0.5, 0.5, 0.5))


def test_ratio_interval_of_independent_samples_is_as_wide_as_the_delta_method_says():
    random = np.random.default_rng(3)
    above, below = random.normal(10, 1, 4000), random.normal(5, 1, 4000)
    value, low, high = statistics.ratio_of_means([above], [below], np.random.default_rng(0), num_resamples=4000)
    deviation = value * math.sqrt((1 / 10) ** 2 + (1 / 5) ** 2) / math.sqrt(4000)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_ratio_interval_widens_with_neighbours_that_depend_on_each_other():
    random = np.random.default_rng(4)
    single = random.normal(10, 1, 100)
    repeated = np.repeat(single, 40)  # 4000 samples that carry what 100 do
    shuffled = random.permutation(repeated)
    steady = np.full(10, 5.0)
    widths = []
    for samples in (repeated, shuffled):
        _, low, high = statistics.ratio_of_means([samples], [steady], np.random.default_rng(0))
        widths.append(high - low)
    assert widths[0] > 3 * widths[1]


def test_ratio_interval_is_the_same_for_the_same_seed():
    random = np.random.default_rng(5)
    rounds = [random.normal(10, 1, 50) for _ in range(6)]
    first, again = (statistics.ratio_of_means(rounds[:3], rounds[3:], np.random.default_rng(0)) for _ in range(2))
    assert first == again


def test_ratio_refuses_rounds_that_do_not_pair_up():
    with pytest.raises(ValueError, match="paired"):
        statistics.ratio_of_means([np.ones(3)], [np.ones(3), np.ones(3)], np.random.default_rng(0))
