"""Students of the official code of KD+SWA, and ours with the same method."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.official import script
from benchmarks.official.b_mtard import INTERIOR
from benchmarks.official.students import CROSS_ENTROPY, EPOCHS, Student, packages, sharp
from benchmarks.official.tape import Tape

WRITTEN_ANEW = "the attack, advertorch's, is written anew: its package is no part of the official code"
DECAY = "the weight decay is 2e-4 on both sides; theirs is 5e-4"


class StandInPgd:
    """Stands in for advertorch's attack: from a uniform start steps along the sign of the slope, inside the ball."""

    def __init__(self, model: nn.Module, loss_fn: Any, eps: float, nb_iter: int, eps_iter: float, **_: object) -> None:
        self.model, self.loss, self.epsilon, self.steps, self.step_size = model, loss_fn, eps, nb_iter, eps_iter

    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        here = (images + torch.zeros_like(images).uniform_(-self.epsilon, self.epsilon)).clamp(0, 1)
        for _ in range(self.steps):
            here.requires_grad_()
            (slope,) = torch.autograd.grad(self.loss(self.model(here), labels), here)
            moved = (here.detach() + self.step_size * slope.sign() - images).clamp(-self.epsilon, self.epsilon)
            here = (images + moved).clamp(0, 1)
        return here


def chen(argv: Mapping[str, Any]) -> Callable[[Path, Tape, script.Feed], None]:
    """KD+SWA without its average, which changes no step."""

    def run(folder: Path, tape: Tape, feed: script.Feed) -> None:
        loaded = iter((1, 2))

        def prepare(members: dict[str, Any]) -> None:
            networks = [tape.network() for _ in range(3)]
            members["setup_dataset_models"] = lambda _: (feed, [], [], networks[0], None, *networks[1:])
            members |= dict.fromkeys(("test", "test_adv", "save_checkpoint"), lambda *_: 0.0)

        fixed = {"--data": "x", "--dataset": "cifar10", "--arch": "resnet18", "--save_dir": "x", "--lwf": True}
        fixed |= {"--epochs": EPOCHS, "--decreasing_lr": 2, "--weight_decay": 2e-4, "--t_weight1": 1, "--t_weight2": 2}
        script.run(
            folder / "main_adv.py",
            tape,
            argv={**fixed, **argv},
            modules=packages(
                advertorch__attacks={"LinfPGDAttack": StandInPgd, "L2PGDAttack": None},
                advertorch__context={"ctx_noparamgrad": nullcontext},
                advertorch__utils={"NormalizeByChannelMeanStd": None},
                matplotlib__pyplot=dict.fromkeys(("plot", "legend", "savefig", "close"), lambda *_, **__: None),
            ),
            patches=[
                patch.object(torch, "load", lambda *_, **__: sharp(tape.networks[next(loaded)]).state_dict()),
                patch.object(torch.cuda, "set_device", lambda _: None),
            ],
            prepare=prepare,
        )

    return run


def _kd_swa(words: str, argv: Mapping[str, Any], clean: float, robust: float, temperature: float) -> Student:
    return Student(
        f"kd_swa, {words}",
        "VITA-Group/Alleviate-Robust-Overfitting",
        "main_adv.py",
        chen(argv),
        {
            "name": "kd_swa",
            "attack": CROSS_ENTROPY,
            "clean_weight": clean,
            "robust_weight": robust,
            "temperature": temperature,
            "batch_norm": "train",
        },
        teachers=(1, 2),
        equalised=(INTERIOR, WRITTEN_ANEW, DECAY),
    )


OTHER = {"--coef_ce": 0.4, "--coef_kd1": 0.35, "--coef_kd2": 0.25, "--temperature": 3.5}
CASES = [_kd_swa("as published", {}, 0.1, 0.6, 2), _kd_swa("other numbers", OTHER, 0.35, 0.25, 3.5)]
