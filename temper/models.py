"""`temper.load`: models that the pipeline has trained."""

from pathlib import Path

import torch
from torch import nn

from components.deployment.pixel_range import refusing
from components.foundation.errors import InputError
from components.models.parts.model_file import load_model
from temper.arrays import require


def load(path: Path | str, device: torch.device | str = "cpu", checked: bool = True) -> nn.Module:
    """The model of a file that a training stage wrote, in evaluation mode, on the device.

    It takes pixels in [0, 1], [N, C, H, W], normalises them itself and returns logits [N, K]. Images outside [0, 1] are
    refused (`InputError`). On a GPU that waits for each batch; with `checked=False` nothing is looked at.

    >>> import temper
    >>> temper.load("none.safetensors")
    Traceback (most recent call last):
    components.foundation.errors.InputError: none.safetensors: no such file

    Errors: `temper.InputError`, one line: a missing, truncated or foreign file, weights that do not fit.
    """
    require("path", path, (str, Path), "a path")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device: got {device!r}, want a torch.device, or text such as cpu or cuda:0") from None
    model = load_model(path, place)[0]
    return refusing(model) if checked else model
