"""Per-image outcomes on a model whose every answer is known in advance."""

from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.evaluation import TestSet, epsilon_curve, predict, run_attack, transfer
from components.params import Ratio
from components.threat import Threat

LINF = Threat(norm="linf", epsilon=Ratio(26, 255))
# Grey levels below 128 are of class 0, the others of class 1.
LEVELS = (0, 90, 110, 120, 135, 150, 220, 255)
DISTANCES = tuple(abs(level - 127.5) for level in LEVELS)


class Threshold(nn.Module):
    """Class 1 where the mean pixel is above `at`, in logits whose gradient never vanishes."""

    def __init__(self, at: float = 127.5) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at / 255))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        above = images.mean((1, 2, 3)) - self.at
        return torch.stack([-above, above], 1)


def levels(batch_size: int = 3) -> TestSet:
    images = torch.tensor(LEVELS, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return TestSet(images, (torch.tensor(LEVELS) > 127).long(), batch_size)


def pgd(**changes) -> Pgd:
    fields = {"steps": 4, "step_size": Ratio(13, 255), "start": "zero", "loss": "cross_entropy", "restarts": 1}
    return Pgd(**fields | changes)


def test_no_attack_gives_clean_answers_and_the_images_themselves():
    test = levels()
    outcome = run_attack(Threshold(), test, None, LINF, seed=0)
    assert outcome.right.tolist() == [1] * 8 and outcome.right.dtype == torch.uint8
    assert torch.equal(outcome.predicted, test.labels)
    assert torch.equal(outcome.images_adv, test.images.float() / 255)
    assert outcome.passes == {"forward": 8, "backward": 0}


def test_an_attack_fools_exactly_the_images_within_its_reach():
    outcome = run_attack(Threshold(), levels(), pgd(), LINF, seed=0)
    assert outcome.right.tolist() == [int(distance > 26) for distance in DISTANCES]
    assert outcome.right.tolist() == (outcome.predicted == levels().labels).int().tolist()
    assert outcome.passes == {"forward": 8 * 4 + 8, "backward": 8 * 4}


def test_images_wrong_from_the_start_are_attacked_too():
    model = Threshold(at=100)  # calls the images of level 110 and 120 wrong
    assert run_attack(model, levels(), None, LINF, seed=0).right.tolist() == [1, 1, 0, 0, 1, 1, 1, 1]

    @dataclass
    class Helper:
        """Moves every image to its own class."""

        def __call__(self, model, images, labels, threat, rng) -> Tensor:
            return labels.float().view(-1, 1, 1, 1).expand_as(images)

    assert run_attack(model, levels(), Helper(), LINF, seed=0).right.tolist() == [1] * 8


def test_the_model_is_asked_in_evaluation_mode_and_left_as_it_was():
    model = nn.Sequential(nn.Flatten(1), nn.BatchNorm1d(16), nn.Linear(16, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run_attack(model, levels(), pgd(), LINF, seed=0)
    assert model.training and model[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model._forward_hooks


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8, 100])
@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_outcomes_do_not_depend_on_the_batch_size(batch_size, start):
    # Uniform noise is drawn batch after batch from one generator, image by image, so that not even it changes.
    attack = pgd(start=start)
    want = run_attack(Threshold(), levels(8), attack, LINF, seed=0)
    got = run_attack(Threshold(), levels(batch_size), attack, LINF, seed=0)
    assert torch.equal(got.right, want.right) and got.passes == want.passes
    assert torch.equal(got.images_adv, want.images_adv) or start == "uniform"


def test_every_model_meets_the_same_random_starts():
    attack, models = pgd(start="uniform"), (Threshold(), Threshold(at=20))
    for model in models:
        run_attack(model, levels(), attack, LINF, seed=5)
    first, second = (model.seen for model in models)
    assert torch.equal(first[0], second[0]) and not torch.equal(first[0], levels().images[:3].float() / 255)
    other = Threshold()
    run_attack(other, levels(), attack, LINF, seed=6)
    assert not torch.equal(other.seen[0], first[0])


def test_transfer_asks_each_target_about_the_same_images():
    test = levels()
    crafted = run_attack(Threshold(), test, pgd(), LINF, seed=0)
    targets = {"itself": Threshold(), "lower": Threshold(at=50), "blind": Threshold(at=-1)}
    right = transfer(targets, crafted.images_adv, test)
    assert torch.equal(right["itself"], crafted.right)
    above = crafted.images_adv.mean((1, 2, 3)) * 255 > 50
    assert torch.equal(right["lower"], (above == test.labels.bool()).to(torch.uint8))
    assert right["blind"].tolist() == test.labels.tolist()
    assert all(outcome.dtype == torch.uint8 for outcome in right.values())


def test_the_curve_scales_the_step_with_the_radius(monkeypatch):
    met: list[tuple[Fraction, Fraction]] = []

    def spy(self, model, images, labels, threat, rng) -> Tensor:
        met.append((threat.epsilon, self.step_size))
        return images

    monkeypatch.setattr(Pgd, "__call__", spy)
    epsilons = (Ratio(0), Ratio(13, 255), Ratio(26, 255), Ratio(52, 255))
    curve = list(epsilon_curve(Threshold(), levels(8), pgd(), LINF, epsilons, seed=0))
    want = [(Fraction(13, 255), Fraction(13, 510)), (Fraction(26, 255), Fraction(13, 255))]
    assert met == [*want, (Fraction(52, 255), Fraction(26, 255))]
    assert len(curve) == 4


def test_the_curve_is_clean_at_zero_and_falls_where_the_images_are():
    epsilons = tuple(Ratio(radius, 255) for radius in (0, 8, 20, 40, 128))
    curve = list(epsilon_curve(Threshold(), levels(), pgd(), LINF, epsilons, seed=0))
    assert [outcome.right.tolist() for outcome in curve] == [
        [int(distance > radius) for distance in DISTANCES] for radius in (0, 8, 20, 40, 128)
    ]
    assert curve[0].passes == {"forward": 8, "backward": 0}


def test_predictions_are_the_largest_logit():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0]])
    assert predict(nn.Flatten(1), logits.view(2, 1, 1, 3)).tolist() == [1, 0]
