"""What probabilities say of each image: confident errors, and whether another network's attack transfers."""

from torch import Tensor

from components.numerics.losses import NO_ANSWER, answers, kl_divergence

CONFIDENT = 0.5
"""A wrong class with more probability than all the others together."""


def confidently_wrong(logits: Tensor, labels: Tensor, threshold: float = CONFIDENT) -> Tensor:
    """Whether a wrong class is given a probability above `threshold`, bool [N]. No answer is no confident one.

    Args:
        logits: [N, K].
        labels: the true classes, int64 [N].
        threshold: a probability.
    """
    classes = answers(logits)
    confidence = logits.double().softmax(1).amax(1)
    return (classes != labels) & (classes != NO_ANSWER) & (confidence > threshold)


def transfer_score(at_student: Tensor, at_clean: Tensor, at_own: Tensor) -> Tensor:
    """TAS(x) = KL(f(x + s) ‖ f(x)) - KL(f(x + s) ‖ f(x + t)), [N], from a teacher's logits [N, K].

    Args:
        at_student: f(x + s), on what an attack on the student made of the image.
        at_clean: f(x), on the image itself.
        at_own: f(x + t), on what an attack on the teacher made of it.

    Where it is 0 or more the image is a transferable adversarial sample: the student's attack moves the teacher's
    answer nearer to what an attack of its own makes of it than to its clean answer. Lee & Chung, "Sample-wise Adaptive
    Weighting for Transfer Consistency in Adversarial Distillation" (arXiv 2512.10275), equation 7 and appendix A.3.1.
    """
    return kl_divergence(at_student, at_clean, "none") - kl_divergence(at_student, at_own, "none")
