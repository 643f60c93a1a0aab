"""How a network's logits change across an image, as a stand-in for its gradient by the pixels (IGDM).

Lee et al., "Indirect Gradient Matching for Adversarial Robust Distillation", ICLR 2025, arXiv 2312.03286.
"""

from collections.abc import Callable

from torch import Tensor

from components.methods.parts.two_views import logits_of


def across(network: Callable[[Tensor], Tensor], images: Tensor, images_adv: Tensor, logits_adv: Tensor) -> Tensor:
    """f(x̃) - f(x - δ), [N, K], with δ = x̃ - x: about twice the gradient's product with δ.

    It costs one pass, of x - δ: as published not clipped to [0, 1], so that x stays half way between both points.
    """
    return logits_adv - logits_of(network, images - (images_adv - images))
