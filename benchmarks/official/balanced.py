"""Students of the official code of RSLAD, MTARD, CIARD and PeerAiD, and ours with the same methods.

What balances two teachers is compared too, and the network that learns beside the student: CIARD's robust teacher and
PeerAiD's peer.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from torch import nn

from benchmarks.official import script
from benchmarks.official.b_mtard import INTERIOR, first_losses_of, no_data, temperatures_of, weights_of
from benchmarks.official.students import CROSS_ENTROPY, EPOCHS, TAUGHT, Silent, Student, packages, sharp
from benchmarks.official.tape import Tape, TinyNet

Run = Callable[[Path, Tape, script.Feed], None]
Noted = Callable[[dict[str, Any]], Mapping[str, Any]]

LOGARITHM = {"torch.log(b+1e-5)": "torch.log(b)"}
SHORT = {"epochs = 300": f"epochs = {EPOCHS}"}


def _teacher(tape: Tape) -> Callable[..., dict[str, Any]]:
    """Stands in for `torch.load`: a file has the weights of the network just made.

    Its predictions are softer than those of other cases, so that a step of its temperature shows in the losses.
    """
    return lambda *_, **__: sharp(tape.networks[-1], 4).state_dict()


def zhao(file: str, edits: Mapping[str, str], noted: Noted = lambda _: {}) -> Run:
    """RSLAD and MTARD, whose scripts are alike."""

    def run(folder: Path, tape: Tape, feed: script.Feed) -> None:
        networks: dict[str, Any] = dict.fromkeys(("resnet18", "wideresnet"), tape.network)
        script.run(
            folder / file,
            tape,
            edits={**SHORT, **LOGARITHM, "[215,260,285]": "[2]", **edits},
            modules=packages(cifar10_models=networks, cifar100_models=networks),
            patches=[
                *no_data(feed),
                patch.object(torch, "load", _teacher(tape)),
                patch.object(torchvision.datasets, "CIFAR100", lambda *_, **__: []),
                patch.object(nn, "DataParallel", lambda network: network),
            ],
            noted=noted,
        )

    return run


def gu(start: int, edits: Mapping[str, str], noted: Noted) -> Run:
    """CIARD, whose robust teacher learns from the epoch after `start` on. The student passes clean images after its
    attack."""
    after = {
        "teacher_adv_optimizer.zero_grad()": "teacher_adv_optimizer.zero_grad(); clean_logits = model(x_natural)",
        "return student_logits, teacher_logits, nat_logits\n": (
            "return clean_logits, student_logits, teacher_logits, nat_logits\n"
        ),
    }
    own = {
        "student_nat_logits = student(train_batch_data)": "pass",
        "student_adv_logits,teacher_adv_logits,nat_adv_logits =": (
            "student_nat_logits,student_adv_logits,teacher_adv_logits,nat_adv_logits ="
        ),
        "torch.log(a+1e-5)": "torch.log(a)",
        "if epoch == 1 or epoch%10==  0 or epoch >= 250:": "if False:",
        "if epoch < 50:": f"if epoch < {start}:",
        "if(epoch>50):": f"if(epoch>{start}):",
        "(epoch - 50)": f"(epoch - {start})",
        "(300 - 50)": f"({EPOCHS} - {start})",
    }

    def run(folder: Path, tape: Tape, feed: script.Feed) -> None:
        made, losses = tape.network, script.edited(folder / "mtard_loss.py", after)
        modules = packages(
            cifar10_models={"mobilenet_v2": made, "wideresnet": made},
            cifar10_nat_teacher_models={"cifar10_resnet56": made},
            loguru={"logger": Silent()},
        )
        script.run(
            folder / "CIARD.py",
            tape,
            edits={**SHORT, **LOGARITHM, **own, **edits},
            modules={**modules, "mtard_loss": losses},
            patches=[*no_data(feed), patch.object(torch, "load", _teacher(tape))],
            noted=noted,
        )

    return run


def jung(argv: Mapping[str, Any]) -> Run:
    """PeerAiD, with the numbers of its configuration apart from the length of the run."""

    def run(folder: Path, tape: Tape, feed: script.Feed) -> None:
        def build(kind: str, **_: object) -> TinyNet:
            while len(tape.networks) < 2:
                tape.network()
            return tape.networks[kind == "peer"]

        read = json.load

        def shortened(file: Any) -> dict[str, Any]:
            return {**read(file), "epochs": EPOCHS, "lr_decay_epochs_peer": [2], "lr_decay_epochs_student": [2]}

        config = folder / "configs" / "PeerAiD_resnet18_cifar10.json"
        fixed = {"--p_type": "peer", "--s_type": "student", "--kd": True, "--config_path": config}
        script.run(
            folder / "main.py",
            tape,
            argv={**fixed, **argv},
            edits={"        test_kd(epoch)\n": ""},
            modules=packages(
                models={"model_builder": build},
                datasets={"get_dataset": lambda **_: ([], [], 32, 10)},
                robustbench={"benchmark": None},
            ),
            patches=[*no_data(feed), patch.object(json, "load", shortened)],
        )

    return run


RSLAD = {"name": "rslad", "attack": TAUGHT | {"loss": "kl_teacher_clean"}, "adversarial_weight": 5 / 6}
RSLAD |= {"reduction": "class_mean"}
LABELS = CROSS_ENTROPY | {"start": "gaussian"}
MTARD = {"name": "mtard", "attack": LABELS, "reduction": "class_mean", "weight_step": 0.025}
MTARD |= {"balance_milestones": [1, 2], "balance_decay": 0.1}
CIARD = {
    "name": "ciard",
    "attack": LABELS,
    "reduction": "class_mean",
    "temperature_step": 1e-3,
    "temperature_min": 1,
    "temperature_max": 10,
    "balance_milestones": [],
    "balance_decay": 0,
    "push_temperature": 5,
    "push_weight": 1,
    "teacher_learning_rate": 1e-4,
    "teacher_momentum": 0.1,
    "teacher_weight_decay": 2e-4,
    "teacher_start": 1,
    "epochs": EPOCHS,
}
PEER = {
    "name": "peer",
    "attack": TAUGHT | {"loss": "kl_teacher_clean"},
    "label_weight": 0,
    "peer_weight": 1,
    "own_weight": 1,
    "temperature": 5,
    "peer_label_weight": 1,
    "peer_student_weight": 0.1,
    "peer_temperature": 1,
    "reduction": "class_mean",
    "begins": "student",
    "attacked_passes": "twice",
}
PUBLISHED_PEER = {"--temperature": 5, "--gamma1": 1, "--gamma2": 0.1, "--re_kd_temperature": 1}
PUBLISHED_PEER |= {"--lamb1": 0, "--lamb2": 1, "--lamb3": 1}
OTHER_PEER = {"--temperature": 3, "--gamma1": 0.8, "--gamma2": 4, "--re_kd_temperature": 2}
OTHER_PEER |= {"--lamb1": 0.4, "--lamb2": 1.5, "--lamb3": 0.6}
TAKEN_OUT = "1e-5 inside their logarithms is taken out"
UNDIVIDED = "1e-5 inside their logarithms, which shifts losses and entropies by about as much"
TENFOLD = "their losses are ten times ours, our rate ten times theirs and our weight decay a tenth"
LATE_PASS = "the student passes clean images after the attack, before the attacked ones"
NO_DECAY = "the student's rate is constant, and the temperature step is that of epochs before 215"
SAME_PEER = "the peer begins with the same weights"


def _mtard(words: str, file: str, edits: Mapping[str, str], **more: Any) -> Student:
    def noted(members: dict[str, Any]) -> dict[str, Any]:
        return weights_of(members) | ({} if "loss" in more.get("apart", ()) else first_losses_of(members))

    # In three epochs two of the three milestones are crossed.
    official = zhao(f"mtard/{file}", {"or epoch == 1:": "and False:", "[215,260,285]": "[1,2]", **edits}, noted)
    fields, equalised = more.pop("fields", {}), (INTERIOR, TAKEN_OUT, *more.pop("equalised", ()))
    recipe = {"schedule.milestones": [1, 2], **more.pop("recipe", {})}
    return Student(
        f"mtard, {words}",
        "zhaoshiji123/MTARD",
        f"mtard/{file}",
        official,
        MTARD | fields,
        teachers=(2, 1),
        equalised=equalised,
        differs=(UNDIVIDED,),
        recipe=recipe,
        **more,
    )


def _ciard(words: str, start: int, noted: Noted, edits: Mapping[str, str], fields: dict[str, Any]) -> Student:
    return Student(
        f"ciard, {words}",
        "eminentgu/CIARD",
        "CIARD.py",
        gu(start, edits, noted),
        CIARD | {"teacher_start": start} | fields,
        teachers=(2, 1),
        falls=False,
        equalised=(INTERIOR, TAKEN_OUT, LATE_PASS, NO_DECAY),
        differs=(UNDIVIDED, "their student passes clean images before the attack, which goes by newer statistics"),
        companion="robust_teacher",
    )


def _peer(words: str, argv: Mapping[str, Any], fields: dict[str, Any]) -> Student:
    return Student(
        f"peer, {words}",
        "jaewonalive/PeerAiD",
        "main.py",
        jung(argv),
        PEER | fields,
        teachers=(1,),
        equalised=(INTERIOR, SAME_PEER),
        companion="peer",
    )


CASES = [
    Student(
        "rslad",
        "zibojia/RSLAD",
        "resnet18_rslad_cifar10.py",
        zhao("resnet18_rslad_cifar10.py", {}),
        RSLAD,
        equalised=(INTERIOR, TAKEN_OUT),
        differs=(UNDIVIDED,),
    ),
    _mtard("as published", "mtard_resnet18_cifar10.py", {}),
    _mtard("exponent 3", "mtard_resnet18_cifar10.py", {"bert = 1": "bert = 3"}, fields={"exponent": 3}),
    _mtard(
        "CIFAR-100",
        "mtard_resnet18_cifar100.py",
        {},
        equalised=(TENFOLD,),
        recipe={"recipe.learning_rate": 1.0, "recipe.optimizer.weight_decay": 2e-5},
        apart=("rate", "loss", "gradient"),
    ),
    _ciard("as published", 1, temperatures_of, {}, {}),
    _ciard(
        "earlier weights, other numbers",
        0,
        lambda members: weights_of(members) | first_losses_of(members) | temperatures_of(members),
        {
            "1 * kl_Loss1 + 1 *kl_Loss2": 'weight["adv_loss"]*kl_Loss1 + weight["nat_loss"]*kl_Loss2',
            "temp_learn_rate = 0.001": "temp_learn_rate = 0.3",
            "temp_max = 10": "temp_max = 2",
            "base_lr = 0.0001": "base_lr = 0.2",
        },
        {
            "weight_rule": "loss",
            "weight_sum": 1,
            "temperature_step": 0.3,
            "temperature_max": 2,
            "teacher_learning_rate": 0.2,
        },
    ),
    _peer("as published", PUBLISHED_PEER, {}),
    _peer(
        "other numbers",
        OTHER_PEER,
        {
            "label_weight": 0.4,
            "peer_weight": 1.5,
            "own_weight": 0.6,
            "temperature": 3,
            "peer_label_weight": 0.8,
            "peer_student_weight": 4,
            "peer_temperature": 2,
        },
    ),
]
