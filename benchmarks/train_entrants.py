"""Who trains in `train_speed.py`: Temper's own loop, the loop of the published code, and ART's trainers.

Each gets a copy of the same float32 network, the same images and the same settings, and trains an epoch per call.
"""

import copy
import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.augmentation import Augmentation
from components.data.loader import Loader
from components.data.splits import LabelledImages
from components.distillation.b_mtard import BMtard
from components.distillation.parts.inner_attack import InnerAttack
from components.foundation.params import Ratio
from components.methods.fgsm_rs import FgsmRs
from components.methods.parts.contract import Method
from components.methods.pgd_at import PgdAt
from components.numerics.compute import CaptureMode
from components.optimizers.sgd import Sgd
from components.schedules.cyclic import Cyclic
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from components.training import loop as training
from components.training.capture import Capture

THREAT = Threat(norm=Linf(), epsilon=Ratio(8, 255))
PGD_STEPS, PGD_STEP, RS_STEP = 10, Ratio(2, 255), Ratio(10, 255)
CLASSES = 10
AUGMENTATION = Augmentation(crop=4, flip=True, cutmix=0.0, rand_augment=None)
SCHEDULE = Cyclic(peak=0.5)
Name = Literal["pgd_at", "fgsm_rs", "b_mtard"]


class Case(NamedTuple):
    """What is trained, on what, by which method, and for how many epochs the learning rate rises and falls."""

    model: nn.Module
    train: LabelledImages
    method: Name
    batch_size: int
    epochs: int
    learning_rate: float
    seed: int
    teachers: tuple[nn.Module, nn.Module] | None = None  # The clean and the robust one, of a student.


class Trained(NamedTuple):
    """A network, and what trains it by one epoch: takes the epoch's number."""

    model: nn.Module
    epoch: Callable[[int], Any]


def method(name: Name, teachers: tuple[nn.Module, nn.Module] | None = None) -> Method:
    """PGD-10 AT, or FGSM-RS or B-MTARD as published, at 8/255."""
    if name == "b_mtard":
        assert teachers is not None
        return student().build(*teachers)
    if name == "pgd_at":
        attack = Pgd(steps=PGD_STEPS, step_size=PGD_STEP, start="uniform", loss="cross_entropy", restarts=1)
        return PgdAt(attack=attack, label_smoothing=0.0).build()
    return FgsmRs(step_size=RS_STEP, noise=Ratio(1), label_smoothing=0.0, batch_norm="train").build()


def student() -> BMtard:
    """The published settings of B-MTARD."""
    return BMtard(
        attack=InnerAttack(steps=PGD_STEPS, step_size=PGD_STEP, start="gaussian", loss="cross_entropy"),
        reduction="class_mean",
        temperature_step=1e-3,
        temperature_min=1.0,
        temperature_max=10.0,
        weight_step=0.025,
        balance_milestones=(215, 260, 285),
        balance_decay=0.1,
    )


def temper(case: Case, capture: CaptureMode = "off", tell: Callable[[str], None] = print) -> Trained:
    """What `fit` runs for an epoch: the loader, the method's loss, the step; in the precision `auto`.

    `tell` takes a line where steps were to be captured and are not.
    """
    recipe = training.Recipe(
        epochs=case.epochs,
        batch_size=case.batch_size,
        learning_rate=case.learning_rate,
        optimizer=Sgd(momentum=0.9, nesterov=False, weight_decay=5e-4, decay_norms=True),
        gradient_clip=None,
        average=None,
        augmentation=AUGMENTATION,
        precision="auto",
        select_by="robust_accuracy",
        patience=None,
    )
    state = training.start(
        copy.deepcopy(case.model), method(case.method, case.teachers), _NothingMeasured(), recipe, case.seed
    )
    state.capture = Capture(capture, tell)
    loader, plan = _loader(case), training.Plan(recipe, SCHEDULE, THREAT, case.seed)
    return Trained(state.model, lambda epoch: training._train_epoch(state, loader, plan, epoch % case.epochs))


def plain(case: Case) -> Trained:
    """The published way (Wong et al., arXiv 2001.03994): float32, rows first, everything in training mode, and
    `loss.backward()` for the attack too, which computes weight gradients that nobody uses.

    Its images come from the same loader, as its data loader would give them.
    """
    model, loader = copy.deepcopy(case.model), _loader(case)
    rng = torch.Generator(case.train.images.device).manual_seed(case.seed)
    optimizer = torch.optim.SGD(model.parameters(), case.learning_rate, momentum=0.9, weight_decay=5e-4)
    steps, step_size = (PGD_STEPS, float(PGD_STEP)) if case.method == "pgd_at" else (1, float(RS_STEP))

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        for index, batch in enumerate(loader.epoch(case.seed * 1_000_003 + epoch, rng)):
            factor = SCHEDULE.factor(epoch + index / loader.num_batches, case.epochs)
            yield batch.images.contiguous(), batch.labels, case.learning_rate * factor

    balance = Balance(1.0, 1.0, 0.5, 0.5, None)

    def epoch(number: int) -> None:
        nonlocal balance
        torch.manual_seed(case.seed + number)
        if case.teachers is not None:
            balance = teach_plainly(model, *case.teachers, optimizer, batches(number % case.epochs), balance)
            return
        train_plainly(model, optimizer, batches(number % case.epochs), steps, step_size, THREAT.radius)

    return Trained(model, epoch)


class Balance(NamedTuple):
    """The temperatures and weights of the robust and the clean side, and their first losses."""

    temperature_robust: float
    temperature_clean: float
    weight_robust: float
    weight_clean: float
    first: tuple[float, float] | None


def teach_plainly(
    model: nn.Module,
    clean_teacher: nn.Module,
    robust_teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor, float]],
    balance: Balance,
) -> Balance:
    """B-MTARD as its published loop trains: float32, an attack of ten steps in evaluation mode whose gradient is that
    of the image alone, two passes of the student, numbers of the balances read back in every step. The new balance.
    """
    for images, labels, rate in batches:
        model.eval()
        images_adv = images + 0.001 * torch.randn_like(images)
        for _ in range(PGD_STEPS):
            images_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(images_adv), labels), [images_adv])
            moved = images_adv.detach() + float(PGD_STEP) * gradient.sign()
            moved = torch.min(torch.max(moved, images - THREAT.radius), images + THREAT.radius)
            images_adv = moved.clamp(0, 1)
        model.train()
        logits_adv, logits = model(images_adv), model(images)
        with torch.no_grad():
            robust = F.softmax(robust_teacher(images_adv) / balance.temperature_robust, dim=1)
            clean = F.softmax(clean_teacher(images) / balance.temperature_clean, dim=1)
        losses = [
            (target * ((target + 1e-5).log() - F.log_softmax(output, dim=1))).mean()
            for target, output in ((robust, logits_adv), (clean, logits))
        ]
        balance = moved_on(balance, [-(q * (q + 1e-5).log()).sum(1).mean().item() for q in (robust, clean)], losses)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (balance.weight_robust * losses[0] + balance.weight_clean * losses[1]).backward()
        optimizer.step()
    return balance


def moved_on(balance: Balance, entropies: list[float], losses: list[Tensor]) -> Balance:
    """Both balances after a step, with the published step sizes."""
    robust, clean = (loss.item() for loss in losses)
    first = balance.first or (robust, clean)
    relative = robust / first[0], clean / first[1]
    up = math.copysign(1e-3, entropies[0] / entropies[1] - 1)
    share = relative[0] / sum(relative)
    weight = balance.weight_robust - 0.025 * (balance.weight_robust - share)
    hot = min(max(balance.temperature_robust - up, 1.0), 10.0)
    return Balance(hot, min(max(balance.temperature_clean + up, 1.0), 10.0), weight, 1 - weight, first)


def train_plainly(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor, float]],
    steps: int,
    step_size: float,
    epsilon: float,
) -> None:
    """One step for each of `batches`: images [N, C, H, W] in [0, 1], labels [N], learning rate."""
    model.train()
    for images, labels, rate in batches:
        delta = torch.zeros_like(images).uniform_(-epsilon, epsilon)
        delta = torch.clamp(images + delta, 0, 1) - images
        delta.requires_grad_()
        for _ in range(steps):
            F.cross_entropy(model(images + delta), labels).backward()
            assert delta.grad is not None
            with torch.no_grad():
                moved = torch.clamp(delta + step_size * delta.grad.sign(), -epsilon, epsilon)
                delta.copy_(torch.clamp(images + moved, 0, 1) - images)
            delta.grad.zero_()
        optimizer.param_groups[0]["lr"] = rate
        loss = F.cross_entropy(model(images + delta.detach()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def art(case: Case) -> Trained:
    """ART's AdversarialTrainerMadryPGD, or AdversarialTrainerFBFPyTorch, as documented: numpy arrays, no augmentation.

    The second sets the learning rate itself. Error: ImportError where ART is not installed, or has no such trainer.
    """
    if case.teachers is not None:
        raise ImportError("no trainer of students with two teachers")
    classification = importlib.import_module("art.estimators.classification")
    trainers = importlib.import_module("art.defences.trainer")
    model = copy.deepcopy(case.model)
    classifier = classification.PyTorchClassifier(
        model=_Whole(model),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), case.learning_rate, momentum=0.9, weight_decay=5e-4),
        input_shape=tuple(case.train.images.shape[1:]),
        nb_classes=CLASSES,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    if case.method == "pgd_at":
        trainer = trainers.AdversarialTrainerMadryPGD(
            classifier, eps=THREAT.radius, eps_step=float(PGD_STEP), max_iter=PGD_STEPS, num_random_init=1
        )
    else:
        trainer = trainers.AdversarialTrainerFBFPyTorch(classifier, eps=THREAT.radius)
    images = (case.train.images.float() / 255).numpy()
    labels = F.one_hot(case.train.labels, CLASSES).float().numpy()

    def epoch(number: int) -> None:
        np.random.seed(case.seed + number)
        torch.manual_seed(case.seed + number)
        trainer.fit(images, labels, batch_size=case.batch_size, nb_epochs=1)

    return Trained(model, epoch)


class _NothingMeasured:
    """What is measured after an epoch: nothing."""

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        assert not state


class _Whole(nn.Module):
    """A network that ART takes for one layer; of a sequence, its second trainer scores the first layer's output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def _loader(case: Case) -> Loader:
    return Loader(case.train.images, case.train.labels, case.batch_size, AUGMENTATION, CLASSES)


ENTRANTS: dict[str, Callable[[Case], Trained]] = {"temper": temper, "plain": plain, "art": art}


def weight_gradients(name: str, method: Name) -> int | None:
    """How often an entrant computes weight gradients for an image; None: at every backward pass.

    A student has a loss on each of its two views. The published loop of students wants no others while it attacks.
    """
    if method == "b_mtard":
        return 2
    return 1 if name == "temper" else None
