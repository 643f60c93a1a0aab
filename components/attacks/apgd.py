"""Auto-PGD: projected gradient ascent that chooses its own step sizes (Croce & Hein, arXiv 2003.01690, algorithm 1)."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode, look
from components.attacks.parts.objectives import Goal, away_from, towards
from components.attacks.parts.victim import confirm
from components.foundation.errors import InputError
from components.foundation.params import STRICT, Real
from components.numerics.losses import TINY, margin
from components.numerics.random_numbers import Rng, normal, subset, uniform
from components.threats.parts.threat import Threat

# The share of a step that is new; the rest repeats the step before.
NEW = 0.75
# As shares of all steps: the first window between two looks at the step size, by how much each window is shorter than
# the one before, and the shortest.
WINDOW, SHORTER, SHORTEST = 0.22, 0.03, 0.06


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Apgd:
    """`steps` steps up one loss, `restarts` times from random points, each on the images not fooled so far.

    `targeted_dlr` does so for each of `targets` wrong classes, those with the largest logits for the clean image, or
    for all of them where there are fewer. In each window of steps a share of `rho` must raise the loss, or the step
    size is halved. An image is done as soon as it is fooled, and that point is returned: the image itself where it is
    misclassified already. Of an image that stands, the point of highest loss is returned, from the run in which that
    came nearest to fooling the model.
    """

    steps: int
    restarts: int
    loss: Literal["cross_entropy", "dlr", "targeted_dlr"]
    rho: Real
    targets: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or not 0 < self.rho < 1:
            raise ValueError(f"got {self}, want steps and restarts of at least 1 and a rho between 0 and 1")
        if self.targets < 0 or (self.targets > 0) != (self.loss == "targeted_dlr"):
            raise ValueError(f"got {self}, want targets of at least 1 with targeted_dlr, and none with other losses")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        images_adv = images.clone()
        with eval_mode(model):
            with torch.no_grad():
                logits = model(images).float()
            left = (~confirm(model, images, labels, logits.argmax(1) != labels)).nonzero().squeeze(1)
            rng, nearest = subset(rng, left), margin(logits, labels)
            for objective in self._objectives(logits, labels):
                for _ in range(self.restarts):
                    if not len(left):
                        break
                    run = Climb.begin(images[left], labels[left], objective[left], threat, rng)
                    points, margins, fooled = self._run(run, model, threat)
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

    def _run(self, climb: "Climb", model: nn.Module, threat: Threat) -> tuple[Tensor, Tensor, Tensor]:
        """Each image's point [n, C, H, W], the margin there [n], and whether it is fooled there (bool [n])."""
        points, fooled = torch.empty_like(climb.images), torch.zeros_like(climb.labels, dtype=torch.bool)
        margins, ends = torch.empty_like(climb.values), window_ends(self.steps)
        for step in range(self.steps + 1):
            if step:
                # Nothing to repeat yet in the first step.
                climb.move(threat, NEW if step > 1 else 1.0)
            climb.look(model)
            done = confirm(model, climb.point, climb.labels, climb.wrong)
            if done.any():
                chosen = climb.place[done]
                points[chosen], margins[chosen], fooled[chosen] = climb.point[done], climb.margins[done], True
                climb.keep(~done)
                if not len(climb.place):
                    break
            climb.remember()
            if step in ends:
                climb.adapt(self.rho * ends[step])
        points[climb.place], margins[climb.place] = climb.best, climb.best_margins
        return points, margins, fooled


@dataclasses.dataclass
class Climb:
    """The images of a run that still stand, each with its own history. Every first axis counts them, n."""

    place: Tensor  # in the run's batch
    images: Tensor
    labels: Tensor
    objective: Goal
    # Where each climb is and where it was; what it sees here.
    point: Tensor
    previous: Tensor
    gradient: Tensor
    values: Tensor
    margins: Tensor
    wrong: Tensor
    # The point of highest loss so far, and what was seen there.
    best: Tensor
    best_gradient: Tensor
    best_values: Tensor
    best_margins: Tensor
    # The step size [n, 1, 1, 1], and what the next look at it depends on.
    step_size: Tensor
    rises: Tensor
    checked_values: Tensor
    halved: Tensor

    @staticmethod
    def begin(images: Tensor, labels: Tensor, objective: Goal, threat: Threat, rng: Rng) -> "Climb":
        """Random points on the edge of the ball (then clipped to [0, 1]), before the first look."""
        noise = uniform(rng, images) * 2 - 1 if threat.norm == "linf" else normal(rng, images)
        start = images + noise * _per_image(threat.radius / threat.size(noise).clamp_min(TINY))
        start = threat.project(start, images)
        nowhere = torch.full_like(threat.size(noise), -torch.inf)
        return Climb(
            place=torch.arange(len(images), device=images.device),
            images=images,
            labels=labels,
            objective=objective,
            point=start,
            previous=start,
            gradient=torch.zeros_like(start),
            # The first loss seen is no rise.
            values=-nowhere,
            margins=nowhere,
            wrong=torch.zeros_like(labels, dtype=torch.bool),
            best=start,
            best_gradient=torch.zeros_like(start),
            best_values=nowhere,
            best_margins=nowhere,
            step_size=_per_image(torch.full_like(nowhere, 2 * threat.radius)),
            rises=torch.zeros_like(labels),
            checked_values=nowhere,
            # The first window is judged by its rises alone.
            halved=torch.ones_like(labels, dtype=torch.bool),
        )

    def move(self, threat: Threat, new: float) -> None:
        """The steepest step, mixed with a repetition of the last one; both ends are projected."""
        step = self.step_size * threat.steepest_step(self.gradient, 1.0)
        ahead = threat.project(self.point + step, self.images)
        mixed = self.point + (ahead - self.point) * new + (self.point - self.previous) * (1 - new)
        self.previous, self.point = self.point, threat.project(mixed, self.images)

    def look(self, model: nn.Module) -> None:
        """What there is to see at the point; counts the loss's rises."""
        # A fast search may answer in low precision, in which small rises of the loss would get lost.
        view = look(model, self.point, lambda logits: self.objective(logits.float()))
        self.rises = self.rises + (view.values > self.values)
        self.gradient, self.values = view.gradient, view.values
        self.margins = margin(view.logits.float(), self.labels)
        self.wrong = view.logits.argmax(1) != self.labels

    def remember(self) -> None:
        """Takes the point as the best where its loss is the highest so far."""
        higher = self.values > self.best_values
        self.best = torch.where(_per_image(higher), self.point, self.best)
        self.best_gradient = torch.where(_per_image(higher), self.gradient, self.best_gradient)
        self.best_values = torch.where(higher, self.values, self.best_values)
        self.best_margins = torch.where(higher, self.margins, self.best_margins)

    def adapt(self, enough: float) -> None:
        """At the end of a window: halves the step size and goes back to the best point, where the climb has stalled.

        That is where at most `enough` of its steps raised the loss, or where neither the step size nor the highest
        loss has changed since the last look.
        """
        stuck = ~self.halved & (self.checked_values >= self.best_values)
        self.halved = (self.rises <= enough) | stuck
        back = _per_image(self.halved)
        self.step_size = torch.where(back, self.step_size / 2, self.step_size)
        self.point = torch.where(back, self.best, self.point)
        self.gradient = torch.where(back, self.best_gradient, self.gradient)
        self.rises, self.checked_values = torch.zeros_like(self.rises), self.best_values

    def keep(self, standing: Tensor) -> None:
        """Drops the images outside the mask."""
        chosen = standing.nonzero().squeeze(1)
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name)[chosen])


def window_ends(steps: int) -> dict[int, int]:
    """After how many steps the step size is looked at, and how long the window was that ends there."""
    window, shorter, shortest = (max(1, int(share * steps)) for share in (WINDOW, SHORTER, SHORTEST))
    ends, end = {}, window
    while end <= steps:
        ends[end] = window
        window = max(window - shorter, shortest)
        end += window
    return ends


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
