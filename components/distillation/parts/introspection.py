"""How far the students of IAD trust their teacher on each image, and what they ask themselves for the rest.

Zhu et al., "Reliable Adversarial Distillation with Unreliable Teachers", ICLR 2022, arXiv 2106.04928.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from components.methods.parts.two_views import Views
from components.numerics.losses import kl_divergence, of_labels


class Trust(NamedTuple):
    """a = q_y(x̃)^β, the trust in the teacher on each image, and 1 - a, what is left for the student, [N] each."""

    teacher: Tensor
    student: Tensor


@torch.no_grad()
def trust(target_adv: Tensor, labels: Tensor, exponent: float) -> Trust:
    """From the teacher's logits [N, K] of the attacked images; in double precision, where 1 - a keeps its digits."""
    right = of_labels(target_adv.double().log_softmax(1), labels)
    trusted = (exponent * right).exp()
    return Trust(trusted.to(target_adv.dtype), (1 - trusted).to(target_adv.dtype))


def introspection(views: Views, weights: Tensor) -> Tensor:
    """mean[weights · KL(p(x) ‖ p(x̃))]: the student's own clean answer as a target, which is not held constant."""
    return (weights * kl_divergence(views.clean, views.adversarial, "none")).mean()
