"""Auto-PGD: projected gradient ascent that chooses its own step sizes (Croce & Hein, arXiv 2003.01690, algorithm 1)."""

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.attacks.parts.climb import Climb, Halving, Thinning, sparse_window_ends, window_ends
from components.attacks.parts.objectives import Goal, away_from, towards
from components.attacks.parts.victim import confirm
from components.foundation.errors import InputError
from components.foundation.params import Count, Ratio, Real, Whole, strict
from components.numerics.losses import answers, margin
from components.numerics.random_numbers import Rng, subset
from components.threats.parts.norm import Sparse
from components.threats.parts.threat import Threat

# In a sparse norm a run begins in larger balls, so many times the radius, and spends these shares of its steps there
# and, in the end, in the ball itself ("Mind the box").
LARGER, LARGER_STEPS = (3, 2), (0.3, 0.3, 0.4)


@strict
class Apgd:
    """`steps` steps up one loss, `restarts` times from random points, each on the images not fooled so far.

    `targeted_dlr` does so for each of `targets` wrong classes, those with the largest logits for the clean image, or
    for all of them where there are fewer. In each window of steps a share of `rho` must raise the loss, or the step
    size is halved. In L1, where good steps move few pixels, `climb.Thinning` sets the pace instead (Croce & Hein, "Mind
    the box", arXiv 2103.01208), and `rho` means nothing. An image is done as soon as it is fooled, and that point is
    returned: the image itself where it is misclassified already. Of an image that stands, the point of highest loss is
    returned, from the run in which that came nearest to fooling the model.
    """

    steps: Count  # Steps of each run.
    restarts: Count  # Runs from random points, each on the images not fooled so far.
    loss: Literal["cross_entropy", "dlr", "targeted_dlr"]  # What the attack climbs.
    rho: Annotated[Real, Field(gt=0, lt=1)]  # Share of a window's steps that must raise the loss to keep the step size.
    targets: Whole = 0  # Wrong classes that `targeted_dlr` aims at; 0 with other losses.

    def __post_init__(self) -> None:
        if (self.targets > 0) != (self.loss == "targeted_dlr"):
            raise ValueError(f"got {self}, want targets of at least 1 with targeted_dlr, and none with other losses")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        images_adv = images.clone()
        with eval_mode(model):
            with torch.no_grad():
                logits = model(images).float()
            left = (~confirm(model, images, labels, answers(logits) != labels)).nonzero().squeeze(1)
            rng, nearest = subset(rng, left), margin(logits, labels)
            for objective in self._objectives(logits, labels):
                for _ in range(self.restarts):
                    if not len(left):
                        break
                    goal = (images[left], labels[left], objective[left])
                    points, margins, fooled = self._run(model, *goal, threat, rng)
                    better = fooled | (margins > nearest[left])
                    images_adv[left[better]], nearest[left[better]] = points[better], margins[better]
                    rng, left = subset(rng, ~fooled), left[~fooled]
        return threat.verify(images_adv, images)

    def _objectives(self, logits: Tensor, labels: Tensor) -> Iterator[Goal]:
        """What the runs climb, one after another, given the clean images' logits [N, K]."""
        if self.loss != "targeted_dlr":
            yield away_from(self.loss, labels)
            return
        num_classes = logits.shape[1]
        if num_classes < 4:
            raise InputError(f"apgd: loss targeted_dlr: got {num_classes} classes, want at least 4 (use cross_entropy)")
        wrong = logits.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        # The label itself comes last.
        for rank in range(min(self.targets, num_classes - 1)):
            yield towards("dlr", labels, wrong[:, rank])

    def _run(
        self, model: nn.Module, images: Tensor, labels: Tensor, objective: Goal, threat: Threat, rng: Rng
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each image's point [n, C, H, W], the margin there [n], and whether it is fooled there (bool [n])."""
        norm = threat.norm
        if not isinstance(norm, Sparse):
            start = norm.random_edge(images, threat.radius, rng)
            climb = Climb(start, images, labels, objective, Halving(images, threat, self.rho))
            return _climbed(climb, model, threat, self.steps, window_ends(self.steps))
        start = norm.random_edge(images, LARGER[0] * threat.radius, rng)
        *before, steps = (max(1, int(share * self.steps)) for share in LARGER_STEPS)
        for times, few in zip(LARGER, before, strict=True):
            ball = threat.at(Ratio(times * threat.epsilon))
            start = ball.project(start, images)
            climb = Climb(start, images, labels, objective, Thinning(norm, start, images, ball))
            # Who is fooled on the way does not matter yet.
            for _ in _looks(climb, model, ball, few, sparse_window_ends(few)):
                pass
            start = climb.best
        start = threat.project(start, images)
        climb = Climb(start, images, labels, objective, Thinning(norm, start, images, threat))
        return _climbed(climb, model, threat, steps, sparse_window_ends(steps))


def _climbed(
    climb: Climb, model: nn.Module, threat: Threat, steps: int, ends: dict[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Each image's point, the margin there and whether it is fooled there; an image is done as soon as it is."""
    points, fooled = torch.empty_like(climb.images), torch.zeros_like(climb.labels, dtype=torch.bool)
    margins = torch.empty_like(climb.values)
    for _ in _looks(climb, model, threat, steps, ends):
        done = confirm(model, climb.point, climb.labels, climb.wrong)
        if done.any():
            chosen = climb.place[done]
            points[chosen], margins[chosen], fooled[chosen] = climb.point[done], climb.margins[done], True
            climb.keep(~done)
            if not len(climb.place):
                break
    points[climb.place], margins[climb.place] = climb.best, climb.best_margins
    return points, margins, fooled


def _looks(climb: Climb, model: nn.Module, threat: Threat, steps: int, ends: dict[int, int]) -> Iterator[None]:
    """Climbs; comes back after each look, when images may still be dropped before the climb remembers what it saw."""
    for step in range(steps + 1):
        if step:
            climb.move(threat, first=step == 1)
        climb.look(model)
        yield
        climb.remember()
        if step in ends:
            climb.adapt(ends[step])
