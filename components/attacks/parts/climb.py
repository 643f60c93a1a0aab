"""One climb of Auto-PGD: where each image is, where it was, and the pace, which decides how long its steps are."""

from typing import Protocol

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import look
from components.attacks.parts.objectives import Goal
from components.numerics.losses import answers, margin
from components.threats.parts.norm import Sparse
from components.threats.parts.threat import Threat

# The share of a step that is new; the rest repeats the step before.
NEW = 0.75
# As shares of all steps: the first window between two looks at the step size, by how much each window is shorter than
# the one before, and the shortest.
WINDOW, SHORTER, SHORTEST = 0.22, 0.03, 0.06
# Of sparse climbs ("Mind the box"): the window as a share of all steps, by how much the step size falls and how far,
# of the numbers that the best point changes the share that a step moves, and the decline that counts as one.
SPARSE_WINDOW, SLOWER, SLOWEST, DENSER, FEWER = 0.04, 1.5, 10, 1.5, 0.95


class Pace(Protocol):
    """How the images of a climb move, each at a pace of its own, and how that changes after windows of steps."""

    def move(self, climb: "Climb", threat: Threat, first: bool) -> Tensor:
        """Where the climb goes next, inside the threat model."""
        ...

    def rose(self, higher: Tensor) -> None:
        """Takes note of the images (bool [n]) whose loss the last step raised."""

    def adapt(self, climb: "Climb", window: int) -> Tensor:
        """At the end of a window of so many steps: sets the pace anew, and says who goes back to the best point."""
        ...


class Halving:
    """Algorithm 1 of Croce & Hein, arXiv 2003.01690: momentum, and a step size that is halved where a climb stalls.

    That is where at most a share of `rho` of the window's steps raised the loss, or where neither the step size nor the
    highest loss has changed since the last look.
    """

    def __init__(self, images: Tensor, threat: Threat, rho: float) -> None:
        """Steps of twice the radius; the first window is judged by its rises alone."""
        self.rho, self.checked_values = rho, images.new_full((len(images),), -torch.inf)
        self.step_size = per_image(torch.full_like(self.checked_values, 2 * threat.radius))
        self.rises = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.halved = torch.ones_like(self.rises, dtype=torch.bool)

    def move(self, climb: "Climb", threat: Threat, first: bool) -> Tensor:
        """The steepest step, mixed with a repetition of the last one; both ends are projected."""
        # Nothing to repeat yet in the first step.
        new = 1.0 if first else NEW
        step = self.step_size * threat.steepest_step(climb.gradient, 1.0, climb.point)
        ahead = threat.project(climb.point + step, climb.images)
        mixed = climb.point + (ahead - climb.point) * new + (climb.point - climb.previous) * (1 - new)
        return threat.project(mixed, climb.images)

    def rose(self, higher: Tensor) -> None:
        self.rises = self.rises + higher

    def adapt(self, climb: "Climb", window: int) -> Tensor:
        stuck = ~self.halved & (self.checked_values >= climb.best_values)
        self.halved = (self.rises <= self.rho * window) | stuck
        self.step_size = torch.where(per_image(self.halved), self.step_size / 2, self.step_size)
        self.rises, self.checked_values = torch.zeros_like(self.rises), climb.best_values
        return self.halved


class Thinning:
    """The APGD of Croce & Hein, "Mind the box", arXiv 2103.01208: few numbers move, and ever fewer.

    A step moves a share of the numbers by the same. After a window that share follows from how many numbers the best
    point changes. Where these became fewer, the climb goes on from the best point with steps of the radius; else the
    steps become shorter.
    """

    def __init__(self, norm: Sparse, start: Tensor, images: Tensor, threat: Threat) -> None:
        """Steps of the radius."""
        self.norm, self.radius, self.changed = norm, threat.radius, _changed(start, images)
        self.step_size = per_image(torch.full_like(self.changed, threat.radius))
        self.share = _share(self.changed, images)

    def move(self, climb: "Climb", threat: Threat, first: bool) -> Tensor:
        step = self.norm.sparse_step(climb.gradient, self.step_size, self.share)
        return threat.project(climb.point + step, climb.images)

    def rose(self, higher: Tensor) -> None:
        """Does not matter here."""

    def adapt(self, climb: "Climb", window: int) -> Tensor:
        changed = _changed(climb.best, climb.images)
        fewer = changed / self.changed.clamp_min(1) < FEWER
        slower = (self.step_size / SLOWER).clamp_min(self.radius / SLOWEST)
        self.step_size = torch.where(per_image(fewer), self.radius, slower)
        self.share, self.changed = _share(changed, climb.images), changed
        return fewer


class Climb:
    """The images of a run that still stand, each with its own history. Every first axis counts them, n."""

    def __init__(self, start: Tensor, images: Tensor, labels: Tensor, objective: Goal, pace: Pace) -> None:
        """At `start`, before the first look."""
        nowhere = images.new_full((len(images),), -torch.inf)
        self.pace, self.images, self.labels, self.objective = pace, images, labels, objective
        # In the run's batch.
        self.place = torch.arange(len(images), device=images.device)
        # Where each climb is and where it was; what it sees here. The first loss seen is no rise.
        self.point, self.previous, self.gradient = start, start, torch.zeros_like(start)
        self.values, self.margins, self.wrong = -nowhere, nowhere, torch.zeros_like(labels, dtype=torch.bool)
        # The point of highest loss so far, and what was seen there.
        self.best, self.best_gradient = start, torch.zeros_like(start)
        self.best_values, self.best_margins = nowhere, nowhere

    def move(self, threat: Threat, first: bool) -> None:
        """One step at the images' pace."""
        self.previous, self.point = self.point, self.pace.move(self, threat, first)

    def look(self, model: nn.Module) -> None:
        """What there is to see at the point."""
        # A fast search may answer in low precision, in which small rises of the loss would get lost.
        view = look(model, self.point, lambda logits: self.objective(logits.float()))
        self.pace.rose(view.values > self.values)
        self.gradient, self.values = view.gradient, view.values
        self.margins = margin(view.logits.float(), self.labels)
        self.wrong = answers(view.logits) != self.labels

    def remember(self) -> None:
        """Takes the point as the best where its loss is the highest so far."""
        higher = self.values > self.best_values
        self.best = torch.where(per_image(higher), self.point, self.best)
        self.best_gradient = torch.where(per_image(higher), self.gradient, self.best_gradient)
        self.best_values = torch.where(higher, self.values, self.best_values)
        self.best_margins = torch.where(higher, self.margins, self.best_margins)

    def adapt(self, window: int) -> None:
        """At the end of a window of so many steps: a new pace, for some from their best point."""
        back = per_image(self.pace.adapt(self, window))
        self.point = torch.where(back, self.best, self.point)
        self.gradient = torch.where(back, self.best_gradient, self.gradient)

    def keep(self, standing: Tensor) -> None:
        """Drops the images outside the mask."""
        chosen = standing.nonzero().squeeze(1)
        self.objective = self.objective[chosen]
        for part in (self, self.pace):
            for name, value in vars(part).items():
                if isinstance(value, Tensor):
                    setattr(part, name, value[chosen])


def window_ends(steps: int) -> dict[int, int]:
    """After how many steps the step size is looked at, and how long the window was that ends there."""
    window, shorter, shortest = (max(1, int(share * steps)) for share in (WINDOW, SHORTER, SHORTEST))
    ends, end = dict[int, int](), window
    while end <= steps:
        ends[end] = window
        window = max(window - shorter, shortest)
        end += window
    return ends


def sparse_window_ends(steps: int) -> dict[int, int]:
    """The same for sparse climbs, whose windows are of one length."""
    window = max(1, int(SPARSE_WINDOW * steps))
    return dict.fromkeys(range(window, steps + 1, window), window)


def per_image(values: Tensor) -> Tensor:
    """[n] -> [n, 1, 1, 1]."""
    return values.view(-1, 1, 1, 1)


def _changed(points: Tensor, images: Tensor) -> Tensor:
    return (points != images).flatten(1).sum(1).to(images.dtype)


def _share(changed: Tensor, images: Tensor) -> Tensor:
    return per_image(changed / images.shape[1:].numel() / DENSER)
