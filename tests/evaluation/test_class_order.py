"""The order of classes by what a network answers: the assignment against an oracle, and what chance does not show."""

import numpy as np
import pytest
import torch

from components.evaluation.outside.class_order import best_order, confusion, other_order

linear_sum_assignment = pytest.importorskip("scipy.optimize").linear_sum_assignment


@pytest.mark.parametrize("size", [2, 3, 7, 40])
@pytest.mark.parametrize("largest", [2, 5, 1000])
def test_the_assignment_is_the_best_there_is(size, largest):
    rng = np.random.default_rng(size * largest)
    for _ in range(20):
        counts = rng.integers(0, largest, (size, size))
        order = best_order(counts)
        assert sorted(order) == list(range(size))
        assert counts[np.arange(size), order].sum() == counts[linear_sum_assignment(counts, maximize=True)].sum()


def test_the_order_stays_where_another_is_no_better():
    assert best_order(np.ones((4, 4), int)) == [0, 1, 2, 3]
    assert best_order(np.array([[2, 3, 0], [3, 4, 0], [0, 0, 1]])) == [0, 1, 2]


def answered(order: list[int], n: int, knows: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers of a network that gives class k as `order[k]` for a share of the images, else anything; labels."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(order), (n,), generator=rng)
    anything = torch.randint(len(order), (n,), generator=rng)
    known = torch.rand(n, generator=rng) < knows
    return torch.where(known, torch.tensor(order)[labels], anything), labels


@pytest.mark.parametrize("order", [[1, 0, 2, 3, 4], [4, 3, 2, 1, 0], [1, 2, 3, 4, 0]])
@pytest.mark.parametrize("knows", [0.5, 1])
def test_classes_that_changed_places_are_noticed(order, knows):
    predicted, labels = answered(order, 179, knows)
    found = other_order(predicted, labels, 5)
    assert found is not None and found.answers == order and found.n == 179
    assert found.right > 0.5 * 179 > found.right_as_it_is or order == [1, 0, 2, 3, 4]
    assert found.right_as_it_is == int((predicted == labels).sum())


@pytest.mark.parametrize("knows", [0, 0.1, 0.5, 1])
def test_a_network_that_knows_little_has_no_other_order(knows):
    """An order that is chosen and judged on the same images would be better than chance every time."""
    refused = [other_order(*answered(list(range(10)), 100, knows, seed), 10) is not None for seed in range(100)]
    assert sum(refused) <= 3


def test_one_answer_for_all_and_none_at_all():
    labels = torch.arange(60) % 3
    assert other_order(torch.zeros(60, dtype=torch.int64), labels, 3) is None
    assert other_order(torch.full((60,), -1), labels, 3) is None
    assert confusion(torch.tensor([-1, 2]), torch.tensor([0, 1]), 3).sum() == 1


def test_the_words_name_the_first_classes_that_moved():
    predicted, labels = answered([1, 0, 2], 100, 1)
    found = other_order(predicted, labels, 3)
    assert found is not None and found.moved(("ant", "bee", "cow")) == "logit 1 is 'ant', logit 0 is 'bee'"
    assert found.moved(("ant", "bee", "cow"), most=1) == "logit 1 is 'ant', and 1 more"
