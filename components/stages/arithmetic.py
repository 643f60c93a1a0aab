"""In what arithmetic a student's teachers compute: in that of the training, where it does not change what they say."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode, input_gradient
from components.distillation.parts.inner_attack import THROUGH_TEACHER
from components.distillation.parts.teachers import InFloat32
from components.evaluation.advice.looks import logits_on
from components.evaluation.one_attack import TestSet
from components.foundation.errors import InputError
from components.numerics.compute import resolved, training_arithmetic
from components.numerics.losses import answers, of_labels
from components.stages.training_stage import Settings
from components.tracking.journal import Journal

# What bfloat16 may do to a teacher: move a probability by so much at most, and leave this share of answers as they are,
# and of the signs of its gradient by the pixels.
MOST_MOVED, LEAST_AGREED, LEAST_SIGNS = 0.1, 0.99, 0.95


class Use(NamedTuple):
    """How a method uses a teacher: the smallest temperature of its logits, 1 at most, and whether gradients go through
    it."""

    temperature: float = 1.0
    gradients: bool = False


def use_of(role: str, settings: Settings) -> Use:
    """How the method uses that role, also as the sentinel may change it."""
    methods = [one.method for one in (settings, *settings.changed)]
    temperatures = [getattr(one, key, 1.0) for one in methods for key in ("temperature_min", "temperature")]
    through = role == "robust_teacher" and any(one.attack.loss in THROUGH_TEACHER for one in methods)
    return Use(min(1.0, *temperatures), through)


def in_arithmetic(
    name: str, network: nn.Module, shown: TestSet, precision: Any, use: Use, journal: Journal
) -> nn.Module:
    """The network itself, or within `InFloat32` where the precision of training moves its answers too far.

    `shown` are images on which both are compared. Nothing is said or done where training is in float32.
    """
    device = shown.images.device
    if resolved(precision, device) == "float32":
        return network
    exact = Answered.of(network, shown, use)
    try:
        with training_arithmetic(device, precision):
            fast = Answered.of(network, shown, use)
    except InputError as error:  # a program from outside, whose operators may insist on one type
        journal.note(f"{name}: computes in float32, since bfloat16 fails: {error}")
        return InFloat32(network)
    moved = float((exact.probabilities - fast.probabilities).abs().max())
    agreed = float((answers(exact.probabilities) == answers(fast.probabilities)).float().mean())
    # NaN is in no bound.
    good, bounds = moved <= MOST_MOVED and agreed >= LEAST_AGREED, [f"{MOST_MOVED}", f"{LEAST_AGREED:.0%}"]
    signs = ""
    if use.gradients:
        same = float((exact.signs == fast.signs).float().mean())
        good, signs = good and same >= LEAST_SIGNS, f" and {same:.1%} of its gradients' signs"
        bounds.append(f"{LEAST_SIGNS:.0%}")
    at = "" if use.temperature == 1 else f" at temperature {use.temperature:g}"
    journal.note(
        f"{name}: bfloat16 moves its probabilities by {moved:.3f} at most{at} and leaves {agreed:.1%} of "
        f"{len(exact.probabilities)} answers{signs} (bounds: {', '.join(bounds)}), so it computes in "
        f"{'bfloat16' if good else 'float32'}"
    )
    return network if good else InFloat32(network)


class Answered(NamedTuple):
    """A teacher's probabilities [N, K] at a temperature, and the signs of the gradient of each label's logit by the
    pixels [N, C, H, W], where gradients go through it."""

    probabilities: Tensor
    signs: Tensor

    @classmethod
    def of(cls, network: nn.Module, shown: TestSet, use: Use) -> "Answered":
        """On these images, in the arithmetic that holds now."""
        signs = [shown.images.new_empty(0)]
        if use.gradients:
            with eval_mode(network):
                looks = (
                    input_gradient(network, one, partial(of_labels, labels=labels))
                    for one, labels, _ in shown.batches()
                )
                signs = [one.sign().cpu() for one in looks]
        return cls((logits_on(network, shown.images, shown) / use.temperature).softmax(1), torch.cat(signs))
