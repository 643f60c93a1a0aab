"""Pixels outside [0, 1] are refused: they are the usual sign that images were normalised before the model does it."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from components.threats.parts.threat import require_pixels

M = TypeVar("M", bound=nn.Module)
OUTSIDE = "pixels outside [0, 1] (normalisation is the model's first layer)"


def refusing(model: M) -> M:
    """`model` itself, which from now on raises an `InputError` for images outside [0, 1], NaN included.

    A look at every batch, for which a GPU is waited for. Nothing is looked at while a step is captured or compiled, nor
    inside transformations of torch.func: there an image has no values yet.
    """
    model.register_forward_pre_hook(_look)
    return model


def _look(_: nn.Module, args: tuple[Any, ...]) -> None:
    images = args[0] if args else None
    if isinstance(images, Tensor) and images.is_floating_point() and images.numel() and not _without_values(images):
        require_pixels(images.detach())


def _without_values(images: Tensor) -> bool:
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    return (
        images.is_meta
        or torch.compiler.is_compiling()
        or functorch.is_functorch_wrapped_tensor(images)
        or (images.is_cuda and torch.cuda.is_current_stream_capturing())
    )


class Refusing(nn.Module):
    """A model whose graph holds the check, as an assertion that torch.export keeps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        # Written so that NaN fails too. Of torch's assertions this one stays in the graph of every version we allow,
        # and is not the question of Python, which tracing cannot answer.
        inside = torch.logical_and(images >= 0, images <= 1).all()
        torch._assert_async(inside, OUTSIDE)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
        return self.model(images)


class Marking(nn.Module):
    """A model whose logits are NaN for an image outside [0, 1], for formats that have no assertion."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        inside = torch.logical_and(images >= 0, images <= 1).flatten(1).all(1, keepdim=True)
        return torch.where(inside, self.model(images), float("nan"))
