"""FAB-T: its projection against slow exact solutions, its minimal norms on linear models, and what it costs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.attacks.fab import Fab
from components.attacks.parts.victim import Victim
from components.foundation.params import Ratio
from components.numerics.cost import PassCounter
from components.numerics.random_numbers import Noise
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.norm import Norm
from components.threats.parts.threat import Threat
from tests.parts.linear_network import Linear

NORMS = pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=repr)


def fab(**changes: Any) -> Fab:
    fields: dict[str, Any] = {"steps": 20, "targets": 9, "restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
    return Fab(**fields | changes)


def hyperplanes(rng: torch.Generator, num: int = 60, size: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    """Points with pixels at the bounds, normals with zeros and of all magnitudes, offsets reachable and not."""
    points = (torch.rand(num, size, generator=rng, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    normals = torch.randn(num, size, generator=rng, dtype=torch.float64) ** 3
    normals[:, :5] = 0
    other = torch.rand(num, size, generator=rng, dtype=torch.float64)
    offsets = (normals * torch.where(torch.arange(num)[:, None] % 3 == 0, other.round(), other)).sum(1)
    offsets[-6:] += torch.tensor([-1.0, 1.0] * 3) * normals[-6:].abs().sum(1)
    return points, normals, offsets


def slow_move(point: Tensor, normal: Tensor, offset: Tensor, norm: Norm) -> Tensor:
    """By bisection on the multiplier of the hyperplane, in float64; in L1 one number after another."""
    change = float(offset - normal @ point)
    toward = normal if change > 0 else -normal
    if norm == L1():
        return one_by_one(point, toward, abs(change))
    speed = toward.sign() if norm == Linf() else toward

    def move(level: float) -> Tensor:
        return (point + level * speed).clamp(0, 1) - point

    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if toward @ move(middle) < abs(change) else (low, middle)
    return move(high)


def one_by_one(point: Tensor, toward: Tensor, change: float) -> Tensor:
    """The number of largest weight first, each to its bound."""
    move, left = torch.zeros_like(point), change
    for i in toward.abs().argsort(descending=True).tolist():
        weight = float(toward[i])
        if weight and left > 0:
            room = float(1 - point[i] if weight > 0 else point[i])
            taken = min(room, left / abs(weight))
            move[i], left = taken if weight > 0 else -taken, left - taken * abs(weight)
    return move


def length(moves: Tensor, norm: Norm) -> Tensor:
    return moves.norm(p={Linf: torch.inf, L2: 2, L1: 1}[type(norm)], dim=-1)


@NORMS
def test_projection_is_the_exact_one(norm, rng):
    points, normals, offsets = hyperplanes(rng)
    moves = norm.onto_hyperplane(points, normals, offsets)
    rows = zip(points, normals, offsets, strict=True)
    want = torch.stack([slow_move(*row, norm) for row in rows])
    assert torch.allclose(moves, want, atol=1e-9)
    single = norm.onto_hyperplane(points.float(), normals.float(), offsets.float())
    # In float32 a pixel of nearly no weight may end elsewhere where the box misses the hyperplane.
    assert torch.allclose(single.double() * normals, want * normals, atol=1e-4)


@NORMS
def test_no_other_point_of_the_hyperplane_is_nearer(norm, rng):
    """Independent of how it is computed: points of the box on both sides of the hyperplane, joined where they cross."""
    points, normals, offsets = hyperplanes(rng)
    moves = norm.onto_hyperplane(points, normals, offsets)
    reached = ((points + moves) * normals).sum(1) - offsets
    feasible = reached.abs() < 1e-9
    assert 40 < feasible.sum() < 60 and (points + moves >= -1e-12).all() and (points + moves <= 1 + 1e-12).all()
    shortest = length(moves, norm)
    found = 0
    for spread in (0.01, 0.1, 0.3, 1.0):
        for _ in range(200):
            near = points + moves + spread * torch.randn(points.shape, generator=rng, dtype=torch.float64)
            ends = [near.clamp(0, 1), torch.rand(points.shape, generator=rng, dtype=torch.float64)]
            below, above = ((end * normals).sum(1) - offsets for end in ends)
            crosses = feasible & (below * above < 0)
            share = (below / (below - above))[:, None]
            offset = ends[0] + share * (ends[1] - ends[0]) - points
            assert (length(offset, norm)[crosses] >= shortest[crosses] - 1e-9).all()
            found += int(crosses.sum())
    assert found > 1000


@NORMS
@pytest.mark.parametrize("scale", [1e-20, 1e15])
def test_projection_does_not_depend_on_the_scale_of_the_gradient(norm, scale, rng):
    points, normals, offsets = (part.float() for part in hyperplanes(rng))
    want = norm.onto_hyperplane(points, normals, offsets)
    got = norm.onto_hyperplane(points, normals * scale, offsets * scale)
    assert torch.allclose(got * normals, want * normals, atol=1e-3) and got.isfinite().all()


def test_a_gradient_of_zero_moves_nothing():
    for norm in (Linf(), L2(), L1()):
        assert torch.equal(norm.onto_hyperplane(torch.rand(2, 5), torch.zeros(2, 5), torch.ones(2)), torch.zeros(2, 5))


@NORMS
def test_linear_model_minimal_norm_at_the_pixel_bounds(norm, images, rng):
    """An image falls where its exact distance, the box included, is below epsilon less the overshoot of 2 % at most."""
    weight = torch.randn(1, 8, 8, generator=rng)
    model = Linear(weight, bias=-float((images * weight).sum()) / 12)
    labels = model(images).argmax(1)
    normal = weight.flatten().double()
    distances = torch.stack(
        [
            length(slow_move(point, normal, torch.tensor(-model.bias), norm), norm)
            for point in images.flatten(1).double()
        ]
    )
    assert 0 < labels.sum() < 12
    for distance in distances.tolist():
        for share in (1.02, 0.999):
            threat = Threat(norm=norm, epsilon=Ratio(str(distance * share)))
            images_adv = fab(steps=40)(model, images, labels, threat, rng)
            fooled, sizes = model(images_adv).argmax(1) != labels, threat.size(images_adv - images)
            assert fooled[distances * 1.02 <= threat.radius * (1 + 1e-6)].all()
            assert not fooled[distances > threat.radius].any()
            assert (sizes[fooled] >= distances[fooled] * (1 - 1e-4)).all() and (sizes[~fooled] == 0).all()


class Recorder(nn.Module):
    """Keeps what the model is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append(images.detach().clone())
        return self.model(images)


@NORMS
def test_the_path_of_the_paper_on_a_linear_model(norm, rng):
    """In units of the distance to the boundary, both norms go along one line: a recurrence of plain numbers."""
    weight = torch.randn(1, 4, 4, generator=rng, dtype=torch.float64)
    image = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)
    distance = 0.05
    largest = (weight.abs() == weight.abs().max()).double() * weight.sign()
    along = {Linf: weight.sign(), L2: weight / weight.norm(), L1: largest}[type(norm)]
    bias = -float((weight * (image + distance * along)).sum())
    model, threat = Recorder(Linear(weight, bias)), Threat(norm=norm, epsilon=Ratio(1, 100))
    fab(steps=6, restarts=2, alpha_max=0.03)(model, image, torch.tensor([0]), threat, Noise(0, torch.arange(1)))
    want, place = [0.0], 0.0
    for _ in range(6):
        # The point behind the boundary goes back to 0.9 of its distance.
        place = 0.9 * place if place > 1 else place
        share = min(abs(1 - place) / (abs(1 - place) + 1), 0.03)
        place = (1 - share) * (place + 1.05 * (1 - place)) + share * 1.05
        want.append(place)
    assert max(want) > 1.04 and 1 < want[-1] < 1.01
    # The first question is about the clean image.
    for point, place in zip(model.asked[1:8], want, strict=True):
        assert torch.allclose(point, image + place * distance * along, atol=1e-6)
    start = model.asked[8] - image
    assert start.abs().min() > 0 and threat.size(start) <= threat.radius / 2 + 1e-9


def test_passes_are_one_forward_and_one_backward_a_step(tiny, images):
    labels, threat = tiny.eval()(images).argmax(1), Threat(norm=L2(), epsilon=Ratio(1, 10**6))
    labels[:2] = (labels[:2] + 1) % 3
    counter = PassCounter(tiny)
    images_adv = fab(steps=5, targets=9, restarts=2)(tiny, images, labels, threat, Noise(0, torch.arange(12)))
    # Two images are misclassified and cost nothing more; there are two other classes; each run ends with a look.
    assert counter.take() == {"forward": 12 + 10 * 2 * 2 * 6, "backward": 10 * 2 * 2 * 6}
    assert torch.equal(images_adv, images)


@NORMS
def test_neighbours_do_not_matter(norm, tiny, images):
    labels, threat = tiny.eval()(images).argmax(1), Threat(norm=norm, epsilon=Ratio(1, 5))
    attack, noise = fab(restarts=2), Noise(5, torch.arange(12))
    whole = attack(tiny, images, labels, threat, noise)
    parts = [
        attack(tiny, images[part], labels[part], threat, Noise(5, torch.arange(12)[part]))
        for part in (slice(5), slice(5, 12))
    ]
    fooled = tiny(whole).argmax(1) != labels
    assert torch.equal(tiny(torch.cat(parts)).argmax(1) != labels, fooled) and fooled.any()
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)


def test_only_the_exact_model_says_who_is_fooled(images, rng):
    """A search whose boundary lies too near takes its points for adversarial: they do not count."""
    weight = torch.randn(1, 8, 8, generator=rng)
    score = (images * weight).flatten(1).sum(1).median().item()
    exact, search = Linear(weight, -score).eval(), Linear(weight, -score - 0.5).eval()
    labels, threat = exact(images).argmax(1), Threat(norm=Linf(), epsilon=Ratio(1, 20))
    images_adv = fab()(Victim(exact, search), images, labels, threat, rng)
    changed = (images_adv != images).flatten(1).any(1)
    assert torch.equal(exact(images_adv).argmax(1) != labels, changed)
    # Asked alone, it takes some for fooled that the exact model has right.
    alone = fab()(search, images, labels, threat, rng)
    assert ((exact(alone).argmax(1) == labels) & (search(alone).argmax(1) != labels)).any()


@pytest.mark.parametrize(
    "field, value",
    [("steps", 0), ("targets", 0), ("restarts", 0), ("alpha_max", 1.5), ("eta", 0.9), ("beta", 0.0)],
)
def test_fields_are_checked(field, value):
    with pytest.raises(ValueError, match=rf"{field}\n.*(greater|less) than"):
        fab(**{field: value})
