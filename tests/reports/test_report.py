"""The report's document: numbers by hand, a schema it follows, the stage's same bytes, the tables for a terminal."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from components.evaluation.verdict.rules import judge
from components.foundation.errors import InputError
from components.foundation.storage import read_json, write_csv, write_json
from components.numerics.tensor_files import read_tensors, write_tensors
from components.reports.robustness.contents import Report
from components.reports.robustness.document import best_models, failed, headline, status
from components.statistics.documents import as_json, read_document
from components.statistics.outcomes import hardest
from tests.parts.evaluation_files import (
    CASCADE,
    CRITERIA,
    ROLES,
    built,
    document,
    evaluation,
    outcomes,
    run_stage,
)

ROOT = Path(__file__).parents[2]
OUTPUTS = (
    "reports/robustness.json",
    "reports/robustness.html",
    "metrics/report.json",
    "plots/epsilon.csv",
    "plots/transfer.csv",
)
SCHEMAS = ROOT / "docs/schemas"
DOCS = ROOT / "docs/report-schema.md"


# --- the document -----------------------------------------------------------------------------------------------------


def four_images(**bits: list[int]) -> Report:
    """One model, four images, two classes, two attacks and a cascade of one, by hand."""
    described = evaluation(4, ["student"]) | {"attacks": {"a": "A()", "b": "B()"}, "classes": ["zero", "one"]}
    described["models"] = {"student": described["models"]["student"]}
    described |= {"cascade": {"name": "custom", "attacks": {"c": "C()"}}, "evidence": {}}
    found = {
        "labels": [0, 0, 0, 1],
        "student/clean": [1, 1, 0, 1],
        "student/a": [1, 0, 1, 0],
        "student/b": [1, 1, 1, 0],
        "student/cascade/c": [1, 1, 0, 1],
        "student/worst_case": [1, 0, 0, 0],
    }
    return built(described, {name: torch.tensor(values) for name, values in (found | bits).items()})


def test_the_worst_case_is_per_image_and_says_of_what() -> None:
    worst = four_images().models["student"].worst_case
    # Image 2 is right only when attacked: the attack did not make it robust.
    assert worst and (worst.count, worst.n, worst.attacks, worst.cascade) == (1, 4, ["a", "b"], "custom")


def test_a_worst_case_that_is_none_is_refused() -> None:
    for wrong in ([1, 1, 0, 0], [0, 0, 0, 0]):
        with pytest.raises(InputError, match="student/worst_case is not the worst of clean, a, b, cascade"):
            four_images(**{"student/worst_case": wrong})


def test_w_robust_is_the_mean_of_clean_and_attacked() -> None:
    model = four_images().models["student"]
    assert {name: found.value for name, found in model.w_robust.items()} == {
        "a": 0.625,
        "b": 0.75,
        "worst_case": 0.5,
    }
    assert model.worst_case is not None
    low = (model.clean.low + model.worst_case.low) / 2
    assert model.w_robust["worst_case"].low == pytest.approx(low, abs=1e-6)


def test_classes_are_counted_apart() -> None:
    zero, one = as_json(four_images())["models"]["student"]["per_class"]
    assert (zero["class"], zero["clean"]["count"], zero["clean"]["n"], zero["worst_case"]["count"]) == ("zero", 2, 3, 1)
    assert (one["class"], one["clean"]["count"], one["clean"]["n"], one["worst_case"]["count"]) == ("one", 1, 1, 0)


def test_the_hardest_images_survive_the_fewest_attacks() -> None:
    found = four_images().hardest
    assert found is not None
    # Three runs: a, b and the cascade. Images 1 and 2 both survive two; nobody keeps either, image 2 is wrong clean.
    assert [(image.index, image.survived, image.attacks) for image in found.images] == [
        (3, 1, 3),
        (2, 2, 3),
        (1, 2, 3),
        (0, 3, 3),
    ]
    assert [(kept.models, kept.count) for kept in found.kept_by] == [(0, 3), (1, 1)]
    assert (found.images[1].clean, found.images[3].worst_case) == ([], ["student"])


def test_a_model_that_keeps_nothing_does_not_rank_the_images() -> None:
    labels, curve = torch.zeros(4, dtype=torch.long), ["1/10", "0", "1/5"]
    rows = {
        "weak/clean": [1, 1, 1, 1],
        "weak/worst_case": [0, 0, 0, 0],
        "weak/a": [0, 0, 0, 0],
        "strong/clean": [1, 1, 0, 1],
        "strong/worst_case": [0, 0, 0, 1],
        "strong/a": [0, 0, 0, 1],
        # Of two images that fall, the one that falls to the smaller change is the harder one.
        "strong/curve/0": [1, 0, 0, 1],
        "strong/curve/1": [1, 1, 0, 1],
        "strong/curve/2": [0, 0, 0, 1],
    }
    found = {name: torch.tensor(values) for name, values in rows.items()}
    runs = {name: [found[f"{name}/a"]] for name in ("weak", "strong")}
    hard = hardest(["only"], labels, runs, found, curve)
    assert hard and hard.models == ["strong"] and [(k.models, k.count) for k in hard.kept_by] == [(0, 3), (1, 1)]
    assert [(image.index, image.attacks, image.falls_at) for image in hard.images] == [
        (2, 1, {"strong": "0"}),
        (1, 1, {"strong": "1/10"}),
        (0, 1, {"strong": "1/5"}),
        (3, 1, {}),
    ]
    alone = hardest(["only"], labels, {"weak": runs["weak"]}, found, curve)
    assert alone and alone.models == ["weak"], "where no model keeps an image, all count"


def test_the_cascade_falls_image_by_image(made_up: Report) -> None:
    for name in ROLES:
        model = made_up.models[name]
        counts = [model.clean.count, *(step.count for step in model.cascade)]
        assert [step.attack for step in model.cascade] == list(CASCADE)
        assert counts == sorted(counts, reverse=True) and model.worst_case and counts[-1] >= model.worst_case.count


def test_a_cascade_at_several_epsilons_is_one_rising_list() -> None:
    found, described = outcomes(60, torch.Generator().manual_seed(7), ["student"]), evaluation(60, ["student"])
    described["cascade"] = described["cascade"] | {"epsilons": ["2/5", "1/10"]}
    found |= {"student/cascade/apgd_t@1/10": found["student/clean"], "student/cascade/apgd_t@2/5": found["labels"] * 0}
    curve = built(described, found).models["student"].cascade_curve
    assert [point.epsilon for point in curve] == ["1/10", "1/5", "2/5"]
    assert [point.count for point in curve][::2] == [int(found["student/clean"].sum()), 0]


def test_best_and_last_are_compared_on_shared_attacks(made_up: Report) -> None:
    pair, over_all = made_up.best_versus_last["student"], made_up.models["student"].worst_case
    assert pair.attacks == ["fgsm", "pgd_sat"]
    assert pair.best.worst_case and over_all and pair.best.worst_case.count >= over_all.count
    assert (pair.best.epoch, pair.last.epoch) == (9, 12)


def test_every_model_with_evidence_is_judged(made_up: Report) -> None:
    assert {name: status(made_up, name) for name in best_models(made_up)} == {
        "clean_teacher": "trusted",
        "robust_teacher": "suspect",
        "student": "trusted",
    }
    assert [check.rule for check in failed(made_up, "robust_teacher")] == ["square_helps"]
    assert status(document(evidence={}), "student") == "not_judged"


def test_the_documentation_names_every_field_of_the_report() -> None:
    text = DOCS.read_text(encoding="utf-8")
    parts = read_json(SCHEMAS / "robustness.schema.json")
    keys = {key for part in (parts, *parts["$defs"].values()) for key in part["properties"]}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "temper/evaluation/9"}, "schema 'temper/evaluation/9', want 'temper/evaluation/2'"),
        ({"num_images": 61}, r"clean is \[60\], want \[61\]"),
        ({"models": {}}, "no model with checkpoint 'best'"),
        ({"seed": "0"}, "evaluation.json: seed: input should be a valid integer, got '0'"),
        ({"threat": {"norm": "linf"}}, "evaluation.json: threat.epsilon: missing"),
        (
            {"grid": {"radii": []}},
            r"evaluation.json: grid.radii: unknown key \(allowed: epsilons, attacks\) \(and 2 more",
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    found = outcomes(60, torch.Generator().manual_seed(7))
    labels = found.pop("labels")
    with pytest.raises(InputError, match=message):
        built(evaluation(60) | change, found | {"labels": labels})


@pytest.mark.parametrize("name", ["student/clean", "student/worst_case", "labels"])
def test_announced_outcomes_must_be_there(name: str) -> None:
    found = outcomes(60, torch.Generator().manual_seed(7))
    del found[name]
    with pytest.raises(InputError, match=f"no tensor '{name}'"):
        built(evaluation(60), found)


# --- the stage --------------------------------------------------------------------------------------------------------


def test_the_stage_writes_the_same_bytes_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = run_stage(folder)
    first = {name: (folder / name).read_bytes() for name in OUTPUTS}
    run_stage(folder)
    assert {name: (folder / name).read_bytes() for name in OUTPUTS} == first
    assert str(folder).encode() not in b"".join(first.values())
    assert "worst case" in journal.said and capsys.readouterr().out == ""
    numbers = headline(read_document(Report, folder / "reports/robustness.json"))
    assert numbers == read_json(folder / "metrics/report.json")
    assert journal.numbers.items() >= numbers.items()
    assert {type(value) for value in numbers.values()} <= {int, float} and "student.quick" in numbers
    assert journal.files[:2] == ["reports/robustness.json", "reports/robustness.dated.html"]
    assert journal.files[-1] == "models/student.safetensors"
    assert {Path(file).suffix for file in journal.files[2:-1]} == {".svg"}


def test_the_verdict_is_told_to_the_tracker(folder: Path) -> None:
    described = read_json(folder / "evaluation/evaluation.json")
    described["evidence"]["student"] = described["evidence"]["robust_teacher"]
    write_json(folder / "evaluation/evaluation.json", described)
    journal = run_stage(folder)
    want = {name: judge(evidence) for name, evidence in described["evidence"].items()}
    assert "square_helps" in want["student"].reasons
    assert journal.told == {
        "decision": "NO-GO",
        "decision.unmet": "measurement",
        "verdict": want["student"].status,
        "verdict.reasons": ", ".join(want["student"].reasons),
        **{f"verdict.{name}": verdict.status for name, verdict in want.items()},
    }
    assert (
        journal.told.items() >= {key: journal.version[key] for key in ("decision", "decision.unmet", "verdict")}.items()
    )
    assert json.loads(journal.version["criteria"]) == CRITERIA


@pytest.mark.parametrize(
    ("criteria", "said"),
    [
        ({"model": "pupil"}, "criteria.model: got 'pupil', want one of clean_teacher, robust_teacher, student"),
        ({"not_worse_than": {"clean": "clean_techer", "worst_case": None}}, "not_worse_than.clean: got 'clean_techer'"),
        ({"not_worse_than": {"clean": None, "worst_case": "student"}}, "which is the model that is decided on"),
    ],
)
def test_criteria_are_about_models_of_the_pipeline(folder: Path, criteria: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        run_stage(folder, **criteria)


def test_a_sparse_evaluation_is_reported_too(folder: Path) -> None:
    tensors, _ = read_tensors(folder / "evaluation/outcomes.safetensors")
    kept = {name: value for name, value in tensors.items() if name == "labels" or name.endswith("/clean")}
    both = {"student/cw": tensors["student/cw"], "student/worst_case": kept["student/clean"] & tensors["student/cw"]}
    write_tensors(folder / "evaluation/outcomes.safetensors", kept | both)
    for role in ROLES:
        write_csv(folder / f"curves/{role}.csv", [{"epoch": 1, "train_loss": 1.0}])
    run_stage(folder, gallery_images=0)
    found = read_json(folder / "reports/robustness.json")
    assert found["models"]["clean_teacher"]["worst_case"] is None
    assert found["models"]["student"]["worst_case"]["attacks"] == ["cw"]
    page = (folder / "reports/robustness.html").read_text(encoding="utf-8")
    assert 'id="costs"' in page and 'id="gallery"' not in page and 'id="balance"' not in page
    assert 'id="steps"' not in page and 'id="transfer"' not in page


def test_a_missing_input_is_named(folder: Path) -> None:
    (folder / "curves/student.csv").unlink()
    with pytest.raises(InputError, match=r"curves/student\.csv: no such file"):
        run_stage(folder)


def test_metrics_of_attacks_with_other_settings_have_other_names(made_up: Report) -> None:
    """Whatever of an attack or of the threat model changes, no two runs show other things under one name."""
    names = set(headline(made_up))
    described = [
        made_up.model_copy(update={"attacks": made_up.attacks | {name: "Pgd(steps=5)"}}) for name in made_up.attacks
    ]
    threat = made_up.threat.model_copy(update={"epsilon": "1/255"})
    for name, other in zip(made_up.attacks, described, strict=True):
        (changed,) = {key for key in names - set(headline(other)) if key.startswith("student.")}
        assert changed.startswith(f"student.{name}.")
    cascades = [
        made_up.cascade.model_copy(update={"name": "custom", "attacks": {"a": f"Apgd(steps={n})"}}) for n in (5, 9)
    ]
    one, two = (set(headline(made_up.model_copy(update={"cascade": cascade}))) for cascade in cascades)
    assert {key.rsplit(".", 1)[0] for key in one ^ two if key.startswith("student.")} == {"student.custom"}
    other = set(headline(made_up.model_copy(update={"threat": threat})))
    assert {key.rsplit(".", 1)[0] for key in names - other if key.startswith("student.")} == {
        f"student.{name}" for name in made_up.attacks
    }
    assert {"student.clean", "student.worst_case", "student.quick"} <= names & other
