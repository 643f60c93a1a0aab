"""`temper.train`: a model of your own by a method of the table or of your own, through the loop of the pipeline."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.pgd import Pgd
from components.data.dividing import stratified_subset
from components.data.loader import Loader
from components.foundation.errors import InputError
from components.foundation.params import member, typed
from components.methods import METHODS
from components.methods.parts.contract import Method, needs
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.numerics.random_numbers import derived
from components.optimizers.sgd import Sgd
from components.schedules.one_cycle import OneCycle
from components.threats.parts.threat import Threat
from components.training.checkpoint import TrainingState
from components.training.loop import Plan, Recipe, fit, start
from components.training.validation import Validation
from temper.arrays import (
    Array,
    device_of,
    images_of,
    labels_of,
    num_classes_of,
    require,
    require_all,
    require_seed,
)
from temper.arrays import threat as as_threat
from temper.defaults import attack_fields, filled, method_fields

# Of the images, kept to select the best epoch, where nothing else is given for that.
VALIDATION = 10
# Steps of the attack by which epochs are compared.
VALIDATION_STEPS = 10

MethodLike = str | Mapping[str, Any] | Method


@dataclass(frozen=True)
class Trained:
    """What training made: `model` with the weights of `best_epoch`, and one record per epoch in `history`.

    Records have `epoch`, `train_loss`, `clean_accuracy`, `robust_accuracy`, `mean_accuracy` and what the method logs;
    the first is of the untrained model, epoch 0. Accuracies are on the validation images.
    """

    model: nn.Module
    best_epoch: int
    history: tuple[Mapping[str, float], ...]


def train(
    model: nn.Module,
    images: Array,
    labels: Array,
    threat: Threat | str,
    *,
    method: MethodLike = "pgd_at",
    guide: nn.Module | None = None,
    epochs: int = 30,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    crop: int = 0,
    flip: bool = False,
    validation: tuple[Array, Array] | None = None,
    select_by: Literal["clean_accuracy", "robust_accuracy", "mean_accuracy"] = "robust_accuracy",
    seed: int = 0,
    folder: Path | str | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Trained:
    """A copy of the model, trained by SGD with one cycle of the learning rate; the model itself stays as it is.

    >>> import temper, torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> images = torch.randint(256, (40, 1, 2, 2))
    >>> len(temper.train(model, images.byte(), torch.arange(40) % 2, "linf:1/10", epochs=1).history)
    2

    Args:
        model: takes pixels in [0, 1], normalises them itself, returns logits [N, K].
        images: [N, C, H, W] uint8.
        labels: [N], classes from 0.
        threat: a threat model, or text such as `linf:8/255`.
        method: a name of the table, a mapping with a name and some fields, or a method of your own.
        guide: a trained clean model, for methods that want one.
        epochs, batch_size, learning_rate: of the run; the learning rate is the largest of the cycle.
        crop, flip: augmentation: shifts by up to `crop` pixels, horizontal flips.
        validation: other images and labels, by which the best epoch is chosen; by default a tenth is kept for that.
        select_by: the accuracy that decides.
        seed: of the order of the images and of random starts.
        folder: where the checkpoint is, so that a stopped run continues; none keeps nothing.
        note: gets a line after each epoch.

    Errors: `temper.InputError`, one line, where an argument is not so.
    """
    require_all(model, folder, note)
    require_seed(seed)
    require("guide", guide, (nn.Module, type(None)), "a torch.nn.Module, or None")
    ball, device = as_threat(threat), device_of(model)
    pixels, targets = _uint8(images_of(images, device)), labels
    targets = labels_of(targets, len(pixels), device)
    num_classes = num_classes_of(copy.deepcopy(model).eval(), pixels, targets)
    recipe = _recipe(epochs, batch_size, learning_rate, crop, flip, select_by)
    taught = _method(method, ball, epochs, guide)
    (pixels, targets), held_out = _divided(pixels, targets, validation, device, seed)
    probe = KernelProbe(ProbeSchedule(epochs=(), size=2, directions="exact"), pixels, targets, num_classes, seed)
    measure = Validation(*held_out, _validation_attack(ball), ball, batch_size, probe, seed)
    loader = Loader(pixels, targets, batch_size, recipe.augmentation, num_classes)
    state = start(copy.deepcopy(model), taught, measure, recipe, seed)
    plan = Plan(recipe, OneCycle(start=0.1, peak=0.3), ball, seed)
    with tempfile.TemporaryDirectory() as scratch:
        return _fitted(state, loader, plan, Path(folder or scratch), note)


def _fitted(state: TrainingState, loader: Loader, plan: Plan, place: Path, note: Callable[[str], None]) -> Trained:
    """What is made of `state` by the plan, or by the rest of it where `place` has a checkpoint."""
    for record in fit(state, loader, plan, place):
        note("  ".join(f"{name} {value:.4g}" for name, value in record.items()))
    model = state.published
    model.load_state_dict(state.best_weights(place))
    return Trained(model.eval(), state.best_epoch, tuple(state.history))


def _validation_attack(threat: Threat) -> Pgd:
    fields = filled({"name": "pgd", "steps": VALIDATION_STEPS}, attack_fields(threat), "attack")
    attack = member(ATTACKS, fields, "attack")
    assert isinstance(attack, Pgd)
    return attack


def _uint8(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8:
        raise InputError(f"images: got {images.dtype}, want uint8 to train on (pixels from 0 to 255)")
    return images


def _recipe(epochs: int, batch_size: int, learning_rate: float, crop: int, flip: bool, select_by: str) -> Recipe:
    told = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "optimizer": {},
        "gradient_clip": None,
        "average": None,
        "augmentation": {"crop": crop, "flip": flip, "cutmix": 0, "rand_augment": None},
        "precision": "float32",
        "select_by": select_by,
        "patience": None,
    }
    sgd = Sgd(momentum=0.9, nesterov=True, weight_decay=5e-4, decay_norms=True)
    return replace(typed(Recipe, told, "train"), optimizer=sgd)


def _method(given: MethodLike, threat: Threat, epochs: int, guide: nn.Module | None) -> Method:
    """The method, guided where it wants a guide. Errors: an unknown name or field, a guide that is missing."""
    if not isinstance(given, str | Mapping):
        require("method", given, Method, "a name, a mapping with a name, or a temper.Method")
        return given
    built = member(METHODS, filled(given, method_fields(threat, epochs), "method"), "method", threat.epsilon)
    if not needs(built):
        return built.build()
    if guide is None:
        raise InputError(f"guide: missing, {built} is guided by a trained clean model")
    return built.build(clean_teacher=copy.deepcopy(guide).eval())


def _divided(
    images: Tensor, labels: Tensor, validation: tuple[Array, Array] | None, device: torch.device, seed: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels to train on, and those to choose the best epoch by."""
    if validation is not None:
        require("validation", validation, (tuple, list), "a pair: images and labels")
        if len(validation) != 2:
            raise InputError(f"validation: got {len(validation)} parts, want two: images and labels")
        other = _uint8(images_of(validation[0], device))
        return (images, labels), (other, labels_of(validation[1], len(other), device))
    size = len(labels) // VALIDATION
    if size < 1:
        raise InputError(f"images: got {len(labels)}, want at least {VALIDATION}, or validation images")
    chosen = stratified_subset(labels.cpu(), size, derived(seed, "validation split")).to(device)
    rest = torch.ones(len(labels), dtype=torch.bool, device=device)
    rest[chosen] = False
    return (images[rest], labels[rest]), (images[chosen], labels[chosen])
