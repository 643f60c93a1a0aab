"""Students of the official code of ARD, IAD, AdaAD, SAAD and IGDM, and ours with the same methods.

No preset has these recipes: the method of `cifar10_paper`'s student is replaced, and the run is three epochs of four
batches, with the rate lowered before the last. The methods' own numbers are those of each case.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.official import ours, script
from benchmarks.official.b_mtard import INTERIOR, PRESET, no_data
from benchmarks.official.tape import Tape, TinyNet, pictures
from components.methods.parts.contract import Method
from components.wrappers.igdm import Igdm

EPOCHS, BATCHES, IMAGES = 3, 4, 16
# In the published code of IGDM a constant, whatever the length of the run.
IGDM_EPOCHS = 200
CROSS_ENTROPY = {"steps": 10, "step_size": "2/255", "start": "uniform", "loss": "cross_entropy"}
TAUGHT = {"steps": 10, "step_size": "2/255", "start": "gaussian"}


class Student(NamedTuple):
    """A method as our parameters say it, the official file, and what was made equal by hand, in words.

    `official` is given the repository's folder, an empty tape and the batches. `teachers` are the places on the tape of
    the networks that the method asks for. `apart` names what is not compared, `recipe` what other cases have otherwise,
    `companion` the method's network that learns beside the student.
    """

    name: str
    repository: str
    file: str
    official: Callable[[Path, Tape, script.Feed], None]
    method: dict[str, Any]
    teachers: tuple[int, ...] = (1,)
    igdm: float | None = None
    falls: bool = True
    equalised: tuple[str, ...] = (INTERIOR,)
    apart: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = MappingProxyType({})
    companion: str = ""


@dataclass(frozen=True)
class _Matched:
    """Fields whose method goes into IGDM."""

    fields: Any
    alpha: float

    def build(self, robust_teacher: nn.Module) -> Method:
        return Igdm(alpha=self.alpha).build(self.fields.build(robust_teacher), IGDM_EPOCHS)


def tape_of(case: Student, tape: Tape, drawn: Callable[[Tensor], Tensor] | None = None) -> Tape:
    """Our steps of a case, from the tape's networks."""
    changes = {"method": case.method, "schedule.milestones": [2 if case.falls else 99]}
    settings = ours.settings_of(
        PRESET, "distill_student", {**changes, "recipe.epochs": EPOCHS, "igdm": None, **case.recipe}
    )
    if case.igdm is not None:
        settings = settings._replace(method=_Matched(settings.method, case.igdm))
    own, batches = Tape(), ours.batches(given())
    ours.train(settings, tape, batches, teachers=case.teachers, drawn=drawn, own=own, companion=case.companion)
    return own


def alone(case: Student) -> list[float]:
    """The losses of our steps without official code: from seeded weights, with seeded draws."""
    tape = ours.seeded_tape(1 + len(case.teachers))
    own = tape_of(case, tape, lambda x: torch.rand(x.shape, generator=tape.generator))
    return [float(step.loss) for step in own.steps]


def given() -> list[list[tuple[Tensor, ...]]]:
    """The batches of both sides."""
    return ours.epochs_of(pictures(EPOCHS * BATCHES * IMAGES, 0, saturated=False), EPOCHS, BATCHES)


@torch.no_grad()
def sharp(network: TinyNet, factor: float = 12) -> TinyNet:
    """A teacher that is surer than fresh weights are, with batch statistics of its own."""
    network.get_parameter("8.weight").mul_(factor)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.get_buffer("running_var").mul_(0.05)
        norm.get_buffer("running_mean").add_(0.02)
    return network


class Silent:
    """Stands in for a progress bar or a log."""

    def __init__(self, batches: Any = (), **_: object) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def packages(**members: Mapping[str, Any]) -> dict[str, ModuleType]:
    """Modules with these members, by their names with `__` for the dot, and the packages that they are in."""
    named = {name.replace("__", "."): inside for name, inside in members.items()}
    parents = {name.split(".")[0]: {} for name in named if "." in name}
    return {name: script.stand_in(name, **inside) for name, inside in (parents | named).items()}


def goldblum(argv: Mapping[str, Any], file: str = "main.py") -> Callable[[Path, Tape, script.Feed], None]:
    """ARD, and the scripts of IAD, which are made from it: one or two teachers, loaded in the order they are made."""

    def run(folder: Path, tape: Tape, feed: script.Feed) -> None:
        loaded = list[TinyNet]()

        def load(*_: object) -> dict[str, Any]:
            loaded.append(sharp(tape.networks[1 + len(loaded)]))
            weights = loaded[-1].state_dict()
            parallel = {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}
            return weights if file == "main.py" else parallel

        networks: dict[str, Any] = dict.fromkeys(("MobileNetV2", "WideResNet", "ResNet18"), tape.network)
        script.run(
            folder / file,
            tape,
            argv={"--epochs": EPOCHS, "--lr_schedule": 2, "--teacher_path": "x", "--save_period": 99, **argv},
            modules=packages(models=networks, tqdm={"tqdm": Silent}, utils={"Logger": Silent}),
            patches=[
                *no_data(feed),
                patch.object(torch, "load", load),
                patch.object(torch.cuda, "synchronize", lambda: None),
            ],
            prepare=lambda members: members.update(script.no_evaluation("test")),
        )

    return run


def huang(argv: Mapping[str, Any]) -> Callable[[Path, Tape, script.Feed], None]:
    """AdaAD, at a constant rate."""

    def run(folder: Path, tape: Tape, feed: script.Feed) -> None:
        def load(*_: object) -> dict[str, Any]:
            weights = sharp(tape.networks[1]).state_dict()
            return weights if argv.get("--dataset") == "CIFAR100" else {"net": weights}

        made = tape.network
        modules = packages(
            networks__resnet={"ResNet18": made, "ResNet34": made},
            networks__wideresnet={"WideResNet": made, "Yao_WideResNet": made},
            networks__mobilenetv2={"MobileNetV2": made},
            networks__vgg={"VGG": made},
            utils={"progress_bar": lambda *_: None},
            config__dataset_config={"getData": lambda _: (10, [], [])},
            advertorch__attacks={"LinfPGDAttack": None},
        )
        fixed = {"--epsilon": 8, "--step_size": 2, "--lr_schedule": "constant", "--weight_decay": 2e-4}
        script.run(
            folder / "main.py",
            tape,
            argv={"--method": "AdaAD", **fixed, **argv},
            modules=modules,
            patches=[*no_data(feed), patch.object(torch, "load", load)],
            prepare=lambda members: members.update(main=lambda: [members["train"](e) for e in range(EPOCHS)]),
        )

    return run


def lee(file: str, argv: Mapping[str, Any], edits: Mapping[str, str]) -> Callable[[Path, Tape, script.Feed], None]:
    """SAAD and IGDM, whose scripts end where their evaluation begins."""

    def run(folder: Path, tape: Tape, feed: script.Feed) -> None:
        def randn_like(images: Tensor) -> Tensor:
            return torch.randn(images.shape)

        networks = {"load_student": tape.network, "load_teacher": lambda *_: sharp(tape.network()).eval()}
        modules = packages(
            prepared={"trainloader": feed, "testloader": [], **networks},
            status={"ProgressBar": Silent},
            autoattack={"AutoAttack": None},
            robustbench__utils={"load_model": None},
            wandb={},
        )
        loads = "trainloader, testloader = load_dataset(args.dataset, args.batch)"
        ended = {"torch.cuda.empty_cache()": "raise SystemExit", "if epoch in [100, 150]:": "if epoch in [2]:"}
        with suppress(SystemExit):
            script.run(
                folder / file,
                tape,
                argv={"--epochs": EPOCHS, **argv},
                edits={**edits, **ended, loads: "from prepared import *"},
                modules=modules,
                patches=[patch.object(torch, "randn_like", randn_like)],
            )

    return run


IAD_1 = {
    "name": "iad_1",
    "attack": CROSS_ENTROPY,
    "alpha": 1,
    "temperature": 1,
    "exponent": 0.1,
    "begin_epoch": 1,
    "weighted": "self",
    "batch_norm": "train",
}
IAD_2 = {name: value for name, value in IAD_1.items() if name not in ("alpha", "weighted")}
IAD_2 |= {"name": "iad_2", "clean_weight": 0.25, "robust_weight": 0.5}
ARD = {"name": "ard", "attack": CROSS_ENTROPY, "temperature": 30, "reduction": "class_mean", "batch_norm": "train"}
ARD |= {"clean_passes": "always"}
ADAAD = {"name": "adaad", "attack": TAUGHT | {"loss": "kl_teacher"}, "adversarial_weight": 1}
SAAD = {"name": "saad", "attack": TAUGHT | {"loss": "kl_teacher_linear"}, "entropy_weight": 5, "epochs": EPOCHS}
SAAD |= {"clean_passes": "always"}
MORE_PASSES = "batch norm's statistics, which see more passes there; the attack in training mode does not go by them"
NO_AVERAGE = {"update_bn(trainloader, swa_model, device='cuda')\n\ntorch": "torch"}
SWAPPED = {"step_size=8/255.0, epsilon=2/255.0": "step_size=2/255.0, epsilon=8/255.0"}
FAR = {"temperature": 3, "exponent": 2}


def _ard(alpha: float) -> Student:
    repository, official = "goldblum/AdversariallyRobustDistillation", goldblum({"--alpha": alpha})
    return Student(f"ard, alpha {alpha}", repository, "main.py", official, ARD | {"alpha": alpha})


def _iad_1(words: str, argv: Mapping[str, Any], fields: dict[str, Any]) -> Student:
    official = goldblum({"--begin": 1, **argv}, "IAD-I.py")
    name, method = f"iad_1, {words}", IAD_1 | fields
    return Student(name, "ZFancy/IAD", "IAD-I.py", official, method, apart=("buffers",), differs=(MORE_PASSES,))


def _iad_2(words: str, argv: Mapping[str, Any], fields: dict[str, Any]) -> Student:
    official = goldblum({"--begin": 1, **argv}, "IAD-II.py")
    return Student(f"iad_2, {words}", "ZFancy/IAD", "IAD-II.py", official, IAD_2 | fields, teachers=(2, 1))


def _adaad(weight: float, dataset: str) -> Student:
    argv: dict[str, Any] = {"--AdaAD_alpha": weight, "--dataset": dataset}
    argv |= {"--teacher_model": "Chen2021WRN34_10"} if dataset == "CIFAR100" else {}
    reduction = "batch_mean" if dataset == "CIFAR100" else "class_mean"
    method = ADAAD | {"adversarial_weight": weight, "reduction": reduction, "clean_passes": "always"}
    constant = (INTERIOR, "the rate is constant")
    name = f"adaad, weight {weight}, {dataset}"
    return Student(name, "boyellow/AdaAD", "main.py", huang(argv), method, falls=False, equalised=constant)


def _saad(words: str, alpha: float, beta: float) -> Student:
    argv = {"--igdm_alpha": alpha, "--beta": beta, "--gamma": 1}
    official, method = lee("saad.py", argv, NO_AVERAGE), SAAD | {"alpha": alpha, "beta": beta}
    tiny = ("1e-12 inside their entropy's logarithm, 1e-8 below their range of weights",)
    return Student(f"{words}, alpha {alpha}", "HongsinLee/saad", "saad.py", official, method, differs=tiny)


CASES = [
    _ard(1),
    _ard(0.5),
    _iad_1("as published", {}, {}),
    _iad_1("other numbers", {"--alpha": 0.8, "--temp": 3, "--beta": 2}, FAR | {"alpha": 0.8}),
    _iad_2("as published", {}, {}),
    _iad_2("other numbers", {"--temp": 3, "--beta": 2}, FAR),
    _adaad(1, "CIFAR10"),
    _adaad(0.7, "CIFAR10"),
    _adaad(1, "CIFAR100"),
    _saad("saad", 1, 0),
    _saad("saad_c", 10, 0.2),
    Student(
        "adaad with igdm, alpha 100",
        "HongsinLee/saad",
        "igdm.py",
        lee("igdm.py", {"--igdm_alpha": 100}, SWAPPED),
        ADAAD | {"reduction": "batch_mean"},
        igdm=100,
        equalised=(INTERIOR, "step size and epsilon, which are the wrong way round there"),
    ),
]
