"""Channels last on the way back as well: where features are flattened, their gradient would come back in rows."""

import torch
from torch import Tensor, nn


def channels_last(model: nn.Module) -> nn.Module:
    """`model` itself, its weights laid out channels last; what it flattens gets its gradient in that layout too.

    The gradient of a flattening arrives in rows. The backward pass of the last ReLU would walk the two layouts side by
    side, ten times as slowly.
    """
    for module in model.modules():
        if isinstance(module, nn.Flatten):
            module.register_forward_pre_hook(_gradient_channels_last)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _gradient_channels_last(_: nn.Module, args: tuple[Tensor]) -> None:
    if args[0].requires_grad and args[0].ndim == 4:
        args[0].register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
