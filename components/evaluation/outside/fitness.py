"""Whether a network from outside means by pixels and by classes what the data mean, told by what it answers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from components.data.normalization import Normalize
from components.data.splits import Splits
from components.evaluation.one_attack import TestSet, predict
from components.evaluation.outside.class_order import SIGNIFICANT, other_order
from components.foundation.errors import InputError
from components.statistics.intervals import mcnemar

# A share of the images that other pixels must gain: a contrast that suits a network a little better is no mistake.
LEAST_GAIN = 0.1


def require_pixels_in_unit_range(model: nn.Module, test: TestSet, splits: Splits, where: str) -> None:
    """Refuses a network that knows the images only when their pixels are other numbers than those in [0, 1]."""
    right = _answers(model, test, lambda images: images) == test.labels
    others: dict[str, Callable[[Tensor], Tensor]] = {"pixels of 0 to 255": lambda images: images * 255}
    if splits.normalization.method != "none":
        layer = Normalize(splits.normalization).to(test.labels.device)
        others["normalised pixels"] = layer
    for name, change in others.items():
        try:
            better = _answers(model, test, change) == test.labels
        except (InputError, RuntimeError):  # a program that asserts its range
            continue
        gained, lost = int((better & ~right).sum()), int((right & ~better).sum())
        if gained - lost >= LEAST_GAIN * len(right) and mcnemar(lost, gained) < SIGNIFICANT:
            raise InputError(
                f"{where}: {_share(right)} of {len(right)} validation images right with pixels in [0, 1], "
                f"{_share(better)} with {name} (want a network that takes [0, 1]: say its normalization)"
            )


def require_class_order(predicted: Tensor, labels: Tensor, classes: tuple[str, ...], where: str) -> None:
    """Refuses a network whose logits stand for the classes in another order than the data's."""
    if (found := other_order(predicted, labels, len(classes))) is not None:
        raise InputError(
            f"{where}: its classes are in another order than the data's: {found.right_as_it_is / found.n:.1%} of "
            f"{found.n} validation images are right as it is, {found.right / found.n:.1%} if {found.moved(classes)}"
        )


def _answers(model: nn.Module, test: TestSet, change: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([predict(model, change(images)) for images, _, _ in test.batches()])


def _share(right: Tensor) -> str:
    return f"{right.float().mean().item():.1%}"
