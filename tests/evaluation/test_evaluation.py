"""Per-image outcomes on a model whose every answer is known in advance."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from components.attacks.parts.victim import Victim
from components.attacks.pgd import Pgd
from components.evaluation.one_attack import TestSet, predict, run_attack
from components.foundation.params import Ratio
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

LINF = Threat(norm=Linf(), epsilon=Ratio(26, 255))
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
    # Noise is a function of the seed and the image's place, so that not even a random start changes.
    attack = pgd(start=start)
    want = run_attack(Threshold(), levels(8), attack, LINF, seed=0)
    got = run_attack(Threshold(), levels(batch_size), attack, LINF, seed=0)
    assert torch.equal(got.right, want.right) and got.passes == want.passes
    assert torch.equal(got.images_adv, want.images_adv)


def test_every_model_meets_the_same_random_starts():
    attack, models = pgd(start="uniform"), (Threshold(), Threshold(at=20))
    for model in models:
        run_attack(model, levels(), attack, LINF, seed=5)
    first, second = (model.seen for model in models)
    assert torch.equal(first[0], second[0]) and not torch.equal(first[0], levels().images[:3].float() / 255)
    other = Threshold()
    run_attack(other, levels(), attack, LINF, seed=6)
    assert not torch.equal(other.seen[0], first[0])


def test_predictions_are_the_largest_logit():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0]])
    assert predict(nn.Flatten(1), logits.view(2, 1, 1, 3)).tolist() == [1, 0]


def test_batches_of_chosen_places_come_in_their_order():
    places = torch.tensor([5, 0, 7, 2])
    batches = list(levels().batches(places))
    assert [part.tolist() for _, _, part in batches] == [[5, 0, 7], [2]]
    assert torch.equal(torch.cat([images for images, _, _ in batches]), levels().images[places].float() / 255)
    assert torch.equal(torch.cat([labels for _, labels, _ in batches]), levels().labels[places])


def test_float_images_are_taken_as_they_are():
    test = levels()._replace(images=levels().images.float() / 255)
    assert torch.equal(next(test.batches())[0], test.images[:3])


def test_the_exact_network_gives_the_answers_and_both_are_counted():
    lower = Threshold(at=50)
    victim = Victim(Threshold(), search=lower)
    outcome = run_attack(victim, levels(), pgd(), LINF, seed=0)
    assert outcome.passes == {"forward": 8 * 4 + 8, "backward": 8 * 4} and len(lower.seen) == 4 * 3
    assert torch.equal(predict(victim, levels().images.float() / 255), levels().labels)
