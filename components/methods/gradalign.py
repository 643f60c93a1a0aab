"""GradAlign: FGSM training whose loss is kept locally linear, so that one step stays a good attack."""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from components.attacks.parts.ascent import View
from components.data.batch import Batch
from components.foundation.params import NotNegativeLength, Real, Share, strict
from components.methods.parts import one_step
from components.methods.parts.contract import Loss, Method, climbed
from components.methods.parts.crafting import BatchNormMode, crafting
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@strict
class GradAlign:
    """CE(f(x̃), y) + weight · (1 - mean cos(∇ℓ(x), ∇ℓ(x + η))), x̃ = Π(x + step), η uniform in the ball
    (Andriushchenko & Flammarion, arXiv 2007.02617, eq. 6).

    ∇ℓ(x) is that of the attack, held constant; the weights' gradient goes through ∇ℓ(x + η) alone, by double
    backpropagation. Images where either gradient is zero are left out of the mean. x + η is clipped to [0, 1], which
    the published code omits. Published at 8/255: `weight` 0.2, `step_size` 8/255 or 10/255, `batch_norm` train.
    """

    weight: Real  # Weight of the alignment term.
    step_size: NotNegativeLength  # Length of the step, a fraction of the pixel range.
    label_smoothing: Share  # Share of the target that goes evenly to all classes.
    batch_norm: BatchNormMode  # Which mode batch norm is in while images are crafted.

    def build(self) -> "GradAlignMethod":
        return GradAlignMethod(self)


class GradAlignMethod(Method):
    """The objective of `GradAlign`."""

    fields: GradAlign
    keeps_graph: bool = False
    crafting_smoothing: float = 0.0

    def start(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        return batch.images

    def loss_from(self, model: nn.Module, batch: Batch, start: Tensor, view: View, threat: Threat, rng: Rng) -> Loss:
        images_adv = one_step.attacked(threat, start, view.gradient, float(self.fields.step_size), batch.images)
        loss, _ = one_step.adversarial_loss(model, batch, images_adv, self.fields.label_smoothing)
        nearby = self._gradient_with_graph(model, batch, threat.random_start(batch.images, rng))
        misalignment = misaligned(view.gradient, nearby)
        parts = loss.parts | {"loss_misalignment": misalignment.detach()}
        total = loss.total + self.fields.weight * misalignment
        return one_step.starting_from(view, loss._replace(total=total, parts=parts))

    def _gradient_with_graph(self, model: nn.Module, batch: Batch, images: Tensor) -> Tensor:
        leaf = images.detach().requires_grad_()
        # Fused attention has no second derivative.
        with crafting(model, self.fields.batch_norm) as network, sdpa_kernel(SDPBackend.MATH):
            values = climbed(self, network(leaf), batch)
        return torch.autograd.grad(values.sum(), leaf, create_graph=True)[0]


def misaligned(constant: Tensor, gradient: Tensor) -> Tensor:
    """One minus the mean cosine of two gradients [N, ...], over the images where neither is zero; 0 without any."""
    directions: list[Tensor] = []
    there = torch.ones(len(gradient), dtype=torch.bool, device=gradient.device)
    for one in (constant.detach().flatten(1), gradient.flatten(1)):
        size = _lengths(one)
        there = there & (size > 0)
        directions.append(one / torch.where(size > 0, size, 1)[:, None])
    cosine = (directions[0] * directions[1]).sum(1)
    return torch.where(there, 1 - cosine, 0).sum() / there.sum().clamp_min(1)


def _lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
