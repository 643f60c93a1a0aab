"""`temper.load`: models that the pipeline has trained."""

from pathlib import Path

import torch
from torch import nn

from components.models.parts.model_file import load_model


def load(path: Path | str, device: torch.device | str = "cpu") -> nn.Module:
    """The model of a file that a training stage wrote, in evaluation mode, on the device.

    It takes pixels in [0, 1], [N, C, H, W], normalises them itself and returns logits [N, K].

    >>> import temper
    >>> temper.load("none.safetensors")
    Traceback (most recent call last):
    components.foundation.errors.InputError: none.safetensors: no such file

    Errors: `temper.InputError`, one line: a missing, truncated or foreign file, weights that do not fit.
    """
    return load_model(path, device)[0]
