"""Projected gradient descent, as attackers call the ascent (Madry et al., arXiv 1706.06083, section 2.1)."""

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import Objective, Start, ascend, eval_mode, first_look, start_point
from components.attacks.parts.objectives import Aim, Goal, LossName, clean_logits, goal, require_sense
from components.attacks.parts.victim import confirm
from components.foundation.params import Count, PositiveLength, strict
from components.numerics.losses import answers, margin
from components.numerics.random_numbers import Rng, subset
from components.threats.parts.threat import Threat


@strict
class Pgd:
    """`steps` steps of `step_size` from `start` up a loss with an aim, up to `restarts` times.

    A restart attacks only the images not fooled yet. Of each image the point that fools the model is returned, else
    the one of largest margin among the ends of its restarts.
    """

    steps: Count  # Steps of each try.
    step_size: PositiveLength  # Length of one step, a fraction of the pixel range.
    start: Start  # Where the attack starts.
    loss: LossName  # What the attack climbs.
    restarts: Count  # Tries of the attack, each on the images not fooled yet.
    aim: Aim = "true"  # The class that is left (`true`, `predicted`) or reached (`least_likely`, `random`).

    def __post_init__(self) -> None:
        require_sense(self.loss, self.aim, leaves_image=self.start != "zero")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        objective = goal(self.loss, self.aim, labels, clean_logits(model, images), rng)
        if self.restarts == 1:
            return self._climb(model, images, objective, threat, rng)
        return self._climb_again(model, images, labels, objective, threat, rng)

    def _climb(self, model: nn.Module, images: Tensor, objective: Objective, threat: Threat, rng: Rng) -> Tensor:
        start = start_point(self.start, images, threat, rng)
        looked = first_look(self.start, start, images, threat) if self.loss == "kl" else None
        return ascend(model, images, start, objective, threat, float(self.step_size), self.steps, looked=looked)

    def _climb_again(
        self, model: nn.Module, images: Tensor, labels: Tensor, objective: Goal, threat: Threat, rng: Rng
    ) -> Tensor:
        best, best_margin = images.clone(), torch.full_like(labels, -torch.inf, dtype=torch.float32)
        left = torch.arange(len(images), device=images.device)
        for _ in range(self.restarts):
            if not len(left):
                break
            images_adv = self._climb(model, images[left], objective[left], threat, rng)
            with eval_mode(model), torch.no_grad():
                logits = model(images_adv)
                fooled = confirm(model, images_adv, labels[left], answers(logits) != labels[left])
            # Compared by margin, whatever the loss: its sign is what decides whether the image is fooled.
            reached = margin(logits.float(), labels[left])
            better = fooled | (reached > best_margin[left])
            best[left[better]], best_margin[left[better]] = images_adv[better], reached[better]
            rng, left = subset(rng, ~fooled), left[~fooled]
        return best
