"""What is required of teachers: refused, warned of, or nothing to say."""

from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

from components.data.normalization import Normalization
from components.data.splits import LabelledImages, Splits
from components.foundation.errors import InputError
from components.stages.teachers import Measured, Required, require_teachers
from components.tracking.journal import Journal


def told(clean: float, robust: float, required: Required | None, errors: float = 0.0, *robust_names: str) -> list[str]:
    """The notes, on a validation split of which 6 of 10 images are of one class."""
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
        require_teachers(found, splits, required, journal)
    finally:
        notes = [call.args[0] for call in journal.note.call_args_list]
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
    with pytest.raises(InputError, match=r"clean_teacher.safetensors: clean accuracy is 49.0% .* want at least 50.0%"):
        told(0.49, 0.9, required)
    with pytest.raises(InputError, match=r"robust_teacher.safetensors: accuracy under x is 39.0%"):
        told(0.9, 0.39, required)


def test_a_teacher_that_is_wrong_with_confidence_is_refused_where_that_is_asked():
    free = Required(clean_accuracy=0.5, robust_accuracy=0.4)
    assert not [note for note in told(0.9, 0.9, free, errors=1.0) if "confidently" in note]
    asked = Required(clean_accuracy=0.5, robust_accuracy=0.4, confident_errors=0.2)
    assert told(0.9, 0.9, asked, errors=0.2)[-1].endswith("wrong on 20.0% of 10 attacked images (at most 20.0%)")
    with pytest.raises(InputError, match=r"robust_teacher.safetensors: confidently wrong on 21.0% of .* at most 20.0%"):
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
