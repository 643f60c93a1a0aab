"""Auto-PGD: its schedule by hand, its strength on a trained network, and what it spares."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.attacks.apgd import Apgd
from components.attacks.parts.climb import Climb, Halving, Thinning, sparse_window_ends, window_ends
from components.attacks.parts.objectives import away_from
from components.attacks.parts.victim import Victim
from components.attacks.pgd import Pgd
from components.data.normalization import Normalization
from components.datasets.digits import Digits
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.models.parts.batch_norm import BatchNorm
from components.models.small_cnn import SmallCnn
from components.numerics.random_numbers import Noise
from components.statistics.intervals import mcnemar
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

THREATS = [
    Threat(norm=Linf(), epsilon=Ratio(1, 8)),
    Threat(norm=L2(), epsilon=Ratio(3, 4)),
    Threat(norm=L1(), epsilon=Ratio(2)),
]
LOSSES = {"cross_entropy": 0, "dlr": 0, "targeted_dlr": 9}
dense = pytest.mark.parametrize("threat", THREATS[:2], ids=lambda threat: threat.norm.name)
everywhere = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm.name)


def apgd(loss: str = "cross_entropy", steps: int = 20, restarts: int = 1, targets: int | None = None) -> Apgd:
    targets = LOSSES[loss] if targets is None else targets
    return Apgd(steps=steps, restarts=restarts, loss=loss, rho=0.75, targets=targets)  # pyright: ignore


def noise(count: int, seed: int = 0) -> Noise:
    return Noise(seed, torch.arange(count))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    source = Digits().load(Path()).train
    return source.images.float() / 255, source.labels


@pytest.fixture(scope="module")
def network(digits) -> nn.Module:
    """A small network trained a little against two steps, so that the attacks below fool some images and not all."""
    torch.manual_seed(0)
    normalization = Normalization(method="standardize", offset=(0.3,), scale=(0.37,))
    fields = SmallCnn(width=0.25, batch_norm=BatchNorm(estimator="running", momentum=0.1))
    model, (images, labels) = fields.build(10, (1, 8, 8), normalization), digits
    attack = Pgd(steps=2, step_size=Ratio(1, 10), start="uniform", loss="cross_entropy", restarts=1)
    optimizer, rng = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), torch.Generator().manual_seed(0)
    for _ in range(5):
        for batch in torch.randperm(1000, generator=rng).split(100):
            images_adv = attack(model, images[batch], labels[batch], THREATS[0], rng)
            optimizer.zero_grad()
            F.cross_entropy(model.train()(images_adv), labels[batch]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def test_images(digits) -> tuple[Tensor, Tensor]:
    return digits[0][1000:1100], digits[1][1000:1100]


def fooled(model: nn.Module, images_adv: Tensor, labels: Tensor) -> Tensor:
    return model(images_adv).argmax(1) != labels


def test_windows_by_hand():
    """Of 100 steps: 22, then 3 fewer each time, at least 6."""
    assert window_ends(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert window_ends(5) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}


def climb(count: int, threat: Threat) -> tuple[Climb, Halving]:
    images, labels = torch.full((count, 1, 8, 8), 0.5), torch.zeros(count, dtype=torch.long)
    start, pace = threat.norm.random_edge(images, threat.radius, noise(count)), Halving(images, threat, 0.75)
    return Climb(start, images, labels, away_from("cross_entropy", labels), pace), pace


def test_step_sizes_by_hand():
    """Halved where too few steps rose, or where nothing changed since a look that halved nothing."""
    state, pace = climb(4, THREATS[0])
    assert pace.step_size.flatten().tolist() == [0.25] * 4
    state.best, state.best_gradient = torch.zeros_like(state.point), -torch.ones_like(state.gradient)
    pace.rises = torch.tensor([16, 17, 17, 17])
    pace.halved = torch.tensor([False, False, False, True])
    pace.checked_values = torch.tensor([1.0, 1.0, 2.0, 2.0])
    state.best_values = torch.tensor([2.0, 2.0, 2.0, 2.0])
    before = state.point
    state.adapt(22)  # three quarters of it are 16.5
    assert pace.halved.tolist() == [True, False, True, False]
    assert pace.step_size.flatten().tolist() == [0.125, 0.25, 0.125, 0.25]
    # The halved ones go back to their best points and the gradients there.
    assert (state.point[[0, 2]] == 0).all() and torch.equal(state.point[[1, 3]], before[[1, 3]])
    assert (state.gradient[[0, 2]] == -1).all() and (state.gradient[[1, 3]] == 0).all()
    assert pace.rises.tolist() == [0] * 4 and pace.checked_values.tolist() == [2.0] * 4


def test_sparse_windows_by_hand():
    """Four hundredths of the steps, at least one."""
    assert sparse_window_ends(100) == dict.fromkeys(range(4, 101, 4), 4)
    assert sparse_window_ends(3) == {1: 1, 2: 1, 3: 1}


def test_a_sparse_climb_thins_out_by_hand():
    """Of 64 numbers the best point changes 24, then 12 and 24 in the two images: fewer go back to long steps."""
    norm, threat, images = L1(), Threat(norm=L1(), epsilon=Ratio(2)), torch.full((2, 1, 8, 8), 0.5)
    labels, start = torch.zeros(2, dtype=torch.long), images.clone()
    start[:, :, :3] += 2 / 24
    pace = Thinning(norm, start, images, threat)
    state = Climb(start, images, labels, away_from("cross_entropy", labels), pace)
    assert pace.share.flatten().tolist() == [0.25, 0.25] and pace.step_size.flatten().tolist() == [2.0, 2.0]
    state.best = start.clone()
    state.best[0, :, :1] = state.best[0, 0, 1, 4:] = 0.5
    state.adapt(1)
    assert pace.share.flatten().tolist() == [0.125, 0.25]
    assert pace.step_size.flatten().tolist() == pytest.approx([2.0, 2 / 1.5])
    assert torch.equal(state.point[0], state.best[0]) and torch.equal(state.point[1], start[1])
    for _ in range(20):
        state.adapt(1)
    assert pace.step_size.flatten().tolist() == pytest.approx([0.2, 0.2])


def test_rises_are_counted_from_the_second_look_on():
    """Logits (0, mean of the image): the loss of class 0 grows with the brightness."""

    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            bright = images.mean((1, 2, 3))
            return torch.stack([torch.zeros_like(bright), bright], 1)

    state, pace = climb(2, THREATS[0])
    seen = []
    for brightness in (0.5, 0.6, 0.55, 0.7):
        state.point = torch.full_like(state.point, brightness)
        state.look(Brightness())
        state.remember()
        seen.append(int(pace.rises[0]))
    assert seen == [0, 1, 1, 2] and torch.allclose(state.best, torch.full_like(state.best, 0.7))
    assert torch.allclose(state.best_margins, torch.full((2,), 0.7)) and state.wrong.all()


def test_momentum_by_hand():
    """x + 0.75 (Π(x + step) - x) + 0.25 (x - x₋₁), on one image in a wide ball."""
    threat = Threat(norm=Linf(), epsilon=Ratio(1, 4))
    state, pace = climb(1, threat)
    state.point, state.previous = state.images + 0.1, state.images + 0.06
    state.gradient, pace.step_size = torch.ones_like(state.point), pace.step_size * 0.16
    state.move(threat, first=False)
    assert torch.allclose(state.point - state.images, torch.full((1, 1, 8, 8), 0.1 + 0.75 * 0.08 + 0.25 * 0.04))
    # A long step is projected before it is mixed.
    state.previous, pace.step_size = state.point, pace.step_size * 100
    state.move(threat, first=False)
    assert torch.allclose(state.point - state.images, torch.full((1, 1, 8, 8), 0.17 + 0.75 * 0.08))


@everywhere
def test_starts_are_on_the_edge_and_differ(threat):
    images = torch.full((30, 1, 8, 8), 0.5)
    start = threat.norm.random_edge(images, threat.radius, noise(30))
    assert torch.allclose(threat.size(start - images), torch.full((30,), threat.radius), rtol=1e-4)
    assert len(start.flatten(1).unique(dim=0)) == 30


@everywhere
@pytest.mark.parametrize("loss", ["cross_entropy", "targeted_dlr"])
def test_at_least_as_strong_as_pgd_of_as_many_steps(loss, threat, network, test_images):
    images, labels = test_images
    step_size = Ratio(threat.epsilon / 4)
    pgd = Pgd(steps=20, step_size=step_size, start="uniform", loss="cross_entropy", restarts=1)
    weak = fooled(network, pgd(network, images, labels, threat, noise(100)), labels)
    # In L1 only two fifths of the steps are in the ball itself.
    steps = 50 if threat.norm == L1() else 20
    strong = fooled(network, apgd(loss, steps)(network, images, labels, threat, noise(100)), labels)
    clean = fooled(network, images, labels)
    only_weak, only_strong = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    # A few images more or less are the random starts': the network differs with the processor's rounding.
    assert only_weak <= only_strong or mcnemar(only_weak, only_strong) > 0.05
    assert clean.sum() + 10 < strong.sum() < 95


@everywhere
@pytest.mark.parametrize("loss", LOSSES)
def test_neighbours_do_not_matter(loss, threat, network, test_images):
    images, labels = test_images
    whole = apgd(loss, steps=10)(network, images, labels, threat, Noise(3, torch.arange(100)))
    for part in (torch.arange(37), torch.arange(99, 36, -1)):
        alone = apgd(loss, steps=10)(network, images[part], labels[part], threat, Noise(3, part))
        assert torch.equal(fooled(network, alone, labels[part]), fooled(network, whole, labels)[part])


@pytest.mark.parametrize("kind", ["restarts", "targets", "steps"])
def test_more_never_helps_the_model(kind, network, test_images):
    """The longer run begins with the shorter one, so every image fooled by one is fooled by the other."""
    images, labels = test_images
    few, many = {
        "restarts": (apgd(steps=3), apgd(steps=3, restarts=4)),
        "targets": (apgd("targeted_dlr", 5, targets=1), apgd("targeted_dlr", 5, targets=9)),
        # Windows are shares of all steps, so only the first ones are the same.
        "steps": (apgd(steps=2), apgd(steps=40)),
    }[kind]
    one, other = (fooled(network, a(network, images, labels, THREATS[0], noise(100)), labels) for a in (few, many))
    if kind != "steps":
        assert not (one & ~other).any()
    assert other.sum() > one.sum()


class Watched(nn.Module):
    """Passes images on and keeps what came back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.answers = model, []

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        self.answers.append(logits.detach())
        return logits


@dense
def test_fooled_images_are_never_looked_at_again(threat, network, test_images):
    """Each pass has exactly as many images as the one before left standing; within a run their order stays."""
    images, labels = test_images
    watched = Watched(network).eval()
    images_adv = apgd(restarts=2)(watched, images, labels, threat, noise(100))
    standing = labels
    for logits in watched.answers:
        assert len(logits) == len(standing)
        standing = standing[logits.argmax(1) == standing]
    assert len(watched.answers) == 1 + 2 * 21 and len(watched.answers[-1]) < 75
    assert len(standing) == (~fooled(network, images_adv, labels)).sum()


def test_larger_balls_come_first_in_a_sparse_norm(network, test_images):
    """Of 20 steps six with three times the radius and six with twice, where all stay, then eight, where images fall."""
    images, labels = test_images
    watched = Watched(network).eval()
    images_adv = apgd()(watched, images, labels, THREATS[2], noise(100))
    right = (~fooled(network, images, labels)).sum()
    assert [len(logits) for logits in watched.answers[1:16]] == [right] * 15
    assert len(watched.answers) == 1 + 7 + 7 + 9 and len(watched.answers[-1]) < right
    assert THREATS[2].size(images_adv - images).max() <= THREATS[2].radius + 2e-6


def test_misclassified_images_are_returned_as_they_are(network, test_images):
    images, labels = test_images
    wrong = fooled(network, images, labels)
    images_adv = apgd(steps=5)(network, images, labels, THREATS[0], noise(100))
    changed = (images_adv != images).flatten(1).any(1)
    assert wrong.any() and torch.equal(changed, ~wrong)
    alone = apgd(steps=5)(network, images[wrong], labels[wrong], THREATS[0], noise(int(wrong.sum())))
    assert torch.equal(alone, images[wrong])


def test_success_must_be_confirmed(network, test_images):
    """A search with shifted logits calls images fooled that are not: with confirmation it goes on until they are."""

    class Other(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return network(images) + torch.linspace(-3, 3, 10)

    images, labels = test_images
    believed = apgd()(Other(), images, labels, THREATS[0], noise(100))
    confirmed = apgd()(Victim(network, Other()), images, labels, THREATS[0], noise(100))
    claimed, done = fooled(network, believed, labels), fooled(network, confirmed, labels)
    assert not (claimed & ~done).any() and done.sum() > claimed.sum() > fooled(network, images, labels).sum()


def test_low_precision_logits_are_compared_in_float32(network, test_images):
    class Half(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return network(images).bfloat16()

    images, labels = test_images
    images_adv = apgd()(Victim(network, Half()), images, labels, THREATS[0], noise(100))
    exact = apgd()(network, images, labels, THREATS[0], noise(100))
    assert images_adv.dtype == torch.float32
    assert abs(int(fooled(network, images_adv, labels).sum() - fooled(network, exact, labels).sum())) <= 3


class Few(nn.Module):
    """A network of which only the first classes are seen."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)[:, : self.classes]


def test_few_classes(network, test_images):
    images, labels = test_images
    chosen = labels < 4
    images, labels = images[chosen], labels[chosen]
    all_targets, more = (
        apgd("targeted_dlr", 5, targets=targets)(Few(network, 4), images, labels, THREATS[0], noise(len(labels)))
        for targets in (3, 9)
    )
    assert torch.equal(all_targets, more)
    for classes, loss, message in ((3, "targeted_dlr", "want at least 4"), (2, "dlr", "want at least 3")):
        part = labels < classes
        with pytest.raises(InputError, match=message):
            apgd(loss)(Few(network, classes), images[part], labels[part], THREATS[0], noise(int(part.sum())))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, r"steps\n.*greater than or equal to 1 "),
        ({"rho": 1.0}, r"rho\n.*less than 1 "),
        ({"targets": 3}, "none with other losses"),
        ({"loss": "targeted_dlr"}, "want targets of at least 1"),
    ],
)
def test_fields_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(apgd(), **changes)
