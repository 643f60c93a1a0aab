"""After training: what the student's teachers are like, and how they and the student stand to each other.

It is measured as `temper advise` measures (docs/advice.md), on validation images, and kept apart from the training, so
that another way of measuring trains no student again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from components.data.dividing import stratified_subset
from components.data.splits import LabelledImages, Splits
from components.distillation.parts.teachers import together
from components.evaluation.advice.attacks import attacks_of
from components.evaluation.advice.document import Teaching
from components.evaluation.advice.looks import NUM_IMAGES, Setting
from components.evaluation.advice.summary import teaching
from components.evaluation.one_attack import TestSet
from components.foundation.provenance import inputs_of
from components.foundation.storage import read_mapping, sha256, write_json
from components.models.parts.model_file import load_frozen
from components.numerics.random_numbers import derived
from components.stages.resume import KeptWork
from components.stages.teachers import load
from components.stages.training_stage import Settings, TrainingRun, depends_on
from components.statistics.documents import as_json, document_of
from components.tracking.journal import Journal

CODE = "components/stages/teaching.py"
STUDENT = Path("models/student.safetensors")
FILE = Path("metrics/student.teachers.json")
"""No file of metrics to DVC, whose table would have a column for each of its numbers."""


def measure_teachers(
    training: TrainingRun,
    roles: Mapping[str, Sequence[str]],
    splits: Splits,
    device: torch.device,
    journal: Journal,
) -> None:
    """Writes what is measured of the teachers of a student whose training is over.

    What was measured before under the same inputs is published again.
    """
    kept = KeptWork("teaching", depends_on(training) | inputs_of({CODE}, {"student": sha256(STUDENT)}))
    if not kept.published_again():
        # What differs from before has been said of the training already.
        kept.begin(lambda line: None)
        # From their files: a method may have gone on with the networks that it was given.
        loaded = load(roles, splits, device)
        networks = {role: together([loaded[name].network for name in names]) for role, names in roles.items()}
        setting = setting_of(training.settings, splits.validation, len(splits.classes), device)
        found = teaching(networks, roles, load_frozen(STUDENT, splits, device)[0], setting)
        write_json(FILE, as_json(found))
        kept.finish([str(FILE)])
    for line in lines(document_of(Teaching, read_mapping(FILE), str(FILE))):
        journal.note(line)


def setting_of(settings: Settings, images: LabelledImages, num_classes: int, device: torch.device) -> Setting:
    """What all networks meet: at most so many of the images as `temper advise` takes, and the same ones.

    Of its cascade the first attack alone: the others take most of the time, and the evaluation has all of them.
    """
    chosen = images.take(stratified_subset(images.labels, NUM_IMAGES, derived(settings.seed, "images")))
    attacks = attacks_of(settings.threat, num_classes)
    first = dict(list(attacks.cascade.items())[:1])
    test = TestSet(*chosen.on(device), settings.section.recipe.at_a_time)
    return Setting(test, attacks._replace(cascade=first), settings.threat, settings.seed)


def lines(found: Teaching) -> list[str]:
    """What the journal is told of each role."""
    said = []
    for role, one in found.roles.items():
        standing, wrong = (one.measures[name].value for name in ("worst_case", "confident_student"))
        said.append(
            f"{role}: {standing:.1%} of {found.num_images} validation images right in the worst case, confidently "
            f"wrong on {wrong:.1%} of the student's attacked images"
        )
    return said
