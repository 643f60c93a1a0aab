"""Whether a network that names no classes has them in the order of the data, told by what it answers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from components.statistics.intervals import mcnemar

# What chance alone brings less often is no chance.
SIGNIFICANT = 0.01


class Order(NamedTuple):
    """A better order than the one that there is: `answers[k]` is the logit that stands for class k. Of the images,
    `right` are right with it, `right_as_it_is` without, of `n`."""

    answers: list[int]
    right: int
    right_as_it_is: int
    n: int

    def moved(self, classes: Sequence[str], most: int = 3) -> str:
        """Where the first classes are that are elsewhere: `logit 1 is '0', logit 0 is '1'`."""
        pairs = [(logit, classes[label]) for label, logit in enumerate(self.answers) if logit != label]
        said = ", ".join(f"logit {logit} is {name!r}" for logit, name in pairs[:most])
        return said + (f", and {len(pairs) - most} more" if len(pairs) > most else "")


def other_order(predicted: Tensor, labels: Tensor, num_classes: int) -> Order | None:
    """The best order of the classes where it is significantly better than the data's; None where it is not.

    Half of the images choose an order for the other half, and the other way round: with an order chosen on the same
    images a network that knows nothing would look better too. Then McNemar's exact test decides at 1 %. Two classes
    that have changed places are noticed from about eight images of both together on.

    Args:
        predicted: int64 [N], -1 for no answer.
        labels: int64 [N].
        num_classes: of the data, as many as the network has logits.
    """
    predicted, labels = predicted.cpu(), labels.cpu()
    as_it_is = predicted == labels
    ordered = torch.zeros_like(as_it_is)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - half.start, None, 2)
        order = best_order(confusion(predicted[other], labels[other], num_classes))
        ordered[half] = predicted[half] == torch.tensor(order)[labels[half]]
    gained, lost = int((ordered & ~as_it_is).sum()), int((as_it_is & ~ordered).sum())
    if gained <= lost or mcnemar(lost, gained) >= SIGNIFICANT:
        return None
    best = best_order(confusion(predicted, labels, num_classes))
    right = int((predicted == torch.tensor(best)[labels]).sum())
    return Order(best, right, int(as_it_is.sum()), len(labels))


def confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> np.ndarray:
    """How many images of each class got which answer, int64 [K, K]: row the label, column the answer."""
    answered = predicted >= 0
    places = labels[answered] * num_classes + predicted[answered]
    return torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes).numpy()


def best_order(counts: np.ndarray) -> list[int]:
    """To each row a column of its own, so that the chosen entries of [K, K] have the largest sum.

    The rows themselves where nothing is better. Shortest augmenting paths, one for each row, with prices that keep
    what is left of every cost at 0 or more (Kuhn, 1955; Jonker & Volgenant, 1987): K³ operations.
    """
    num, rows = len(counts), np.arange(len(counts))
    as_it_is = np.trace(counts)
    if as_it_is == counts.max(1).sum():
        return rows.tolist()
    costs = (counts.max() - counts).astype(np.float64)
    row_prices, column_prices = np.zeros(num), np.zeros(num)
    row_of = np.full(num, -1)
    for row in range(num):
        _augment(costs, row, row_prices, column_prices, row_of)
    order = np.argsort(row_of)
    return (order if counts[rows, order].sum() > as_it_is else rows).tolist()


def _augment(
    costs: np.ndarray, first: int, row_prices: np.ndarray, column_prices: np.ndarray, row_of: np.ndarray
) -> None:
    """Gives row `first` a column, by the cheapest chain of rows that change theirs; moves prices and `row_of`."""
    num = len(costs)
    distance, before, known = np.full(num, np.inf), np.full(num, -1), np.zeros(num, bool)
    row, column, along = first, -1, 0.0
    while True:
        reached = along + costs[row] - row_prices[row] - column_prices
        shorter = ~known & (reached < distance)
        distance[shorter], before[shorter] = reached[shorter], column
        column = int(np.where(known, np.inf, distance).argmin())
        along = distance[column]
        if row_of[column] < 0:
            break
        known[column], row = True, row_of[column]
    row_prices[first] += along
    row_prices[row_of[known]] += along - distance[known]
    column_prices[known] -= along - distance[known]
    while column >= 0:
        row_of[column] = first if before[column] < 0 else row_of[before[column]]
        column = before[column]
