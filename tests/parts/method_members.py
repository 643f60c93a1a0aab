"""One of every training method and distillation, small: what the tables of tests run over."""

from collections.abc import Callable

import torch

from components.attacks.pgd import Pgd
from components.distillation.adaad import AdaAd
from components.distillation.akd import Akd
from components.distillation.ard import Ard
from components.distillation.b_mtard import BMtard
from components.distillation.ciard import Ciard
from components.distillation.iad_1 import Iad1
from components.distillation.iad_2 import Iad2
from components.distillation.kd_swa import KdSwa
from components.distillation.mtard import Mtard
from components.distillation.parts.balance import Ceilings
from components.distillation.parts.inner_attack import InnerAttack, InnerLoss
from components.distillation.peer import Peer
from components.distillation.rslad import Rslad
from components.distillation.saad import Saad
from components.foundation.params import Ratio
from components.methods.adr import Adr
from components.methods.cktat import Cktat
from components.methods.ensemble_at import EnsembleAt
from components.methods.fgsm_mep import FgsmMep
from components.methods.fgsm_rs import FgsmRs
from components.methods.free_at import FreeAt
from components.methods.gradalign import GradAlign
from components.methods.hat import Hat
from components.methods.lbgat import Lbgat
from components.methods.mart import Mart
from components.methods.mixed import Mixed
from components.methods.n_fgsm import NFgsm
from components.methods.parts.contract import Method
from components.methods.parts.mixed_batch import Mix
from components.methods.pgd_at import PgdAt
from components.methods.standard import Standard
from components.methods.trades import Trades
from components.schedules.constant import Constant
from components.wrappers.awp import Awp
from components.wrappers.converge_smooth import Smoothing
from components.wrappers.igdm import Igdm
from tests.parts.method_fields import SMOOTHING
from tests.parts.tiny_net import TinyNet

STEP = Ratio(4, 255)
MIX = Mix(attack="step_ll", adversarial=Ratio(1, 2), weight=0.3, epsilon_sigma=STEP)
ATTACK = Pgd(steps=2, step_size=STEP, start="uniform", loss="cross_entropy", restarts=1)
STUDENT_ATTACK = InnerAttack(steps=2, step_size=STEP, start="uniform", loss="cross_entropy")
AWP = Awp(gamma=0.05, start=1)
# The attack of TRADES.
KL_ATTACK = Pgd(steps=2, step_size=STEP, start="gaussian", loss="kl", restarts=1)


def taught_attack(loss: InnerLoss) -> InnerAttack:
    """An attack that asks the robust teacher."""
    return InnerAttack(steps=2, step_size=STEP, start="gaussian", loss=loss)


def frozen(seed: int) -> TinyNet:
    """A teacher: its weights stay, its batch norm too."""
    torch.manual_seed(seed)
    return TinyNet().eval().requires_grad_(False)


def untrained() -> TinyNet:
    """Another network than the teachers, which is drawn after one of them."""
    frozen(12)
    return TinyNet().eval()


CEILINGS = Ceilings(robust=0.6, clean=0.9)
WEIGHED = {"weight_step": 0.025, "balance_milestones": (2,), "balance_decay": 0.1}
HEATED = {"temperature_step": 1e-3, "temperature_min": 1.0, "temperature_max": 10.0}


def b_mtard(**changes) -> Method:
    fields = {"attack": STUDENT_ATTACK, "reduction": "batch_mean", **HEATED, **WEIGHED}
    return BMtard(**fields | changes).build(frozen(11), frozen(12), CEILINGS)


def mtard(**changes) -> Method:
    fields = {"attack": STUDENT_ATTACK, "reduction": "batch_mean", **WEIGHED}
    return Mtard(**fields | changes).build(frozen(11), frozen(12), CEILINGS)


def ciard(**changes) -> Method:
    """Its teacher learns from the second epoch on, so that a run that is stopped has a momentum."""
    fields = {
        "attack": STUDENT_ATTACK,
        "reduction": "batch_mean",
        **HEATED,
        **WEIGHED,
        "push_temperature": 5.0,
        "push_weight": 1.0,
        "teacher_learning_rate": 0.1,
        "teacher_momentum": 0.5,
        "teacher_weight_decay": 2e-4,
        "teacher_start": 1,
        "epochs": 4,
    }
    return Ciard(**fields | changes).build(frozen(11), frozen(12), CEILINGS)


def peer(**changes) -> Method:
    fields = {
        "attack": taught_attack("kl_teacher_clean"),
        "label_weight": 0.25,
        "peer_weight": 1.0,
        "own_weight": 1.0,
        "temperature": 5.0,
        "peer_label_weight": 1.0,
        "peer_student_weight": 0.1,
        "peer_temperature": 1.0,
        "reduction": "batch_mean",
    }
    chosen = Peer(**fields | changes)
    beginnings = {"clean_teacher": lambda: frozen(11), "robust_teacher": lambda: frozen(12), "student": untrained}
    return chosen.build(beginnings[chosen.begins]())


def adr(**changes) -> Adr:
    fields = {
        "steps": 2,
        "step_size": STEP,
        "start": "uniform",
        "temperature_from": 2.5,
        "temperature_to": 2.0,
        "weight_from": 0.7,
        "weight_to": 0.95,
        "decay": 0.9,
        "epochs": 4,
    }
    return Adr(**fields | changes)


def cktat(**changes) -> Cktat:
    fields = {
        "attack": ATTACK,
        "temperature": 4.0,
        "alpha": 0.4,
        "beta": 3.0,
        "rectify": True,
        "lower_difficulty": True,
        "correct_guidance": True,
    }
    return Cktat(**fields | changes)


# By the name in METHODS or DISTILLATIONS; each call makes a new one, with a memory of its own.
MEMBERS: dict[str, Callable[[], Method]] = {
    "standard": lambda: Standard(label_smoothing=0.1).build(),
    "pgd_at": lambda: PgdAt(attack=ATTACK, label_smoothing=0.1).build(),
    "trades": lambda: Trades(beta=6.0, steps=2, step_size=STEP, start="gaussian", label_smoothing=0.1).build(),
    "fgsm_rs": lambda: FgsmRs(
        step_size=Ratio(10, 255), noise=Ratio(1), label_smoothing=0.1, batch_norm="train"
    ).build(),
    "n_fgsm": lambda: NFgsm(step_size=Ratio(8, 255), noise=Ratio(2), label_smoothing=0.1, batch_norm="eval").build(),
    "free_at": lambda: FreeAt(replays=3, label_smoothing=0.1).build(),
    "gradalign": lambda: GradAlign(weight=0.5, step_size=Ratio(8, 255), label_smoothing=0.1, batch_norm="eval").build(),
    "fgsm_mep": lambda: FgsmMep(
        step_size=Ratio(8, 255),
        momentum=0.3,
        reset_every=3,
        weight=10.0,
        label_smoothing=0.1,
        align=True,
        batch_norm="train",
        craft="smoothed",
    ).build(),
    # The attacks begin inside the second epoch of a run that is stopped after it.
    "mixed": lambda: Mixed(mix=MIX, delay=7, label_smoothing=0.1).build(),
    "ensemble_at": lambda: EnsembleAt(mix=MIX, delay=0, label_smoothing=0.1).build(frozen(13)),
    "mart": lambda: Mart(attack=ATTACK, beta=5.0).build(),
    "lbgat": lambda: Lbgat(attack=KL_ATTACK, beta=6.0, reduction="class_mean", companion="random").build(frozen(11)),
    "hat": lambda: Hat(attack=KL_ATTACK, beta=2.5, gamma=0.5, reach=2.0).build(frozen(11)),
    "cktat": lambda: cktat().build(frozen(11)),
    "adr": lambda: adr().build(),
    "b_mtard": b_mtard,
    # At half each its first steps are all but those of B-MTARD.
    "mtard": lambda: mtard(robust_weight=0.7),
    "ciard": ciard,
    "peer": peer,
    "kd_swa": lambda: KdSwa(attack=STUDENT_ATTACK, clean_weight=0.1, robust_weight=0.6, temperature=2.0).build(
        frozen(11), frozen(12)
    ),
    "rslad": lambda: Rslad(
        attack=taught_attack("kl_teacher_clean"), adversarial_weight=0.8, reduction="batch_mean"
    ).build(frozen(12)),
    # Both terms, so that clean images have a weight.
    "ard": lambda: Ard(attack=STUDENT_ATTACK, alpha=0.9, temperature=30.0, reduction="batch_mean").build(frozen(12)),
    # The student asks itself from the second epoch on.
    "iad_1": lambda: Iad1(
        attack=STUDENT_ATTACK, alpha=1.0, temperature=2.0, exponent=0.5, begin_epoch=1, weighted="self"
    ).build(frozen(12)),
    "iad_2": lambda: Iad2(
        attack=STUDENT_ATTACK, clean_weight=0.25, robust_weight=0.5, temperature=1.0, exponent=0.5, begin_epoch=1
    ).build(frozen(11), frozen(12)),
    "adaad": lambda: AdaAd(attack=taught_attack("kl_teacher"), adversarial_weight=0.8, reduction="batch_mean").build(
        frozen(12)
    ),
    "akd": lambda: Akd(attack=STUDENT_ATTACK, teacher_weight=0.6).build(frozen(12)),
    # SAAD-C.
    "saad": lambda: Saad(
        attack=taught_attack("kl_teacher_linear"), alpha=2.0, beta=0.2, entropy_weight=5.0, epochs=4
    ).build(frozen(12)),
}


def smoothed(inner: str | Method, **changes) -> Method:
    """A member, or more, within ConvergeSmooth, whose gates open as soon as there are two epochs to go by."""
    method = MEMBERS[inner]() if isinstance(inner, str) else inner
    return Smoothing(**{**SMOOTHING, "weight_centralisation": 0.1, **changes}).build(method, Constant(), 4)


def matched(name: str) -> Method:
    """A member of the distillations within IGDM."""
    return Igdm(alpha=3.0).build(MEMBERS[name](), 4)


# Members with other fields, to be tried wherever what they remember matters.
OPTIONS: dict[str, Callable[[], Method]] = {
    "b_mtard_solve": lambda: b_mtard(temperature_rule="solve", origin_batches=3, label_weight=0.3),
    "b_mtard_validation": lambda: b_mtard(weight_rule="validation"),
    "b_mtard_fixed": lambda: b_mtard(weight_rule="fixed", robust_weight=0.7, temperature_step=1.0),
    "mtard_validation": lambda: mtard(weight_rule="validation", validation_step=1.0, label_weight=0.3),
    "mtard_exponent": lambda: mtard(exponent=2.0, origin_batches=7),
    "ciard_eval": lambda: ciard(
        teacher_batch_norm="eval", weight_rule="loss", weight_sum=1.0, temperature_rule="solve"
    ),
    "ciard_attacked": lambda: ciard(teacher_batch_norm="train_attacked", weight_rule="validation", push_weight=0.0),
    "peer_robust": lambda: peer(begins="robust_teacher", moved="peer", attacked_passes="twice"),
    "peer_clean": lambda: peer(begins="clean_teacher", label_weight=0.0, attack=STUDENT_ATTACK),
}

# Members with other fields or within others, by no name of a table.
WRAPPED: dict[str, Callable[[], Method]] = {
    **OPTIONS,
    "awp_igdm_ciard": lambda: AWP.build(matched("ciard")),
    "smoothed_fgsm_rs": lambda: smoothed("fgsm_rs", clean="start"),
    "smoothed_fgsm_mep": lambda: smoothed("fgsm_mep", form="example", clean="start"),
    "smoothed_free_at": lambda: smoothed("free_at"),
    "smoothed_trades": lambda: smoothed("trades", form="example"),
    "igdm_adaad": lambda: matched("adaad"),
    "smoothed_awp_igdm_akd": lambda: smoothed(AWP.build(matched("akd")), form="example"),
}
