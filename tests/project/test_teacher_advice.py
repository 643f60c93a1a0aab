"""The benchmark of the teacher advisor: its fit in closed form, its correlations, and a whole toy run that resumes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import teacher_advice as bench
from components.data.splits import LabelledImages, Source
from components.evaluation.advice.attacks import attacks_of
from components.evaluation.advice.looks import Attacks
from components.foundation.errors import InputError
from components.reports.advice.contents import Calibration
from components.statistics.documents import read_document
from tests.parts.outside_files import CLASSES, digits


def test_the_slopes_are_those_of_the_plane():
    rng = torch.Generator().manual_seed(1)
    measures = torch.rand(20, 2, generator=rng, dtype=torch.float64)
    exact = bench.slopes(measures, 0.1 + measures @ torch.tensor([0.5, -0.25], dtype=torch.float64))
    for found, wanted in zip(exact, (0.5, -0.25), strict=True):
        assert [found[key] for key in ("value", "low", "high")] == pytest.approx([wanted] * 3)
    noisy = bench.slopes(measures, measures @ torch.tensor([0.5, -0.25]).double() + 0.05 * torch.randn(20).double())
    assert all(found["low"] < found["value"] < found["high"] for found in noisy)


def test_what_determines_no_fit_tells_nothing():
    same = torch.ones(5, 2, dtype=torch.float64)
    assert bench.slopes(same, torch.rand(5).double()) == [{"value": 0.0, "low": -1.0, "high": 1.0}] * 2


def row(place: int, student: float, **measures: float) -> dict[str, Any]:
    return {"place": place, "measures": measures, "student": {"worst_case": student}}


def test_correlations_are_with_the_students():
    rows = {str(k): row(k, 0.9 - 0.1 * k, worst_case=0.8 - 0.05 * k, tas=0.1 * k, clean=1.0) for k in range(1, 7)}
    rows["6"]["measures"]["entropy_unlearnable"] = 1.0
    found = bench.correlations(rows)
    assert (found["order"]["rho"], found["worst_case"]["rho"], found["tas"]["rho"]) == pytest.approx((1, 1, -1))
    assert found["clean"] is None and set(found) == {"order", "worst_case", "tas", "clean"}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Digits in place of Fashion-MNIST, three teachers of an epoch, one short attack."""
    images, labels = digits()
    parts = LabelledImages(images[:400], labels[:400]), LabelledImages(images[400:600], labels[400:600])

    def load(self: object, root: Path) -> Source[LabelledImages]:
        return Source(*parts, CLASSES)

    def short(threat: Any, num_classes: int) -> Attacks:
        return Attacks(attacks_of(threat, num_classes).crafting, {})

    monkeypatch.setattr(bench.FashionMnist, "load", load)
    monkeypatch.setattr(bench, "attacks_of", short)
    monkeypatch.setattr("components.commands.advise.attacks_of", short)
    monkeypatch.setattr(bench, "RESAMPLES", 50)
    sizes = {"train": 200, "validation": 40, "test": 40, "epochs": 1, "student_epochs": 1}
    monkeypatch.setattr(bench, "QUICK", bench.QUICK | sizes | {"teachers": ("standard", "n_fgsm", "n_fgsm_narrow")})
    return ["--data", "x", "--quick", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "advice.json")]


def test_a_whole_run_and_the_same_again_without_training(toy, tmp_path, monkeypatch, capsys):
    bench.main(toy)
    result = json.loads((tmp_path / "advice.json").read_text())
    assert set(result["teachers"]) == {"standard", "n_fgsm", "n_fgsm_narrow"} and result["cpu_seconds"] > 0
    assert {"order", "worst_case", "tas", "confident_student"} <= set(result["correlations"])
    assert read_document(Calibration, tmp_path / "advice.calibration.json").num_teachers == 3
    assert "rank correlation of order" in capsys.readouterr().out

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(bench.temper, "train", refuse)
    bench.main(toy)
    again = json.loads((tmp_path / "advice.json").read_text())
    assert again == result
    # One student less: it alone is made again.
    (tmp_path / "work/quick/students/n_fgsm-0/model.safetensors").unlink()
    with pytest.raises(AssertionError, match="trained again"):
        bench.main(toy)


def test_a_folder_of_other_sizes_is_refused(tmp_path):
    bench.require_same(tmp_path / "sizes.json", {"train": 5, "teachers": ("a",)})
    bench.require_same(tmp_path / "sizes.json", {"train": 5, "teachers": ("a", "b")})
    with pytest.raises(InputError, match="want the same sizes, or another --work"):
        bench.require_same(tmp_path / "sizes.json", {"train": 6, "teachers": ("a",)})
