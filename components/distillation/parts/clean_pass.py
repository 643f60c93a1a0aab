"""Whether a student looks at clean images that have no weight in its loss."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from components.methods.parts.two_views import logits_of

CleanPasses = Literal["weighted", "always"]
"""`weighted`: clean images are passed where they have a weight. `always`: as in the published code, they are passed all
the same. That costs a pass and moves batch norm's running statistics, which an attack in evaluation mode and the
trained student go by."""


def clean_logits(
    model: Callable[[Tensor], Tensor], images: Tensor, weight: float, passes: CleanPasses
) -> Tensor | None:
    """The student's logits [N, K] of clean images, without a graph if they have no weight; None if not passed."""
    if not weight and passes == "weighted":
        return None
    with nullcontext() if weight else torch.no_grad():
        return logits_of(model, images)
