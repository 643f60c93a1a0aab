"""A look at a network: what it answers, what attacks make of its images, and what it answers then."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.attacks.parts.attack import Attack
from components.evaluation.one_attack import TestSet, predict, run_attack
from components.numerics.losses import answers
from components.numerics.random_numbers import Noise, derived
from components.threats.parts.threat import Threat

NUM_IMAGES = 500
"""As many images as are looked at, where nobody asks for another number."""


class Attacks(NamedTuple):
    """`crafting` makes an adversarial version of every image, which others are shown too; `cascade` goes on with the
    images that are still right after it, one attack after another."""

    crafting: Attack
    cascade: Mapping[str, Attack]


class Look(NamedTuple):
    """`images_adv` [N, C, H, W] are what the crafting attack made, on the images' device. On the CPU: logits [N, K] for
    the images and for those, and which images are right clean and under every attack, bool [N]."""

    images_adv: Tensor
    clean: Tensor
    adversarial: Tensor
    worst_case: Tensor


class Setting(NamedTuple):
    """What all networks meet: the images, the attacks, the threat model, the seed of random starts."""

    test: TestSet
    attacks: Attacks
    threat: Threat
    seed: int

    def look(self, model: nn.Module, cascade: bool = True) -> Look:
        """The look at a model; without the cascade, its worst case is that of the crafting attack."""
        attacks = self.attacks if cascade else self.attacks._replace(cascade={})
        return look(model, self.test, attacks, self.threat, derived(self.seed, "attacks"))


def look(model: nn.Module, test: TestSet, attacks: Attacks, threat: Threat, seed: int) -> Look:
    """The look at a model. Every model meets the same random starts, whatever the batch size."""
    crafted = run_attack(model, test, attacks.crafting, threat, seed)
    images_adv = crafted.images_adv
    clean, adversarial = logits_on(model, test.images, test), logits_on(model, images_adv, test)
    right = (answers(clean) == test.labels.cpu()) & (crafted.predicted == test.labels).cpu()
    for attack in attacks.cascade.values():
        standing = right.nonzero().squeeze(1).to(test.labels.device)
        for images, labels, places in test.batches(standing):
            fooling = attack(model, images, labels, threat, Noise(seed, places))
            right[places.cpu()] = (predict(model, fooling) == labels).cpu()
    return Look(images_adv, clean, adversarial, right)


@torch.no_grad()
def logits_on(model: nn.Module, images: Tensor, test: TestSet) -> Tensor:
    """The logits [N, K] of a model in evaluation mode for `images`, as many as those of `test`, on the CPU."""
    with eval_mode(model):
        return torch.cat([model(batch).float().cpu() for batch, _, _ in test._replace(images=images).batches()])
