"""One table: every attack, both norms, every property; and the closed-form optimum on a linear model."""

import pytest
import torch
from torch import Tensor, nn

from components.ascent import eval_mode
from components.attacks import ATTACKS
from components.attacks.cw import Cw
from components.attacks.fgsm import Fgsm
from components.attacks.pgd import Pgd
from components.losses import margin
from components.params import Ratio
from components.threat import Threat

STEP = Ratio(1, 50)
MEMBERS = [
    Fgsm(),
    Pgd(steps=10, step_size=STEP, start="zero", loss="cross_entropy", restarts=1),
    Pgd(steps=10, step_size=STEP, start="uniform", loss="cross_entropy", restarts=1),
    Pgd(steps=5, step_size=STEP, start="gaussian", loss="margin", restarts=3),
    Cw(steps=10, step_size=STEP, confidence=50.0),
]
THREATS = [Threat(norm="linf", epsilon=Ratio(8, 255)), Threat(norm="l2", epsilon=Ratio(1, 2))]
every = pytest.mark.parametrize("attack", MEMBERS, ids=repr)
everywhere = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_table_of_tests_holds_every_member():
    assert {type(member) for member in MEMBERS} == set(ATTACKS.values())


@every
@everywhere
def test_inside_the_ball_and_the_pixel_range(attack, threat, tiny, images, labels):
    images_adv = attack(tiny, images, labels, threat, seeded())
    assert images_adv.shape == images.shape and not images_adv.requires_grad
    assert threat.size(images_adv - images).max() <= threat.radius + 1e-6
    assert images_adv.min() >= 0 and images_adv.max() <= 1
    assert not torch.equal(images_adv, images)


@every
@everywhere
def test_model_is_left_as_found(attack, threat, tiny, images, labels):
    tiny.train()
    tiny.head.eval()  # a mode of its own, which must survive
    tiny(images).sum().backward()
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in tiny.parameters()]
    attack(tiny, images, labels, threat, seeded())
    assert tiny.training and tiny.features.training and not tiny.head.training
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.state_dict().items())
    assert all(torch.equal(was, p.grad) for was, p in zip(gradients, tiny.parameters(), strict=True))


@every
@everywhere
def test_same_seed_same_images_and_neighbours_do_not_matter(attack, threat, tiny, images, labels):
    whole = attack(tiny, images, labels, threat, seeded())
    assert torch.equal(whole, attack(tiny, images, labels, threat, seeded()))
    if getattr(attack, "start", "zero") == "zero":
        halves = [attack(tiny, images[part], labels[part], threat, seeded()) for part in (slice(6), slice(6, 12))]
        assert torch.allclose(whole, torch.cat(halves), atol=1e-6)


@every
def test_epsilon_zero_changes_nothing(attack, tiny, images, labels):
    threat = Threat(norm="linf", epsilon=Ratio(0))
    assert torch.equal(attack(tiny, images, labels, threat, seeded()), images)


class TwoClassLinear(nn.Module):
    """Logits (0, w·x + b): the loss is monotone in w·x, so the strongest perturbation is known in closed form."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        score = (images * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], 1)


@every
def test_linear_model_linf_optimum(attack, images, rng):
    """Optimum: clip(x + ε · sign(w_wrong − w_right)), for images of both classes."""
    threat = Threat(norm="linf", epsilon=Ratio(8, 255))
    weight = torch.randn(1, 8, 8, generator=rng)
    model, labels = TwoClassLinear(weight), torch.arange(12) % 2
    direction = torch.where(labels.view(-1, 1, 1, 1) == 0, 1.0, -1.0) * weight
    optimum = (images + threat.radius * direction.sign()).clamp(0, 1)
    assert torch.allclose(attack(model, images, labels, threat, seeded()), optimum, atol=1e-6)


def test_linear_model_l2_optimum(rng):
    """Away from the pixel bounds the L2 optimum is x + ε · w / ‖w‖."""
    threat, images = Threat(norm="l2", epsilon=Ratio(1, 4)), torch.full((4, 1, 8, 8), 0.5)
    weight = torch.randn(1, 8, 8, generator=rng)
    images_adv = Fgsm()(TwoClassLinear(weight), images, torch.zeros(4, dtype=torch.long), threat, seeded())
    assert torch.allclose(images_adv, images + 0.25 * weight / weight.norm(), atol=1e-6)


def test_more_restarts_never_help_the_model(tiny, images, labels, linf):
    reached = []
    for restarts in (1, 4):
        attack = Pgd(steps=2, step_size=Ratio(4, 255), start="uniform", loss="cross_entropy", restarts=restarts)
        images_adv = attack(tiny, images, labels, linf, seeded())
        with eval_mode(tiny), torch.no_grad():
            reached.append(margin(tiny(images_adv), labels))
    assert (reached[1] >= reached[0] - 1e-6).all() and (reached[1] > reached[0] + 1e-6).any()


def test_confidence_stops_the_margin_from_counting(tiny, images, labels, linf):
    """At a confidence every image already exceeds, the gradient is zero and nothing moves."""
    easy = tiny(images).argmin(1)  # a label each image is far from
    shift = margin(tiny.eval()(images), easy).min()
    assert shift > 0
    still = Cw(steps=3, step_size=STEP, confidence=0.0)(tiny, images, easy, linf, seeded())
    assert torch.equal(still, images)


@pytest.mark.parametrize("field, value", [("steps", 0), ("restarts", 0), ("step_size", Ratio(0))])
def test_fields_are_checked(field, value):
    fields = {"steps": 1, "step_size": STEP, "start": "zero", "loss": "cross_entropy", "restarts": 1} | {field: value}
    with pytest.raises(ValueError, match="want steps and restarts"):
        Pgd(**fields)
