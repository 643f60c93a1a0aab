"""Which estimate of the data's mean and variance a batch-norm layer uses."""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.params import STRICT, Real


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BatchNorm:
    """The estimator behind every batch-norm layer of a model.

    In training mode all three normalise with the batch's own mean and *biased* variance (1/n). They differ in what
    evaluation uses:

    * `running`: exponential averages of the batch means and *unbiased* variances (1/(n-1)); `momentum` is the weight of
      the newest batch.
    * `cumulative`: plain means over all batches since the start, so each batch counts the same; `momentum` is not used.
    * `batch`: no buffers; evaluation normalises with its own batch as well, so an image's logits depend on the images
      beside it; `momentum` is not used.

    The moments of the inputs seen in training are what `running` and `cumulative` estimate: if training batches are
    adversarial, so are the statistics that evaluation uses. Source: Ioffe & Szegedy, arXiv 1502.03167, alg. 1 and 2.
    """

    estimator: Literal["running", "cumulative", "batch"]
    momentum: Annotated[Real, Field(gt=0, le=1)]

    def layer(self, channels: int) -> nn.BatchNorm2d:
        """A new layer for [N, channels, H, W]; torchvision's blocks take this method as their `norm_layer`."""
        if self.estimator == "batch":
            return nn.BatchNorm2d(channels, track_running_stats=False)
        return nn.BatchNorm2d(channels, momentum=self.momentum if self.estimator == "running" else None)


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces running means and variances by the plain means over `batches` of images [N, C, H, W].

    Modes and momenta are left as found. A model without such buffers is left alone.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    kept = [(layer, layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum, layer.training = None, True
    if layers:
        for images in batches:
            model(images)
    for layer, momentum, training in kept:
        layer.momentum, layer.training = momentum, training
