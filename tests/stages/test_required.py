"""What is required of teachers: refused, warned of, or nothing to say."""

import shlex
from collections.abc import Mapping
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

from components.commands.advise_options import AdviseOptions, named, threat_of
from components.data.normalization import Normalization
from components.data.splits import LabelledImages, Splits
from components.foundation.errors import InputError
from components.foundation.params import Ratio
from components.stages.teachers import OWN, Demands, Measured, Required, require_teachers
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from components.tracking.journal import Journal

THREAT = Threat(norm=Linf(), epsilon=Ratio(8, 255))


def told(clean: float, robust: float, required: Required | None, errors: float = 0.0, *robust_names: str) -> list[str]:
    """The notes, on a validation split of which 6 of 10 images are of one class."""
    return heard(clean, robust, required, errors, robust_names)


def heard(
    clean: float,
    robust: float,
    required: Required | None,
    errors: float,
    robust_names: tuple[str, ...],
    files: Mapping[str, object] = OWN,
    notes: list[str] | None = None,
) -> list[str]:
    part = LabelledImages(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.tensor([1] * 6 + [0, 2, 2, 3]))
    identity = Normalization(method="none", offset=(0.0,), scale=(1.0,))
    splits = Splits("pets", ("ant", "bee", "cow", "dog"), part, part, part, identity)
    robust_names = robust_names or ("robust_teacher",)
    found = [
        Measured("clean_teacher", ("clean_teacher",), "clean accuracy", clean),
        Measured("robust_teacher", robust_names, "accuracy under x", robust, errors),
    ]
    journal: Any = create_autospec(Journal, instance=True)
    try:
        require_teachers(found, splits, Demands(required, "my params.yaml"), THREAT, journal, files)
    finally:
        notes = [] if notes is None else notes
        notes += [call.args[0] for call in journal.note.call_args_list]
    return notes


@pytest.mark.parametrize(
    ("clean", "robust", "warned"), [(0.7, 0.61, []), (0.6, 0.7, ["clean"]), (0.1, 0.2, ["clean", "robust"])]
)
def test_nothing_required_warns_of_a_teacher_that_knows_nothing(clean, robust, warned):
    notes = told(clean, robust, None)
    warnings = [note for note in notes if note.startswith("warning: ")]
    assert [note.split()[2] for note in warnings] == [f"{name}_teacher" for name in warned]
    assert all("no better than to answer 'bee' always (60.0% right)" in note for note in warnings)
    assert sum("(nothing is required)" in note for note in notes) == 2


def test_what_is_required_is_refused_with_the_way_to_a_report(capsys):
    required = Required(clean_accuracy=0.5, robust_accuracy=0.4)
    assert not [note for note in told(0.5, 0.4, required) if "warning" in note]
    key = r"\(my params.yaml: distill_student.required."
    with pytest.raises(InputError, match=rf"clean_teacher.safetensors: .* is 49.0% .* at least 50.0% {key}clean_acc"):
        told(0.49, 0.9, required)
    with pytest.raises(InputError, match=rf"robust_teacher.safetensors: accuracy under x is 39.0% .*{key}robust_acc"):
        told(0.9, 0.39, required)


def test_a_teacher_that_is_wrong_with_confidence_is_refused_where_that_is_asked():
    free = Required(clean_accuracy=0.5, robust_accuracy=0.4)
    assert not [note for note in told(0.9, 0.9, free, errors=1.0) if "confidently" in note]
    asked = Required(clean_accuracy=0.5, robust_accuracy=0.4, confident_errors=0.2)
    assert told(0.9, 0.9, asked, errors=0.2)[-1].endswith("wrong on 20.0% of 10 attacked images (at most 20.0%)")
    with pytest.raises(
        InputError,
        match=r"safetensors: confidently wrong on 21.0% of .* 20.0% \(my params.yaml: distill_student.required.conf",
    ):
        told(0.9, 0.9, asked, errors=0.21)


def test_teachers_from_outside_are_refused_by_their_names():
    """One by its file; several together, since it is their mean that falls short."""
    required = Required(clean_accuracy=0.5, robust_accuracy=0.4, confident_errors=0.2)
    with pytest.raises(InputError, match=r"^models/teachers/big.safetensors: accuracy under x is 39.0% .* not teach"):
        told(0.9, 0.39, required, 0, "big")
    with pytest.raises(InputError, match=r"^robust_teacher \(big, robust_teacher\): accuracy under x is 39.0%"):
        told(0.9, 0.39, required, 0, "big", "robust_teacher")
    with pytest.raises(InputError, match=r"^models/teachers/big.safetensors: confidently wrong on 21.0%"):
        told(0.9, 0.9, required, 0.21, "big")
    assert (
        "robust_teacher (big): accuracy under x 90.0% on 10 validation images" in told(0.9, 0.9, required, 0, "big")[1]
    )


FILES = {
    "clean_teacher": "models/clean_teacher.safetensors",
    "prog": "exported.pt2",
    "big": "models/teachers/big.safetensors",
}


def command_of(note: str, begins: str) -> list[str]:
    """The words of the command that a note tells."""
    said, _, command = note.rpartition(": temper ")
    assert said.startswith(begins)
    return shlex.split(command)


def test_a_report_on_several_teachers_and_programs_can_be_typed():
    required, notes = Required(clean_accuracy=0.5, robust_accuracy=0.6), list[str]()
    with pytest.raises(InputError, match=r"^robust_teacher \(prog, big\): accuracy under x is 50.0%"):
        heard(0.9, 0.5, required, 0.0, ("prog", "big"), FILES, notes)
    words = command_of(notes[-1], "a report on the teachers alone")
    told = [word for name, file in FILES.items() for word in ("--model", f"{name}={file}")]
    assert words[: 1 + len(told)] == ["evaluate", *told]
    assert words[words.index("--params") + 1] == "my params.yaml"


def test_advice_on_several_teachers_can_be_typed_and_names_no_program():
    """As its own command line reads it."""
    required, notes = Required(clean_accuracy=0.5, robust_accuracy=0.4, confident_errors=0.2), list[str]()
    with pytest.raises(InputError, match="confidently wrong"):
        heard(0.9, 0.5, required, 0.9, ("prog", "big"), FILES, notes)
    words = command_of(notes[-1], "which teacher to take instead")
    place = words.index("--threat")
    assert named(words[1:place], "TEACHER") == {name: file for name, file in FILES.items() if name != "prog"}
    assert threat_of(AdviseOptions(teacher=words[1:place], threat=words[place + 1])) == THREAT


def test_programs_alone_get_no_advice_that_would_be_refused():
    required, notes = Required(clean_accuracy=0.5, robust_accuracy=0.4, confident_errors=0.2), list[str]()
    with pytest.raises(InputError, match="confidently wrong"):
        heard(0.9, 0.5, required, 0.9, ("prog",), {"prog": "exported.pt2"}, notes)
    assert not any("temper advise" in note for note in notes)
