"""Augmentation of whole batches on the device: crops, flips, RandAugment, CutMix."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components.data.batch import Batch
from components.data.pixels import to_pixels
from components.data.placement import Placement
from components.foundation.params import Share, strict
from components.numerics.random_numbers import shared


@strict
class RandAugment:
    """`num_ops` random operations on each image, of strength `magnitude`, 0 to 30 (Cubuk et al., arXiv 1909.13719)."""

    num_ops: Annotated[int, Field(ge=1, le=100)]  # Random operations on each image.
    magnitude: Annotated[int, Field(ge=0, le=30)]  # Strength of the operations.


@strict
class Augmentation:
    """How each image is changed before a step, in this order: RandAugment, a shift, a flip, CutMix.

    The shift is a random crop after padding by `crop` zero pixels on each side. The flip is horizontal, with
    probability 1/2. `cutmix` is the chance that a box of an image comes from another one (Yun et al., arXiv
    1905.04899); above 0 all labels are probabilities. RandAugment and CutMix help long adversarial training that
    overfits and averages its weights (Rebuffi et al., arXiv 2103.01946); short runs of small models need neither.
    """

    crop: Annotated[int, Field(ge=0, le=1024)]  # Zero pixels added on each side before a random crop.
    flip: bool  # Whether images are flipped horizontally, with probability 1/2.
    cutmix: Share  # Chance that a box of an image comes from another one.
    rand_augment: RandAugment | None  # RandAugment, before the shift; null: none.


def augmented(
    images: Tensor, labels: Tensor, indices: Tensor, augmentation: Augmentation, num_classes: int, rng: torch.Generator
) -> Batch:
    """The batch of uint8 `images` [N, C, H, W] with their int64 `labels` [N], all on the device of `rng`."""
    if augmentation.rand_augment is not None:
        images = rand_augmented(images, augmentation.rand_augment, rng)
    # `placement` describes shifts by whole pixels and flips only; what RandAugment did belongs to the image.
    images, placement = augment(images, augmentation, rng)
    if augmentation.cutmix:
        images, labels = cut_mixed(images, labels, augmentation.cutmix, num_classes, rng)
    return Batch(to_pixels(images), labels, indices, placement)


def augment(images: Tensor, augmentation: Augmentation, rng: torch.Generator) -> tuple[Tensor, Placement]:
    """Each image of [N, C, H, W] shifted by up to `crop` pixels (zeros move in), flipped with probability 1/2."""
    placement = Placement.drawn(images, augmentation.crop, augmentation.flip, rng)
    return placement.moved(images), placement


def rand_augmented(images: Tensor, fields: RandAugment, rng: torch.Generator) -> Tensor:
    """Each uint8 image of [N, C, H, W] after its own random operations; a function of the images and `rng` alone."""
    # torchvision takes seconds to import, which only those who use it should pay.
    from torchvision.transforms.v2 import RandAugment as Operations

    operations = Operations(num_ops=fields.num_ops, magnitude=fields.magnitude)
    # torchvision draws from the global generator of the CPU, which gets our state inside the block.
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(shared(rng).get_state())
        return torch.stack([operations(image) for image in images])


def cut_mixed(
    images: Tensor, labels: Tensor, chance: float, num_classes: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W] with a box of another image of the batch in them, and class probabilities [N, num_classes].

    Each image is mixed with `chance`. The box has the image's aspect ratio and, until the border cuts it, an area
    uniform in [0, 1], which is Beta(1, 1); its middle is uniform too (Yun et al., arXiv 1905.04899, section 3.1). The
    other image's class gets the share of pixels that it gave.
    """
    num, (height, width) = len(images), images.shape[2:]
    mixes, area, middle, center = torch.rand((4, num), generator=rng, device=images.device)
    other = torch.randperm(num, generator=rng, device=images.device)
    side = area.sqrt() * (mixes < chance)
    rows, columns = _inside(height, middle, side), _inside(width, center, side)
    box = rows[:, None, :, None] & columns[:, None, None, :]
    share = box.float().mean((1, 2, 3))[:, None]
    classes = F.one_hot(labels, num_classes).float()
    return torch.where(box, images[other], images), (1 - share) * classes + share * classes[other]


def _inside(size: int, middle: Tensor, side: Tensor) -> Tensor:
    """Which of `size` pixels are in each segment, [N, size]; `middle` and length `side` are shares of `size`, [N]."""
    length = (side * size).floor()
    begin = (middle * size).floor() - (length / 2).floor()
    pixels = torch.arange(size, device=side.device)
    return (pixels >= begin[:, None]) & (pixels < (begin + length)[:, None])
