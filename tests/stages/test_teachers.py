"""A student's teachers: several in a role, from outside, roles that nobody needs, arithmetic, and lineage."""

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from torch import Tensor, nn

from components.data.splits import read_splits
from components.distillation.parts.teachers import InFloat32
from components.evaluation.one_attack import TestSet
from components.evaluation.outside.teacher_file import load_taught
from components.foundation.errors import InputError
from components.foundation.params import Params, member, read_yaml
from components.foundation.storage import read_json, sha256
from components.models import MODELS
from components.models.parts.model_file import load_model
from components.stages import distill_student, teachers
from components.stages.teachers import in_arithmetic
from components.stages.training_stage import TrainingRun, depends_on
from components.tracking.journal import Journal
from tests.parts.outside_files import ARCHITECTURE, network, pixels
from tests.parts.pipeline_files import hashes, run_here, small_params
from tests.stages.test_fetch_teachers import bring, program, refused, tell

STAGE, ROLES = "distill_student", "distill_student.teachers"
RSLAD = {
    "name": "rslad",
    "attack": {"steps": 2, "step_size": "20/51*epsilon", "start": "gaussian", "loss": "kl_teacher_clean"},
    "adversarial_weight": "5/6",
    "reduction": "batch_mean",
}


def outside(folder: Path, **changes: Any) -> None:
    """A state dict and a program as teachers in the project."""
    tell(folder, {"big": bring(folder), "prog": program(folder)}, **changes)
    run_here(folder, "fetch_teachers")


def test_several_teach_in_one_role(copied, capsys):
    before = hashes(copied, STAGE)
    outside(copied, **{ROLES: {"clean_teacher": ["big"], "robust_teacher": ["robust_teacher", "prog", "big"]}})
    run_here(copied, STAGE)
    out, (_, card) = capsys.readouterr().out, load_model(copied / "models/student.safetensors")
    files = {name: f"models/teachers/{name}.safetensors" for name in ("big", "prog")}
    files["robust_teacher"] = "models/robust_teacher.safetensors"
    assert card.upstream == {name: sha256(copied / path) for name, path in files.items()}
    assert hashes(copied, STAGE)["models/student.safetensors"] != before["models/student.safetensors"]
    assert re.search(r"^clean_teacher \(big\): clean accuracy .* \(required 0.0%\)$", out, re.MULTILINE)
    assert re.search(r"^robust_teacher \(robust_teacher, prog, big\): accuracy under ", out, re.MULTILINE)
    for name in ("robust_teacher", "prog", "big"):
        assert re.search(rf"^robust_teacher: {name} alone: accuracy under .*% on \d+ validation images$", out, re.M)
    roles = read_json(copied / "metrics/student.teachers.json")["roles"]
    assert roles["robust_teacher"]["teachers"] == ["robust_teacher", "prog", "big"]
    assert roles["clean_teacher"]["teachers"] == ["big"]
    # Its cost is that of three.
    passes = read_json(copied / "metrics/student.json")["passes"]
    run_here(copied, STAGE)
    assert "finished before under the same inputs" in capsys.readouterr().out
    tell(copied, read_yaml(copied / "params.yaml")["fetch_teachers"], **{f"{ROLES}.robust_teacher": ["prog"]})
    run_here(copied, STAGE)
    assert "upstream" in capsys.readouterr().out
    assert read_json(copied / "metrics/student.json")["passes"]["forward"] < passes["forward"]


def test_other_weights_of_a_teacher_are_another_run(copied, capsys):
    outside(copied, **{f"{ROLES}.clean_teacher": ["big"]})
    run_here(copied, STAGE)
    own = {"features.0.weight": network().state_dict()["features.0.weight"] * 1.1}
    tell(copied, {"big": bring(copied, **own), "prog": program(copied)})
    run_here(copied, "fetch_teachers", STAGE)
    assert "starts anew, it was finished for other inputs: upstream.big: " in capsys.readouterr().out


def test_a_role_that_the_method_does_not_ask_for_is_left_out(copied, capsys):
    """Its teachers are not even there."""
    (copied / "models/clean_teacher.safetensors").unlink()
    tell(copied, {}, **{f"{STAGE}.method": RSLAD, f"{STAGE}.required.clean_accuracy": 1})
    run_here(copied, STAGE)
    out, (_, card) = capsys.readouterr().out, load_model(copied / "models/student.safetensors")
    assert "clean_teacher: the method asks for none, so nobody is loaded or measured for it" in out
    assert list(card.upstream) == ["robust_teacher"] and "clean accuracy" not in out


def test_an_outside_teacher_that_is_not_robust_stops_the_flow(copied, capsys):
    roles = {f"{ROLES}.robust_teacher": ["prog"], f"{STAGE}.required.robust_accuracy": 1}
    outside(copied, **roles)
    before = hashes(copied)
    line = refused(copied, capsys, STAGE)
    assert line.startswith("models/teachers/prog.safetensors: accuracy under ") and "so it must not teach" in line
    assert hashes(copied) == before


def test_the_way_to_a_report_names_files_that_an_evaluation_reads(copied, capsys):
    """Of a program the file that it came from: an evaluation runs it in a process that knows no secrets."""
    both = {"clean_teacher": ["big"], "robust_teacher": ["prog"]}
    outside(copied, **{ROLES: both, f"{STAGE}.required.robust_accuracy": 1})
    with pytest.raises(SystemExit, match="2"):
        run_here(copied, STAGE)
    said = capsys.readouterr().out
    assert "temper evaluate --model big=models/teachers/big.safetensors --model prog=big.pt2 --data " in said


def test_a_program_that_was_fetched_for_other_data_is_refused(copied):
    outside(copied)
    splits = read_splits(copied / "data/normalized.safetensors")
    other = replace(splits, classes=tuple(f"digit {name}" for name in splits.classes))
    with pytest.raises(InputError, match=r"prog.safetensors: fetched for other data, run the stage fetch_teachers"):
        load_taught(copied / "models/teachers/prog.safetensors", other, torch.device("cpu"))


def test_the_default_roles_are_the_pipelines_own():
    found = distill_student.read(Params(small_params()))
    assert found.roles == {"clean_teacher": ("clean_teacher",), "robust_teacher": ("robust_teacher",)}
    assert distill_student.read(Params(small_params(**{f"{STAGE}.method": RSLAD}))).roles == {
        "robust_teacher": ("robust_teacher",)
    }


class Fragile(nn.Module):
    """A network that bfloat16 leads astray: two large numbers that differ by little."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 2, bias=False)
        with torch.no_grad():
            self.layer.weight.fill_(100.0)
            self.layer.weight[0] += 0.1

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def checked(model: nn.Module, precision: str) -> tuple[nn.Module, list[str]]:
    journal: Any = create_autospec(Journal, instance=True)
    images = pixels(40)
    found = in_arithmetic("big", model, TestSet(images, torch.zeros(40).long(), 16), precision, journal)
    return found, [call.args[0] for call in journal.note.call_args_list]


def test_a_teacher_that_bfloat16_leads_astray_computes_in_float32():
    model = Fragile()
    found, (line,) = checked(model, "bfloat16")
    assert isinstance(found, InFloat32) and found.network is model
    assert re.fullmatch(
        r"big: bfloat16 moves its probabilities by 0\.\d{3} at most and leaves \d+\.\d% of 40 answers "
        r"\(bounds: 0\.1, 99%\), so it computes in float32",
        line,
    )
    with torch.autocast("cpu", torch.bfloat16):
        fast, exact = model(pixels(4)), found(pixels(4))
    assert torch.equal(exact, model(pixels(4))) and not torch.equal(fast.float(), exact)


def test_one_that_it_does_not_stays_as_it_is_and_so_does_training_in_float32():
    model = network()
    found, (line,) = checked(model, "bfloat16")
    assert found is model and line.endswith("so it computes in bfloat16")
    assert checked(Fragile(), "float32")[1] == []


def test_a_program_that_bfloat16_breaks_computes_in_float32():
    class Insists(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise InputError("m.pt2: operator torch.ops.aten.mm fails")
            return images.flatten(1)[:, :2]

    found, (line,) = checked(Insists(), "bfloat16")
    assert isinstance(found, InFloat32)
    assert line == "big: computes in float32, since bfloat16 fails: m.pt2: operator torch.ops.aten.mm fails"


def test_the_stage_says_in_what_its_teachers_compute(copied, capsys, monkeypatch):
    monkeypatch.setattr(teachers, "MOST_MOVED", 0.0)
    outside(copied, **{f"{ROLES}.clean_teacher": ["prog"], f"{STAGE}.recipe.precision": "bfloat16"})
    capsys.readouterr()
    run_here(copied, STAGE)
    found = re.findall(r"^(\w+): bfloat16 moves .* so it computes in float32$", capsys.readouterr().out, re.MULTILINE)
    assert found == ["prog", "robust_teacher"]


def test_the_code_of_a_teachers_network_is_an_input(copied):
    """Of whatever architecture it is, also where the student has another one."""
    wide = {"name": "resnet18", "width": 0.25, "batch_norm": ARCHITECTURE["batch_norm"]}
    with contextlib.chdir(copied):
        settings = distill_student.read(Params.read()).training
        alone, taught = (
            depends_on(TrainingRun("student", STAGE, settings, settings.method.build, {}, learned_from))
            for learned_from in ((), (member(MODELS, wide, "wide"),))
        )
    assert set(taught) - set(alone) >= {"components/models/resnet18.py"} and set(alone) <= set(taught)
