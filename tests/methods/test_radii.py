"""Attacks at a radius per image: each image is attacked as if it were alone in a ball of its own."""

import pytest
import torch

from components.attacks.bim import Bim
from components.attacks.fgsm import Fgsm
from components.attacks.iter_ll import IterLl
from components.attacks.mi_fgsm import MiFgsm
from components.attacks.parts.ascent import GreyLevelSteps, grey_level_steps
from components.attacks.parts.attack import Attack
from components.attacks.pgd import Pgd
from components.attacks.r_fgsm import RFgsm
from components.attacks.step_ll import StepLl
from components.attacks.step_rnd import StepRnd
from components.foundation.params import Ratio
from components.methods.parts.mixed_batch import INNER_ATTACKS, InnerAttack
from components.numerics.random_numbers import Noise
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

THREATS = [
    Threat(norm=Linf(), epsilon=Ratio(16, 255)),
    Threat(norm=L2(), epsilon=Ratio(1, 2)),
    Threat(norm=L1(), epsilon=Ratio(1)),
]
every_norm = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm.name)
# What the attacks inside training are, as members that attack one image at one radius.
SAME: dict[InnerAttack, Attack] = {
    "fgsm": Fgsm(),
    "fgsm_predicted": Fgsm(aim="predicted"),
    "step_ll": StepLl(),
    "step_rnd": StepRnd(),
    "bim": Bim(),
    "iter_ll": IterLl(),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("attack", SAME)
@every_norm
def test_each_image_is_attacked_as_if_alone_at_its_radius(attack, threat, tiny, images, labels):
    """Size, direction and number of steps: the same as the attack's member on one image, in that image's ball."""
    run, aim = INNER_ATTACKS[attack]
    ratios = [Ratio(threat.epsilon * Ratio(i, 12)) for i in (12, 0, 1, 3, 9, 12, 2, 5, 11, 7, 4, 8)]
    radii = torch.tensor([float(ratio) for ratio in ratios])
    together = run(tiny, images, labels, aim, threat.each(radii), Noise(1, torch.arange(12)))
    assert (threat.size(together - images) <= radii + 1e-6).all()
    assert torch.equal(together[1], images[1])
    for i, ratio in enumerate(ratios):
        alone = slice(i, i + 1)
        noise = Noise(1, torch.tensor([i]))
        want = SAME[attack](tiny, images[alone], labels[alone], threat.at(ratio), noise)
        assert torch.allclose(together[alone], want, atol=1e-5), (i, ratio)


def test_steps_per_image_are_those_of_its_radius():
    levels = [Ratio(i, 8) for i in range(1, 240)]
    rule = GreyLevelSteps(torch.tensor([float(level / 255) for level in levels]).view(-1, 1, 1, 1))
    taken = torch.stack([rule(torch.ones(len(levels), 1, 1, 1)) for _ in range(40)]).sum(0)
    assert taken.flatten().tolist() == [grey_level_steps(Ratio(level / 255)) for level in levels]


@pytest.mark.parametrize(
    "attack",
    [
        Pgd(steps=3, step_size=Ratio(4, 255), start="uniform", loss="cross_entropy", restarts=1),
        RFgsm(),
        MiFgsm(steps=3, step_size=Ratio(4, 255), decay=1.0),
    ],
    ids=repr,
)
@every_norm
def test_other_members_run_at_a_radius_per_image(attack, threat, tiny, images, labels):
    radii = torch.rand(12, generator=seeded()) * threat.radius
    images_adv = attack(tiny, images, labels, threat.each(radii), seeded())
    assert (threat.size(images_adv - images) <= radii + 1e-6).all()
    assert all(not torch.equal(a, b) for a, b in zip(images_adv, images, strict=True))


@every_norm
def test_equal_radii_are_the_threat_itself(threat, images, rng):
    balls, other = threat.each(torch.full((12,), threat.radius)), torch.rand(images.shape, generator=rng)
    assert torch.allclose(balls.project(other, images), threat.project(other, images), atol=1e-7)
    starts = [region.random_start(images, seeded(2)) for region in (balls, threat)]
    assert torch.allclose(*starts, atol=1e-7)
    steps = [region.steepest_step(other, region.radius, images) for region in (balls, threat)]
    assert torch.allclose(*steps)


@every_norm
def test_an_image_outside_its_own_ball_is_refused(threat, images):
    inner_images = images * 0.5 + 0.25
    radii = torch.full((12,), threat.radius)
    moved = threat.project(inner_images + 0.1, inner_images)
    assert threat.each(radii).verify(moved, inner_images) is moved
    radii[3] /= 2
    with pytest.raises(RuntimeError, match="left the ball"):
        threat.each(radii).verify(moved, inner_images)


def test_every_inner_attack_is_compared():
    assert set(INNER_ATTACKS) == set(SAME)
