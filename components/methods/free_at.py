"""Free adversarial training: one backward pass moves the weights and the perturbation."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.params import Count, Share, strict
from components.methods.parts.contract import Loss, Method
from components.methods.parts.memory import Memory
from components.methods.parts.one_step import adversarial_loss
from components.numerics import parallel
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat

DELTA = "delta"


@strict
class FreeAt:
    """Mean cross-entropy of x + δ, stepped on `replays` times a batch, each time also δ ← Π(δ + the step of length ε)
    (Shafahi et al., arXiv 1904.12843, algorithm 1).

    The step follows the gradient that the loop's own backward pass leaves at the images, so the attack costs no pass.
    δ stays for the next batch, where it belongs to other images: it is clipped to the pixel range of those before they
    are trained on (the published code does so one replay later). Published: `replays` 8.
    """

    replays: Count  # Steps on each batch.
    label_smoothing: Share  # Share of the target that goes evenly to all classes.

    def build(self) -> "FreeAtMethod":
        return FreeAtMethod(self)


class _Replay(NamedTuple):
    """Attacked images whose gradient is to come, and what the step needs beside it."""

    images_adv: Tensor
    images: Tensor
    threat: Threat


class FreeAtMethod(Method):
    """The objective of `FreeAt`, and a perturbation that goes from batch to batch, row by row.

    It takes its next step as late as it can. Between epochs it is that of the whole batch, within an epoch this
    process's rows of it; there is none before the first batch.
    """

    fields: FreeAt
    divisible = False

    def __init__(self, fields: FreeAt) -> None:
        super().__init__(fields)
        self.replays = fields.replays
        self.memory = Memory()
        self._pending: _Replay | None = None

    @property
    def host_decides(self) -> str:
        """The perturbation that goes on to the next batch, whose size may be another."""
        return "free_at hands its perturbation from one step to the next on the host"

    def begin_epoch(self, epoch: int) -> None:
        """Takes this process's rows: every W-th. No step is pending."""
        self._pending = None
        if DELTA in self.memory:
            self.memory[DELTA] = self.memory[DELTA][parallel.rank() :: parallel.world_size()]

    def end_epoch(self, model: nn.Module) -> None:
        """Takes the step that the last backward pass allows, and puts the rows of all processes together."""
        self._settle()
        if DELTA in self.memory:
            self.memory[DELTA] = parallel.interleaved(self.memory[DELTA])

    def loss(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Loss:
        return adversarial_loss(model, batch, self._attacked(batch.images, threat), self.fields.label_smoothing)[0]

    @torch.no_grad()
    def _attacked(self, images: Tensor, threat: Threat) -> Tensor:
        """The attacked images [N, C, H, W], a leaf that collects its gradient; rows beyond the largest batch yet are
        unmoved."""
        self._settle()
        moved = images.clone()
        if DELTA in self.memory:
            delta = self.memory[DELTA][: len(images)].to(images)
            moved[: len(delta)] += delta
        images_adv = threat.verify(threat.project(moved, images), images).requires_grad_()
        self._pending = _Replay(images_adv, images, threat)
        return images_adv

    @torch.no_grad()
    def _settle(self) -> None:
        step, self._pending = self._pending, None
        if step is not None and step.images_adv.grad is not None:
            ascent = step.threat.steepest_step(step.images_adv.grad, step.threat.radius, step.images_adv)
            delta = step.threat.project(step.images_adv + ascent, step.images) - step.images
            rest = self.memory[DELTA][len(delta) :].to(delta) if DELTA in self.memory else delta[:0]
            self.memory[DELTA] = torch.cat([delta, rest])
