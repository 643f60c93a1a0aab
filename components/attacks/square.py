"""The Square attack: random search by queries alone, no gradient (Andriushchenko et al., arXiv 1912.00049)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.attacks.parts.victim import confirm
from components.foundation.params import Count, Real, strict
from components.numerics.losses import answers, cross_entropy, margin
from components.numerics.random_numbers import Rng, shared
from components.threats.parts.norm import Squared, require
from components.threats.parts.squares import Move, Squares
from components.threats.parts.threat import Threat

LOSSES = {"cross_entropy": cross_entropy, "margin": margin}

# After each of these queries the squares' share of the image halves: the paper's schedule for 10,000 queries.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@strict
class Square:
    """`queries` random squares on each image, each kept if it raises the loss; `restarts` times from new starts.

    The norm says what the squares are. L∞ (algorithms 1 and 2): +epsilon or -epsilon in each channel, from vertical
    stripes of both. L2 (algorithm 3) and L1: they take over the norm of other squares, from a grid of them. The first
    cover `p_init` of the image; they shrink as in the standard attack (5,000 queries, p_init 0.8, margin, 1 restart),
    which is on the schedule for 10,000 queries whatever `queries` says. So more queries continue the same search, and
    never lose an image. A square may lie anywhere, the last row and column included.

    All images try the same squares; the signs at the start are each image's own. A square from which an image can learn
    nothing is not evaluated: one that changes no pixel, and one already tried since the image last changed. With a
    deterministic model that changes no result, and on small images it saves most passes. An image is done once it is
    confirmed fooled; of the others the point with the greatest loss is returned.
    """

    queries: Count  # Random squares tried on each image in each run.
    p_init: Annotated[Real, Field(gt=0, le=1)]  # Share of the image that the first squares cover.
    restarts: Count  # Runs from new starts.
    loss: Literal["cross_entropy", "margin"]  # What the attack climbs.

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, rng: Rng) -> Tensor:
        norm = require(threat.norm, Squared, "square", "linf, l2, l1 or another norm that says what its squares are")
        squares = norm.squares(images.shape[1:], threat.radius)
        draw, images_adv = shared(rng), images.clone()
        with eval_mode(model), torch.no_grad():
            standing = ~confirm(model, images, labels, answers(model(images)) != labels)
            best = images.new_full(labels.shape, -torch.inf)
            for _ in range(self.restarts):
                # Drawn for all images, so that no stream depends on who still stands.
                start = squares.start(images, rng, draw)
                left = standing.nonzero().squeeze(1)
                if not len(left):
                    break
                points, value, fooled = self._search(model, images[left], labels[left], start[left], squares, draw)
                better = fooled | (value > best[left])
                images_adv[left[better]] = points[better]
                best[left] = best[left].maximum(value)
                standing[left[fooled]] = False
        return threat.verify(images_adv, images)

    def _search(
        self, model: nn.Module, images: Tensor, labels: Tensor, points: Tensor, squares: Squares, draw: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The last point of each image's climb, its loss, [N], and whether it is confirmed to fool the model, [N]."""
        value, fooled = self._ask(model, points, labels)
        changed, tried = torch.zeros_like(labels), dict[Move, int]()
        for query in range(self.queries):
            halvings = sum(query > bound for bound in HALVINGS)
            move = squares.draw(self.p_init / 2**halvings, draw)
            # Queries count from 1 here: 0 is the start. Tried at q and changed at q is a square that was accepted.
            fresh = ~fooled & (changed >= tried.get(move, -1))
            tried[move] = query + 1
            chosen, candidates = squares.propose(points, images, move, fresh)
            if not len(chosen):
                if fooled.all():
                    break
                continue
            reached, hit = self._ask(model, candidates, labels[chosen])
            taken = (hit | (reached > value[chosen])).nonzero().squeeze(1)
            places = chosen[taken]
            points[places], value[places], fooled[places] = candidates[taken], reached[taken], hit[taken]
            changed[places] = query + 1
        return points, value, fooled

    def _ask(self, model: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # A fast search may answer in low precision, in which a margin would lose its last digits.
        logits = model(points).to(points.dtype)
        # No loss is above or below one that is not a number: the search would stand still.
        loss = LOSSES[self.loss](logits, labels).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        return loss, confirm(model, points, labels, answers(logits) != labels)
