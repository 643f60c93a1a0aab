"""What a caller hands over: images, labels, a threat model, a device. Mistakes are one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.params import MAX_SEED
from components.threats import NORMS
from components.threats.parts.threat import Threat, read_threat, require_pixels

Array = Tensor | np.ndarray[Any, Any]


def require(name: str, given: object, kind: type | tuple[type, ...], want: str) -> None:
    """Returns if an argument is of a kind. Error: its name, what was given, what is wanted."""
    if not isinstance(given, kind):
        raise InputError(f"{name}: got {_shown(given)}, want {want}")


def require_whole(least: int, **given: object) -> None:
    """Returns if these arguments are whole numbers, and none is below `least`."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise InputError(f"{name}: got {_shown(value)}, want a whole number, at least {least}")


def require_seed(seed: object) -> None:
    """Returns if this is a whole number that a seed may be, here and in params.yaml."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) <= MAX_SEED:
        raise InputError(f"seed: got {_shown(seed)}, want a whole number, 0 to {MAX_SEED}")


def require_all(model: object, folder: object = None, note: object = print) -> None:
    """Returns if what several functions take is of its kind: a model, a folder or none, a function of a line."""
    require("model", model, nn.Module, "a torch.nn.Module")
    require("folder", folder, (str, Path, type(None)), "a path, or None")
    require("note", note, Callable, "a function that takes a line")  # pyright: ignore[reportArgumentType]


def _shown(value: object) -> str:
    """A value as an error shows it: short ones themselves, of others the type."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else type(value).__name__


def _tensor(name: str, given: object) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}: got {_shown(given)}, want a tensor or an array of numbers") from None


def threat(given: Threat | str) -> Threat:
    """The threat model of text such as `linf:8/255`; one that is given already stays as it is.

    Errors: another form, an unknown norm, a radius that the norm does not have.
    """
    if isinstance(given, Threat):
        return given
    norm, colon, epsilon = str(given).partition(":")
    if not colon:
        raise InputError(f"threat: got {given!r}, want NORM:EPSILON, such as linf:8/255, l2:1/2 or l1:12")
    return read_threat(NORMS, {"norm": norm, "epsilon": epsilon}, "threat")


def images_of(given: Array, device: torch.device, least: int = 1) -> Tensor:
    """Images [N, C, H, W] on the device, `least` of them or more: uint8, or float32 in [0, 1].

    Errors: another shape, dtype or range.
    """
    images = _tensor("images", given)
    if images.ndim != 4 or len(images) < least:
        number = f" with at least {least} image" if least else ""
        raise InputError(f"images: got shape {list(images.shape)}, want [N, C, H, W]{number}")
    if images.is_floating_point():
        images = images.float()
        if images.numel():
            require_pixels(images)
    elif images.dtype != torch.uint8:
        raise InputError(f"images: got {images.dtype}, want uint8, or floats in [0, 1]")
    return images.to(device)


def labels_of(given: Array, num_images: int, device: torch.device) -> Tensor:
    """Labels int64 [N] on the device. Errors: another shape, no integers, negative ones."""
    labels = _tensor("labels", given)
    if labels.shape != (num_images,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(
            f"labels: got {labels.dtype} {list(labels.shape)}, want an integer for each image [{num_images}]"
        )
    if len(labels) and int(labels.min()) < 0:
        raise InputError(f"labels: got {int(labels.min())}, want classes counted from 0")
    return labels.long().to(device)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU for a model without any."""
    return next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def num_classes_of(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many logits the model gives. Errors: no logits [N, K], fewer than the labels need, no gradient."""
    some = images[:2]
    some = some.float() / 255 if some.dtype == torch.uint8 else some
    with torch.enable_grad():
        some = some.clone().requires_grad_(True)
        logits = model(some)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(some):
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"model: gives {given} for {len(some)} images, want logits [{len(some)}, K]")
    if int(labels.max()) >= logits.shape[1]:
        raise InputError(f"labels: got class {int(labels.max())}, the model has {logits.shape[1]} logits")
    if not logits.requires_grad or torch.autograd.grad(logits.sum(), some, allow_unused=True)[0] is None:
        raise InputError("model: no gradient reaches the images, want a model without no_grad or detach inside")
    return logits.shape[1]


@contextmanager
def looked_at(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode and in exact arithmetic, for as long as it is looked at; then as it was."""
    modes, precise = {module: module.training for module in model.modules()}, torch.backends.cudnn.allow_tf32
    model.eval()
    # Else a GPU's convolutions round float32 to ten bits.
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield model
    finally:
        torch.backends.cudnn.allow_tf32 = precise
        for module, training in modes.items():
            module.training = training
