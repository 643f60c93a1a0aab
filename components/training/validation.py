"""What is measured after each epoch, on images the model does not train on: accuracies, and the kernel probe."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.attacks.pgd import Pgd
from components.data.pixels import to_pixels
from components.ntk.probe import KernelProbe
from components.numerics import parallel
from components.numerics.losses import answers
from components.numerics.random_numbers import Part, derived
from components.threats.parts.threat import Threat


@dataclass
class Validation:
    """Clean accuracy and accuracy under `attack` on the validation split, in float32, and the NTK at its epochs.

    Draws from generators seeded by the epoch, so that measuring more or less changes no training run. Processes that
    train together share the images; the NTK's few are seen by each.
    """

    images: Tensor
    labels: Tensor
    attack: Pgd
    threat: Threat
    batch_size: int
    probe: KernelProbe
    seed: int

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """`clean_accuracy`, `robust_accuracy`, their mean, and `ntk_*` where the probe's schedule says so."""
        rng = torch.Generator(self.images.device).manual_seed(derived(self.seed, "validation", epoch))
        clean = robust = 0
        for images, labels in zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True):
            part = Part.share(rng, parallel.rank(), parallel.world_size(), len(labels))
            pixels, labels = to_pixels(images[part.places]), labels[part.places]
            if len(labels):
                clean += num_right(model, pixels, labels)
                robust += num_right(model, self.attack(model, pixels, labels, self.threat, part), labels)
        clean, robust = parallel.total(clean, robust)
        accuracies = {"clean_accuracy": clean / len(self.labels), "robust_accuracy": robust / len(self.labels)}
        return accuracies | {"mean_accuracy": sum(accuracies.values()) / 2} | self._kernels(model, epoch, rng)

    def _kernels(self, model: nn.Module, epoch: int, rng: torch.Generator) -> dict[str, float]:
        if not self.probe.due(epoch):
            return {}
        images, size = self.probe.images, self.batch_size
        labels = self.probe.labels.to(images.device)
        parts = zip(images.split(size), labels.split(size), strict=True)
        images_adv = torch.cat([self.attack(model, *part, self.threat, rng) for part in parts])
        return self.probe.measure(model, epoch, images_adv)

    def state_dict(self) -> dict[str, Tensor]:
        """The probe's earlier kernels."""
        return self.probe.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`."""
        self.probe.load_state_dict(state)


@torch.no_grad()
def num_right(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many of the images [N, C, H, W] the model classifies right, in evaluation mode."""
    with eval_mode(model):
        return int((answers(model(images)) == labels).sum())
