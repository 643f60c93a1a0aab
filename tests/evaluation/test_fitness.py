"""Whether a network means the same pixels as the data, on a network that knows only one of three forms of them."""

import pytest
import torch
from torch import Tensor, nn

from components.data.normalization import Normalization
from components.data.pixels import to_pixels
from components.data.splits import LabelledImages, Splits
from components.evaluation.one_attack import TestSet
from components.evaluation.outside.fitness import require_pixels_in_unit_range
from components.foundation.errors import InputError

LAYER = Normalization(method="standardize", offset=(0.5,), scale=(0.05,))


class Knows(nn.Module):
    """Answers 1 where the largest pixel, once it is in [0, 1] again, is above a half; `turn` makes it so."""

    def __init__(self, offset: float, scale: float) -> None:
        super().__init__()
        self.offset, self.scale, self.weight = offset, scale, nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        largest = images.flatten(1).amax(1) * self.scale + self.offset
        inside = (largest > 0.2) & (largest < 0.8)
        answer = torch.where(inside, largest - 0.5, -9.0)
        return torch.stack([-answer, answer], 1)


def set_of(count: int) -> tuple[TestSet, Splits]:
    """Images of one grey each, below and above a half in turn."""
    labels = torch.arange(count) % 2
    images = torch.where(labels.bool(), 170, 80).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    part = LabelledImages(images, labels)
    return TestSet(to_pixels(images), labels, 7), Splits("grey", ("dark", "light"), part, part, part, LAYER)


@pytest.mark.parametrize(
    ("offset", "scale", "line"),
    [(0, 1, ""), (0, 1 / 255, "100.0% with pixels of 0 to 255"), (0.5, 0.05, "100.0% with normalised pixels")],
)
def test_only_the_right_pixels_pass(offset, scale, line):
    test, splits = set_of(40)
    if not line:
        require_pixels_in_unit_range(Knows(offset, scale), test, splits, "x")
        return
    with pytest.raises(InputError, match=rf"^x: 50.0% of 40 validation images right with pixels in \[0, 1\], {line}"):
        require_pixels_in_unit_range(Knows(offset, scale), test, splits, "x")


def test_a_few_images_prove_nothing():
    test, splits = set_of(8)
    require_pixels_in_unit_range(Knows(0, 1 / 255), test, splits, "x")
