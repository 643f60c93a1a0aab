"""The family of norms: L1's operations against slow exact ones, and a norm that has nothing but the contract."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from components.attacks import ATTACKS
from components.attacks.parts.attack import Attack
from components.evaluation.cascades import specs
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.numerics.random_numbers import Noise, Rng, normal, uniform
from components.reports.wording import NORM_WORDS
from components.threats import NORMS
from components.threats.l1 import L1
from components.threats.linf import Linf
from components.threats.parts.norm import Norm, StandardApgd
from components.threats.parts.threat import Threat, read_threat
from tests.parts.attack_members import MEMBERS
from tests.parts.tiny_net import TinyNet


def test_norms_are_called_as_in_the_table():
    assert {name: kind.name for name, kind in NORMS.items()} == {name: name for name in NORMS}
    assert all(isinstance(kind(), Norm) for kind in NORMS.values()) and set(NORM_WORDS) == set(NORMS)


@pytest.mark.parametrize("name", NORMS)
def test_a_section_names_the_norm(name):
    threat = read_threat(NORMS, {"norm": name, "epsilon": "1/8"}, "params.yaml: threat")
    assert threat == Threat(norm=NORMS[name](), epsilon=Ratio(1, 8)) and threat.section["norm"] == name
    assert threat.at(Ratio(1, 4)).norm == threat.norm


@pytest.mark.parametrize(
    "section, message",
    [
        ({"norm": "l3", "epsilon": 1}, r"t.norm: unknown 'l3' \(allowed: l1, l2, linf\)"),
        ({"norm": "linf", "epsilon": 2}, "t: got epsilon 2, want a share of the pixel range"),
        ({"norm": "l1", "epsilon": -2}, "t.epsilon: got -2, want at least 0"),
        ({"norm": "l1"}, "t.epsilon: missing"),
        ({"norm": "l1", "epsilon": 1, "sparsity": 1}, "t.sparsity: unknown key"),
        ("l1", "t: "),
    ],
)
def test_mistakes_in_the_section_are_one_line(section, message):
    with pytest.raises(InputError, match=message) as caught:
        read_threat(NORMS, section, "t")
    assert "\n" not in str(caught.value)


def slow_projection(image: Tensor, point: Tensor, radius: float) -> Tensor:
    """By bisection on the multiplier of the ball, in float64: the minimiser of |z - point|² for each multiplier."""
    offset = point - image

    def shrunk(level: float) -> Tensor:
        return (image + offset.sign() * (offset.abs() - level).clamp_min(0)).clamp(0, 1)

    low, high = 0.0, float(offset.abs().max())
    if float((shrunk(0) - image).abs().sum()) <= radius:
        return shrunk(0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((shrunk(middle) - image).abs().sum()) > radius else (low, middle)
    return shrunk(high)


@pytest.mark.parametrize("radius", [0.0, 0.1, 2.0, 9.0, 1000.0])
@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0])
def test_l1_projection_is_the_exact_one(radius, spread, images, rng):
    points = images.double() + spread * torch.randn(images.shape, generator=rng, dtype=torch.float64)
    got = L1().project(points, images.double(), radius)
    want = torch.stack([slow_projection(*pair, radius) for pair in zip(images.double(), points, strict=True)])
    assert torch.allclose(got, want, atol=3e-6 * max(radius, 1))
    assert float(L1().size(got - images.double()).max()) <= radius + 1e-9
    # A radius for each image is the same, one at a time.
    each = L1().project(points, images.double(), torch.full((12, 1, 1, 1), radius, dtype=torch.float64))
    assert torch.equal(each, got)


def test_no_other_point_of_ball_and_box_is_nearer(images, rng):
    """Independent of how it is computed: the projection's inequality (z - Π) · (point - Π) ≤ 0 for feasible z."""
    images = images.double()
    points = images + torch.randn(images.shape, generator=rng, dtype=torch.float64)
    nearest = L1().project(points, images, 2.0)
    assert torch.allclose(L1().size(nearest - images), torch.tensor(2.0, dtype=torch.float64), rtol=1e-5)
    for scale in (0.01, 0.1, 1.0, 10.0):
        for _ in range(100):
            other = images + scale * torch.randn(images.shape, generator=rng, dtype=torch.float64)
            other = other.clamp(0, 1) - images
            other = images + other * (2.0 / L1().size(other).view(-1, 1, 1, 1)).clamp_max(1)
            assert (((other - nearest) * (points - nearest)).flatten(1).sum(1) < 1e-4).all()


def test_clipping_after_the_ball_alone_would_give_radius_away(rng):
    """Why the box belongs into the projection: next to a bound, part of the radius would be clipped off."""
    image, point = torch.tensor([0.9, 0.5]).view(1, 1, 1, 2), torch.tensor([1.9, 1.4]).view(1, 1, 1, 2)
    # The ball alone: (0.55, 0.45), of which clipping leaves (0.1, 0.45). Ball and box: (0.1, 0.5), here with room left.
    assert torch.allclose(L1().project(point, image, 1.0) - image, torch.tensor([0.1, 0.5]).view(1, 1, 1, 2), atol=1e-5)


def test_l1_random_start_fills_the_ball():
    images = torch.full((2000, 1, 2, 2), 0.5)
    offset = L1().random_start(images, 0.4, torch.Generator().manual_seed(0)) - images
    sizes = L1().size(offset)
    # Uniform in a ball of dimension 4: half the points are beyond 0.5 ** (1 / 4) of the radius.
    assert sizes.max() <= 0.4 + 1e-6 and abs((sizes > 0.4 * 0.5**0.25).float().mean() - 0.5) < 0.05
    # Shares of the size are those of exponential numbers: uniform on the simplex, a quarter on average, variance 3/80.
    shares = offset.flatten(1).abs() / sizes[:, None]
    assert torch.allclose(shares.mean(0), torch.tensor(0.25), atol=0.02)
    assert torch.allclose(shares.var(0), torch.tensor(3 / 80), atol=0.005)
    assert abs((offset > 0).float().mean() - 0.5) < 0.02


def test_l1_steepest_step_by_hand():
    """The largest component moves to its bound, the next by what is left; zero components and bounds never move."""
    points = torch.tensor([0.7, 0.5, 0.0, 0.4]).view(1, 1, 1, 4)
    gradient = torch.tensor([3.0, -2.0, -9.0, 0.0]).view(1, 1, 1, 4)
    for length, want in ((0.2, [0.2, 0, 0, 0]), (0.5, [0.3, -0.2, 0, 0]), (5.0, [0.3, -0.5, 0, 0])):
        step = L1().steepest_step(gradient, length, points)
        assert torch.allclose(step.flatten(), torch.tensor(want), atol=1e-6)
    assert not L1().steepest_step(torch.zeros_like(gradient), 1.0, points).any()


def test_l1_sparse_step_by_hand():
    gradient = torch.tensor([[3.0, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]).view(2, 1, 1, 4)
    share = torch.tensor([0.5, 0.5]).view(2, 1, 1, 1)
    step = L1().sparse_step(gradient, 1.0, share)
    assert step.flatten(1).tolist() == [[0.5, -0.5, 0, 0], [0, 0, 0, 0]]
    least = L1().sparse_step(gradient, torch.tensor([2.0, 2.0]).view(2, 1, 1, 1), share * 0)
    assert least.flatten(1).tolist() == [[2.0, 0, 0, 0], [0, 0, 0, 0]]


@dataclass(frozen=True)
class Mean:
    """A norm of nobody's: L2 over the root of the number of values, with the contract and nothing else."""

    name: ClassVar[str] = "mean"
    largest: ClassVar[Ratio | None] = Ratio(1)
    standard: ClassVar[StandardApgd | None] = None
    by_pixel: ClassVar[bool] = False

    def size(self, offset: Tensor) -> Tensor:
        return offset.flatten(1).square().mean(1).sqrt()

    def project(self, images_adv: Tensor, images: Tensor, radius: float | Tensor) -> Tensor:
        return (images + self._at(images_adv - images, radius, 1.0)).clamp(0, 1)

    def random_start(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        return self.project(images + uniform(rng, images) - 0.5, images, radius)

    def random_edge(self, images: Tensor, radius: float | Tensor, rng: Rng) -> Tensor:
        return (images + self._at(normal(rng, images), radius, torch.inf)).clamp(0, 1)

    def steepest_step(self, gradient: Tensor, step_size: float | Tensor, points: Tensor) -> Tensor:
        return self._at(gradient, step_size, torch.inf)

    def _at(self, offset: Tensor, radius: float | Tensor, most: float) -> Tensor:
        return offset * (radius / self.size(offset).view(-1, 1, 1, 1).clamp_min(1e-12)).clamp_max(most)


@pytest.mark.parametrize("attack", MEMBERS, ids=repr)
def test_a_new_norm_runs_or_is_refused(attack: Attack, images):
    """With the contract alone: inside its own ball, whose size no other norm agrees with; or one line that says why."""
    torch.manual_seed(3)
    model, threat = TinyNet(classes=5).eval(), Threat(norm=Mean(), epsilon=Ratio(1, 8))
    labels = model(images).argmax(1)
    if type(attack) in (ATTACKS["fab"], ATTACKS["square"]):
        with pytest.raises(InputError, match=r"^(fab|square): got norm mean, want linf, l2, l1 or another norm that"):
            attack(model, images, labels, threat, Noise(0, torch.arange(12)))
        return
    images_adv = attack(model, images, labels, threat, Noise(0, torch.arange(12)))
    size = float(threat.size(images_adv - images).max())
    assert 0.5 * threat.radius < size <= threat.radius + 1e-6
    assert float(Linf().size(images_adv - images).max()) > threat.radius


@pytest.mark.parametrize("cascade", ["quick", "autoattack"])
def test_named_cascades_are_those_of_the_norm(cascade: str):
    l1: Any = specs(cascade, 10, L1())
    assert l1["apgd_ce"]["restarts"] == 5 and l1["apgd_t"]["targets"] == 5 and l1["apgd_t"]["restarts"] == 1
    assert cascade == "quick" or l1["fab_t"]["targets"] == 9
    with pytest.raises(InputError, match=f"cascade {cascade}: got norm mean, want none or attacks of your own"):
        specs(cascade, 10, Mean())
