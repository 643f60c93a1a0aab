"""The step before there are data: every member takes it and leaves nothing behind; a refusal names its section."""

from dataclasses import replace

import pytest
import torch

from components.data.augmentation import Augmentation
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.methods.parts.contract import Method
from components.schedules.constant import Constant
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from components.training.rehearsal import rehearse
from components.wrappers.awp import Awp
from components.wrappers.igdm import Igdm
from tests.parts.method_members import MEMBERS, OPTIONS
from tests.parts.smoothing_parts import smoothing
from tests.training.test_training import recipe

ONE_CLASS = {"adr", "mart", "cktat", "iad_1", "iad_2"}
MIXED = Augmentation(crop=0, flip=False, cutmix=0.5, rand_augment=None)


def itself(method: Method) -> Method:
    return method


@pytest.mark.parametrize("name", [*MEMBERS, *OPTIONS])
def test_every_member_takes_the_step_and_leaves_nothing_behind(name, linf):
    fields, before = (MEMBERS | OPTIONS)[name]().fields, torch.get_rng_state()
    described = repr(fields)
    rehearse(fields, itself, recipe(), linf, "x")
    assert torch.equal(torch.get_rng_state(), before) and repr(fields) == described


@pytest.mark.parametrize("name", MEMBERS)
def test_mixed_labels_are_refused_by_those_that_need_one_class(name, linf):
    mixed, fields = replace(recipe(), augmentation=MIXED), MEMBERS[name]().fields
    if name not in ONE_CLASS:
        rehearse(fields, itself, mixed, linf, "x")
        return
    line = rf"^params.yaml: here\.recipe\.augmentation\.cutmix: {name} needs one class for each image, want 0$"
    with pytest.raises(InputError, match=line):
        rehearse(fields, itself, mixed, linf, "params.yaml: here")


@pytest.mark.parametrize(("norm", "fits"), [(Linf, True), (L2, False), (L1, False)])
def test_the_threat_is_that_of_the_training(norm, fits):
    threat, fields = Threat(norm=norm(), epsilon=Ratio(1, 10)), MEMBERS["fgsm_mep"]().fields
    if fits:
        rehearse(fields, itself, recipe(), threat, "x")
    else:
        with pytest.raises(InputError, match=r"^x\.method: fgsm_mep: got norm l., want linf "):
            rehearse(fields, itself, recipe(), threat, "x")


def test_wrappers_that_do_not_fit_are_refused(linf):
    rslad = MEMBERS["rslad"]().fields
    with pytest.raises(InputError, match=r"^x\.smoothing: rslad has no adversarial losses"):
        rehearse(rslad, lambda method: smoothing().build(method, Constant(), 4), recipe(), linf, "x")
    with pytest.raises(InputError, match=r"^x\.perturbation: got method free_at, want one that attacks first"):
        rehearse(MEMBERS["free_at"]().fields, Awp(gamma=0.1, start=0).build, recipe(), linf, "x")
    with pytest.raises(InputError, match=r"^x\.igdm: got method peer, want one that attacks first and has a robust"):
        rehearse(MEMBERS["peer"]().fields, lambda method: Igdm(alpha=1).build(method, 4), recipe(), linf, "x")


def test_what_a_method_does_in_later_epochs_is_rehearsed(linf):
    """AWP that begins in the last one goes around all of its step."""
    seen = list[float]()

    class Noting(Method):
        def __init__(self, inner: Method) -> None:
            super().__init__()
            self.inner = inner

        def begin_epoch(self, epoch: int) -> None:
            self.inner.begin_epoch(epoch)

        def loss(self, model, batch, threat, rng):
            loss = self.inner.loss(model, batch, threat, rng)
            seen.append(float(loss.parts["loss_rise"]))
            return loss

    run = recipe()
    awp = Awp(gamma=0.1, start=run.epochs - 1)
    rehearse(MEMBERS["pgd_at"]().fields, lambda method: Noting(awp.build(method)), run, linf, "x")
    assert seen[0] > 0
