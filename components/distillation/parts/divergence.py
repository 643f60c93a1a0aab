"""How far a student's prediction is from a teacher's, both softened."""

from torch import Tensor

from components.numerics.losses import Reduction, kl_divergence


def softened_divergence(target: Tensor, logits: Tensor, temperature: float, reduction: Reduction) -> Tensor:
    """T² · KL(softmax(target / T) ‖ softmax(logits / T)), from logits [N, K] on both sides.

    T² keeps the gradient as large as it is without a temperature (Hinton et al., arXiv 1503.02531). In double
    precision, since a quotient of large logits has few decimals.
    """
    divergence = kl_divergence(target.double() / temperature, logits.double() / temperature, reduction)
    return (temperature**2 * divergence).to(logits.dtype)
