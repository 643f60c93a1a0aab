"""How the images that a student learns from are attacked: up its loss, or away from what a teacher says of them."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import Start, ascend, first_look, look, start_point
from components.attacks.parts.objectives import Goal, LossName, clean_logits, goal, require_sense
from components.data.batch import Batch
from components.foundation.params import Count, PositiveLength, strict
from components.numerics.losses import hard, kl_divergence, of_labels
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat

TaughtLoss = Literal["kl_teacher_clean", "kl_teacher", "kl_teacher_held", "kl_teacher_linear"]
InnerLoss = Literal["cross_entropy", "margin", "kl", TaughtLoss]
"""What is climbed, with p the student's probabilities, q the teacher's, x the image and x̃ the point of the attack.

`cross_entropy` and `margin`: of the labels. `kl`: KL(p(x) ‖ p(x̃)). `kl_teacher_clean`: KL(q(x) ‖ p(x̃)).
`kl_teacher`: KL(q(x̃) ‖ p(x̃)), whose gradient goes through both networks. `kl_teacher_held`: the same, with q(x̃) as a
constant in each step. `kl_teacher_linear`: q(x̃) from the teacher's logits at x, that of the label moved by
⟨∇ z_y(x), x̃ - x⟩, so that the teacher is asked once. The loss after the attack asks it anew, whatever it asked here."""

THROUGH_TEACHER: tuple[InnerLoss, ...] = ("kl_teacher", "kl_teacher_linear")
"""The losses that take a gradient through the teacher."""

ALONE: dict[InnerLoss, LossName] = {"cross_entropy": "cross_entropy", "margin": "margin", "kl": "kl"}
"""The losses that need no teacher."""

MovingTarget = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] -> the teacher's logits there [N, K], as the attack takes them to be."""


@strict
class InnerAttack:
    """`steps` steps of `step_size` from `start` up `loss`: the attack of a student in training.

    Errors: `kl` from `zero`, where it has no gradient.
    """

    steps: Count  # Steps of the attack.
    step_size: PositiveLength  # Length of one step, a fraction of the pixel range.
    start: Start  # Where the attack starts.
    loss: InnerLoss  # What the attack climbs: a loss of the labels, or a divergence from a prediction.

    def __post_init__(self) -> None:
        if self.loss in ALONE:
            require_sense(ALONE[self.loss], "true", leaves_image=self.start != "zero")

    def __call__(self, student: nn.Module, batch: Batch, threat: Threat, rng: Rng, teacher: nn.Module) -> Tensor:
        """The attacked images [N, C, H, W], inside the threat model, detached."""
        images, labels = batch.images, hard(batch.labels)
        start = start_point(self.start, images, threat, rng)
        network, objective, looked = student, self._alone(student, images, labels, rng), None
        if objective is None:
            network, objective = _Beside(student, self._target(teacher, images, labels)), _divergence
        elif self.loss == "kl":
            looked = first_look(self.start, start, images, threat)
        return ascend(network, images, start, objective, threat, float(self.step_size), self.steps, looked=looked)

    def _alone(self, student: nn.Module, images: Tensor, labels: Tensor, rng: Rng) -> Goal | None:
        """The objective of a loss that needs no teacher; None for the others."""
        name = ALONE.get(self.loss)
        return None if name is None else goal(name, "true", labels, clean_logits(student, images), rng)

    def _target(self, teacher: nn.Module, images: Tensor, labels: Tensor) -> MovingTarget:
        if self.loss == "kl_teacher":
            return teacher
        if self.loss == "kl_teacher_linear":
            return linear_target(teacher, images, labels)
        if self.loss == "kl_teacher_held":
            return torch.no_grad()(teacher)
        with torch.no_grad():
            known = teacher(images)
        return lambda _: known


def linear_target(teacher: nn.Module, images: Tensor, labels: Tensor) -> MovingTarget:
    """The teacher's logits at `images`, that of each label moved along its gradient there.

    z_y(x̃) ≈ z_y(x) + ⟨∇ z_y(x), x̃ - x⟩ (Lee et al., the attack of SAAD). It costs one pass there and back.
    """

    known = look(teacher, images, partial(of_labels, labels=labels))

    def target(images_adv: Tensor) -> Tensor:
        rise = ((images_adv - images) * known.gradient).flatten(1).sum(1, keepdim=True)
        return known.logits.scatter_add(1, labels[:, None], rise.to(known.logits.dtype))

    return target


class _Beside(nn.Module):
    """The student's logits and behind them the target's, [N, 2K]: what an attack between both looks at."""

    def __init__(self, student: nn.Module, target: MovingTarget) -> None:
        super().__init__()
        self.student, self.target = student, target
        self.training = student.training

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.student(images), self.target(images)], dim=1)


def _divergence(logits: Tensor) -> Tensor:
    student, target = logits.chunk(2, dim=1)
    return kl_divergence(target, student, "none")
