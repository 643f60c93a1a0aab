"""Batches of clean and attacked images as in training at scale: who is attacked, how far and how, what each weighs.

Kurakin et al., arXiv 1611.01236, section 3 (algorithm 1).
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from components.attacks.parts.kurakin import grey_steps, one_step
from components.attacks.parts.objectives import Aim
from components.data.batch import Batch
from components.foundation.errors import InputError
from components.foundation.params import Fractional, NotNegative, PositiveLength, Ratio, strict
from components.methods.parts.contract import Loss, Method, Teacher
from components.methods.parts.crafting import BatchNormMode, crafting
from components.numerics import parallel
from components.numerics.losses import accuracy, cross_entropy, hard
from components.numerics.random_numbers import Noise, Rng, derived, seed_of, subset, uniform
from components.threats.parts.threat import Threat

InnerAttack = Literal["fgsm", "fgsm_predicted", "step_ll", "step_rnd", "bim", "iter_ll"]

INNER_ATTACKS: dict[InnerAttack, tuple[Callable[..., Tensor], Aim]] = {
    "fgsm": (one_step, "true"),
    "fgsm_predicted": (one_step, "predicted"),
    "step_ll": (one_step, "least_likely"),
    "step_rnd": (one_step, "random"),
    "bim": (grey_steps, "true"),
    "iter_ll": (grey_steps, "least_likely"),
}


class Mixed(NamedTuple):
    """Images [m, C, H, W], of which the first k are attacked within `radii` [k] and the others clean."""

    images: Tensor
    radii: Tensor


@strict
class Mix:
    """A share `adversarial` of each batch is replaced by attacked images, whose losses count `weight` times.

    Each attacked image has an epsilon of its own: the size of a normal number of standard deviation `epsilon_sigma`,
    given that it is at most the threat model's epsilon; with null, that epsilon itself. The paper takes step_ll, half
    of the batch, weight 0.3, and 8/255 with an epsilon of 16/255. Errors: a share that is not between 0 and 1, a
    negative weight, a standard deviation that is not above 0.
    """

    attack: InnerAttack  # How the images to train on are attacked.
    adversarial: Annotated[Fractional, Field(gt=0, lt=1)]  # Share of each batch that is attacked.
    weight: NotNegative  # How many times the loss of an attacked image counts.
    epsilon_sigma: PositiveLength | None  # Standard deviation of each image's own epsilon; null: always the largest.
    batch_norm: BatchNormMode = "eval"  # Which mode batch norm is in while images are crafted.

    def num_attacked(self, batch: Batch) -> int:
        """k: the share of m images, rounded down, but at least one image of either kind. Error: a single image.

        Where processes train together it is this one's part of the first k of the whole batch.
        """
        count = len(batch.images)
        if count < 2:
            raise InputError(f"mixed batches: got a batch of {count} image, want one clean and one attacked at least")
        return min(max(1, parallel.num_own(self._num_attacked(_num_images(batch)))), count - 1)

    def _num_attacked(self, count: int) -> int:
        return min(max(1, int(count * self.adversarial)), count - 1)

    def craft(self, source: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Mixed:
        """The batch with its first k images attacked through `source`, in the mode that `batch_norm` says."""
        count = self.num_attacked(batch)
        images, labels = batch.images[:count], hard(batch.labels)[:count]
        rng = subset(rng, torch.arange(count, device=images.device))
        radii = self.draw_radii(images, threat, rng)
        attack, aim = INNER_ATTACKS[self.attack]
        with crafting(source, self.batch_norm) as network:
            images_adv = attack(network, images, labels, aim, threat.each(radii), rng)
        return Mixed(torch.cat([images_adv, batch.images[count:]]), radii)

    def draw_radii(self, images: Tensor, threat: Threat, rng: Rng) -> Tensor:
        """An epsilon for each of `images`, [N]."""
        if self.epsilon_sigma is None:
            return images.new_full((len(images),), threat.radius)
        return truncated_normal(uniform(rng, images, ()), self.epsilon_sigma, threat.epsilon)

    def loss(self, model: nn.Module, batch: Batch, mixed: Mixed, label_smoothing: float) -> Loss:
        """[Σ clean + weight · Σ adversarial] / [(m - k) + weight · k] of the cross-entropies, in one forward pass.

        One pass, so that batch norm sees both kinds together, as the paper insists.
        """
        logits, count = model(mixed.images), len(mixed.radii)
        losses = cross_entropy(logits, batch.labels, label_smoothing)
        adversarial, clean = losses[:count], losses[count:]
        # The loop averages over processes by numbers of images; the weights here are those of the whole batch.
        num, attacked = _num_images(batch), self._num_attacked(_num_images(batch))
        weights = (num - attacked + self.weight * attacked) * len(losses) / num
        total = (clean.sum() + self.weight * adversarial.sum()) / weights
        return Loss(total, self._parts(logits, batch, mixed.radii), adversarial, clean)

    def clean_loss(self, model: nn.Module, batch: Batch, label_smoothing: float) -> Loss:
        """The mean cross-entropy of all m images, for the time before the attacks begin.

        The same is logged as later on, of the images to be attacked at an epsilon of zero.
        """
        logits = model(batch.images)
        clean = cross_entropy(logits, batch.labels, label_smoothing)
        radii = batch.images.new_zeros(self.num_attacked(batch))
        return Loss(clean.mean(), self._parts(logits, batch, radii), clean=clean)

    def _parts(self, logits: Tensor, batch: Batch, radii: Tensor) -> dict[str, Tensor]:
        count, images, num = len(radii), len(batch.images), _num_images(batch)
        attacked = self._num_attacked(num)
        # As if each process had its even part of either kind: what the loop averages are then means over all of a kind.
        as_clean, as_attacked = (images - count) * num / (images * (num - attacked)), count * num / (images * attacked)
        return {
            "train_accuracy": accuracy(logits[count:], batch.labels[count:]) * as_clean,
            "train_adversarial_accuracy": accuracy(logits[:count], batch.labels[:count]) * as_attacked,
            "train_epsilon": radii.mean() * as_attacked,
        }


def _num_images(batch: Batch) -> int:
    """Of the whole batch, over all processes."""
    return batch.total or len(batch.images)


class MixedMethod(Method):
    """The loss of mixed batches after `delay` steps on clean images alone; it remembers the number of steps made.

    Attacks come from the model or, where there is a teacher, from either; which one follows from seed and step. The
    fields have a `mix`, a `delay` and a `label_smoothing`.
    """

    divisible = False

    def __init__(self, fields: Any, clean_teacher: nn.Module | None = None) -> None:
        super().__init__(fields)
        self.clock = Clock()
        self.clean_teacher = None if clean_teacher is None else Teacher(clean_teacher)

    @property
    def host_decides(self) -> str:
        """The count of steps, the coin, and the seed of each batch's own draws."""
        return "a mixed batch counts its steps, and draws a seed, on the host"

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        mix: Mix = self.fields.mix
        step, smoothing = self.clock.tick(), self.fields.label_smoothing
        if step < self.fields.delay:
            return mix.clean_loss(model, batch, smoothing)
        source = self.clean_teacher if self.clean_teacher is not None and transfers(step, rng) else model
        return mix.loss(model, batch, mix.craft(source, batch, threat, rng), smoothing)


class Clock(nn.Module):
    """Counts a method's steps."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.known: int | None = 0
        self.register_load_state_dict_post_hook(_forget_known)  # pyright: ignore[reportUnknownMemberType]

    def tick(self) -> int:
        """How many steps came before this one. Waits for the device at the first after a state was loaded, no more."""
        before = int(self.steps) if self.known is None else self.known
        self.known = before + 1
        self.steps.fill_(self.known)
        return before


def _forget_known(clock: Clock, _: object) -> None:
    """The buffer alone is right from here on."""
    clock.known = None


def transfers(step: int, rng: Rng) -> bool:
    """Whether this step's attacks come from the teacher: a fair coin, thrown on the CPU so that nothing waits."""
    return bool(Noise(derived(seed_of(rng), "source of attacks"), torch.tensor([step])).uniform(()) < 0.5)


def truncated_normal(uniforms: Tensor, sigma: Ratio, largest: Ratio) -> Tensor:
    """Numbers in [0, 1) -> numbers of N(0, sigma²) given that they are in [0, largest], same shape: the inverse of
    F(x) = erf(x / (√2 · sigma)) / erf(largest / (√2 · sigma))."""
    scale = math.sqrt(2) * float(sigma)
    inside = math.erf(float(largest) / scale)
    return (scale * torch.erfinv(uniforms * inside)).clamp_max(float(largest))
