"""Ensemble adversarial training: attacked images come from a frozen model too (Tramèr et al., arXiv 1705.07204)."""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.params import STRICT, Real
from components.methods.parts.contract import Loss
from components.methods.parts.mixed_batch import Clock, Mix, require_delay
from components.numerics.random_numbers import Noise, Rng, seed_of
from components.threats.parts.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EnsembleAt:
    """The fields of the method, which are those of `Mixed`.

    The images of a batch are attacked through the model in training or, with the same chance, through the clean
    teacher, whose gradients the model cannot learn to hide (section 4.1). Errors: a negative delay.
    """

    mix: Mix
    delay: int
    label_smoothing: Real

    def __post_init__(self) -> None:
        require_delay(self.delay)

    def guided_by(self, clean_teacher: nn.Module) -> "EnsembleAtMethod":
        """The training method with this teacher, which must be frozen and in evaluation mode."""
        return EnsembleAtMethod(self, clean_teacher)


class EnsembleAtMethod:
    """The objective of `Mixed` with two sources of attacks; which one serves a step follows from seed and step."""

    def __init__(self, fields: EnsembleAt, clean_teacher: nn.Module) -> None:
        self.fields, self.clean_teacher, self._clock = fields, clean_teacher, Clock()

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        mix, step, smoothing = self.fields.mix, self._clock.tick(), self.fields.label_smoothing
        if step < self.fields.delay:
            return mix.clean_loss(model, batch, smoothing)
        source = self.clean_teacher if transfers(step, rng) else model
        return mix.loss(model, batch, mix.craft(source, batch, threat, rng), smoothing)

    def state_dict(self) -> dict[str, Tensor]:
        """The number of steps made."""
        return self._clock.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`."""
        self._clock.load_state_dict(state)


def transfers(step: int, rng: Rng) -> bool:
    """Whether this step's attacks come from the teacher: a fair coin, thrown on the CPU so that nothing waits."""
    return bool(Noise(seed_of(rng), torch.tensor([step])).uniform(()) < 0.5)
