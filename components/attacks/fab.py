"""FAB-T, the targeted fast adaptive boundary attack (Croce & Hein, arXiv 1907.02044)."""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from components.attacks.parts.ascent import View, eval_mode, look
from components.attacks.parts.victim import confirm
from components.foundation.params import Count, Ratio, Real, Share, strict
from components.numerics.losses import answers
from components.numerics.random_numbers import Rng
from components.threats.parts.norm import Crossing, require
from components.threats.parts.threat import Threat


@strict
class Fab:
    """Steps to the decision boundary between the label and each of the `targets` likeliest other classes in turn.

    One step (algorithm 1): the boundary is taken for the hyperplane that the logits' gradient gives; the
    point and the image are both projected onto it inside [0, 1] and overshot by `eta`; the next point lies between the
    two, at most `alpha_max` of the way to the image's. A misclassified point first goes back to `beta` of its distance.
    Unlike the paper, the step after that keeps the hyperplane found at the misclassified point, which is nearer to the
    boundary than the point gone back to: one forward and one backward pass a step instead of two and one.

    The paper asks for the smallest perturbation. Here only the ball counts, so an image is done with the first
    misclassified point inside it; an image without one is returned as it is. Classes are ranked once, by the clean
    logits; a model with fewer other classes than `targets` meets them all. The first of `restarts` begins at the image,
    the others at random points of the ball of half the radius. The standard attack: 100 steps, 9 targets, 1 restart,
    alpha_max 0.1, eta 1.05, beta 0.9.
    """

    steps: Count  # Steps towards each class.
    targets: Count  # Likeliest wrong classes that are tried in turn.
    restarts: Count  # Tries; the first begins at the image.
    alpha_max: Share  # The most of the way to the image's projection that a step goes.
    eta: Annotated[Real, Field(ge=1)]  # How far a projection overshoots the boundary; 1 is onto it.
    beta: Annotated[Real, Field(gt=0, le=1)]  # Share of its distance to which a misclassified point goes back.

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        images_adv = images.clone()
        with eval_mode(model), torch.no_grad():
            logits = model(images)
            standing = ~confirm(model, images, labels, answers(logits) != labels)
            wrong = logits.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
            half = threat.at(Ratio(threat.epsilon / 2))
            # The label itself comes last.
            for rank in range(min(self.targets, logits.shape[1] - 1)):
                for restart in range(self.restarts):
                    # Drawn for all images, so that no stream depends on who still stands.
                    start = half.random_start(images, rng) if restart else images
                    left = standing.nonzero().squeeze(1)
                    if not len(left):
                        break
                    goal = (images[left], labels[left], wrong[left, rank])
                    points, places = self._search(model, *goal, start[left], threat)
                    images_adv[left[places]], standing[left[places]] = points, False
        return threat.verify(images_adv, images)

    def _search(
        self, model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor, point: Tensor, threat: Threat
    ) -> tuple[Tensor, Tensor]:
        """Confirmed adversarial points in the ball, [M, C, H, W], and the places of their images in the batch, [M]."""
        norm = require(threat.norm, Crossing, "fab", "linf, l2, l1 or another norm that knows the way to a hyperplane")
        places = torch.arange(len(images), device=images.device)
        points, fooled = [images[:0]], [places[:0]]
        for step in range(self.steps + 1):
            view = look(model, point, partial(_gap, labels=labels, targets=targets))
            wrong = answers(view.logits) != labels
            hit = confirm(model, point, labels, wrong & (threat.size(point - images) <= threat.radius))
            standing = (~hit).nonzero().squeeze(1)
            if len(standing) < len(hit):
                points.append(point[hit])
                fooled.append(places[hit])
                places, images, labels, targets = (each[standing] for each in (places, images, labels, targets))
                point, wrong, view = point[standing], wrong[standing], View(*(part[standing] for part in view))
            if step == self.steps or not len(places):
                break
            point = self._step(point, images, view, wrong, norm)
        return torch.cat(points), torch.cat(fooled)

    def _step(self, point: Tensor, images: Tensor, view: View, wrong: Tensor, norm: Crossing) -> Tensor:
        normal, shape = view.gradient.flatten(1), point.shape
        offset = (normal * point.flatten(1)).sum(1) - view.values
        point = torch.where(wrong.view(-1, 1, 1, 1), torch.lerp(images, point, self.beta), point)
        both = torch.cat([point, images]).flatten(1)
        moves = norm.onto_hyperplane(both, normal.repeat(2, 1), offset.repeat(2))
        # Where the logits are not numbers there is no hyperplane: the point goes towards the image.
        moves = moves.nan_to_num(0, 0, 0)
        near, far = norm.size(moves).clamp_min(1e-8).chunk(2)
        share = (near / (near + far)).clamp_max(self.alpha_max)[:, None]
        from_point, from_image = torch.add(both, moves, alpha=self.eta).chunk(2)
        return torch.lerp(from_point, from_image, share).clamp_(0, 1).view(shape)


def _gap(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The target's logit less the label's, [N], in float32 also where a fast search answers in less."""
    logits = logits.float()
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
