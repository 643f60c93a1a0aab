"""How augmentation moved each image, so that a perturbation kept for it can be moved in the same way and back."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Placement(NamedTuple):
    """Shifts and flips of a batch: the image is padded by `pad` zeros, cut from row `down` and column `right` on, then
    mirrored where `flipped`; all [N]. `down = right = pad` does not move an image."""

    pad: int
    down: Tensor
    right: Tensor
    flipped: Tensor

    @classmethod
    def still(cls, images: Tensor) -> "Placement":
        """No shift and no flip for any of `images` [N, ...]."""
        zeros = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return cls(0, zeros, zeros, zeros.bool())

    @classmethod
    def drawn(cls, images: Tensor, pad: int, flip: bool, rng: torch.Generator) -> "Placement":
        """A shift of up to `pad` pixels each way and, if asked, a flip with probability 1/2 for each of `images`."""
        still, num, device = cls.still(images), len(images), images.device
        down, right, flipped = still.down, still.right, still.flipped
        if pad:
            down, right = torch.randint(0, 2 * pad + 1, (2, num), generator=rng, device=device)
        if flip:
            flipped = torch.rand(num, generator=rng, device=device) < 0.5
        return cls(pad, down, right, flipped)

    def part(self, places: slice) -> "Placement":
        """The same for some of the images."""
        return Placement(self.pad, self.down[places], self.right[places], self.flipped[places])

    def moved(self, images: Tensor) -> Tensor:
        """Each of [N, C, H, W] as augmentation moves it; zeros move in."""
        if self.pad:
            images = _gathered(F.pad(images, (self.pad,) * 4), self.down, self.right, images.shape[2:])
        return torch.where(self.flipped.view(-1, 1, 1, 1), images.flip(3), images)

    def back(self, moved: Tensor, before: Tensor) -> Tensor:
        """The inverse of `moved`, [N, C, H, W]; what was cut off keeps its value of `before`."""
        moved = torch.where(self.flipped.view(-1, 1, 1, 1), moved.flip(3), moved)
        if not self.pad:
            return moved
        inside = F.pad(torch.ones_like(moved[:, :1]), (self.pad,) * 4)
        up, left = 2 * self.pad - self.down, 2 * self.pad - self.right
        returned = _gathered(F.pad(moved, (self.pad,) * 4), up, left, moved.shape[2:])
        return torch.where(_gathered(inside, up, left, moved.shape[2:]) > 0, returned, before)


def _gathered(padded: Tensor, down: Tensor, right: Tensor, size: torch.Size) -> Tensor:
    device = padded.device
    rows = (down[:, None] + torch.arange(size[0], device=device))[:, :, None]
    columns = (right[:, None] + torch.arange(size[1], device=device))[:, None, :]
    each = torch.arange(len(padded), device=device)[:, None, None]
    # Indexing around the channel axis puts it last: the result is channels-last already.
    return padded[each, :, rows, columns].permute(0, 3, 1, 2)
