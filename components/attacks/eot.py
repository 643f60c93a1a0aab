"""Expectation over randomness: an attack on the mean of a model that answers at random (Athalye et al., 1802.00420)."""

# torch leaves the types of some functions open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from typing import Annotated, Any

import torch
from pydantic import PlainValidator, ValidationInfo
from torch import Tensor, nn

from components.attacks.apgd import Apgd
from components.attacks.bim import Bim
from components.attacks.cw import Cw
from components.attacks.fgsm import Fgsm
from components.attacks.mi_fgsm import MiFgsm
from components.attacks.parts.attack import Attack
from components.attacks.parts.victim import Victim
from components.attacks.pgd import Pgd
from components.foundation.params import Count, member, strict
from components.numerics.random_numbers import Rng, shared
from components.threats.parts.threat import Threat

# What can be wrapped: attacks that follow a gradient away from the label.
INNER: dict[str, type[Attack]] = {"apgd": Apgd, "bim": Bim, "cw": Cw, "fgsm": Fgsm, "mi_fgsm": MiFgsm, "pgd": Pgd}


def _inner(spec: Any, info: ValidationInfo) -> Attack:
    known = type(spec) in INNER.values()
    return spec if known else member(INNER, spec, "wrapped", (info.context or {}).get("epsilon"))


@strict
class Eot:
    """`attack` on a model that answers with the mean logits of `samples` passes, each with its own random numbers.

    The mean is taken of the logits, not of the loss: so any attack can be wrapped, its loss stays that of one answer,
    and the mean answer also decides when an image counts as fooled. The passes draw from torch's global generators,
    which are seeded from `rng` and put back afterwards.
    """

    samples: Count  # Passes whose logits are averaged.
    attack: Annotated[Attack, PlainValidator(_inner)]  # The attack on the mean answer, with that member's fields.

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(torch.randint(2**62, (), generator=shared(rng))))
            return self.attack(self._averaged(model), images, labels, threat, rng)

    def _averaged(self, model: nn.Module) -> nn.Module:
        if isinstance(model, Victim):
            search = None if model.search is model.exact else Mean(model.search, self.samples)
            return Victim(Mean(model.exact, self.samples), search)
        return Mean(model, self.samples)


class Mean(nn.Module):
    """The mean logits of several passes through one model."""

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        self.model, self.samples = model, samples

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(images) for _ in range(self.samples)]).mean(0)
