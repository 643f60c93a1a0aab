"""Which estimate of the data's mean and variance a batch-norm layer uses."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.params import Real, strict
from components.numerics import parallel


@strict
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

    estimator: Literal["running", "cumulative", "batch"]  # Which statistics evaluation normalises with.
    momentum: Annotated[Real, Field(gt=0, le=1)]  # Weight of the newest batch, for `running` only.

    def layer(self, channels: int) -> nn.BatchNorm2d:
        """A new layer for [N, channels, H, W]; torchvision's blocks take this method as their `norm_layer`."""
        if self.estimator == "batch":
            return nn.BatchNorm2d(channels, track_running_stats=False)
        return nn.BatchNorm2d(channels, momentum=self.momentum if self.estimator == "running" else None)


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces running means and variances by the plain means over `batches` of images [N, C, H, W].

    Modes and momenta stay as they were. A model without such buffers is not changed.
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


def part_from_buffers(model: nn.Module) -> None:
    """Gives the model copies of its buffers. The graph of an earlier pass in evaluation mode refers to the running
    statistics. A later pass in training mode would change them, and the gradients would be wrong without a warning."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.clone())


@contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """Inside the block no pass of the model changes its running statistics; in training mode they are not used."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training mode takes mean and variance over the batches of all ranks.

    Unlike torch's own it also runs on CPUs, and its gradient can be differentiated again. Parameters, buffers and
    evaluation mode are those of `nn.BatchNorm2d`; in evaluation mode nothing is sent.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        exact = input.to(torch.promote_types(input.dtype, torch.float32))
        mean, variance = self._moments(exact)
        scale = (variance + self.eps).rsqrt()
        normalised = (exact - _per_channel(mean)) * _per_channel(scale if self.weight is None else scale * self.weight)
        shifted = normalised if self.bias is None else normalised + _per_channel(self.bias)
        return shifted.to(input.dtype)

    def _moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over all ranks, [C] each, which join the running statistics."""
        variance, mean = torch.var_mean(features, (0, 2, 3), correction=0)
        count = mean.new_full((1,), features.numel() / features.shape[1])
        # From each rank's moments, as a sum of squares would lose the digits of a small variance around a large mean.
        rows = parallel.gathered(torch.cat([count, mean, variance]))
        counts, (means, variances) = rows[:, :1], rows[:, 1:].tensor_split(2, dim=1)
        share = counts / counts.sum()
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)
        self._track(mean.detach(), variance.detach(), counts.detach().sum())
        return mean, variance

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), weight)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), weight)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


@contextmanager
def synchronised(*models: nn.Module) -> Iterator[None]:
    """Inside the block the models' batch norm is synchronised, if there are several ranks; the layers stay the same."""
    norms = {m for model in models for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    layers = {m for m in norms if type(m) is nn.BatchNorm2d} if parallel.world_size() > 1 else set()
    if layers != norms and parallel.world_size() > 1:
        kind = type((norms - layers).pop()).__name__
        raise InputError(f"parallel.batch_norm: {kind} cannot be synchronised, want per_process")
    for layer in layers:
        layer.__class__ = SynchronisedBatchNorm2d
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.BatchNorm2d
