"""The eight stages on a few images: every declared output, what must agree between them, and the same bytes again."""

import json
import math
import shutil
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
import yaml

from components.data.normalization import Normalize
from components.data.splits import read_splits
from components.distillation.parts.balance import Ceilings, share_below
from components.foundation.params import Params, read_yaml
from components.foundation.storage import read_csv, read_json, sha256
from components.models.parts.model_file import load_frozen, load_model
from components.numerics.tensor_files import read_tensors
from components.stages import STAGES, distill_student, teachers
from components.stages.training_stage import DATA
from components.tracking.journal import Journal
from tests.parts.pipeline_files import (
    ROOT,
    TRAINING,
    changed,
    files,
    finish,
    hashes,
    outputs,
    partial_files,
    run_here,
    small_params,
    start_stage,
    unfinished,
)

CPU = torch.device("cpu")
NUM_TEST = 60
BEST = tuple(TRAINING.values())
ATTACKS = ("fgsm", "pgd_sat", "pgd_trades", "cw", "pgd_50")
CASCADE = ("cascade/apgd_ce", "cascade/square")
GRID = tuple(f"grid/{attack}/{i}" for attack in ("fgsm", "fgsm_predicted", "step_ll", "r_fgsm", "bim") for i in (0, 1))
TRANSFER = ("fgsm", "pgd_sat")


def set_params(folder: Path, **changes: Any) -> None:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), changes), sort_keys=False))


def forget_work(folder: Path) -> None:
    """Otherwise a stage publishes what it has, and an evaluation reads its journal."""
    shutil.rmtree(folder / ".temper")


@pytest.fixture(scope="module")
def evaluation(project: Path) -> dict[str, Any]:
    return read_json(project / "evaluation/evaluation.json")


@pytest.fixture(scope="module")
def outcomes(project: Path) -> dict[str, torch.Tensor]:
    return read_tensors(project / "evaluation/outcomes.safetensors")[0]


@pytest.fixture(scope="module")
def report(project: Path) -> dict[str, Any]:
    return read_json(project / "reports/robustness.json")


def test_every_declared_output_exists_and_parses(project):
    readers = {".json": read_json, ".csv": read_csv, ".safetensors": read_tensors, ".html": Path.read_text}
    assert all((project / path).exists() for path in outputs())
    for path in files(project):
        read = readers.get(Path(path).suffix, np.load)(project / path)
        # No teacher comes from outside.
        assert len(read) or path in ("models/teachers/index.json", "metrics/teachers.json"), path
    assert not partial_files(project) and not unfinished(project)


def test_outcomes_are_one_bit_per_test_image(evaluation, outcomes, project):
    assert evaluation["num_images"] == NUM_TEST
    assert torch.equal(outcomes["labels"], read_splits(project / "data/normalized.safetensors").test.labels)
    for name, outcome in outcomes.items():
        assert outcome.shape == (NUM_TEST,), name
        assert name == "labels" or (outcome.dtype == torch.uint8 and int(outcome.max()) <= 1), name
    tasks = ("clean", *ATTACKS, *CASCADE, "curve/0", "curve/1", "curve/2", *GRID, "worst_case")
    best = {f"{model}/{task}" for model in BEST for task in tasks}
    last = {f"{model}_last/{task}" for model in BEST for task in ("clean", "pgd_sat", "worst_case")}
    transfer = {f"transfer/{attack}/{source}/{target}" for attack in TRANSFER for source in BEST for target in BEST}
    assert set(outcomes) == {"labels"} | best | last | transfer


def test_the_curve_begins_at_clean_and_meets_its_attack(evaluation, outcomes):
    assert evaluation["curve"]["epsilons"] == ["0", "26/255", "1/5"]  # 51/255, the threat model's
    for model in BEST:
        assert torch.equal(outcomes[f"{model}/curve/0"], outcomes[f"{model}/clean"])
        assert torch.equal(outcomes[f"{model}/curve/2"], outcomes[f"{model}/pgd_sat"])


def test_what_is_crafted_on_a_model_transfers_to_itself_as_it_hit_it(outcomes):
    for attack in TRANSFER:
        for model in BEST:
            assert torch.equal(outcomes[f"transfer/{attack}/{model}/{model}"], outcomes[f"{model}/{attack}"])


def test_a_cascade_only_falls_and_the_worst_case_is_the_least_of_all(outcomes):
    for model in BEST:
        fall = [outcomes[f"{model}/{task}"] for task in ("clean", *CASCADE)]
        assert all(bool((after <= before).all()) for before, after in pairwise(fall))
        every = [outcomes[f"{model}/{task}"] for task in ("clean", *ATTACKS, *CASCADE)]
        assert torch.equal(outcomes[f"{model}/worst_case"], torch.stack(every).amin(0))


def test_saved_worst_cases_fool_as_many_as_claimed(evaluation, outcomes, project):
    test = read_splits(project / "data/normalized.safetensors").test
    for name in BEST:
        path = project / evaluation["adversarial"]["files"][name]
        images_adv = np.load(path)
        assert images_adv.dtype == np.uint8 and images_adv.shape == tuple(test.images.shape)
        moved = torch.from_numpy(images_adv).int() - test.images.int()
        assert int(moved.abs().max()) <= 51
        model, _ = load_model(project / f"models/{name}.safetensors")
        wrong = int((model(torch.from_numpy(images_adv).float() / 255).argmax(1) != test.labels).sum())
        found = evaluation["evidence"][name]
        assert found["rescored_file"]["fooled"] == wrong
        claimed = int((outcomes[f"{name}/worst_case"] == 0).sum())
        assert found["rescored"]["fooled"] == found["rescored"]["claimed"] == claimed


def test_the_report_says_what_the_outcomes_say(report, outcomes):
    for name, model in report["models"].items():
        assert model["clean"]["count"] == int(outcomes[f"{name}/clean"].sum())
        for attack, found in model["attacks"].items():
            right = outcomes[f"{name}/{attack}"]
            assert (found["count"], found["n"]) == (int(right.sum()), NUM_TEST)
            assert found["low"] <= found["value"] <= found["high"]
        assert model["worst_case"]["count"] == int(outcomes[f"{name}/worst_case"].sum())
        assert all(model["worst_case"]["count"] <= found["count"] for found in model["attacks"].values())
        assert [point["count"] for point in model["curve"]] == [
            int(outcomes[f"{name}/curve/{index}"].sum()) for index in range(len(model["curve"]))
        ]
    for attack in TRANSFER:
        for source, row in report["transfer"]["accuracy"][attack].items():
            assert {target: found["count"] for target, found in row.items()} == {
                target: int(outcomes[f"transfer/{attack}/{source}/{target}"].sum()) for target in BEST
            }


def test_tables_for_dvc_are_the_report(report, project):
    for row in read_csv(project / "plots/epsilon.csv"):
        points = {float(_fraction(p["epsilon"])): p["value"] for p in report["models"][row["model"]]["curve"]}
        assert points[float(row["epsilon"])] == float(row["value"])
    headline = read_json(project / "metrics/report.json")
    for model in BEST:
        for attack in ATTACKS:
            # A mark of the attack's settings follows the name.
            (found,) = (value for key, value in headline.items() if key.startswith(f"{model}.{attack}."))
            assert found == report["models"][model]["attacks"][attack]["value"]


def _fraction(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    return int(numerator) / int(denominator or 1)


def test_report_holds_every_parameter_and_evaluation_only_its_own(report, evaluation, project):
    values = read_yaml(project / "params.yaml")
    assert report["params"] == values
    assert evaluation["params"] == {key: values[key] for key in ("seed", "compute", "threat", "evaluate_attacks")}


@pytest.mark.parametrize("name", BEST)
def test_curves_metrics_and_models_agree(name, project, evaluation):
    rows = read_csv(project / f"curves/{name}.csv")
    metrics = read_json(project / f"metrics/{name}.json")
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert [bool(row["ntk_clean_alignment"]) for row in rows] == [True, True, False]
    for checkpoint, mark, suffix in (("best", "", ""), ("last", "_last", ".last")):
        model, card = load_model(project / f"models/{name}{suffix}.safetensors")
        row = rows[card.epoch]
        assert metrics[checkpoint]["epoch"] == card.epoch
        assert metrics[checkpoint]["robust_accuracy"] == float(row["robust_accuracy"])
        described = evaluation["models"][name + mark]
        assert (described["epoch"], described["checkpoint"]) == (card.epoch, checkpoint)
        assert described["num_parameters"] == sum(p.numel() for p in model.parameters()) == metrics["num_parameters"]
        assert described["sha256"] == sha256(project / f"models/{name}{suffix}.safetensors")
    assert evaluation["training_cost"][name] == metrics["passes"]


def test_cards_tell_what_a_model_came_from(project):
    for suffix in ("", ".last"):
        _, student = load_model(project / f"models/student{suffix}.safetensors")
        teachers = {name: sha256(project / f"models/{name}.safetensors") for name in BEST[:2]}
        assert student.upstream == teachers and student.stage == "distill_student"
        _, robust = load_model(project / f"models/robust_teacher{suffix}.safetensors")
        assert robust.upstream == {} and robust.architecture == small_params()["train_robust_teacher"]["model"]


@pytest.mark.parametrize("name", BEST)
def test_the_first_layer_holds_the_statistics_of_train(name, project):
    splits = read_splits(project / "data/normalized.safetensors")
    pixels = splits.train.images.double() / 255
    model, card = load_model(project / f"models/{name}.safetensors")
    layer = next(module for module in model.modules() if isinstance(module, Normalize))
    assert card.normalization == splits.normalization
    assert layer.offset.item() == pytest.approx(pixels.mean().item(), rel=1e-6)
    assert layer.scale.item() == pytest.approx(pixels.std(unbiased=False).item(), rel=1e-6)
    one = torch.full((1, 1, 8, 8), 0.5)
    want = (0.5 - pixels.mean().item()) / pixels.std(unbiased=False).item()
    assert torch.allclose(layer(one), torch.full_like(one, want))


def test_running_every_stage_again_gives_the_same_bytes(copied):
    before = hashes(copied)
    assert set(before) == set(files(copied)) and all((copied / path).exists() for path in outputs())
    forget_work(copied)
    torch.manual_seed(12345)  # what was drawn before a stage is not its business
    run_here(copied, *STAGES)
    assert hashes(copied) == before


def test_another_seed_gives_other_bytes(copied):
    before = hashes(copied, "train_clean_teacher")
    set_params(copied, seed=1)
    run_here(copied, "train_clean_teacher")
    after = hashes(copied, "train_clean_teacher")
    # Nothing was watched, whatever the seed.
    seeded = [path for path in before if not path.startswith("metrics") and not path.endswith(".sentinel.json")]
    assert seeded and all(after[path] != before[path] for path in seeded)


@pytest.mark.slow
def test_a_process_writes_the_same_bytes(copied):
    """And not those that are kept: it computes them."""
    stages = ("normalize_data", "distill_student")
    before = hashes(copied)
    forget_work(copied)
    for path in outputs(*stages):
        (copied / path).unlink()
    for stage in stages:
        status, _, err = finish(start_stage(stage, copied))
        assert (status, err) == (0, "")
    assert hashes(copied) == before


def test_no_output_tells_where_or_when_it_was_made(project):
    secrets = [str(project), str(project.parent), str(ROOT), str(Path.home()) + "/", socket.gethostname()]
    for path in files(project):
        content = (project / path).read_bytes()
        # A short host name occurs by chance in a page's pictures.
        for secret in (one for one in secrets if len(one) > 3):
            assert secret.encode() not in content, f"{path} tells {secret}"
    for path in (path for path in files(project) if path.endswith((".json", ".csv", ".html"))):
        text = (project / path).read_text()
        for year in ("2024-", "2025-", "2026-", "2027-", "T00:"):
            assert year not in text, f"{path} has a date"


@pytest.mark.slow
def test_no_output_depends_on_the_clock(copied, monkeypatch):
    before = hashes(copied)
    forget_work(copied)
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.setattr("time.monotonic", _ticks().__next__)
    run_here(copied, "train_clean_teacher", "evaluate_attacks", "report")
    assert hashes(copied) == before


def _ticks() -> Iterator[float]:
    now = 0.0
    while True:
        now += 1000
        yield now


@pytest.mark.parametrize(("key", "path"), [("clean_accuracy", "clean_teacher"), ("robust_accuracy", "robust_teacher")])
def test_weak_teachers_may_not_teach(copied, capsys, key, path):
    before = hashes(copied)
    set_params(copied, **{f"distill_student.required.{key}": 1})
    with pytest.raises(SystemExit, match="2"):
        run_here(copied, "distill_student")
    error = capsys.readouterr().err
    assert error.startswith(f"distill_student: error: models/{path}.safetensors: ") and error.count("\n") == 1
    assert f"want at least 100.0% (params.yaml: distill_student.required.{key})" in error
    assert hashes(copied) == before


def test_a_student_follows_its_teacher_s_gradient(copied):
    """IGDM inside AWP, around the method of the section; without it the same student has another end."""
    plain = hashes(copied, "distill_student")
    perturbed = {"distill_student.perturbation": {"gamma": 0.01, "start": 0}}
    set_params(copied, **{"distill_student.igdm": {"alpha": 5}} | perturbed)
    run_here(copied, "distill_student")
    after, (first, *trained) = hashes(copied, "distill_student"), read_csv(copied / "curves/student.csv")
    assert all(float(row["loss_gradient"]) > 0 and row["loss_rise"] for row in trained) and not first["loss_gradient"]
    assert after["models/student.last.safetensors"] != plain["models/student.last.safetensors"]


def test_a_student_s_weights_follow_what_is_missing_to_its_teachers(copied):
    """By what the stage measured of these, in the order robust, clean, and by the record before each epoch."""
    set_params(copied, **{"distill_student.method.weight_rule": "validation"})
    run_here(copied, "distill_student")
    settings, splits = distill_student.read(Params.read(copied / "params.yaml")).training, read_splits(copied / DATA)
    networks = {role: {role: load_frozen(copied / path, splits, CPU)[0]} for role, path in teachers.OWN.items()}
    clean, robust = (one.right for one in teachers.measured(networks, splits, settings, create_autospec(Journal)))
    first, second, *_ = read_csv(copied / "curves/student.csv")
    reached = Ceilings(robust=float(first["robust_accuracy"]), clean=float(first["clean_accuracy"]))
    share = share_below(reached, Ceilings(robust=robust, clean=clean))
    assert share is not None and share != pytest.approx(0.5)
    assert float(second["weight_robust"]) == pytest.approx((0.5 + share) / 2, abs=1e-6)


def test_warm_start_begins_at_the_clean_teacher(copied):
    set_params(copied, **{"train_robust_teacher.warm_start": True})
    run_here(copied, "train_robust_teacher")
    cold, warm = read_csv(copied / "curves/clean_teacher.csv"), read_csv(copied / "curves/robust_teacher.csv")
    best = read_json(copied / "metrics/clean_teacher.json")["best"]["epoch"]
    assert warm[0]["clean_accuracy"] == cold[best]["clean_accuracy"]
    _, card = load_model(copied / "models/robust_teacher.safetensors")
    assert card.upstream == {"clean_teacher": sha256(copied / "models/clean_teacher.safetensors")}


@pytest.mark.parametrize(
    ("change", "found"),
    [({"model.width": 0.5}, "width: got 0.5"), ({"model.name": "resnet56"}, "name: got 'resnet56'")],
)
def test_warm_start_refuses_another_architecture(copied, capsys, change, found):
    set_params(copied, **{"train_robust_teacher.warm_start": True})
    set_params(copied, **{f"train_robust_teacher.{key}": value for key, value in change.items()})
    before = hashes(copied)
    with pytest.raises(SystemExit, match="2"):
        run_here(copied, "train_robust_teacher")
    error = capsys.readouterr().err
    assert f"params.yaml: train_robust_teacher.warm_start.{found}" in error and error.count("\n") == 1
    assert hashes(copied) == before


def test_times_are_kept_beside_the_outputs(project):
    for stage in STAGES:
        cost = json.loads((project / f".temper/costs/{stage}.json").read_text())
        assert cost["seconds"] > 0 and cost["peak_mib"] > 1 and all(map(math.isfinite, cost.values()))


def test_the_page_that_is_shown_says_how_fast_the_models_are(project):
    times = json.loads((project / ".temper/latency.json").read_text())
    assert set(times) == {"clean_teacher", "robust_teacher", "student"}
    for name, timed in times.items():
        assert timed["bytes"] == (project / f"models/{name}.safetensors").stat().st_size
    dated, declared = ((project / f"reports/robustness.{end}").read_text() for end in ("dated.html", "html"))
    assert "How large and how fast the models are" in dated and "How large and how fast" not in declared
