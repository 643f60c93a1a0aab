"""Adversarial training at scale: clean and attacked images in one batch (Kurakin et al., arXiv 1611.01236)."""

from functools import cached_property

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.params import STRICT, Real
from components.methods.parts.contract import Loss
from components.methods.parts.mixed_batch import Clock, Mix, require_delay
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mixed:
    """The weighted mean loss of a batch of which a share is attacked through the model itself (section 3, algorithm 1).

    The first `delay` steps train on clean images alone. Errors: a negative delay.
    """

    mix: Mix
    delay: int
    label_smoothing: Real

    def __post_init__(self) -> None:
        require_delay(self.delay)

    @cached_property
    def _clock(self) -> Clock:
        return Clock()

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        if self._clock.tick() < self.delay:
            return self.mix.clean_loss(model, batch, self.label_smoothing)
        return self.mix.loss(model, batch, self.mix.craft(model, batch, threat, rng), self.label_smoothing)

    def state_dict(self) -> dict[str, Tensor]:
        """The number of steps made."""
        return self._clock.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`."""
        self._clock.load_state_dict(state)
