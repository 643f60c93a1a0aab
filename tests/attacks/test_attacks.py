"""One table: every attack, every norm, every property; and the closed-form optimum on a linear model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.apgd import Apgd
from components.attacks.bim import Bim
from components.attacks.cw import Cw
from components.attacks.eot import Eot, Mean
from components.attacks.fab import Fab
from components.attacks.fgsm import Fgsm
from components.attacks.iter_ll import IterLl
from components.attacks.mi_fgsm import MiFgsm
from components.attacks.parts.ascent import (
    Momentum,
    eval_mode,
    first_look,
    grey_level_steps,
    input_gradient,
    start_point,
)
from components.attacks.parts.victim import Victim
from components.attacks.pgd import Pgd
from components.attacks.r_fgsm import RFgsm
from components.attacks.square import Square
from components.attacks.step_ll import StepLl
from components.attacks.step_rnd import StepRnd
from components.evaluation.cascades import specs
from components.evaluation.one_attack import TestSet, predict, run_attack
from components.foundation.errors import InputError
from components.foundation.params import Ratio, member
from components.numerics.cost import PassCounter
from components.numerics.losses import NO_ANSWER, kl_divergence, margin
from components.numerics.random_numbers import Noise
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from tests.parts.attack_members import MEMBERS, STEP, THREATS, pgd
from tests.parts.tiny_net import TinyNet

every = pytest.mark.parametrize("attack", MEMBERS, ids=repr)
everywhere = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm.name, indirect=True)


@pytest.fixture
def threat(request: pytest.FixtureRequest, attack: Any) -> Threat:
    """One of THREATS; in L1 a small ball for the attacks that step one grey level at a time: else hundreds of steps."""
    ball = request.param
    return ball.at(Ratio(1, 10)) if isinstance(attack, Bim | IterLl) and ball.norm == L1() else ball


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tiny() -> TinyNet:
    """Five classes, enough for the targeted loss."""
    torch.manual_seed(3)
    return TinyNet(classes=5).eval()


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=lambda norm: norm.name)
def test_bfloat16_finds_the_first_direction_of_a_divergence(norm, tiny, images):
    """At the gaussian start itself rounding decides; in float32 the gradient is taken there."""
    threat = Threat(norm=norm, epsilon=Ratio(1, 2))
    start = start_point("gaussian", images, threat, seeded())
    assert all(first_look(kind, start, images, threat) is None for kind in ("gaussian", "uniform", "zero"))

    def gradient(at: Tensor) -> Tensor:
        with torch.no_grad():
            target = tiny(images)
        return input_gradient(tiny, at, lambda logits: kl_divergence(target, logits, "none")).flatten()

    exact = gradient(start)
    with torch.autocast("cpu", torch.bfloat16):
        looked = first_look("gaussian", start, images, threat)
        assert looked is not None and first_look("uniform", start, images, threat) is None
        # Autocast leaves float64 as it is, and so must this.
        assert first_look("gaussian", start.double(), images.double(), threat) is None
        threat.verify(looked, images)
        near, far = (torch.cosine_similarity(gradient(at), exact, dim=0) for at in (start, looked))
    assert near < 0.5 and far > 0.7
    low = Pgd(steps=1, step_size=Ratio(1, 8), start="gaussian", loss="kl", restarts=1)
    with torch.autocast("cpu", torch.bfloat16):
        images_adv = low(tiny, images, torch.zeros(len(images), dtype=torch.int64), threat, seeded())
        step = threat.steepest_step(gradient(looked).view_as(images), 1 / 8, start)
    assert torch.equal(images_adv, threat.project(start + step, images))


@pytest.fixture
def labels(tiny, images) -> Tensor:
    """Right for all images but two."""
    predicted = tiny(images).argmax(1)
    predicted[4:6] = (predicted[4:6] + 1) % 5
    return predicted


def test_the_table_of_tests_holds_every_member():
    assert {type(attack) for attack in MEMBERS} == set(ATTACKS.values())


class Unanswering(nn.Module):
    """A network whose logits and gradients are no numbers on images with a pixel brighter than `limit`."""

    def __init__(self, network: nn.Module, limit: float) -> None:
        super().__init__()
        self.network, self.limit = network, limit

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) + 0 * (self.limit - images.amax((1, 2, 3))).sqrt()[:, None]


@every
@everywhere
def test_an_image_without_an_answer_is_not_right(attack, threat, tiny, images):
    """Not even where its label is the class that `argmax` makes of NaN; and no attack leaves the ball because of it."""
    images, model = images * 0.9, Unanswering(tiny, 0.895)
    outcome = run_attack(model, TestSet(images, torch.zeros(12, dtype=torch.int64), 6), attack, threat, 0)
    assert outcome.images_adv.isfinite().all()
    assert threat.size(outcome.images_adv - images).max() <= threat.radius + 2e-6
    answered = model(outcome.images_adv).isfinite().all(1)
    assert not answered.all() and not outcome.right[~answered].any()
    assert torch.equal(outcome.predicted == NO_ANSWER, ~answered)


@every
@everywhere
def test_a_search_without_answers_changes_no_verdict(attack, threat, tiny, images, labels):
    """A fast search may overflow where the exact model does not: what it finds is still an image inside the ball."""
    victim = Victim(tiny, Unanswering(tiny, 0.5))
    images_adv = attack(victim, images, labels, threat, seeded())
    assert images_adv.isfinite().all() and threat.size(images_adv - images).max() <= threat.radius + 2e-6


@every
@everywhere
def test_no_images_give_no_images(attack, threat, tiny):
    none, labels, places = torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), torch.arange(0)
    for model in (tiny, Victim(tiny, TinyNet(classes=5).eval())):
        for ball in (threat, threat.each(torch.zeros(0))):
            for rng in (seeded(), Noise(0, places)):
                images_adv = attack(model, none, labels, ball, rng)
                assert images_adv.shape == none.shape and images_adv.dtype == torch.float32
        for given in (none, none.to(torch.uint8)):
            outcome = run_attack(model, TestSet(given, labels, 5), attack, threat, 0)
            assert outcome.images_adv.shape == none.shape and outcome.images_adv.dtype == torch.float32
            assert outcome.predicted.dtype == torch.int64 and len(outcome.predicted) == len(outcome.right) == 0


def test_no_images_have_no_answers(tiny):
    none, labels = torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)
    for model in (tiny, Victim(tiny, tiny)):
        assert predict(model, none).shape == (0,)
        assert run_attack(model, TestSet(none, labels, 5), None, THREATS[0], 0).right.shape == (0,)


@every
@everywhere
def test_inside_the_ball_and_the_pixel_range(attack, threat, tiny, images, labels):
    images_adv = attack(tiny, images, labels, threat, seeded())
    assert images_adv.shape == images.shape and images_adv.dtype == torch.float32 and not images_adv.requires_grad
    assert threat.size(images_adv - images).max() <= threat.radius + 2e-6
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
    given, wanted = images.clone(), labels.clone()
    torch.manual_seed(11)
    attack(tiny, images, labels, threat, seeded())
    assert torch.initial_seed() == 11 and torch.equal(torch.rand(3), torch.rand(3, generator=seeded(11)))
    assert torch.equal(images, given) and torch.equal(labels, wanted)
    assert tiny.training and tiny.features.training and not tiny.head.training
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.state_dict().items())
    assert all(torch.equal(was, p.grad) for was, p in zip(gradients, tiny.parameters(), strict=True))


@every
@everywhere
def test_same_seed_same_images(attack, threat, tiny, images, labels):
    whole = attack(tiny, images, labels, threat, seeded())
    assert torch.equal(whole, attack(tiny, images, labels, threat, seeded()))


@every
@everywhere
def test_neighbours_do_not_matter(attack, threat, tiny, images, labels):
    """With a stream of numbers for each image: the whole, its halves and another order give the same images."""
    places = torch.arange(12) + 30
    whole = attack(tiny, images, labels, threat, Noise(4, places))
    for part in (torch.arange(6), torch.arange(6, 12), torch.tensor([9, 2, 7])):
        alone = attack(tiny, images[part], labels[part], threat, Noise(4, places[part]))
        assert torch.allclose(whole[part], alone, atol=1e-5)


@every
@everywhere
def test_epsilon_zero_changes_nothing(attack, threat, tiny, images, labels):
    assert torch.equal(attack(tiny, images, labels, threat.at(Ratio(0)), seeded()), images)


class TwoClassLinear(nn.Module):
    """Logits (0, w·x + b): the loss is monotone in w·x, so the strongest perturbation is known in closed form."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, images: Tensor) -> Tensor:
        score = (images * self.weight).flatten(1).sum(1) + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


# Long enough for both balls, from anywhere in them.
FAR = {"steps": 60, "step_size": Ratio(1, 25)}
CLIMBERS = [
    Fgsm(),
    StepLl(),
    StepRnd(),
    Bim(),
    IterLl(),
    MiFgsm(**FAR, decay=1.0),
    pgd(**FAR, start="zero"),
    pgd(**FAR),
    pgd(**FAR, loss="margin", restarts=2),
    pgd(**FAR, aim="least_likely"),
    pgd(**FAR, aim="random"),
    Cw(**FAR, confidence=50.0),
    Apgd(steps=60, restarts=1, loss="cross_entropy", rho=0.75),
    Eot(samples=2, attack=pgd(**FAR)),
]
BALLS = [
    Threat(norm=Linf(), epsilon=Ratio(8, 255)),
    Threat(norm=L2(), epsilon=Ratio(1, 4)),
    Threat(norm=L1(), epsilon=Ratio(1, 4)),
]


def grey(rng: torch.Generator, count: int) -> Tensor:
    """Images so far from the pixel bounds that no ball is cut."""
    return 0.4 + 0.2 * torch.rand(count, 1, 8, 8, generator=rng)


def dual(threat: Threat, weight: Tensor) -> float:
    """How much a perturbation of size 1 raises w·x at most."""
    order = {Linf: 1, L2: 2, L1: torch.inf}[type(threat.norm)]
    return weight.flatten().norm(p=order).item()


def stops_early(attack: Any, threat: Threat) -> bool:
    """APGD in L1 thins its steps out too soon for a linear model: the reference reaches 0.66 to 0.80 here."""
    return isinstance(attack, Apgd) and threat.norm == L1()


@pytest.mark.parametrize("attack", CLIMBERS, ids=repr)
@pytest.mark.parametrize("threat", BALLS, ids=lambda threat: threat.norm.name)
def test_linear_model_optimum(attack, threat, rng):
    """Every attack raises w·δ to ε‖w‖ of the dual norm: L1 for L∞, L2 for L2, L∞ for L1. The class is too far."""
    images, weight = grey(rng, 6), torch.randn(1, 8, 8, generator=rng) / 8
    bound = threat.radius * dual(threat, weight)
    model, labels = TwoClassLinear(weight, bias=-4 * bound - 1), torch.zeros(6, dtype=torch.long)
    assert (model(images).argmax(1) == 0).all()
    offset = attack(model, images, labels, threat, seeded()) - images
    gained = (offset * weight).flatten(1).sum(1)
    if stops_early(attack, threat):
        assert (gained > 0.7 * bound).all() and (gained < bound * (1 + 1e-4)).all()
    else:
        assert gained.tolist() == pytest.approx([bound] * 6, rel=1e-4)


@pytest.mark.parametrize("attack", [Fgsm(), Bim(), pgd(), Cw(steps=10, step_size=STEP, confidence=50.0)], ids=repr)
def test_linear_model_linf_optimum_at_the_pixel_bounds(attack, images, rng):
    """Optimum: clip(x + ε · sign(w_wrong - w_right)), for images of both classes."""
    threat, weight = BALLS[0], torch.randn(1, 8, 8, generator=rng)
    model, labels = TwoClassLinear(weight), torch.arange(12) % 2
    direction = torch.where(labels.view(-1, 1, 1, 1) == 0, 1.0, -1.0) * weight
    optimum = (images + threat.radius * direction.sign()).clamp(0, 1)
    assert torch.allclose(attack(model, images, labels, threat, seeded()), optimum, atol=1e-6)


@pytest.mark.parametrize(
    "attack",
    [
        *CLIMBERS,
        Apgd(steps=30, restarts=1, loss="cross_entropy", rho=0.75),
        Fab(steps=30, targets=1, restarts=1, alpha_max=0.1, eta=1.05, beta=0.9),
    ],
    ids=repr,
)
@pytest.mark.parametrize("threat", BALLS, ids=lambda threat: threat.norm.name)
def test_linear_model_fooled_set(attack, threat, rng):
    """Fooled are exactly the images whose margin is smaller than ε‖w‖: known distances to the boundary, both sides."""
    weight = torch.randn(1, 8, 8, generator=rng) / 8
    bound = threat.radius * dual(threat, weight)
    distances = torch.linspace(-2.05, 2.05, 20) * bound  # the nearest to the bound is 4 % away from it
    images = grey(rng, 20) / 4 + 0.375
    # Moved along w until the score is the one wanted.
    scores = (images * weight).flatten(1).sum(1)
    model = TwoClassLinear(weight, bias=-scores.mean().item())
    images = images + ((distances - scores - model.bias) / weight.square().sum()).view(-1, 1, 1, 1) * weight
    labels = (distances > 0).long()
    assert images.min() > 0.15 and images.max() < 0.85
    images_adv = attack(model, images, labels, threat, seeded())
    fooled = model(images_adv).argmax(1) != labels
    sure = distances.abs() < bound * (0.7 if stops_early(attack, threat) else 1)
    assert fooled[sure].all() and not fooled[distances.abs() > bound].any() and 0 < fooled.sum() < 20


@pytest.mark.parametrize("attack", [Fgsm(), StepLl(), pgd(steps=400, step_size=Ratio(1, 50))], ids=repr)
def test_linear_model_l1_optimum_at_the_pixel_bounds(attack, images, rng):
    """The largest weights first, each pixel to its bound, until the radius is used up: by hand, pixel by pixel."""
    threat, weight = Threat(norm=L1(), epsilon=Ratio(3)), torch.randn(1, 8, 8, generator=rng)
    best = torch.zeros(12)
    for i, image in enumerate(images):
        left = threat.radius
        for pixel in weight.abs().flatten().argsort(descending=True).tolist():
            value, rate = image.flatten()[pixel].item(), weight.flatten()[pixel].item()
            moved = min(left, 1 - value if rate > 0 else value)
            best[i], left = best[i] + abs(rate) * moved, left - moved
    # So far from the boundary that no image is fooled, in float64 for the loss's sake.
    model, labels = TwoClassLinear(weight.double(), bias=-30.0), torch.zeros(12, dtype=torch.long)
    offset = (attack(model, images.double(), labels, threat, seeded()) - images).float()
    # A step of PGD overshoots, and the projection takes it back from all pixels: it stays a step away from the best.
    rel = 5e-3 if isinstance(attack, Pgd) else 1e-5
    assert (offset * weight).flatten(1).sum(1).tolist() == pytest.approx(best.tolist(), rel=rel)


def test_r_fgsm_mixes_a_random_and_a_steepest_step(rng):
    """On a linear model each pixel ends at 0 or ε along the gradient's sign, about half of them at each."""
    threat, images, weight = BALLS[0], grey(rng, 8), torch.randn(1, 8, 8, generator=rng)
    images_adv = RFgsm()(TwoClassLinear(weight), images, torch.zeros(8, dtype=torch.long), threat, seeded())
    share = (images_adv - images) * weight.sign() / threat.radius
    assert ((share.abs() < 1e-4) | ((share - 1).abs() < 1e-4)).all() and 0.4 < share.mean() < 0.6


def test_divergence_is_climbed_in_either_direction(rng):
    """KL grows to both sides of the image, so an attack on it ends at one of the two extremes."""
    threat, images, weight = BALLS[0], grey(rng, 8), torch.randn(1, 8, 8, generator=rng)
    model = TwoClassLinear(weight, bias=-0.5 * weight.sum().item())
    offset = pgd(**FAR, loss="kl")(model, images, torch.zeros(8, dtype=torch.long), threat, seeded()) - images
    share = offset * weight.sign() / threat.radius
    assert torch.allclose(share, share[:, :, :1, :1].sign().expand_as(share), atol=1e-5)


@pytest.mark.parametrize("levels, steps", [(2, 2), (4, 5), (8, 10), (16, 20), (0, 1), (32, 36)])
def test_number_of_basic_iterative_steps(levels, steps):
    """min(ε + 4, 1.25 ε), rounded down; one step at least."""
    assert grey_level_steps(Ratio(levels, 255)) == steps


@pytest.mark.parametrize("attack", [Bim(), IterLl()], ids=repr)
def test_basic_iterative_passes(attack, tiny, images, labels):
    counter = PassCounter(tiny)
    attack(tiny, images, labels, Threat(norm=Linf(), epsilon=Ratio(8, 255)), seeded())
    counter.close()
    clean = 12 if isinstance(attack, IterLl) else 0
    assert counter.take() == {"forward": 120 + clean, "backward": 120}


@pytest.mark.parametrize("attack", [Fgsm(), Fgsm(aim="predicted"), StepLl(), StepRnd()], ids=repr)
def test_one_step_is_one_pass(attack, tiny, images, labels, linf):
    counter = PassCounter(tiny)
    attack(tiny, images, labels, linf, seeded())
    counter.close()
    assert counter.take() == {"forward": 12, "backward": 12}


def test_the_predicted_class_replaces_the_label(tiny, images, labels, linf):
    leaky, careful = (Fgsm(aim=aim)(tiny, images, labels, linf, seeded()) for aim in ("true", "predicted"))
    same = (leaky == careful).flatten(1).all(1)
    assert torch.equal(same, tiny(images).argmax(1) == labels) and not same.all()


def test_momentum_by_hand():
    """L1 norms of 4 and 2: first (3, -1) / 4, then half of that plus (-1, 1) / 2."""
    rule = Momentum(decay=0.5)
    first = rule(torch.tensor([3.0, -1.0]).view(1, 1, 1, 2))
    second = rule(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2))
    assert first.flatten().tolist() == [0.75, -0.25] and second.flatten().tolist() == [-0.125, 0.375]
    assert torch.equal(Momentum(0.5)(torch.zeros(1, 1, 1, 2)), torch.zeros(1, 1, 1, 2))


def test_momentum_between_none_and_all(tiny, images, labels):
    """Decay 0 is the plain ascent; with an enormous one the second step repeats the first."""
    threat, fields = Threat(norm=Linf(), epsilon=Ratio(1, 2)), {"step_size": Ratio(1, 20)}
    inner = images.clamp(0.2, 0.8)
    without = MiFgsm(**fields, steps=2, decay=0.0)(tiny, inner, labels, threat, seeded())
    assert torch.equal(without, pgd(**fields, steps=2, start="zero")(tiny, inner, labels, threat, seeded()))
    stubborn = MiFgsm(**fields, steps=2, decay=1e9)(tiny, inner, labels, threat, seeded())
    first = MiFgsm(**fields, steps=1, decay=0.0)(tiny, inner, labels, threat, seeded())
    assert torch.allclose(stubborn - inner, 2 * (first - inner), atol=1e-6) and not torch.equal(stubborn, without)


def test_more_restarts_never_help_the_model(tiny, images, labels):
    reached, threat = [], Threat(norm=Linf(), epsilon=Ratio(4, 255))
    for restarts in (1, 4):
        attack = pgd(steps=1, step_size=Ratio(1, 255), restarts=restarts)
        images_adv = attack(tiny, images, labels, threat, seeded())
        with eval_mode(tiny), torch.no_grad():
            reached.append(margin(tiny(images_adv), labels))
    assert (reached[1] >= reached[0] - 1e-6).all() and (reached[1] > reached[0] + 1e-6).any()


def test_restarts_attack_only_what_stands(rng):
    """A linear model whose closed form says who can be fooled: the others alone see the later restarts."""
    images, weight, threat = grey(rng, 10), torch.randn(1, 8, 8, generator=rng) / 8, BALLS[0]
    bound = threat.radius * dual(threat, weight)
    scores = (images * weight).flatten(1).sum(1)
    model = TwoClassLinear(weight, bias=-scores.mean().item() - bound)
    standing = int((scores + model.bias + bound < 0).sum())
    counter = PassCounter(model)
    pgd(steps=20, restarts=3)(model, images, torch.zeros(10, dtype=torch.long), threat, seeded())
    counter.close()
    assert 0 < standing < 10 and counter.take()["backward"] == 20 * (10 + 2 * standing)


def test_a_restart_ends_only_for_confirmed_images(tiny, images, labels, linf):
    """A search that sees every image fooled changes nothing while the deciding model sees none."""

    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return tiny(images).roll(1, 1)

    stubborn = TwoClassLinear(torch.zeros(1, 8, 8), bias=-1.0)
    victim, zeros = Victim(stubborn, Wrong()), torch.zeros_like(labels)
    counter = PassCounter(victim.search)
    pgd(steps=2, restarts=3)(victim, images, zeros, linf, seeded())
    counter.close()
    assert counter.take()["backward"] == 2 * 3 * 12


def test_confidence_stops_the_margin_from_counting(tiny, images, linf):
    """At a confidence every image already exceeds, the gradient is zero and nothing moves."""
    easy = tiny(images).argmin(1)  # a label each image is far from
    assert margin(tiny(images), easy).min() > 0
    still = Cw(steps=3, step_size=STEP, confidence=0.0)(tiny, images, easy, linf, seeded())
    assert torch.equal(still, images)


class Noisy(nn.Module):
    """A model that answers differently each time."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + self.scale * torch.randn_like(images))


def test_expectation_is_reproducible_and_steadier(tiny, images, labels, linf):
    noisy = Noisy(tiny, 0.3)
    torch.manual_seed(1)
    first = Eot(samples=4, attack=pgd())(noisy, images, labels, linf, seeded())
    torch.manual_seed(2)
    assert torch.equal(first, Eot(samples=4, attack=pgd())(noisy, images, labels, linf, seeded()))
    assert torch.equal(torch.rand(1), torch.rand(1, generator=seeded(2)))
    with torch.no_grad():
        one, many = (torch.stack([Mean(noisy, k)(images) for _ in range(60)]).var(0).mean() for k in (1, 16))
    assert 1 / 24 < (many / one).item() < 1 / 11


def test_expectation_of_a_certain_model_is_that_model(tiny, images, labels, linf):
    attack = pgd(start="zero")
    for victim in (tiny, Victim(tiny), Victim(tiny, TinyNet(5).eval())):
        wrapped = Eot(samples=4, attack=attack)(victim, images, labels, linf, seeded())
        assert torch.allclose(wrapped, attack(victim, images, labels, linf, seeded()), atol=1e-5)


def test_expectation_is_built_from_params():
    inner = {"name": "pgd", "steps": 2, "step_size": "1/255", "start": "zero", "loss": "dlr", "restarts": 1}
    built = member(ATTACKS, {"name": "eot", "samples": 3, "attack": inner}, "params.yaml: a")
    assert built == Eot(samples=3, attack=pgd(steps=2, step_size=Ratio(1, 255), start="zero", loss="dlr"))
    for wrong, message in (
        ({"name": "eot"}, "wrapped.name: unknown 'eot'"),
        ({"name": "pgd"}, "wrapped.steps: missing"),
        (3, "wrapped: want a mapping with a name"),
    ):
        with pytest.raises(InputError, match=f"params.yaml: a.attack: {message}"):
            member(ATTACKS, {"name": "eot", "samples": 3, "attack": wrong}, "params.yaml: a")


@pytest.mark.parametrize("field, value", [("steps", 0), ("restarts", 0), ("step_size", Ratio(0))])
def test_fields_are_checked(field, value):
    with pytest.raises(ValueError, match=rf"{field}\n.*greater than"):
        pgd(**{field: value})


@pytest.mark.parametrize("classes, targets", [(4, 3), (10, 9), (100, 9)])
def test_named_cascades(classes, targets):
    named = {name: member(ATTACKS, spec, name) for name, spec in specs("autoattack", classes, Linf()).items()}
    apgd = {"steps": 100, "restarts": 1, "rho": 0.75}
    assert list(named.values()) == [
        Apgd(**apgd, loss="cross_entropy"),
        Apgd(**apgd, loss="targeted_dlr", targets=targets),
        Fab(steps=100, targets=targets, restarts=1, alpha_max=0.1, eta=1.05, beta=0.9),
        Square(queries=5000, p_init=0.8, restarts=1, loss="margin"),
    ]
    assert list(specs("quick", classes, Linf())) == list(named)[:2] and specs("none", classes, Linf()) == {}
    with pytest.raises(InputError, match="got 3 classes, want at least 4"):
        specs("quick", 3, Linf())
