"""Which images survive which attack: per-image outcomes, from which every rate, interval and comparison is derived."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.attacks.parts.attack import Attack
from components.attacks.parts.victim import Victim, exact
from components.data.pixels import to_pixels
from components.numerics.cost import PassCounter
from components.numerics.losses import answers
from components.numerics.random_numbers import Noise
from components.threats.parts.threat import Threat


class Outcome(NamedTuple):
    """What one attack did to one model on the whole set.

    `predicted` int64 [N] is the class given to each attacked image, `right` uint8 [N] whether it is the label,
    `images_adv` float32 [N, C, H, W] on the set's device. `passes` counts single images forward and backward.
    """

    images_adv: Tensor
    predicted: Tensor
    right: Tensor
    passes: dict[str, int]


class TestSet(NamedTuple):
    """Images [N, C, H, W] (uint8, or float in [0, 1]) and labels [N] on one device, and how many go through a model at
    a time.
    """

    images: Tensor
    labels: Tensor
    batch_size: int

    __test__ = False  # not a test, whatever pytest makes of the name

    def batches(self, chosen: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Float images in [0, 1], labels and places in the set, of all images or of the `chosen` places, in order."""
        places = torch.arange(len(self.labels), device=self.labels.device) if chosen is None else chosen
        # split() of an empty tensor yields one empty batch.
        for part in places.split(self.batch_size) if len(places) else ():
            images = self.images[part]
            yield to_pixels(images) if images.dtype == torch.uint8 else images, self.labels[part], part


def run_attack(model: nn.Module, test: TestSet, attack: Attack | None, threat: Threat, seed: int) -> Outcome:
    """The outcome of `attack` on every image, in float32; `None` is no attack, which gives clean accuracy.

    All images are attacked, also those misclassified clean, so that an attack that *helps* shows. Random starts come
    from `seed` and an image's place alone: every model meets the same ones, in batches of any size.
    """
    counter = PassCounter(*model.networks) if isinstance(model, Victim) else PassCounter(model)
    # An empty one first, so that a set without images has an outcome, too.
    batches_adv, predicted = [test.images[:0].float()], [test.labels[:0]]
    for images, labels, places in test.batches():
        images_adv = images if attack is None else attack(model, images, labels, threat, Noise(seed, places))
        predicted.append(predict(model, images_adv))
        batches_adv.append(images_adv)
    counter.close()
    classes = torch.cat(predicted)
    return Outcome(torch.cat(batches_adv), classes, (classes == test.labels).to(torch.uint8), counter.take())


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The class that the exact model gives each image, int64 [N], in evaluation mode: see `answers`."""
    with eval_mode(model):
        return answers(exact(model)(images))
