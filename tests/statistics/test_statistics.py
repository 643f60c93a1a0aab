"""Intervals and tests against closed forms, published values and their own definition."""

import math
from fractions import Fraction
from statistics import NormalDist

import pytest
import torch

from components.statistics.intervals import (
    FEW,
    clopper_pearson,
    detectable_paired,
    detectable_unpaired,
    holm,
    interval,
    mcnemar,
    mean_difference,
    paired,
    spread,
    t_quantile,
    tango,
    wilson,
)
from components.statistics.outcomes import share


def test_the_mean_of_paired_differences_by_hand() -> None:
    a, b = torch.tensor([0.5, 1, 0, 1]), torch.tensor([1, 1, 0.5, 0])
    half = 1.959963984540054 * math.sqrt((0.25 + 0 + 0.25 + 1) / 4) / 2
    assert mean_difference(a, b) == pytest.approx((0, -half, half))
    assert mean_difference(torch.zeros(3), torch.ones(3)) == (1, 1, 1)
    assert mean_difference(torch.tensor([0.0, 1]), torch.tensor([1.0, 1]))[2] == 1


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
    found = share(torch.tensor([1, 0, 1, 1], dtype=torch.uint8), float)
    assert (found.value, found.count, found.n) == (0.75, 3, 4)
    assert (found.low, found.high) == clopper_pearson(3, 4)


def test_no_images_have_no_rate() -> None:
    with pytest.raises(AssertionError, match="no rate"):
        share(torch.tensor([], dtype=torch.uint8))


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (7, 1), (3, 9), (6, 6), (120, 150), (0, 0)])
def test_mcnemar_is_a_fair_coin(only_a: int, only_b: int) -> None:
    discordant, fewer = only_a + only_b, min(only_a, only_b)
    tail = Fraction(sum(math.comb(discordant, k) for k in range(fewer + 1)), 2**discordant)
    assert mcnemar(only_a, only_b) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-10)
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_mcnemar_of_many_images_neither_under_nor_overflows() -> None:
    # The normal approximation with continuity correction: z = 199 / sqrt(10200).
    assert mcnemar(5000, 5200) == pytest.approx(2 * (1 - NormalDist().cdf(199 / math.sqrt(10_200))), rel=1e-3)
    assert mcnemar(0, 1000) == pytest.approx(2.0**-999, rel=1e-9)


@pytest.mark.parametrize(
    ("only_a", "only_b", "n", "low", "high"),
    [
        # The example of Newcombe (1998) and Tango (1998): 9 and 3 of 32 pairs.
        (3, 9, 32, -0.027, 0.390),
        # Fagerland, Lydersen and Laake (2017, table 8.2, Bentur et al.): 1 and 7 of 21 pairs.
        (7, 1, 21, -0.517, -0.026),
    ],
)
def test_tango_matches_published_values(only_a: int, only_b: int, n: int, low: float, high: float) -> None:
    assert tango(only_a, only_b, n) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize("n", [1, 5, 359])
def test_tango_without_discordant_images_has_a_closed_form(n: int) -> None:
    square = 1.959964**2
    assert tango(0, 0, n) == pytest.approx((-square / (n + square), square / (n + square)), rel=1e-6)


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(4, 11, 60), (0, 5, 40), (30, 30, 100), (2, 90, 359)])
def test_tango_ends_where_the_score_test_does(only_a: int, only_b: int, n: int) -> None:
    """The bounds against the score test with its nuisance share found by plain search instead of a formula."""
    for delta in tango(only_a, only_b, n):
        start = max(0.0, -delta)
        shares = [start + (1 - abs(delta)) / 2 * step / 20_000 for step in range(1, 20_000)]

        def log_likelihood(alone: float, delta: float = delta) -> float:
            both = [(only_a, alone), (only_b, alone + delta), (n - only_a - only_b, 1 - 2 * alone - delta)]
            return sum(count * math.log(share) for count, share in both if count)

        alone = max(shares, key=log_likelihood)
        score = (only_b - only_a - n * delta) / math.sqrt(n * (2 * alone + delta * (1 - delta)))
        assert abs(score) == pytest.approx(1.959964, abs=2e-3)


def test_tango_turns_with_its_models_and_agrees_with_the_test() -> None:
    for discordant in range(41):
        for only_a in range(discordant + 1):
            only_b = discordant - only_a
            low, high = tango(only_a, only_b, 50)
            assert -1 <= low <= (only_b - only_a) / 50 <= high <= 1
            assert tango(only_b, only_a, 50) == (-high, -low)
            holds_zero = low <= 1e-12 and high >= -1e-12
            assert holds_zero == ((only_b - only_a) ** 2 <= 1.959964**2 * discordant)
            assert not (holds_zero and mcnemar(only_a, only_b) < 0.05), "the exact test is the stricter one"


@pytest.mark.parametrize(("share_a", "share_b"), [(0.05, 0.05), (0.02, 0.1), (0.15, 0.25), (0.3, 0.3)])
def test_tango_covers_the_truth_in_95_percent(share_a: float, share_b: float) -> None:
    """Exactly: summed over every possible outcome of 60 images, not sampled. It is 93.5 % to 97 %, by the shares."""
    n, covered = 60, 0.0
    for only_a in range(n + 1):
        for only_b in range(n + 1 - only_a):
            rest = n - only_a - only_b
            orders = math.lgamma(n + 1) - sum(math.lgamma(count + 1) for count in (only_a, only_b, rest))
            logs = only_a * math.log(share_a) + only_b * math.log(share_b) + rest * math.log1p(-share_a - share_b)
            if (chance := math.exp(orders + logs)) > 1e-7:
                low, high = tango(only_a, only_b, n)
                covered += chance * (low <= share_b - share_a <= high)
    assert 0.934 < covered < 0.975


def test_paired_counts_discordant_images() -> None:
    a, b = torch.tensor([1, 1, 0, 0, 1], dtype=torch.uint8), torch.tensor([1, 0, 1, 1, 1], dtype=torch.uint8)
    found = paired(a, b)
    assert (found.only_a, found.only_b, found.n, found.value) == (1, 2, 5, pytest.approx(0.2))
    assert (found.low, found.high) == tango(1, 2, 5)
    assert found.p == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


# Student's table, as printed in every textbook: two-sided 95 % and one-sided 90 %.
@pytest.mark.parametrize(
    ("freedom", "p975", "p90"),
    [
        (1, 12.706, 3.078),
        (2, 4.303, 1.886),
        (3, 3.182, 1.638),
        (4, 2.776, 1.533),
        (9, 2.262, 1.383),
        (29, 2.045, 1.311),
        (30, 2.042, 1.310),
        (120, 1.980, 1.289),
    ],
)
def test_t_matches_the_table(freedom: int, p975: float, p90: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(p975, abs=6e-4)
    assert t_quantile(0.9, freedom) == pytest.approx(p90, abs=6e-4)
    assert t_quantile(0.025, freedom) == pytest.approx(-t_quantile(0.975, freedom), rel=1e-9)


def test_t_has_closed_forms_and_a_normal_limit() -> None:
    assert t_quantile(0.8, 1) == pytest.approx(math.tan(0.3 * math.pi), rel=1e-12)
    assert t_quantile(0.8, 2) == pytest.approx(0.6 * math.sqrt(2 / (1 - 0.36)), rel=1e-12)
    assert t_quantile(0.975, 100_000) == pytest.approx(1.959964, abs=5e-5)
    assert t_quantile(0.5, 7) == pytest.approx(0, abs=1e-12)


def test_spread_over_seeds_by_hand() -> None:
    found = spread([0.50, 0.52, 0.54])
    assert (found.mean, found.deviation, found.n) == (pytest.approx(0.52), pytest.approx(0.02), 3)
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(0.52 - half), pytest.approx(0.52 + half))
    assert spread([0.5, 0.5]).low == 0.5
    with pytest.raises(AssertionError, match="single value"):
        spread([0.5])


def power(delta: float, discordant: float, n: int) -> float:
    """The exact chance that the exact test gives p below 5 %, over every number of discordant images and its split."""

    def mass(count: int, of: int, p: float) -> float:
        logs = math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)
        return math.exp(logs + count * math.log(p) + (of - count) * math.log1p(-p))

    found, towards_b = 0.0, (discordant + delta) / (2 * discordant)
    for total in range(1, n + 1):
        if (chance := mass(total, n, discordant)) > 1e-6:
            rejected = [k for k in range(total + 1) if mcnemar(k, total - k) < 0.05]
            found += chance * sum(mass(k, total, towards_b) for k in rejected)
    return found


@pytest.mark.parametrize(("discordant", "n"), [(0.05, 359), (0.1, 359), (0.4, 100)])
def test_the_detectable_difference_is_found_in_80_percent(discordant: float, n: int) -> None:
    delta = detectable_paired(discordant, n)
    assert 0.77 < power(delta, discordant, n) < 0.84
    assert power(delta / 2, discordant, n) < 0.4


def test_detectable_differences_grow_with_scatter_and_shrink_with_images() -> None:
    by_images = [detectable_paired(0.1, n) for n in (10, 100, 1000, 10_000)]
    assert by_images == sorted(by_images, reverse=True)
    assert by_images[2] / by_images[3] == pytest.approx(math.sqrt(10), rel=0.05)
    assert detectable_paired(0.05, 500) < detectable_paired(0.1, 500) < detectable_unpaired(0.5, 500, 500)
    assert detectable_paired(0.0, 500) == detectable_paired(0.001, 500), "a difference is discordant itself"
    assert detectable_paired(0.1, 1) == pytest.approx(1)


@pytest.mark.parametrize(("discordant", "n"), [(0.4, 30), (0.1, 359), (0.02, 10_000)])
def test_the_detectable_difference_solves_connors_equation(discordant: float, n: int) -> None:
    delta = detectable_paired(discordant, n)
    normal = (1.959964 * math.sqrt(discordant) + 0.841621 * math.sqrt(discordant - delta**2)) ** 2 / delta**2
    assert normal + 1 / delta == pytest.approx(n, rel=1e-5)


def test_the_unpaired_detectable_difference_solves_its_equation() -> None:
    delta = detectable_unpaired(0.9, 400, 400)
    mean = 0.9 - delta / 2
    spread_of_both = 1.959964 * math.sqrt(2 * mean * (1 - mean))
    needed = ((spread_of_both + 0.841621 * math.sqrt(0.09 + (0.9 - delta) * (0.1 + delta))) / delta) ** 2
    assert needed == pytest.approx(400, rel=1e-4)
    assert detectable_unpaired(0.9, 400, 400) == pytest.approx(detectable_unpaired(0.1, 400, 400))
    assert detectable_unpaired(0.5, 2, 2) == 1
