"""Says which of several teachers to learn from, as `temper advise` does. It is not a stage of dvc.yaml.

Everything is measured on validation images: the test split is read once, by the evaluation (docs/advice.md).
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.commands import advise_options as options
from components.commands.advise_options import AdviseOptions
from components.data.splits import digest
from components.evaluation.advice.attacks import attacks_of
from components.evaluation.advice.looks import Setting
from components.evaluation.advice.measures import Student, measured, unlearnable
from components.evaluation.advice.ranking import Measures
from components.evaluation.advice.summary import resamples
from components.evaluation.one_attack import TestSet
from components.evaluation.outside.models import OutsideImages, load_outside, local_file
from components.foundation.errors import InputError
from components.foundation.lines import say
from components.foundation.memory import within_memory
from components.foundation.process import as_process
from components.foundation.provenance import versions
from components.foundation.storage import write_text
from components.numerics.losses import answers
from components.reports.advice.contents import Advice, Calibration
from components.reports.advice.document import build, misfit
from components.reports.advice.page import page
from components.reports.advice.text import text
from components.statistics.documents import read_document, write_document
from components.statistics.outcomes import share
from components.threats.parts.threat import Threat

FILE = "advice.json"
OF_NETWORK = ("file", "sha256", "architecture", "num_parameters", "epoch")


Loaded = Mapping[str, tuple[nn.Module, dict[str, Any]]]


def main(given: AdviseOptions) -> Advice:
    """The advice; printed, and with `out` written as JSON and as a page."""
    options.require_possible(given)
    threat = options.threat_of(given)
    teachers, students = options.named(given.teacher, "TEACHER"), options.named(given.student, "--student")
    everything, seed = options.validation_images(given.data), given.seed
    images = everything.limited(given.count, 0, seed)
    about = _about(given, images, threat)
    if given.calibration is not None:
        about["calibration"] = _calibration(given.calibration, about)
    device = options.compute_of(given).prepare()
    test = TestSet(images.test.images.to(device), images.test.labels.to(device), given.batch_size)
    setting = Setting(test, attacks_of(threat, images.num_classes), threat, seed)
    with within_memory(f"say --batch-size, less than {given.batch_size}"):
        loaded = _loaded(given, {**teachers, **students}, images, device)
        found = _advice({n: loaded[n] for n in teachers}, {n: loaded[n] for n in students}, setting, given, about)
    say(text(found))
    if given.out is not None:
        write_document(given.out / FILE, found)
        write_text(given.out / "advice.html", page(found))
        say(f"\nReport: {given.out / 'advice.html'}")
    return found


def _advice(
    teachers: Loaded, students: Loaded, setting: Setting, given: AdviseOptions, about: dict[str, Any]
) -> Advice:
    labels = setting.test.labels.cpu()
    looks = {name: setting.look(model, cascade=False) for name, (model, _) in students.items()}
    student = None
    if looks:
        name = next(iter(looks))
        student = Student(students[name][0], looks[name], unlearnable(list(looks.values()), labels))
        about["students"] = {
            name: _facts(students[name][1])
            | {"clean": share(answers(one.clean) == labels), "attacked": share(answers(one.adversarial) == labels)}
            for name, one in looks.items()
        }
        about["unlearnable"] = int(student.unlearnable.sum())
    measures = _measures(teachers, student, setting, given.confident)
    most_common = int(labels.bincount().max()) / len(labels)
    about |= {
        "crafting": repr(setting.attacks.crafting),
        "cascade": {name: repr(attack) for name, attack in setting.attacks.cascade.items()},
        "provenance": {"device": setting.test.images.device.type, **versions()},
    }
    facts = {name: _facts(told) for name, (_, told) in teachers.items()}
    return build(measures, facts, resamples(setting), most_common, about)


def _measures(teachers: Loaded, student: Student | None, setting: Setting, confident: float) -> Measures:
    found = {}
    for name, (model, _) in teachers.items():
        found[name] = measured(model, student, setting, confident)
        rate = found[name]["worst_case"].mean
        say(f"{name}: {rate:.1%} of {len(setting.test.labels)} images right in the worst case")
    return found


def _about(given: AdviseOptions, images: OutsideImages, threat: Threat) -> dict[str, Any]:
    return {
        "dataset": images.name,
        "num_images": len(images.test.labels),
        "classes": images.classes or tuple(map(str, range(images.num_classes))),
        "images_sha256": digest({"validation": images.test}),
        "threat": threat.section,
        "seed": given.seed,
        "confident": given.confident,
    }


def _calibration(path: Path, about: Mapping[str, Any]) -> Calibration:
    """The calibration in a file. Error: it is of something else, and says nothing of this."""
    found = read_document(Calibration, path)
    if why := misfit(found, about):
        raise InputError(f"--calibration: {path}: {why}, so it says nothing of these teachers")
    return found


def _loaded(
    given: AdviseOptions, networks: dict[str, str], images: OutsideImages, device: torch.device
) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    foreign, found = options.foreign_of(given, networks), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, reference in networks.items():
            path = local_file(reference, Path(folder, name))
            found[name] = load_outside(name, reference, path, images, foreign[name], device)[:2]
    return found


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in OF_NETWORK}


def run(**fields: Any) -> None:
    """The advice as this process, told the fields of `AdviseOptions`: a mistake ends it with exit status 2."""
    with as_process():
        main(AdviseOptions(**fields))
