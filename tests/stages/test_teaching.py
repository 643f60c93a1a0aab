"""What a student's metrics say of its teachers: on validation images, the same bytes again, apart from the training."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.commands import advise
from components.commands.advise_options import AdviseOptions
from components.evaluation.advice.attacks import attacks_of
from components.foundation.storage import read_json, write_json
from components.numerics.tensor_files import read_tensors, write_tensors
from components.stages import teaching
from components.stages.training_stage import TrainingRun, depends_on
from components.statistics.documents import as_json
from tests.parts.pipeline_files import hashes, run_here

STAGE, FILE = "distill_student", "metrics/student.teachers.json"


def measures_of(folder: Path, role: str) -> dict[str, Any]:
    return read_json(folder / FILE)["roles"][role]["measures"]


def test_its_file_holds_each_role(project):
    found = read_json(project / FILE)
    labels = read_tensors(project / "data/normalized.safetensors")[0]["validation.labels"]
    assert found["num_images"] == len(labels) and "Pgd(steps=20" in found["crafting"]
    assert list(found["cascade"]) == ["apgd_ce"] and 0 <= found["unlearnable"] <= len(labels)
    assert {role: one["teachers"] for role, one in found["roles"].items()} == {
        "clean_teacher": ["clean_teacher"],
        "robust_teacher": ["robust_teacher"],
    }
    for role in found["roles"]:
        measures = measures_of(project, role)
        assert {"clean", "worst_case", "tas", "confident_student", "entropy_adversarial"} <= measures.keys()
        assert all(one["low"] <= one["value"] <= one["high"] for one in measures.values())
        assert measures["entropy_unlearnable"]["n"] == found["unlearnable"]


def test_it_is_what_temper_advise_says_of_them(project, monkeypatch):
    """But for the cascade, of which the stage takes the first attack alone."""

    def shorter(*given: Any) -> Any:
        found = attacks_of(*given)
        return found._replace(cascade={"apgd_ce": found.cascade["apgd_ce"]})

    monkeypatch.setattr(advise, "attacks_of", shorter)
    deterministic = torch.get_deterministic_debug_mode()
    names = ("clean_teacher", "robust_teacher", "student")
    clean, robust, student = (f"{name}=models/{name}.safetensors" for name in names)
    with contextlib.chdir(project):
        said = advise.main(AdviseOptions(teacher=[clean, robust], student=[student], threads=1, batch_size=64))
    torch.set_deterministic_debug_mode(deterministic)
    for role in names[:2]:
        assert as_json(said.teachers[role])["measures"] == measures_of(project, role)


def test_the_test_split_is_never_looked_at(copied):
    """Whatever images it has, the file has the same bytes; with other validation images they are not."""
    before, data = (copied / FILE).read_bytes(), copied / "data/normalized.safetensors"
    tensors, metadata = read_tensors(data)
    shutil.rmtree(copied / ".temper")
    for split, same in (("test", True), ("validation", False)):
        other = {f"{split}.images": 255 - tensors[f"{split}.images"], f"{split}.labels": tensors[f"{split}.labels"]}
        write_tensors(data, tensors | other, metadata)
        run_here(copied, STAGE)
        assert ((copied / FILE).read_bytes() == before) == same, split


def test_measured_again_or_published_again_it_is_the_same(copied, capsys, monkeypatch):
    before = hashes(copied)
    (measured,) = (copied / ".temper/resume").glob("teaching-*")
    (copied / FILE).unlink()
    monkeypatch.setattr(teaching, "teaching", None)
    run_here(copied, STAGE)
    assert hashes(copied) == before, "published again"
    monkeypatch.undo()
    shutil.rmtree(measured)
    run_here(copied, STAGE)
    assert hashes(copied) == before, "measured again"
    out = capsys.readouterr().out
    assert out.count("published again") == 2 and "epoch" not in out.replace("best epoch", "")
    assert out.count("% of the student's attacked images") == 4


def test_stopped_after_the_training_it_goes_on_with_the_measure(copied, capsys, monkeypatch):
    before = hashes(copied)
    shutil.rmtree(copied / ".temper")
    for path in hashes(copied, STAGE):
        (copied / path).unlink()

    def stopped(*given: Any) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(teaching, "teaching", stopped)
    with pytest.raises(SystemExit):
        run_here(copied, STAGE)
    assert (copied / "metrics/student.json").exists() and not (copied / FILE).exists(), "half of it is written"
    monkeypatch.undo()
    capsys.readouterr()
    run_here(copied, STAGE)
    assert "finished before under the same inputs" in capsys.readouterr().out and hashes(copied) == before


def test_another_way_of_measuring_trains_nothing_again(copied, monkeypatch):
    seen: list[TrainingRun] = []
    monkeypatch.setattr(teaching, "measure_teachers", lambda training, *rest: seen.append(training))
    run_here(copied, STAGE)
    with contextlib.chdir(copied):
        trained, everything = (set(depends_on(one)) for one in (seen[0], seen[0]._replace(afterwards=())))
    apart = {f"components/evaluation/advice/{name}.py" for name in ("attacks", "document", "measures", "summary")}
    assert everything - trained >= apart | {"components/attacks/apgd.py", teaching.CODE}
    assert {"components/stages/distill_student.py", "components/stages/teachers.py"} <= trained <= everything


def test_evaluation_and_report_hand_it_on(project):
    found = read_json(project / FILE)
    assert read_json(project / "evaluation/evaluation.json")["teachers"] == found
    assert read_json(project / "reports/robustness.json")["teachers"] == found
    assert '<h2 id="teachers">' in (project / "reports/robustness.html").read_text()


def test_a_report_without_it_has_no_such_section(copied):
    """As where a model from outside was evaluated."""
    evaluation = copied / "evaluation/evaluation.json"
    told = read_json(evaluation)
    write_json(evaluation, {key: value for key, value in told.items() if key != "teachers"})
    run_here(copied, "report")
    assert "teachers" not in json.loads((copied / "reports/robustness.json").read_text())
    assert 'id="teachers"' not in (copied / "reports/robustness.html").read_text()
