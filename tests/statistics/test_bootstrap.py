"""The paired bootstrap and Spearman's correlation: closed forms, invariances, an independent package."""

import math
import random

import pytest
import torch

from components.statistics.bootstrap import PerImage, means, percentile_interval, rank_intervals, resampled
from components.statistics.rank_correlation import ranks, spearman, spearman_interval


def test_every_resample_has_as_many_images():
    counts = resampled(40, 1, 50)
    assert counts.shape == (50, 40) and (counts.sum(1) == 40).all() and counts.max() > 1
    assert torch.equal(counts, resampled(40, 1, 50)) and not torch.equal(counts, resampled(40, 2, 50))


def test_a_mean_is_over_the_chosen_images():
    measure = PerImage.of(torch.tensor([1.0, math.nan, 3.0]), torch.tensor([True, False, True]))
    assert (measure.n, measure.mean) == (2, 2.0)
    counts = torch.tensor([[1.0, 1, 1], [2, 1, 0], [0, 3, 0]], dtype=torch.float64)
    assert means(measure, counts).tolist()[:2] == [2.0, 1.0] and means(measure, counts)[2].isnan()


def test_the_interval_of_a_share_is_that_of_the_binomial():
    """Of 400 images 100 are right: 1.96 standard errors are 4.2 points."""
    measure = PerImage.of(torch.arange(400) < 100)
    low, high = percentile_interval(means(measure, resampled(400, 0)))
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - half, abs=0.006) and high == pytest.approx(0.25 + half, abs=0.006)


def test_pairing_removes_what_both_share():
    rng = torch.Generator().manual_seed(3)
    one = torch.rand(300, generator=rng)
    counts = resampled(300, 0)
    difference = means(PerImage.of(one + 0.1), counts) - means(PerImage.of(one), counts)
    assert torch.allclose(difference, torch.tensor(0.1, dtype=torch.float64))


def test_places_do_not_depend_on_the_order_and_equal_ones_share_theirs():
    scores = {"a": torch.tensor([3.0, 3, 1]), "b": torch.tensor([2.0, 2, 2]), "c": torch.tensor([2.0, 2, 2])}
    found = rank_intervals(scores)
    assert found == {"a": (1, 3), "b": (1, 2), "c": (1, 2)}
    assert rank_intervals(dict(reversed(scores.items()))) == found


def test_spearman_in_closed_form():
    assert ranks([5, 1, 5, 9]) == [2.5, 1, 2.5, 4]
    assert spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == 1 and spearman([1, 2, 3], [3, 2, 1]) == -1
    # 1 - 6 Σd² / (n (n² - 1)) without ties: d = (0, 1, 1, 0).
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_spearman_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(5)
    for size in (4, 9, 30):
        one, other = ([draw.randrange(12) for _ in range(size)] for _ in range(2))
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)


def test_the_interval_of_a_correlation_is_around_it():
    draw = random.Random(2)
    one = [float(k) for k in range(12)]
    other = [value + draw.gauss(0, 3) for value in one]
    low, high = spearman_interval(one, other, seed=0)
    assert -1 <= low < spearman(one, other) < high <= 1
    assert spearman_interval(one, other, seed=0) == (low, high)
