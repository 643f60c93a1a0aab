"""What the sentinel sees at one look: how a few held-out images fare, and how the gradients around them agree."""

import math

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode, input_gradient, look
from components.attacks.parts.objectives import away_from
from components.data.dividing import stratified_indices
from components.data.pixels import to_pixels
from components.foundation.errors import InputError
from components.numerics.compute import Precision, training_arithmetic
from components.numerics.cost import PassCounter
from components.numerics.losses import answers
from components.numerics.parallel import broadcast
from components.numerics.random_numbers import derived
from components.threats.parts.threat import Threat
from components.training.sentinel.rules import Sentinel

# Frank-Wolfe's second step goes the share c / (c + 1) of the way to its vertex; c = 2 as in the published code of
# Tsiligkaridis & Roberts (arXiv 2012.12368). Its first step goes all the way, to the FGSM image.
SECOND_STEP = 2 / 3


class SentinelProbe:
    """Looks at the same images each time: PGD-k costs k + 3 passes forward and k + 2 back per image, with all else.

    Args:
        sentinel: number of images, steps and step size.
        images, labels: the validation split, uint8 [N, C, H, W] and int64 [N]; a stratified subset is taken.
        threat: the ball of all attacks.
        batch_size: images in one pass.
        precision: as in training.
        seed: of the subset and, with a look's number, of the random starts.

    Errors: fewer images than the sentinel's.
    """

    def __init__(
        self,
        sentinel: Sentinel,
        images: Tensor,
        labels: Tensor,
        threat: Threat,
        batch_size: int,
        precision: Precision,
        seed: int,
    ) -> None:
        if sentinel.images > len(labels):
            raise InputError(f"sentinel.images: got {sentinel.images}, but the validation split has {len(labels)}")
        chosen = stratified_indices(labels, sentinel.images, derived(seed, "sentinel images")).to(images.device)
        self.images, self.labels = to_pixels(images[chosen]), labels[chosen]
        self.steps, self.step_size = sentinel.steps, float(sentinel.step_size)
        self.threat, self.batch_size, self.seed = threat, batch_size, seed
        self.precision: Precision = precision

    def look(self, model: nn.Module, number: int) -> tuple[dict[str, float], dict[str, int]]:
        """The signals of a look, and how many passes of single images it took, `forward` and `backward`.

        Modes, buffers, `.grad` and every generator of the training are left as they are. A signal that is not a number
        is left out.
        """
        rng = torch.Generator(self.images.device).manual_seed(derived(self.seed, "sentinel", number))
        counter = PassCounter(model)
        batches = zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True)
        with eval_mode(model), training_arithmetic(self.images.device, self.precision):
            parts = [self._signals(model, images, labels, rng) for images, labels in batches]
        counter.close()
        means = torch.stack([torch.cat([part[name] for part in parts]).double().nanmean() for name in parts[0]])
        # One look for all processes, so that they decide alike.
        values = zip(parts[0], broadcast(means).tolist(), strict=True)
        return {name: value for name, value in values if math.isfinite(value)}, counter.take()

    def _signals(self, model: nn.Module, images: Tensor, labels: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Every signal for each image, [n]. One pass at the image serves FGSM, the first step of Frank-Wolfe and the
        alignment; one at the FGSM image its accuracy, its loss and the second step; one at the start of PGD the
        alignment too."""
        threat, objective = self.threat, away_from("cross_entropy", labels)
        start = threat.random_start(images, rng)
        clean, beside = look(model, images, objective), look(model, start, objective)
        images_fgsm = self._step(images, images, clean.gradient, threat.radius)
        fgsm = look(model, images_fgsm, objective)
        vertex = self._step(images, images, fgsm.gradient, threat.radius)
        images_pgd = self._step(start, images, beside.gradient, self.step_size)
        for _ in range(self.steps - 1):
            images_pgd = self._step(images_pgd, images, input_gradient(model, images_pgd, objective), self.step_size)
        with torch.no_grad():
            logits_pgd = model(images_pgd)
        return {
            "clean_accuracy": _right(clean.logits, labels),
            "fgsm_accuracy": _right(fgsm.logits, labels),
            "pgd_accuracy": _right(logits_pgd, labels),
            "clean_loss": clean.values,
            "adversarial_loss": fgsm.values,
            "alignment": _cosine(clean.gradient, beside.gradient),
            "direction": _cosine(images_fgsm - images, images_pgd - images),
            "distortion": (images_fgsm.lerp(vertex, SECOND_STEP) - images).flatten(1).norm(dim=1),
        }

    def _step(self, images_adv: Tensor, images: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        step = self.threat.steepest_step(gradient, step_size, images_adv)
        return self.threat.project(images_adv + step, images)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (answers(logits) == labels).float()


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    """The cosine for each image, [n]; NaN where there is no direction."""
    # In double precision: the gradients of a model that is sure of itself are tiny.
    left, right = left.flatten(1).double(), right.flatten(1).double()
    lengths = left.norm(dim=1) * right.norm(dim=1)
    return torch.where(lengths > 0, (left * right).sum(1) / lengths, torch.nan)
