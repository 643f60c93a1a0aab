"""How `attack_speed.py` drives each peer: as its documentation says, in float32, on the same model object and images.

A peer is imported when it is asked for; `ImportError` says that it is not installed. What is made once (wrappers,
attack objects) is made before the clock starts.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

STEPS = 10


class Case(NamedTuple):
    """What every entrant is given: a model in evaluation mode, float images in [0, 1], labels, and the L∞ ball."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    epsilon: float
    step_size: float
    batch_size: int
    num_classes: int = 10


Run = Callable[[int], Tensor]
"""A seed -> adversarial images of the whole case, [N, C, H, W]."""
Craft = Callable[[Tensor, Tensor], Tensor]


def each_batch(case: Case, craft: Craft) -> Run:
    """`craft` on one batch after the other; the seed goes to the global generator, which the peers draw from."""
    # Contiguous, as a loader of any of the peers' examples gives them.
    images = case.images.contiguous()

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        batches = zip(images.split(case.batch_size), case.labels.split(case.batch_size), strict=True)
        return torch.cat([craft(*batch).detach() for batch in batches])

    return run


def torchattacks_pgd(case: Case) -> Run:
    """torchattacks.PGD: cross-entropy, uniform start, gradients to the input alone."""
    attack = importlib.import_module("torchattacks").PGD(
        case.model, eps=case.epsilon, alpha=case.step_size, steps=STEPS, random_start=True
    )
    return each_batch(case, attack)


def foolbox_pgd(case: Case) -> Run:
    """foolbox LinfPGD on a PyTorchModel; its call also asks the model once whether each image is fooled."""
    foolbox = importlib.import_module("foolbox")
    model = foolbox.PyTorchModel(case.model, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=case.step_size, steps=STEPS, random_start=True)

    def craft(images: Tensor, labels: Tensor) -> Tensor:
        return attack(model, images, labels, epsilons=case.epsilon)[1]

    return each_batch(case, craft)


def art_pgd(case: Case) -> Run:
    """ART's ProjectedGradientDescent on a PyTorchClassifier: numpy in, numpy out, with one random start."""
    evasion = importlib.import_module("art.attacks.evasion")
    attack = evasion.ProjectedGradientDescent(
        _art_classifier(case),
        eps=case.epsilon,
        eps_step=case.step_size,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=case.batch_size,
        verbose=False,
    )
    return each_batch(case, lambda images, labels: torch.from_numpy(attack.generate(images.numpy(), labels.numpy())))


def pyautoattack_apgd(case: Case) -> Run:
    """The reference has no PGD; its APGD-CE with as many iterations does one pass more."""
    apgd = importlib.import_module("pyautoattack.autopgd_base").APGDAttack(
        case.model, n_iter=STEPS, n_restarts=1, norm="Linf", eps=case.epsilon, loss="ce", device="cpu"
    )

    def run(seed: int) -> Tensor:
        apgd.seed = seed
        return each_batch(case, apgd.perturb)(seed)

    return run


def pyautoattack_cascade(case: Case) -> Run:
    """The reference: AutoAttack standard, as its README calls it (its checks of the model included)."""
    package = importlib.import_module("pyautoattack")

    def run(seed: int) -> Tensor:
        attack = package.AutoAttack(case.model, norm="Linf", eps=case.epsilon, version="standard", seed=seed)
        return attack.run_standard_evaluation(case.images.contiguous(), case.labels, batch_size=case.batch_size)[0]

    return run


def torchattacks_cascade(case: Case) -> Run:
    """torchattacks.AutoAttack standard, which is weaker than the reference: no yardstick, shown for its time."""
    package = importlib.import_module("torchattacks")

    def run(seed: int) -> Tensor:
        attack = package.AutoAttack(
            case.model, norm="Linf", eps=case.epsilon, version="standard", n_classes=case.num_classes, seed=seed
        )
        return each_batch(case, attack)(seed)

    return run


def art_cascade(case: Case) -> Run:
    """ART's AutoAttack with its own attacks: APGD-CE, APGD-DLR, DeepFool and Square, five restarts each but one."""
    evasion = importlib.import_module("art.attacks.evasion")
    attack = evasion.AutoAttack(
        _art_classifier(case), eps=case.epsilon, eps_step=case.step_size, batch_size=case.batch_size
    )
    return each_batch(case, lambda images, labels: torch.from_numpy(attack.generate(images.numpy(), labels.numpy())))


def _art_classifier(case: Case) -> Any:
    return importlib.import_module("art.estimators.classification").PyTorchClassifier(
        model=case.model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(case.images.shape[1:]),
        nb_classes=case.num_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


Drive = Callable[[Case], Run]
PACKAGES = ("torchattacks", "foolbox", "adversarial-robustness-toolbox", "pyautoattack")
PGD: dict[str, Drive] = {
    "torchattacks": torchattacks_pgd,
    "foolbox": foolbox_pgd,
    "art": art_pgd,
    "pyautoattack": pyautoattack_apgd,
}
CASCADES: dict[str, Drive] = {
    "pyautoattack": pyautoattack_cascade,
    "torchattacks": torchattacks_cascade,
    "art": art_cascade,
}
