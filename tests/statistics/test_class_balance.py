"""The class-balanced rate: by hand, at its ends, and how often its interval holds the truth."""

import pytest
import torch

from components.statistics.class_balance import balanced
from components.statistics.intervals import interval


def test_every_class_counts_alike() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    always = balanced((labels == 0).to(torch.uint8), labels)
    assert (always.value, always.num_classes, always.n) == (0.5, 2, 100)
    assert always.low < 0.5 < always.high


def test_of_one_class_it_is_the_plain_rate() -> None:
    labels = torch.full((50,), 3)
    rate = balanced((torch.arange(50) < 30).to(torch.uint8), labels)
    assert (rate.low, rate.high) == pytest.approx(interval(30, 50), abs=1e-6)


@pytest.mark.parametrize("right", [0, 1])
def test_at_its_ends_it_stays_a_share(right: int) -> None:
    labels = torch.arange(40) % 4
    rate = balanced(torch.full((40,), right), labels)
    assert rate.value == right and 0 <= rate.low <= right <= rate.high <= 1 and rate.high - rate.low > 0.05


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """1,000 draws of three classes of other sizes and rates: 95 % of the intervals, three deviations to either side."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 30 + [1] * 60 + [2] * 150)
    rates = torch.tensor([0.3, 0.6, 0.9])
    truth, draws = float(rates.mean()), 1000
    held = 0
    for _ in range(draws):
        rate = balanced(torch.rand(len(labels), generator=rng) < rates[labels], labels)
        held += rate.low <= truth <= rate.high
    assert 0.93 < held / draws < 0.975
