"""What is measured of a teacher, a number for each image, so that means have paired intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.evaluation.advice.looks import Look, Setting, logits_on
from components.evaluation.one_attack import TestSet
from components.numerics.confidence import confidently_wrong, transfer_score
from components.numerics.losses import answers, entropy
from components.statistics.bootstrap import PerImage


class Student(NamedTuple):
    """A student, the look at it, and which images it never had right under attack, bool [N] on the CPU."""

    model: nn.Module
    look: Look
    unlearnable: Tensor


def unlearnable(looks: Sequence[Look], labels: Tensor) -> Tensor:
    """The robustly unlearnable images: those that no look shows right on its own adversarial version, bool [N].

    Lee & Chung, "Toward Understanding Adversarial Distillation: Why Robust Teachers Fail" (ICML 2026, arXiv
    2605.21999): there, training images that none of 60 trained networks classifies right under PGD. Here it is what the
    given networks show so far; of one network, simply what it fails on.
    """
    right = torch.stack([answers(look.adversarial) == labels.cpu() for look in looks])
    return ~right.any(0)


def measured(teacher: nn.Module, student: Student | None, setting: Setting, confident: float) -> dict[str, PerImage]:
    """All measures of a teacher: those of `of_teacher`, and with a student those of `with_student`."""
    seen = setting.look(teacher)
    found = of_teacher(seen, setting.test.labels, confident)
    return found if student is None else found | with_student(teacher, seen, student, setting.test, confident)


def of_teacher(look: Look, labels: Tensor, confident: float) -> dict[str, PerImage]:
    """What needs no student: accuracies, entropies (nats) and confident errors, in the order of `OwnMeasure`."""
    truth = labels.cpu()
    found = {
        "clean": PerImage.of(answers(look.clean) == truth),
        "worst_case": PerImage.of(look.worst_case),
        "entropy_clean": _entropy(look.clean),
        "entropy_adversarial": _entropy(look.adversarial),
        "confident_clean": PerImage.of(confidently_wrong(look.clean, truth, confident)),
        "confident_adversarial": PerImage.of(confidently_wrong(look.adversarial, truth, confident)),
    }
    return {name: measure for name, measure in found.items() if measure.n}


def with_student(
    teacher: nn.Module, look: Look, student: Student, test: TestSet, confident: float
) -> dict[str, PerImage]:
    """What a teacher and a student make of each other's attacked images, in the order of `StudentMeasure`.

    `tas`: the share of transferable adversarial samples (`transfer_score`). `to_student`: of the images that the
    student has right clean, the share on which the teacher's adversarial version fools it; `to_teacher` the other way
    round. `entropy_unlearnable`: the teacher's entropy on the clean images of the unlearnable set, which is what most
    methods teach there. What has no image to be measured on is left out.
    """
    truth = test.labels.cpu()
    at_student, back = (
        logits_on(teacher, student.look.images_adv, test),
        logits_on(student.model, look.images_adv, test),
    )
    known_by_student, known_by_teacher = (answers(one.clean) == truth for one in (student.look, look))
    found = {
        "confident_student": PerImage.of(confidently_wrong(at_student, truth, confident)),
        "tas": PerImage.of(transfer_score(at_student.double(), look.clean.double(), look.adversarial.double()) >= 0),
        "to_student": PerImage.of(answers(back) != truth, known_by_student),
        "to_teacher": PerImage.of(answers(at_student) != truth, known_by_teacher),
        "entropy_unlearnable": _entropy(look.clean, student.unlearnable),
    }
    return {name: measure for name, measure in found.items() if measure.n}


def _entropy(logits: Tensor, chosen: Tensor | None = None) -> PerImage:
    """Entropies of the answers that are numbers, of all images or of the `chosen` ones."""
    values = entropy(logits.double())
    answered = values.isfinite()
    return PerImage.of(values, answered if chosen is None else answered & chosen)
