"""Intervals against closed forms, published values and their own definition."""

import math

import pytest
import torch

from components.statistics import FEW, clopper_pearson, interval, rate, wilson


@pytest.mark.parametrize("n", [1, 2, 10, 360])
def test_none_or_all_right_has_the_closed_form(n: int) -> None:
    bound = 1 - 0.025 ** (1 / n)
    assert clopper_pearson(0, n) == pytest.approx((0, bound), abs=1e-12)
    assert clopper_pearson(n, n) == pytest.approx((1 - bound, 1), abs=1e-12)


@pytest.mark.parametrize(("count", "n"), [(1, 10), (3, 10), (5, 10), (9, 400), (391, 400), (50, 100)])
def test_exact_bounds_leave_a_fortieth_in_each_tail(count: int, n: int) -> None:
    low, high = clopper_pearson(count, n)

    def mass(p: float, counts: range) -> float:
        return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in counts)

    assert mass(low, range(count, n + 1)) == pytest.approx(0.025, abs=1e-9)
    assert mass(high, range(count + 1)) == pytest.approx(0.025, abs=1e-9)


def test_wilson_solves_its_equation() -> None:
    for bound in wilson(30, 100):
        assert abs(0.3 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 100), rel=1e-6)


def test_wilson_matches_a_published_value() -> None:
    # Newcombe (1998, Statistics in Medicine 17), table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("count", range(0, 41))
def test_the_rule_and_its_symmetry(count: int) -> None:
    low, high = interval(count, 40)
    assert 0 <= low <= count / 40 <= high <= 1
    assert interval(40 - count, 40) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    exact = count < FEW or 40 - count < FEW
    assert (low, high) == (clopper_pearson if exact else wilson)(count, 40)


def test_the_exact_interval_stays_right_for_many_images() -> None:
    low, high = interval(9, 1_000_000)
    assert 4.1e-6 < low < 9e-6 < high < 17.2e-6


def test_rate_counts_outcomes() -> None:
    found = rate(torch.tensor([1, 0, 1, 1], dtype=torch.uint8))
    assert (found.value, found.count, found.n) == (0.75, 3, 4)
    assert (found.low, found.high) == clopper_pearson(3, 4)


def test_no_images_have_no_rate() -> None:
    with pytest.raises(AssertionError, match="no rate"):
        rate(torch.tensor([], dtype=torch.uint8))
