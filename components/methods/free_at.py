"""Free adversarial training: one backward pass moves the weights and the perturbation."""

from functools import cached_property
from typing import NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.params import STRICT, Real
from components.methods.parts.contract import Loss
from components.methods.parts.one_step import adversarial_loss
from components.numerics import parallel
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FreeAt:
    """Mean cross-entropy of x + δ, stepped on `replays` times a batch, each time also δ ← Π(δ + the step of length ε)
    (Shafahi et al., arXiv 1904.12843, algorithm 1).

    The step follows the gradient that the loop's own backward pass leaves at the images, so the attack costs no pass.
    δ stays for the next batch, where it belongs to other images: it is clipped to the pixel range of those before they
    are trained on (the published code does so one replay later). Published: `replays` 8.
    """

    replays: int
    label_smoothing: Real

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise ValueError(f"got replays {self.replays}, want at least 1")

    @cached_property
    def _perturbation(self) -> "Perturbation":
        return Perturbation()

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        return adversarial_loss(model, batch, self._perturbation.on(batch.images, threat), self.label_smoothing)[0]

    def end_epoch(self, model: nn.Module) -> None:
        """Has every process know the whole batch's perturbation, as a checkpoint holds it."""
        self._perturbation.share()

    def state_dict(self) -> dict[str, Tensor]:
        """The perturbation, with the step that the last backward pass allows; nothing before the first batch."""
        return self._perturbation.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`."""
        self._perturbation.load_state_dict(state)


class _Step(NamedTuple):
    """Attacked images whose gradient is to come, and what the step needs beside it."""

    images_adv: Tensor
    images: Tensor
    threat: Threat


class Perturbation:
    """A perturbation that goes from batch to batch, row by row, and takes its next step as late as it can."""

    def __init__(self) -> None:
        self._delta: Tensor | None = None
        self._whole: Tensor | None = None
        self._pending: _Step | None = None

    @torch.no_grad()
    def on(self, images: Tensor, threat: Threat) -> Tensor:
        """The attacked images [N, C, H, W], a leaf that collects its gradient; rows beyond the largest batch yet are
        unmoved."""
        delta, moved = self._settled(), images.clone()
        if delta is not None:
            moved[: len(delta)] += delta[: len(images)].to(images)
        images_adv = threat.verify(threat.project(moved, images), images).requires_grad_()
        self._pending = _Step(images_adv, images, threat)
        return images_adv

    @torch.no_grad()
    def _settled(self) -> Tensor | None:
        step, self._pending = self._pending, None
        if step is not None and step.images_adv.grad is not None:
            ascent = step.threat.steepest_step(step.images_adv.grad, step.threat.radius, step.images_adv)
            delta = step.threat.project(step.images_adv + ascent, step.images) - step.images
            rest = delta[:0] if self._delta is None else self._delta[len(delta) :].to(delta)
            self._delta = torch.cat([delta, rest])
        return self._delta

    def share(self) -> None:
        """Puts the rows of all processes together: those of this one are every W-th."""
        delta = self._settled()
        self._whole = None if delta is None else parallel.interleaved(delta)

    def state_dict(self) -> dict[str, Tensor]:
        """All there is to know, of all processes once they shared it: afterwards no step is pending."""
        delta = self._settled() if parallel.world_size() == 1 else self._whole
        return {} if delta is None else {"delta": delta}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`."""
        delta = state.get("delta")
        self._delta = delta if delta is None else delta[parallel.rank() :: parallel.world_size()]
        self._whole, self._pending = delta, None
