"""Intervals around what was measured, in plain Python and numpy: no scipy on a board."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Confidence of every interval of this module."""

NORMAL_QUANTILE = 1.959963984540054
"""Of the standard normal distribution at (1 + CONFIDENCE) / 2."""


def binomial_below(count: int, share: float) -> tuple[int, NDArray[np.float64]]:
    """Return the binomial law of draws that succeed with ``share``, as far as it has mass.

    Args:
        count: Draws, at least one.
        share: In (0, 1).

    Returns:
        A number k of successes, and P(X <= k), P(X <= k + 1), ... over the 12 standard deviations (and 12) on either
        side of the mean, outside of which less than 1e-12 lies.

    Raises:
        ValueError: If ``share`` is outside (0, 1), or ``count`` is below one.
    """
    if not (0 < share < 1 and count >= 1):
        raise ValueError(f"expected 0 < share < 1 <= count, found {share}, {count}")
    reach = 12 * math.sqrt(count * share * (1 - share)) + 12
    first = max(0, math.floor(count * share - reach))
    last = min(count, math.ceil(count * share + reach))
    log_choices = math.lgamma(count + 1) - math.lgamma(first + 1) - math.lgamma(count - first + 1)
    mass = math.exp(log_choices + first * math.log(share) + (count - first) * math.log1p(-share))
    masses = [mass]
    for k in range(first, last):
        mass *= (count - k) / (k + 1) * share / (1 - share)
        masses.append(mass)
    return first, np.minimum(np.cumsum(masses), 1.0)


def rank_interval(count: int, share: float) -> tuple[int, int]:
    """Return the ranks of the two order statistics between which a percentile lies with CONFIDENCE, counted from 1.

    The rank k covers where at most k - 1 samples lie below the percentile. Both tails begin with at most half of what
    the interval may miss; then one end is drawn in where the two together still miss no more, since ranks are whole
    numbers and the interval would cover more than it says.

    Returns:
        The lower rank, 0 where no sample bounds the percentile from below, and the upper, ``count`` + 1 likewise.
    """
    first, below = binomial_below(count, share)
    miss = 1 - CONFIDENCE

    def at_most(k: int) -> float:
        return 0.0 if k < first else float(below[min(k - first, len(below) - 1)])

    lower = first + int(np.searchsorted(below, miss / 2))
    upper = first + int(np.searchsorted(below, 1 - miss / 2)) + 1
    tails = {
        (low, high): at_most(low - 1) + 1 - at_most(high - 1)
        for low in (lower, lower + 1)
        for high in (upper, upper - 1)
    }
    return max(
        (ranks for ranks, missed in tails.items() if missed <= miss and ranks[0] < ranks[1]), key=tails.__getitem__
    )


def percentile(samples: NDArray[np.float64], share: float) -> tuple[float, float | None, float | None]:
    """Return a percentile with its distribution-free confidence interval from order statistics.

    The percentile is the smallest sample that at least ``share`` of the samples do not exceed. The interval runs
    between the two order statistics that ``rank_interval`` picks; it holds for samples that are independent.

    Args:
        samples: Shape (N,), in any order, at least one.
        share: In (0, 1); 0.5 is the median.

    Returns:
        The percentile, and the interval's ends; an end is None where there are too few samples for one.

    Raises:
        ValueError: If there is no sample.

    Source:
        David and Nagaraja (2003), Order Statistics, section 7.1.
    """
    if samples.size == 0:
        raise ValueError("a percentile needs at least one sample")
    ordered = np.sort(samples)
    count = len(ordered)
    # Without the margin 0.9 * 10 would round up to rank 10.
    value = float(ordered[max(math.ceil(share * count - 1e-9), 1) - 1])
    lower_rank, upper_rank = rank_interval(count, share)
    low = float(ordered[lower_rank - 1]) if lower_rank >= 1 else None
    high = float(ordered[upper_rank - 1]) if upper_rank <= count else None
    return value, low, high


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Return the Wilson score interval of a share.

    Args:
        successes: 0 .. count.
        count: At least one.

    Returns:
        Its ends, in [0, 1].

    Raises:
        ValueError: If ``successes`` is outside 0 .. ``count`` or ``count`` is below one.

    Source:
        Wilson (1927), JASA 22(158).
    """
    if not (0 <= successes <= count and count >= 1):
        raise ValueError(f"expected 0 <= successes <= count and 1 <= count, found {successes} of {count}")
    share, z2 = successes / count, NORMAL_QUANTILE**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL_QUANTILE / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value that two answerers of the same questions are right equally often.

    Questions that both answer right, or both wrong, say nothing; were the two equal, each of the others would be either
    one's with probability one half.

    Args:
        only_first: Questions that the first alone answers right.
        only_second: Questions that the second alone answers right.

    Returns:
        In [0, 1]; 1 where there is no such question.

    Raises:
        ValueError: If a count is negative.

    Source:
        McNemar (1947), Psychometrika 12(2), with the binomial law in place of its normal limit.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"counts must not be negative, found {only_first} and {only_second}")
    count = only_first + only_second
    choices = total = 1
    for k in range(min(only_first, only_second)):
        choices = choices * (count - k) // (k + 1)
        total += choices
    return min(1.0, 2 * total / (1 << count))


def student_cdf(t: float, freedom: int) -> float:
    """Return P(T <= t) of Student's distribution with a whole number of degrees of freedom.

    Source:
        Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(freedom))
    cosine2 = math.cos(theta) ** 2
    if freedom % 2:
        term, total = math.cos(theta), 0.0
        for k in range(1, freedom - 1, 2):
            total += term
            term *= cosine2 * (k + 1) / (k + 2)
        between = 2 / math.pi * (theta + math.sin(theta) * total)
    else:
        term, total = 1.0, 0.0
        for k in range(0, freedom - 1, 2):
            total += term
            term *= cosine2 * (k + 1) / (k + 2)
        between = math.sin(theta) * total
    return (1 + between) / 2


def half_width(samples: Sequence[float]) -> float | None:
    """Return half of the Student interval around the mean of independent samples, in their unit; None below two."""
    count = len(samples)
    if count < 2:
        return None
    deviation = float(np.std(np.asarray(samples, dtype=np.float64), ddof=1))
    return _student_quantile(count - 1) * deviation / math.sqrt(count)


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None]:
    """Return mean(first) - mean(second) of independent samples, and half of Welch's interval around it.

    Args:
        first: At least one sample.
        second: Likewise; the two need not be as many or vary alike.

    Returns:
        The difference, and half of its interval; None where either has fewer than two samples.

    Source:
        Welch (1947), Biometrika 34(1-2); degrees of freedom rounded down.
    """
    value = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2:
        return value, None
    parts = [float(np.var(np.asarray(one, dtype=np.float64), ddof=1)) / len(one) for one in (first, second)]
    variance = sum(parts)
    if variance == 0:
        return value, 0.0
    freedom = variance**2 / sum(part**2 / (len(one) - 1) for part, one in zip(parts, (first, second), strict=True))
    return value, _student_quantile(max(1, math.floor(freedom + 1e-9))) * math.sqrt(variance)


def _student_quantile(freedom: int) -> float:
    """Return the quantile of Student's distribution at (1 + CONFIDENCE) / 2."""
    low, high = 0.0, 1000.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < (1 + CONFIDENCE) / 2 else (low, middle)
    return high


def ratio_of_means(
    numerator: Sequence[NDArray[np.float64]],
    denominator: Sequence[NDArray[np.float64]],
    generator: np.random.Generator,
    num_resamples: int = 1000,
) -> tuple[float, float, float]:
    """Return the ratio of two means with its bootstrap interval.

    The samples come in rounds that were measured side by side (A B, A B, ...). Each resample draws rounds with
    replacement, the same for both sides, so that drift between rounds cancels; then, within each drawn round,
    circular blocks of about sqrt(n) neighbouring samples, since neighbours are not independent.

    Args:
        numerator: One array of shape (N_r,) a round.
        denominator: As many rounds, each of its own length.
        generator: Source of every draw.
        num_resamples: Bootstrap resamples.

    Returns:
        mean(numerator) / mean(denominator), and the 2.5 % and 97.5 % percentiles over the resamples.

    Raises:
        ValueError: If the rounds do not pair up or one is empty.

    Source:
        Politis and Romano (1992), A circular block-resampling procedure for stationary data.
    """
    if not numerator or len(numerator) != len(denominator) or any(a.size == 0 for a in (*numerator, *denominator)):
        raise ValueError(f"expected paired rounds of samples, found {len(numerator)} and {len(denominator)}")
    rounds = generator.integers(len(numerator), size=(num_resamples, len(numerator)))
    value = np.concatenate(numerator).mean() / np.concatenate(denominator).mean()
    drawn = _mean_of_resamples(numerator, rounds, generator) / _mean_of_resamples(denominator, rounds, generator)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(value), float(low), float(high)


def _mean_of_resamples(
    samples: Sequence[NDArray[np.float64]], rounds: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean of each resample, shape (R,), for the rounds of shape (R, K) that it drew."""
    sums = np.zeros(rounds.shape)
    counts = np.zeros(rounds.shape)
    for index, values in enumerate(samples):
        drawn = rounds == index
        length = max(1, round(math.sqrt(len(values))))
        # Mean of the circular block that begins at each sample.
        running = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: length - 1]]))])
        blocks = (running[length:] - running[:-length]) / length
        starts = generator.integers(len(values), size=(int(drawn.sum()), math.ceil(len(values) / length)))
        sums[drawn] = blocks[starts].mean(axis=1) * len(values)
        counts[drawn] = len(values)
    means: NDArray[np.float64] = sums.sum(axis=1) / counts.sum(axis=1)
    return means
