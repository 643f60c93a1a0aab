"""The threat model: projections, starts, steps and the assertion after every attack."""

import pytest
import torch

from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat, require_pixels

THREATS = [
    Threat(norm=Linf(), epsilon=Ratio(8, 255)),
    Threat(norm=L2(), epsilon=Ratio(1, 2)),
    Threat(norm=L1(), epsilon=Ratio(3)),
    Threat(norm=Linf(), epsilon=Ratio(0)),
    Threat(norm=L1(), epsilon=Ratio(0)),
]


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_projection_lands_inside_and_keeps_what_is_inside(threat, images, rng):
    far = images + torch.randn(images.shape, generator=rng)
    inside = threat.project(far, images)
    threat.verify(inside, images)
    assert torch.equal(threat.project(images, images), images)
    assert torch.allclose(threat.project(inside, images), inside, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_random_start_is_inside_and_follows_the_seed(threat, images):
    starts = [threat.random_start(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    threat.verify(starts[0], images)
    assert torch.equal(starts[0], starts[1])
    assert threat.epsilon == 0 or not torch.equal(starts[0], starts[2])


def test_random_start_fills_the_ball():
    threat, images = Threat(norm=L2(), epsilon=Ratio(1, 2)), torch.full((400, 1, 2, 2), 0.5)
    sizes = threat.size(threat.random_start(images, torch.Generator().manual_seed(0)) - images)
    # Uniform in a ball of dimension 4: half the points are beyond 0.5 ** (1 / 4) of the radius.
    assert abs((sizes > 0.5 * 0.5**0.25).float().mean() - 0.5) < 0.1


@pytest.mark.parametrize("threat", THREATS[:3], ids=repr)
def test_steepest_step_has_its_length_and_beats_random_steps(threat, images, rng):
    gradient = torch.randn(images.shape, generator=rng)
    step = threat.steepest_step(gradient, 0.1, images)
    assert torch.allclose(threat.size(step), torch.tensor(0.1))
    other = threat.steepest_step(torch.randn(images.shape, generator=rng), 0.1, images)
    assert ((gradient * step).sum((1, 2, 3)) > (gradient * other).sum((1, 2, 3))).all()


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=repr)
@pytest.mark.parametrize("damage", ["size", "range", "nan"])
def test_verify_refuses_what_is_outside(norm, damage, images):
    threat = Threat(norm=norm, epsilon=Ratio(1, 10))
    images_adv = images.clone()
    if damage == "size":
        images_adv = images * 0.5 + 0.25
    elif damage == "range":
        images_adv[0, 0, 0, 0] = -1e-3 if images[0, 0, 0, 0] < 0.05 else 1.001
    else:
        images_adv[3, 0, 0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="left the ball"):
        threat.verify(images_adv, images)


def test_epsilon_is_exact_and_not_negative():
    assert Threat(norm=Linf(), epsilon=Ratio("8/255")).epsilon * 255 == 8
    with pytest.raises(ValueError, match=r"epsilon\n.*greater than or equal to 0 "):
        Threat(norm=Linf(), epsilon=Ratio(-1))


def test_normalised_images_are_refused(images):
    require_pixels(images)
    with pytest.raises(InputError, match=r"want \[0, 1\]"):
        require_pixels((images - 0.5) / 0.25)
