"""The networks and images that `attack_speed.py` attacks: made here, in about a minute each, from one seed."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.attacks.pgd import Pgd
from components.data.augmentation import Augmentation
from components.data.loader import Loader
from components.data.normalization import fit_normalization
from components.data.splits import LabelledImages
from components.datasets.cifar10 import Cifar10
from components.datasets.digits import Digits
from components.evaluation.one_attack import TestSet
from components.foundation.params import Ratio
from components.methods.pgd_at import PgdAt
from components.models.parts.batch_norm import BatchNorm
from components.models.resnet18 import ResNet18
from components.models.small_cnn import SmallCnn
from components.numerics.compute import training_arithmetic
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

SEED = 0
HELD_OUT = 100
# Images that a network of CIFAR's shape is trained on.
TRAINED_ON = 10_000
# A ResNet-18 learns so few images by heart within minutes; some of them are the ones attacked.
BY_HEART = 32
CIFAR_LINF = Threat(norm=Linf(), epsilon=Ratio(8, 255))
DIGITS_LINF = Threat(norm=Linf(), epsilon=Ratio(1, 5))


class Setting(NamedTuple):
    """A network in evaluation mode, the images it is attacked on, others for the parity check, the ball, PGD's step."""

    model: nn.Module
    test: TestSet
    held_out: TestSet
    threat: Threat
    step_size: Ratio
    images: str


class Training(NamedTuple):
    """How long and how hard a network is trained against PGD."""

    epochs: int
    batch_size: int
    learning_rate: float
    attack_steps: int


def digits(num: int, data: Path | None) -> Setting:
    """The small network on 8x8 digits, trained against PGD-5 at epsilon 0.2."""
    model, test, train = _robust_on_digits()
    return _setting(model, test, train, num, DIGITS_LINF, Ratio(1, 20), "digits, 1x8x8")


def small_cnn(num: int, data: Path | None) -> Setting:
    """The small network on images of CIFAR-10's shape, trained against random-start FGSM at 8/255."""
    train, test, source = _cifar(data)
    return _setting(_robust_small_cnn(data), test, train, num, CIFAR_LINF, Ratio(2, 255), source)


def resnet18(num: int, data: Path | None) -> Setting:
    """ResNet-18 that has learned a few images by heart against PGD-2, attacked on some of these."""
    train, _, source = _cifar(data)
    few = train.take(torch.arange(BY_HEART))
    model = _build(ResNet18, few)
    harden(model, few, CIFAR_LINF, Ratio(5, 255), Training(60, 32, 0.05, 2))
    return _setting(model, few, train, num, CIFAR_LINF, Ratio(2, 255), f"{source}; the first of {BY_HEART} trained on")


def harden(model: nn.Module, images: LabelledImages, threat: Threat, step_size: Ratio, training: Training) -> None:
    """Adversarial training of `model` in place, a rate that rises for a third of the time and then falls."""
    attack = Pgd(steps=training.attack_steps, step_size=step_size, start="uniform", loss="cross_entropy", restarts=1)
    method = PgdAt(attack=attack, label_smoothing=0.0).build()
    still = Augmentation(crop=0, flip=False, cutmix=0.0, rand_augment=None)
    num_classes = int(images.labels.max()) + 1
    loader = Loader(images.images, images.labels, training.batch_size, still, num_classes)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(
        model.parameters(), training.learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps, rng = training.epochs * loader.num_batches, torch.Generator().manual_seed(SEED)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=steps, pct_start=0.33)
    for epoch in range(training.epochs):
        for batch in loader.epoch(SEED + epoch, rng):
            model.train()
            with training_arithmetic(batch.images.device, "auto"):
                loss = method.loss(model, batch, threat, rng).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    # As a user of the peers would hold it.
    model.eval().to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Of the convolutions and linear layers in one forward pass of one image, counted where they happen."""
    total = 0

    def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            inputs = module.in_channels // module.groups * math.prod(module.kernel_size)
            total += output[0].numel() * inputs
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features

    handles = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return total


def synthetic(num: int, seed: int) -> LabelledImages:
    """Images of CIFAR-10's shape that can be learned robustly: ten coarse patterns of equal brightness, and noise."""
    patterns = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(SEED))
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (num,), generator=rng)
    coarse = 0.4 + 0.2 * patterns[labels] + 0.1 * torch.rand(num, 3, 4, 4, generator=rng)
    fine = F.interpolate(coarse, scale_factor=8, mode="bilinear") + 0.1 * torch.rand(num, 3, 32, 32, generator=rng)
    return LabelledImages((fine * 255).to(torch.uint8), labels)


@cache
def _robust_on_digits() -> tuple[nn.Module, LabelledImages, LabelledImages]:
    every = Digits().load(Path()).train
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(SEED))
    test, train = every.take(order[:500]), every.take(order[500:])
    model = _build(SmallCnn, train)
    harden(model, train, DIGITS_LINF, Ratio(20, 255), Training(30, 128, 0.2, 5))
    return model, test, train


@cache
def _robust_small_cnn(data: Path | None) -> nn.Module:
    train, *_ = _cifar(data)
    model = _build(SmallCnn, train)
    harden(model, train, CIFAR_LINF, Ratio(10, 255), Training(6, 128, 0.1, 1))
    return model


@cache
def _cifar(data: Path | None) -> tuple[LabelledImages, LabelledImages, str]:
    """Images to train on, images to attack, and what they are."""
    if data is None:
        return synthetic(TRAINED_ON, 1), synthetic(1000, 2), "synthetic, 3x32x32"
    source = Cifar10().load(data)
    assert source.test is not None
    return source.train.take(torch.arange(TRAINED_ON)), source.test, "CIFAR-10, 3x32x32"


def _build(architecture: Callable[..., SmallCnn | ResNet18], train: LabelledImages, seed: int = SEED) -> nn.Module:
    torch.manual_seed(seed)
    channels, height, width = train.images.shape[1:]
    built = architecture(width=1.0, batch_norm=BatchNorm(estimator="running", momentum=0.1))
    return built.build(10, (channels, height, width), fit_normalization(train.images, "standardize"))


def _setting(
    model: nn.Module,
    test: LabelledImages,
    train: LabelledImages,
    num: int,
    threat: Threat,
    step_size: Ratio,
    images: str,
) -> Setting:
    attacked = TestSet(test.images[:num], test.labels[:num], num)
    # Trained on, but not attacked: whether two precisions agree does not depend on that.
    held_out = TestSet(train.images[-HELD_OUT:], train.labels[-HELD_OUT:], HELD_OUT)
    return Setting(model, attacked, held_out, threat, step_size, images)
