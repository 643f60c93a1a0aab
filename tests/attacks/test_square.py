"""Square: its moves against plain loops, its optimum on a linear model, and skipped queries that change nothing."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.attacks.parts.victim import Victim
from components.attacks.square import Square
from components.foundation.params import Ratio
from components.numerics.cost import PassCounter
from components.numerics.losses import margin
from components.numerics.random_numbers import Noise, shared
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf, LinfSquares
from components.threats.parts.norm import Squared, require
from components.threats.parts.squares import Move, pyramids
from components.threats.parts.threat import Threat
from tests.parts.linear_network import Linear

LINF = Threat(norm=Linf(), epsilon=Ratio(1, 10))
THREATS = [LINF, Threat(norm=L2(), epsilon=Ratio(1, 2)), Threat(norm=L1(), epsilon=Ratio(3, 2))]
BALLS = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm.name)


def square(**changes: Any) -> Square:
    fields: dict[str, Any] = {"queries": 100, "p_init": 0.8, "restarts": 1, "loss": "margin"}
    return Square(**fields | changes)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_linear_model_linf_optimum(loss, rng):
    """Every pixel at the end of its range that the weight's sign asks for, the last row and column included."""
    images, weight = torch.rand(6, 1, 4, 5, generator=rng), torch.randn(1, 4, 5, generator=rng)
    # Float64, for the cross-entropy of images this far from the boundary.
    model, labels = Linear(weight, bias=15.0).double(), torch.ones(6, dtype=torch.long)
    images_adv = square(queries=2000, loss=loss)(model, images.double(), labels, LINF, seeded())
    optimum = (images.double() - LINF.radius * weight.double().sign()).clamp(0, 1)
    assert torch.allclose(images_adv, optimum, atol=1e-7)


def test_linear_model_l2_climbs_towards_its_optimum(rng):
    """ε‖w‖ is the most that a score can fall; clipping plays no part in grey images. Noise as weight is the hardest."""
    images, weight = torch.full((4, 3, 10, 10), 0.5), torch.randn(3, 10, 10, generator=rng)
    model, labels, threat = (
        Linear(weight, 100.0),
        torch.ones(4, dtype=torch.long),
        Threat(norm=L2(), epsilon=Ratio(1, 4)),
    )
    reached = []
    for queries in (1, 100, 2000):
        images_adv = square(queries=queries)(model, images, labels, threat, seeded())
        assert torch.allclose(threat.size(images_adv - images), torch.tensor(threat.radius), atol=1e-6)
        reached.append((model(images)[:, 1] - model(images_adv)[:, 1]) / (threat.radius * weight.norm()))
    assert (reached[0] < 0.1).all() and (reached[1] > 0.15).all() and (reached[2] > 0.5).all()


def plain_search(attack: Square, model: nn.Module, image: Tensor, label: Tensor, threat: Threat, rng: Noise) -> Tensor:
    """One image, every query asked: the attack without anything that makes it fast."""
    squares = require(threat.norm, Squared, "square", "squares").squares(image.shape[1:], threat.radius)
    draw = shared(rng)
    point, everyone = squares.start(image, rng, draw), torch.tensor([True])
    value = margin(model(point), label)
    for query in range(attack.queries):
        if value > 0:
            break
        share = attack.p_init / 2 ** sum(query > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000))
        _, candidate = squares.propose(point, image, squares.draw(share, draw), everyone)
        if len(candidate) and (reached := margin(model(candidate), label)) > value:
            point, value = candidate, reached
    return point


@BALLS
def test_skipped_queries_change_nothing_and_save_passes(threat, tiny, images):
    """Float64, so that a sum's order in batches of another size decides no query."""
    tiny, images = tiny.double().eval(), images.double()
    attack = square(queries=1500 if threat is LINF else 500)
    with torch.no_grad():
        labels, counter = tiny(images).argmax(1), PassCounter(tiny)
        images_adv = attack(tiny, images, labels, threat, Noise(3, torch.arange(12)))
        passes = counter.take()["forward"]
        want = [
            plain_search(attack, tiny, images[[i]], labels[[i]], threat, Noise(3, torch.tensor([i])))
            for i in range(len(images))
        ]
        plain_passes = counter.take()["forward"]
    assert torch.allclose(images_adv, torch.cat(want), atol=1e-12)
    fooled = tiny(images_adv).argmax(1) != labels
    assert 0 < fooled.sum() < 12
    # On 8x8 images most squares of L∞ are one pixel; the pairs of L2 seldom come again.
    assert passes < plain_passes * (0.6 if threat is LINF else 1.0)


@BALLS
def test_a_square_that_comes_again_is_skipped_only_if_it_can_teach_nothing(threat, rng):
    """On 4x4 images most squares come again; one that was accepted moves more norm the second time, in L2."""
    images = torch.rand(6, 1, 4, 4, generator=rng, dtype=torch.float64)
    model = Linear(torch.randn(1, 4, 4, generator=rng), 30.0).double()
    labels, attack = torch.ones(6, dtype=torch.long), square(queries=200)
    images_adv = attack(model, images, labels, threat, Noise(3, torch.arange(6)))
    with torch.no_grad():
        want = [
            plain_search(attack, model, images[[i]], labels[[i]], threat, Noise(3, torch.tensor([i]))) for i in range(6)
        ]
    assert torch.allclose(images_adv, torch.cat(want), atol=1e-12)


@BALLS
def test_more_queries_continue_the_same_search(threat, tiny, images):
    labels = tiny.eval()(images).argmax(1)
    reached = []
    for queries in (20, 60, 300):
        images_adv = square(queries=queries)(tiny, images, labels, threat, Noise(1, torch.arange(12)))
        with torch.no_grad():
            reached.append(margin(tiny(images_adv), labels))
    for few, many in pairwise(reached):
        fooled = few > 0
        assert (many[~fooled] >= few[~fooled] - 1e-5).all() and torch.allclose(many[fooled], few[fooled], atol=1e-5)
    assert (reached[2] > reached[0] + 1e-3).any()


@BALLS
def test_neighbours_do_not_matter(threat, tiny, images):
    labels, everyone = tiny.eval()(images).argmax(1), torch.arange(12)
    attack = square(queries=150, restarts=2)
    whole = attack(tiny, images, labels, threat, Noise(5, everyone))
    parts = [
        attack(tiny, images[part], labels[part], threat, Noise(5, everyone[part])) for part in (slice(5), slice(5, 12))
    ]
    with eval_mode(tiny), torch.no_grad():
        fooled = tiny(whole).argmax(1) != labels
        assert torch.equal(tiny(torch.cat(parts)).argmax(1) != labels, fooled) and 0 < fooled.sum() < 12
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)


def test_of_all_restarts_the_best_point_is_kept(tiny, images):
    labels, reached = tiny.eval()(images).argmax(1), []
    for restarts in range(1, 7):
        images_adv = square(queries=3, restarts=restarts)(tiny, images, labels, LINF, Noise(0, torch.arange(12)))
        with torch.no_grad():
            reached.append(margin(tiny(images_adv), labels))
    assert all((more >= fewer - 1e-6).all() for fewer, more in pairwise(reached))
    assert (reached[5] > reached[0] + 1e-3).any()


def test_images_that_are_fooled_cost_no_more_passes(tiny, images):
    labels = (tiny.eval()(images).argmax(1) + 1) % 3
    counter = PassCounter(tiny)
    assert torch.equal(square()(tiny, images, labels, LINF, seeded()), images)
    assert counter.take() == {"forward": 12, "backward": 0}


def test_only_the_exact_model_says_who_is_fooled(tiny, images):
    """The search takes every image for fooled; only what the exact model gets wrong may end its search."""

    class Liar(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return tiny(images).roll(1, dims=1)

    labels = tiny.eval()(images).argmax(1)
    images_adv = square()(Victim(tiny, Liar()), images, labels, LINF, Noise(0, torch.arange(12)))
    with torch.no_grad():
        wrong = tiny(images_adv).argmax(1) != labels
    # All were searched, not given back as they came.
    assert (images_adv != images).flatten(1).any(1).all() and 0 < wrong.sum() < 12


def test_squares_shrink_on_the_schedule_and_reach_every_corner():
    attack, squares, draw, moves = square(queries=5000), LinfSquares((3, 32, 32), 0.1), seeded(), []
    for query in range(attack.queries):
        halvings = sum(query > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000))
        moves.append(squares.draw(0.8 / 2**halvings, draw))
    sides = {query: moves[query].side for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 4999)}
    assert list(sides.values()) == [29, 29, 20, 14, 10, 7, 5, 4, 3, 3]
    last = [move for move in moves if move.side == 4]
    assert {move.place[0] for move in last} == {move.place[1] for move in last} == set(range(29))
    assert len({move.signs for move in moves}) == 8
    # L2: odd sides of at least 3, never more than the image.
    wide = L2().squares((1, 8, 8), 0.1)
    assert [wide.draw(share, draw).side for share in (0.8, 0.4, 0.2, 0.1, 0.001)] == [7, 5, 5, 3, 3]
    assert L2().squares((1, 2, 9), 0.1).draw(0.8, draw).side == 2


def test_linf_proposes_only_where_a_pixel_changes():
    images = torch.tensor([0.5, 0.5, 1.0, 0.5]).view(4, 1, 1, 1).expand(4, 1, 3, 3).clone()
    points = images.clone()
    points[1, :, 1:, 1:] = 0.6  # where the move would bring it
    move = Move(2, (1, 1), (1,))
    among = torch.tensor([True, True, True, False])
    chosen, candidates = LinfSquares((1, 3, 3), 0.1).propose(points, images, move, among)
    # The second has it already, the third is at the pixel bound, the fourth is not asked for.
    assert chosen.tolist() == [0]
    want = torch.full((1, 1, 3, 3), 0.5)
    want[..., 1:, 1:] = 0.6
    assert torch.allclose(candidates, want) and torch.equal(points[0], images[0])


def test_l2_moves_the_norm_of_one_square_into_another():
    """By hand, in two channels: the source becomes empty; the square has the norm of both, and its half of the rest."""
    images = torch.full((1, 2, 8, 8), 0.5)
    offset = torch.zeros(2, 8, 8)
    offset[0, 0:3, 0:3], offset[0, 5:8, 5:8], offset[1, 0, 7] = 0.01, 0.02, 0.03
    # Squared, the squares' own norm is 0.0009 + 0.0036 in the first channel, and 0.0009 lies outside: 0.0046 is unused.
    radius = 0.1
    move = Move(3, (0, 0), (-1, 1), source=(5, 5), upright=False)
    squares = L2().squares((2, 8, 8), radius)
    chosen, candidates = squares.propose(images + offset, images, move, torch.tensor([True]))
    pair = pyramids(3, power=2, decay=2).T
    mixed = 1 / 3 - pair
    want = torch.zeros(2, 8, 8)
    want[0, 0:3, 0:3] = mixed / mixed.norm() * math.sqrt(0.0045 + 0.0023)
    want[1, 0:3, 0:3] = pair * math.sqrt(0.0023)
    want[1, 0, 7] = 0.03
    # Nothing is clipped, and the norms make up the whole: 0.0068 + 0.0023 + 0.0009 is the radius squared.
    assert float(want.square().sum()) == pytest.approx(radius**2, abs=1e-7)
    assert chosen.tolist() == [0] and torch.allclose(candidates[0] - 0.5, want, atol=1e-6)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 10])
def test_pyramids_are_sums_of_nested_squares(side):
    """Layer k adds 1/(k+1)² to all pixels at most k king's moves from the centre of its half."""
    want = torch.zeros(side, side)
    for top, height, sign in ((0, side // 2, 1.0), (side // 2, side - side // 2, -1.0)):
        half = torch.zeros(height, side)
        for row in range(height):
            for column in range(side):
                for layer in range(side // 2 + 1):
                    if max(abs(row - height // 2), abs(column - side // 2)) <= layer:
                        half[row, column] += 1 / (layer + 1) ** 2
        if height:
            want[top : top + height] = sign * half / half.norm()
    assert torch.allclose(pyramids(side, power=2, decay=2), want / want.norm(), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 4, 7)])
def test_starts_fill_the_ball(shape):
    images, draw = torch.full((5, *shape), 0.5), seeded()
    stripes = LinfSquares(shape, 0.1).start(images, Noise(0, torch.arange(5)), draw) - images
    assert torch.allclose(stripes.abs(), torch.tensor(0.1)) and torch.equal(
        stripes, stripes[:, :, :1].expand(5, *shape)
    )
    assert 0.3 < (stripes[:, :, 0] > 0).float().mean() < 0.7
    grid = L2().squares(shape, 0.5).start(images, Noise(0, torch.arange(5)), draw) - images
    assert torch.allclose(grid.flatten(1).norm(dim=1), torch.tensor(0.5), atol=1e-5)
    assert not torch.equal(grid[0], grid[1])


@pytest.mark.parametrize("field, value", [("queries", 0), ("restarts", 0), ("p_init", 0.0), ("p_init", 1.1)])
def test_fields_are_checked(field, value):
    with pytest.raises(ValueError, match=rf"{field}\n.*(greater|less) than"):
        square(**{field: value})
