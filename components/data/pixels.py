"""Stored images as pixels."""

import torch
from torch import Tensor


def to_pixels(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], channels last in memory (the layout convolutions are fastest in)."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)
