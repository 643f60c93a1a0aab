"""The network whose attacks have closed forms."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Logits (0, w·x + b), with w [C, H, W]."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, images: Tensor) -> Tensor:
        score = (images * self.weight).flatten(1).sum(1) + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)
