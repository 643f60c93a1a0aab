"""The attacks of a student: each step is that of its loss, written out, and the teacher is asked as each loss says."""

import math

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.distillation.parts.inner_attack import InnerAttack, InnerLoss, linear_target
from components.foundation.params import Ratio
from components.numerics.cost import PassCounter
from tests.parts.equations import WIDE, network, rows, seeded, teacher
from tests.parts.plain_sums import Rows, plain_cross_entropy, plain_kl, plain_softmax

STEPS, STEP = 3, Ratio(1, 10)
LOSSES: tuple[InnerLoss, ...] = (
    "cross_entropy",
    "margin",
    "kl",
    "kl_teacher_clean",
    "kl_teacher",
    "kl_teacher_held",
    "kl_teacher_linear",
)
PIXELS = range(0, 64, 5)
every = pytest.mark.parametrize("loss", LOSSES)


@pytest.fixture
def batch(images: Tensor, labels: Tensor) -> Batch:
    return Batch.of(images.double(), labels)


def attack(loss: InnerLoss, steps: int = STEPS) -> InnerAttack:
    return InnerAttack(steps=steps, step_size=STEP, start="uniform", loss=loss)


def plain(
    loss: InnerLoss, student: nn.Module, advising: nn.Module, batch: Batch, here: Tensor, held: Rows
) -> list[float]:
    """What is climbed for each image, at the images `here`; `held` are the teacher's logits at an iterate."""
    z_student, z_clean = rows(student, here), rows(advising, batch.images)
    labels = batch.labels.tolist()
    match loss:
        case "cross_entropy":
            return [plain_cross_entropy(z, y) for z, y in zip(z_student, labels, strict=True)]
        case "margin":
            return [max(v for k, v in enumerate(z) if k != y) - z[y] for z, y in zip(z_student, labels, strict=True)]
        case "kl":
            target = rows(student, batch.images)
        case "kl_teacher_clean":
            target = z_clean
        case "kl_teacher":
            target = rows(advising, here)
        case "kl_teacher_held":
            target = held
        case "kl_teacher_linear":
            target = [list(row) for row in z_clean]
            for i, label in enumerate(labels):
                leaf = batch.images[i : i + 1].clone().requires_grad_()
                (slope,) = torch.autograd.grad(advising(leaf)[0, label], leaf)
                target[i][label] += float(((here[i] - batch.images[i]) * slope[0]).sum())
    return [plain_kl(plain_softmax(q), z) for q, z in zip(target, z_student, strict=True)]


@every
def test_each_step_goes_up_its_loss(loss, batch):
    """Every step has the sign of the slope of the formula, by central differences at some pixels of all images."""
    student, advising = network(1), teacher(2)
    points = [attack(loss, steps)(student, batch, WIDE, seeded(), advising) for steps in range(1, STEPS + 1)]
    start = WIDE.random_start(batch.images, seeded())
    lower, upper = (bound.flatten(1) for bound in box(batch.images))
    compared = 0
    for before, after in zip([start, *points], points, strict=False):
        held = rows(advising, before)
        for pixel in PIXELS:
            # Of each image at once: none of them is in another's loss.
            moved = [before.clone(), before.clone()]
            moved[0].flatten(1)[:, pixel] += 1e-6
            moved[1].flatten(1)[:, pixel] -= 1e-6
            losses = (plain(loss, student, advising, batch, here, held) for here in moved)
            for image, (above, below) in enumerate(zip(*losses, strict=True)):
                if abs(above - below) < 1e-10:
                    continue
                want = float(before.flatten(1)[image, pixel]) + float(STEP) * math.copysign(1, above - below)
                want = min(max(want, float(lower[image, pixel])), float(upper[image, pixel]))
                assert float(after.flatten(1)[image, pixel]) == pytest.approx(want, abs=1e-9)
                compared += 1
    assert compared > 0.9 * STEPS * len(PIXELS) * len(batch.images)


def box(images: Tensor) -> tuple[Tensor, Tensor]:
    return (images - WIDE.radius).clamp_min(0), (images + WIDE.radius).clamp_max(1)


def test_the_losses_differ(batch):
    """Else a test of one could pass with another's code."""
    found = [attack(loss)(network(1), batch, WIDE, seeded(), teacher(2)) for loss in LOSSES]
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[i + 1 :])


@pytest.mark.parametrize(
    ("loss", "asked", "answered"),
    [
        ("cross_entropy", 0, 0),
        ("kl", 0, 0),
        ("kl_teacher_clean", 1, 0),
        ("kl_teacher", STEPS, STEPS),
        ("kl_teacher_held", STEPS, 0),
        ("kl_teacher_linear", 1, 1),
    ],
)
def test_the_teacher_is_asked_as_often_as_the_loss_says(loss, asked, answered, batch):
    counter = PassCounter(advising := teacher(2))
    attack(loss)(network(1), batch, WIDE, seeded(), advising)
    taken = counter.take()
    assert (taken["forward"], taken["backward"]) == (asked * len(batch.images), answered * len(batch.images))


@every
def test_it_leaves_modes_and_gradients_and_returns_no_graph(loss, batch):
    student, advising = network(1).train(), teacher(2)
    found = attack(loss)(student, batch, WIDE, seeded(), advising)
    assert not found.requires_grad and student.training and not advising.training
    assert all(parameter.grad is None for one in (student, advising) for parameter in one.parameters())


def test_the_linear_target_is_exact_for_a_linear_teacher(batch):
    torch.manual_seed(4)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double().requires_grad_(False)
    target, moved = linear_target(linear, batch.images, batch.labels), batch.images + 0.1
    places = batch.labels[:, None]
    assert torch.allclose(target(moved).gather(1, places), linear(moved).gather(1, places))
    # The other classes stay where they were.
    assert torch.equal(target(moved).scatter(1, places, 0.0), linear(batch.images).scatter(1, places, 0.0))


def test_a_divergence_from_itself_needs_a_start_beside_the_image():
    with pytest.raises(ValueError, match="no gradient at the image"):
        InnerAttack(steps=1, step_size=STEP, start="zero", loss="kl")
    assert InnerAttack(steps=1, step_size=STEP, start="zero", loss="kl_teacher")
