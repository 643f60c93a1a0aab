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
from components.foundation.storage import read_csv, read_json, sha256
from components.models import MODELS
from components.models.parts.model_file import load_model
from components.stages import arithmetic, distill_student
from components.stages.arithmetic import Use, in_arithmetic, use_of
from components.stages.teachers import require_trainable
from components.stages.training_stage import TrainingRun, depends_on, new_model
from components.tracking.journal import Journal
from tests.parts.method_fields import PEER
from tests.parts.method_members import MEMBERS
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


BESIDE_A_PEER = PEER | {
    "attack": {"steps": 2, "step_size": "20/51*epsilon", "start": "gaussian", "loss": "kl_teacher_clean"}
}


def test_a_student_with_a_fresh_peer_has_no_teachers_and_is_reported_without(copied, capsys):
    """They are not even there while it is trained."""
    names = ("clean_teacher", "robust_teacher")
    kept = {name: (copied / f"models/{name}.safetensors").read_bytes() for name in names}
    for name in names:
        (copied / f"models/{name}.safetensors").unlink()
    tell(
        copied,
        {},
        **{f"{STAGE}.method": BESIDE_A_PEER, f"{STAGE}.required": {"clean_accuracy": 1, "robust_accuracy": 1}},
    )
    run_here(copied, STAGE)
    out, (_, card) = capsys.readouterr().out, load_model(copied / "models/student.safetensors")
    assert card.upstream == {} and all(f"{name}: the method asks for none" in out for name in names)
    assert read_json(copied / "metrics/student.teachers.json")["roles"] == {}
    assert read_csv(copied / "curves/student.csv")[-1]["peer_loss"]
    for name, data in kept.items():
        (copied / f"models/{name}.safetensors").write_bytes(data)
    run_here(copied, "evaluate_attacks", "report")
    assert not read_json(copied / "evaluation/evaluation.json").get("teachers")


def test_a_fresh_peer_has_other_weights_than_the_student_and_the_same_in_each_run(copied):
    tell(copied, {}, **{f"{STAGE}.method": BESIDE_A_PEER})
    with contextlib.chdir(copied):
        settings, splits = distill_student.read(Params.read()).training, read_splits("data/normalized.safetensors")
        journal: Any = create_autospec(Journal, instance=True)
        student = new_model(settings, splits, torch.device("cpu"), "x", journal).state_dict()
        drawn = torch.get_rng_state()
        one, again = (distill_student.untrained(settings, splits, torch.device("cpu")).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert student.keys() == one.keys() and all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(student["features.0.weight"], one["features.0.weight"])


def test_a_program_is_no_network_to_train_further(copied, capsys):
    """Whether params.yaml says that it is one, or its file does, as one from a registry."""
    change = {
        f"{ROLES}.robust_teacher": ["big", "prog"],
        f"{STAGE}.method": BESIDE_A_PEER | {"begins": "robust_teacher"},
    }
    want = "which has no training mode, and the method trains it further in that mode (want another teacher, or method."
    tell(copied, {"big": bring(copied), "prog": program(copied)}, **change)
    line = refused(copied, capsys, STAGE)
    assert line == f"params.yaml: {ROLES}.robust_teacher.1: prog is a program, {want}begins student)"
    run_here(copied, "fetch_teachers")
    tell(copied, {"big": bring(copied), "prog": {"name": "registry", "model": "models:/theirs/3"}}, **change)
    assert refused(copied, capsys, STAGE) == line
    line = r"^x\.teachers\.robust_teacher\.0: p is a program, .* or method\.teacher_batch_norm eval\)$"
    with pytest.raises(InputError, match=line):
        require_trainable(ciard("train_attacked"), {"robust_teacher": ("p",), "clean_teacher": ("q",)}, ["p"], "x")
    require_trainable(ciard("eval"), {"robust_teacher": ("p",), "clean_teacher": ("q",)}, ["p"], "x")
    require_trainable(ciard("train"), {"robust_teacher": ("p",), "clean_teacher": ("q",)}, ["q"], "x")


def ciard(teacher_batch_norm: str) -> Any:
    return replace(MEMBERS["ciard"]().fields, teacher_batch_norm=teacher_batch_norm)


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


ONCE = Use()


def checked(model: nn.Module, precision: str, use: Use = ONCE) -> tuple[nn.Module, list[str]]:
    journal: Any = create_autospec(Journal, instance=True)
    images = pixels(40)
    found = in_arithmetic("big", model, TestSet(images, torch.zeros(40).long(), 16), precision, use, journal)
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


class Wavering(nn.Module):
    """A network whose first logit bfloat16 moves, or that it gives another slope at each second pixel."""

    def __init__(self, moved: float = 0.0, slope: float = 1.0) -> None:
        super().__init__()
        self.moved, self.slope = moved, slope

    def forward(self, images: Tensor) -> Tensor:
        pixels, fast = images.flatten(1), torch.is_autocast_enabled("cpu")
        rise = pixels[:, ::2].mean(1) + (self.slope if fast else 1.0) * pixels[:, 1::2].mean(1)
        # A change of slope alone leaves the logits as they are.
        rise = rise + (pixels[:, 1::2].mean(1) * ((1 - self.slope) if fast else 0.0)).detach()
        return torch.stack([rise + (self.moved if fast else 0.0), rise.detach() - 0.1], 1)


def test_probabilities_are_compared_at_the_smallest_temperature_of_the_method():
    """A temperature of a fifth makes five of what logits are moved by."""
    model = Wavering(moved=0.25)
    assert checked(model, "bfloat16")[0] is model
    found, (line,) = checked(model, "bfloat16", Use(temperature=0.2))
    assert isinstance(found, InFloat32) and " at most at temperature 0.2 and leaves " in line


def test_signs_of_gradients_are_compared_where_the_method_takes_gradients_through_the_teacher():
    model = Wavering(slope=-1.0)
    assert checked(model, "bfloat16")[0] is model
    found, (line,) = checked(model, "bfloat16", Use(gradients=True))
    assert isinstance(found, InFloat32)
    assert "100.0% of 40 answers and 50.0% of its gradients' signs (bounds: 0.1, 99%, 95%)" in line
    assert checked(Wavering(), "bfloat16", Use(gradients=True))[0].__class__ is Wavering


def test_what_a_method_asks_of_its_teachers():
    def use(role: str, **changes: Any) -> Use:
        return use_of(role, distill_student.read(Params(small_params(**changes))).training)

    assert use("robust_teacher") == use("clean_teacher") == Use(1.0, False)
    assert use("robust_teacher", **{f"{STAGE}.method.temperature_min": 0.2}) == Use(0.2, False)
    through = {f"{STAGE}.method": RSLAD | {"attack": RSLAD["attack"] | {"loss": "kl_teacher_linear"}}}
    assert use("robust_teacher", **through) == Use(1.0, True) and use("clean_teacher", **through) == Use(1.0, False)


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
    monkeypatch.setattr(arithmetic, "MOST_MOVED", 0.0)
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
