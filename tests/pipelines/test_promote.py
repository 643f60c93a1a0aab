"""Evaluations read back from a real MLflow store, and promotion that no rule can be talked out of."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed (extra: tracking)")

from components.foundation.errors import InputError
from components.foundation.storage import read_json
from components.tracking import mlflow_client, promotion, registry
from components.tracking import mlflow_runs as tracking
from components.tracking.journal import Journal
from components.tracking.promotion import Bar, promote
from components.tracking.registry import fetch, resolve
from temper.cli import main as temper
from tests.parts.evaluation_files import CRITERIA
from tests.parts.paired_evaluations import (
    CASCADE,
    outcomes,
    record_evaluation,
    record_report,
    write_evaluation,
    write_model,
)
from tests.parts.sound_evidence import pair, sound

# MLflow's own dependencies warn; ours are still errors in every other file.
pytestmark = pytest.mark.filterwarnings("ignore")

NAME = "temper-student"
# Version: images lost of 100, and the verdict at registration.
VERSIONS = {
    1: (40, "trusted"),
    2: (25, "trusted"),
    3: (24, "suspect"),
    4: (40, ""),
    5: (25, "trusted"),
    6: (5, "trusted"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with pipeline runs, each of which registered a version; of 6 no named cascade was run.

    Two runs came after: one that only reported on version 2 once more, since its evaluation was up to date, and one
    that evaluated the file of version 1 again with attacks that are weaker, and lost 10 images instead of 40.
    """
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("PYTHONPATH", str(Path(tracking.__file__).parents[2]))
        for key in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TEMPER_PIPELINE", *mlflow_client.BOUNDS):
            patch.delenv(key, raising=False)
        for version, (lost, verdict) in VERSIONS.items():
            model = root / f"{version}/student.safetensors"
            digest = write_model(model, seed=version)
            attacks = {"cascade": {"name": "none", "attacks": {}}} if version == 6 else {}
            record_evaluation(write_evaluation(root / f"{version}", outcomes(lost), digest, **attacks), digest)
            record_report(model, digest, verdict, criteria=written())
        second = root / "2/student.safetensors"
        # A model from outside, evaluated in the same pipeline run, is not to be taken for it.
        record_evaluation(write_evaluation(root / "outside", outcomes(10, "theirs"), "e" * 64), "e" * 64)
        record_report(second, registry_digest(root, 2), "trusted", criteria=written())
        first = registry_digest(root, 1)
        weaker = {"attacks": {"fgsm": "Fgsm()", "pgd": "Pgd(steps=1)"}}
        record_evaluation(write_evaluation(root / "weaker", outcomes(10), first, **weaker), first)
        record_report(root / "1/student.safetensors", first, "trusted", criteria=written())
        assert temper(["records", "send"]) == 0
        yield root


def written(**changes: Any) -> str:
    """Criteria as the report stage records them with a version: a trusted measurement of some robustness, no more."""
    nobody = {"clean": None, "worst_case": None}
    return json.dumps(
        CRITERIA | {"not_worse_than": nobody, "champion": False} | changes,
    )


def registry_digest(root: Path, version: int) -> str:
    return read_json(root / f"{version}/evaluation.json")["models"]["student"]["sha256"]


@pytest.fixture
def client(store: Path) -> Any:
    """MLflow's client; nobody is champion."""
    found = mlflow_client.open_client(mlflow_client.place())
    for alias in found.get_registered_model(NAME).aliases:
        found.delete_registered_model_alias(NAME, alias)
    return found


def reference(version: int | str) -> str:
    return f"models:/{NAME}/{version}"


def bar(**changes: Any) -> Bar:
    return Bar(alias="champion", **changes)


def champion(client: Any) -> str | None:
    found = client.get_registered_model(NAME).aliases.get("champion")
    return None if found is None else str(found)


def same(folder: Path, store: Path, version: int) -> bool:
    return all((folder / name).read_bytes() == (store / f"{version}" / name).read_bytes() for name in registry.FILES)


@pytest.mark.parametrize(("version", "evaluated"), [(1, 1), (2, 2), (5, 5)])
def test_a_version_finds_its_evaluation(client: Any, store: Path, tmp_path: Path, version: int, evaluated: int) -> None:
    source = resolve(client, reference(version))
    assert fetch(client, source, tmp_path) == "student"
    assert source.title == f"{NAME} {version}"
    assert same(tmp_path, store, evaluated), "byte for byte"


def test_an_alias_and_every_run_of_a_pipeline_find_it(client: Any, store: Path, tmp_path: Path) -> None:
    client.set_registered_model_alias(NAME, "champion", "2")
    source = resolve(client, f"models:/{NAME}@champion")
    pipeline, place = source.run.info.run_id, [source.run.info.experiment_id]
    assert source.run.data.tags["temper.stage"] == "pipeline", "the version belongs to the run that people open"
    family = client.search_runs(place, f"tags.`mlflow.parentRunId` = '{pipeline}'")
    assert {run.data.tags["temper.stage"] for run in family} == {"evaluate_attacks", "report"}
    for number, run in enumerate([pipeline, *(run.info.run_id for run in family), f"runs:/{pipeline}"]):
        folder = tmp_path / str(number)
        assert fetch(client, resolve(client, run), folder) is None
        assert same(folder, store, 2)


def test_an_evaluation_of_another_model_is_none(client: Any, tmp_path: Path) -> None:
    source = resolve(client, reference(1))
    source.version.tags["sha256"] = "f" * 64
    with pytest.raises(InputError, match="none of which is this version"):
        fetch(client, source, tmp_path)


def test_a_run_without_an_evaluation_says_so(client: Any, tmp_path: Path) -> None:
    bare = client.create_run(client.create_experiment("other"), tags={})
    with pytest.raises(
        InputError, match=r"no evaluation\.json and outcomes\.safetensors in MLflow .*temper records send"
    ):
        fetch(client, resolve(client, bare.info.run_id), tmp_path)


def test_a_trusted_version_is_promoted(client: Any) -> None:
    failed, passed = promote(client, resolve(client, reference(2)), bar(min_clean=0.9, min_worst_case=0.65))
    assert failed == []
    assert champion(client) == "2"
    asked = "asked: shapes, 100 test images, L∞ ε = 8/255"
    assert passed[:3] == [asked, "cascade quick", "measurement: trusted, wanted trusted"]
    assert "worst case: 75.0 % (65.7 to 82.5 %, n = 100), wanted surely at least 65.0 %" in passed
    version = client.get_model_version(NAME, "2")
    assert version.tags["promoted.champion"] == "; ".join(passed)
    assert version.description.startswith(f"Promoted to champion ({asked}; cascade quick; ")
    assert client.get_registered_model(NAME).tags["champion"].startswith("version 2: ")


def test_the_registry_says_why_a_version_was_refused_until_it_passes(client: Any) -> None:
    card = "**GO** for the student\n\n| condition | n |"
    client.update_model_version(NAME, "5", card)
    for least, words in ((0.99, "Refused as"), (0.5, "Promoted to"), (0.99, "Refused as")):
        promote(client, resolve(client, reference(5)), bar(min_worst_case=least))
        said, *_, kept = client.get_model_version(NAME, "5").description.partition("\n\n---\n\n")
        assert kept == card, "the card stays as it is"
        assert f"{words} champion (" in said
        assert ("Refused" in said) == (least == 0.99)
    assert champion(client) == "5", "a refusal takes nothing from it"


def test_a_model_file_is_one_version_whose_lowest_number_counts(client: Any) -> None:
    assert len(client.search_model_versions(f"name = '{NAME}'")) == len(VERSIONS)
    failed, _ = promote(client, resolve(client, reference(1)), bar(min_worst_case=0.6))
    assert failed == [
        "worst case: 60.0 % (50.2 to 69.1 %, n = 100) (lowest of 2 evaluations), wanted surely at least 60.0 %"
    ]


def test_without_a_named_cascade_nothing_is_promoted(client: Any) -> None:
    failed, _ = promote(client, resolve(client, reference(6)), bar())
    assert failed == ["cascade none, want quick or autoattack"] and champion(client) is None


KNOWN = {"norm": "linf", "epsilon": "8/255", "test.sha256": "a", "num_images": "100", "worst_case": "0.6"}
KNOWN |= {"cascade": "quick", "decision": "GO", "criteria": "{}"}
STRONGER = {"worst_case": "0.5", "cascade": "autoattack"}


@pytest.mark.parametrize(
    ("before", "changes", "want"),
    [
        # The lower number of the same question counts; of equal cascades the worse verdict.
        ("trusted", {"worst_case": "0.5", "verdict": "trusted"}, {"worst_case": "0.5", "verdict": "trusted"}),
        ("trusted", {"worst_case": "0.5", "verdict": "suspect"}, {"worst_case": "0.5", "verdict": "suspect"}),
        ("suspect", {"worst_case": "0.5", "verdict": "trusted"}, {"worst_case": "0.5", "verdict": "suspect"}),
        ("trusted", {"worst_case": "0.8", "verdict": "suspect"}, {"worst_case": "0.6", "verdict": "suspect"}),
        ("suspect", {"worst_case": "0.8", "verdict": "trusted"}, {"worst_case": "0.6", "verdict": "suspect"}),
        # A stronger cascade has the last word, a weaker one none.
        ("suspect", {**STRONGER, "verdict": "trusted"}, {**STRONGER, "verdict": "trusted"}),
        ("trusted", {**STRONGER, "verdict": "suspect"}, {**STRONGER, "verdict": "suspect"}),
        ("suspect", {"cascade": "none", "verdict": "trusted"}, {"cascade": "quick", "verdict": "suspect"}),
        ("trusted", {"cascade": "none", "verdict": "suspect"}, {"cascade": "quick", "verdict": "trusted"}),
        # Broken is broken.
        ("trusted", {"cascade": "none", "verdict": "broken"}, {"verdict": "broken"}),
        ("broken", {**STRONGER, "verdict": "trusted"}, {"worst_case": "0.5", "verdict": "broken"}),
        # NO-GO replaces GO.
        ("trusted", {"decision": "NO-GO", "verdict": "trusted"}, {"decision": "NO-GO"}),
        ("trusted", {"decision": "NO-GO", "verdict": "trusted", "worst_case": "0.8"}, {"decision": "NO-GO"}),
        # Another question has another answer.
        ("trusted", {"worst_case": "0.8", "epsilon": "4/255", "verdict": "suspect"}, {"worst_case": "0.8"}),
        ("suspect", {"worst_case": "0.8", "test.sha256": "b", "verdict": "trusted"}, {"verdict": "trusted"}),
        # What was written first stays, to whatever question; what was written afterwards is noted.
        ("trusted", {"verdict": "trusted", "criteria": "[]"}, {"criteria": "{}", "criteria.changed": "[]"}),
        ("trusted", {"verdict": "trusted", "criteria": "[]", "epsilon": "4/255"}, {"criteria": "{}"}),
    ],
)
def test_a_version_that_is_evaluated_again(before: str, changes: dict[str, str], want: dict[str, str]) -> None:
    known = KNOWN | {"verdict": before}
    found = known | registry.updated(known, KNOWN | changes)
    assert {key: found[key] for key in want} == want


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, "NO-GO"),
        ({"worst_case": "0.5"}, "NO-GO"),
        ({"cascade": "autoattack"}, "GO"),
        ({"cascade": "autoattack", "worst_case": "0.8"}, "NO-GO"),
        ({"cascade": "autoattack", "criteria": "[]"}, "NO-GO"),
        ({"criteria": "[]"}, "NO-GO"),
    ],
)
def test_no_go_stays_until_a_stronger_cascade_says_go_by_the_same_criteria(
    changes: dict[str, str], answer: str
) -> None:
    known = KNOWN | {"verdict": "trusted", "decision": "NO-GO"}
    again = KNOWN | {"verdict": "trusted", "decision": "GO"} | changes
    assert (known | registry.updated(known, again))["decision"] == answer


FEW = "worst case: 75.0 % (65.7 to 82.5 %, n = 100), wanted surely at least 70.0 %"


@pytest.mark.parametrize(
    ("version", "changes", "said"),
    [
        (3, {}, ["measurement: suspect, wanted trusted"]),
        (4, {}, ["measurement: not judged, wanted trusted"]),
        # 75 of 100 are above 0.7, but the interval is not.
        (2, {"min_worst_case": 0.7}, [FEW]),
        (2, {"min_clean": 0.98}, ["clean accuracy: 98.0 % (93.0 to 99.8 %, n = 100), wanted surely at least 98.0 %"]),
        (
            3,
            {"min_worst_case": 0.7},
            ["measurement: suspect, wanted trusted", FEW.replace("75.0 % (65.7 to 82.5", "76.0 % (66.8 to 83.3")],
        ),
        (
            2,
            {"min_weakest_class": 0.6},
            ["weakest class “circle”: 72.0 % (50.6 to 87.9 %, n = 25), wanted surely at least 60.0 %"],
        ),
    ],
)
def test_a_failed_rule_refuses(client: Any, version: int, changes: dict[str, Any], said: list[str]) -> None:
    failed, _ = promote(client, resolve(client, reference(version)), bar(**changes))
    assert failed == said
    assert champion(client) is None
    assert "promoted.champion" not in client.get_model_version(NAME, str(version)).tags or version == 2


def test_a_worse_model_does_not_replace_the_champion(client: Any) -> None:
    alone, _ = promote(client, resolve(client, reference(2)), bar(not_worse=True))
    assert alone == [], "there was none to be worse than"
    failed, _ = promote(client, resolve(client, reference(1)), bar(not_worse=True))
    (text,) = failed
    assert text.startswith("worst case against champion 2: −15.0 points (−23.3 to −9.3, p < 0.001)")
    assert champion(client) == "2"
    again, passed = promote(client, resolve(client, reference(5)), bar(not_worse=True))
    assert again == []
    assert passed[-1].startswith("worst case against champion 2: 0.0 points")
    assert champion(client) == "5", "no difference is not worse"


def test_a_better_model_replaces_the_champion(client: Any) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    failed, passed = promote(client, resolve(client, reference(2)), bar(not_worse=True))
    assert failed == []
    assert passed[-1].startswith("worst case against champion 1: +15.0 points")
    assert champion(client) == "2"


@pytest.fixture
def recorded(client: Any) -> Iterator[Any]:
    """Writes other criteria on a version, and takes them back."""
    changed: set[int] = set()

    def record(version: int, **changes: Any) -> None:
        changed.add(version)
        client.set_model_version_tag(NAME, str(version), "criteria", written(**changes))

    yield record
    for version in changed:
        client.set_model_version_tag(NAME, str(version), "criteria", written())


def test_what_was_written_before_decides_and_options_only_add(client: Any, recorded: Any) -> None:
    recorded(2, worst_case=0.7)
    for changes in ({}, {"min_worst_case": 0.1}):
        assert promote(client, resolve(client, reference(2)), bar(**changes))[0] == [FEW]
    failed, _ = promote(client, resolve(client, reference(2)), bar(min_worst_case=0.72))
    assert failed == [FEW.replace("70.0 %", "72.0 %")]
    recorded(2, worst_case=0.6, not_worse_than={"clean": None, "worst_case": "robust_teacher"})
    failed, _ = promote(client, resolve(client, reference(2)), bar())
    assert failed == [
        "worst case against robust teacher: not measured, wanted not significantly worse on the same images"
    ]
    recorded(2, model="robust_teacher")
    assert (
        "the criteria are about robust_teacher, which this is not"
        in promote(client, resolve(client, reference(2)), bar())[0]
    )
    assert champion(client) is None


def test_without_criteria_nothing_is_promoted(client: Any, recorded: Any) -> None:
    recorded(2)
    client.delete_model_version_tag(NAME, "2", "criteria")
    (text,) = promote(client, resolve(client, reference(2)), bar())[0]
    assert text.startswith("no criteria are recorded with it") and champion(client) is None


@pytest.mark.parametrize(("holder", "candidate", "worse"), [(5, 1, True), (1, 5, False)])
@pytest.mark.parametrize("step", [1, -1])
def test_the_champion_is_compared_with_the_lowest_of_all_evaluations(
    client: Any, recorded: Any, monkeypatch: pytest.MonkeyPatch, holder: int, candidate: int, worse: bool, step: int
) -> None:
    """Version 1 loses 40 images in one evaluation and 10 in the other, whichever is the first; version 5 loses 25."""
    client.set_registered_model_alias(NAME, "champion", str(holder))
    recorded(candidate, champion=True)
    runs = registry._runs
    monkeypatch.setattr(registry, "_runs", lambda *told: list(runs(*told))[::step])
    failed, _ = promote(client, resolve(client, reference(candidate)), bar())
    assert [text.partition(":")[0] for text in failed] == (["worst case against champion 5"] if worse else [])


def replace_evaluations(monkeypatch: pytest.MonkeyPatch, *others: Path) -> None:
    """Gives version 1 other evaluations than it has."""
    real = registry.evaluations

    def fetched(client: Any, source: Any, folders: Iterator[Path]) -> Iterator[tuple[Path, str | None]]:
        own = ((other, "student") for other in others)
        yield from own if source.title == f"{NAME} 1" else real(client, source, folders)

    monkeypatch.setattr(promotion, "evaluations", fetched)


AUTOATTACK = CASCADE | {"name": "autoattack"}
BROKEN = {"student": sound() | {"unanswered": 30}}
MASKED = {"student": sound() | {"square_helps": {"n": 200, "before": 90, "after": 60}}}
CONSTANT = {"student": sound() | {"constant": pair(gained=0, lost=0)[0]}}


@pytest.mark.parametrize(
    ("evaluations", "said"),
    [
        # What a version is judged by is what its tags say, whichever evaluation is found first.
        ([{"threat": {"norm": "linf", "epsilon": "2/255"}, "lost": 5}, {}], None),
        ([{"threat": {"norm": "linf", "epsilon": "2/255"}, "lost": 5}], "its numbers are under linf 8/255"),
        ([{"provenance": {"test.sha256": "0" * 64}, "lost": 5}], "none of its evaluations in MLflow asks that"),
        # One that is trusted does not undo another one.
        ([{}, {"cascade": AUTOATTACK, "evidence": BROKEN}], "broken by today's rules (logits)"),
        ([{}, {"cascade": {"name": "none", "attacks": {}}, "evidence": BROKEN}], "broken by today's rules (logits)"),
        ([{"cascade": AUTOATTACK}, {"evidence": BROKEN}], "broken by today's rules (logits)"),
        ([{}, {"cascade": AUTOATTACK, "evidence": MASKED}], "suspect by today's rules (square_helps)"),
        ([{}, {"evidence": CONSTANT}], "suspect by today's rules (constant_answer)"),
        ([{}, {"evidence": MASKED}], "suspect by today's rules (square_helps)"),
        # But what a stronger cascade is sure of, a weaker one need not be.
        ([{"cascade": AUTOATTACK}, {"evidence": MASKED}], None),
        ([{"evidence": MASKED}, {"cascade": AUTOATTACK}], None),
        # What was not judged is not trusted.
        ([{"evidence": {}}], "measurement: not judged, wanted trusted"),
        ([{}, {"cascade": AUTOATTACK, "evidence": {}}], "measurement: not judged, wanted trusted"),
    ],
)
def test_every_evaluation_of_the_question_is_judged(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, evaluations: list[dict[str, Any]], said: str | None
) -> None:
    places = []
    for place, told in enumerate(evaluations):
        changes = {key: value for key, value in told.items() if key != "lost"}
        places.append(write_evaluation(tmp_path / str(place), outcomes(told.get("lost", 40)), **changes))
    replace_evaluations(monkeypatch, *places)
    failed, passed = promote(client, resolve(client, reference(1)), bar(min_worst_case=0.1))
    assert (champion(client) == "1") is (said is None) is (failed == [])
    assert said is None or (len(failed) == 1 and said in failed[0])
    assert said is not None or "asked: shapes, 100 test images, L∞ ε = 8/255" in passed
    assert said is not None or any(text.startswith("worst case: 60.0 %") for text in passed)


def test_criteria_that_were_changed_afterwards_count_only_when_asked_for(client: Any, recorded: Any) -> None:
    recorded(2, worst_case=0.7)
    client.set_model_version_tag(NAME, "2", "criteria.changed", written(worst_case=0.1))
    failed, passed = promote(client, resolve(client, reference(2)), bar())
    assert failed == [FEW] and any("others were written afterwards" in text for text in passed)
    failed, passed = promote(client, resolve(client, reference(2)), bar(changed_criteria=True))
    assert failed == [] and "criteria: written after it was registered" in passed
    client.delete_model_version_tag(NAME, "2", "criteria.changed")
    failed, passed = promote(client, resolve(client, reference(2)), bar(changed_criteria=True))
    assert failed == [FEW], "nothing was changed"


def test_an_evaluation_under_another_name_counts(client: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`temper evaluate --track` calls models as its user does."""
    digest = registry_digest(store, 5)
    folder = write_evaluation(store / "victim", outcomes(70, "victim"), digest)
    with Journal.open("evaluate") as journal:
        journal.upstream({"victim": digest})
        for name in registry.FILES:
            journal.artifact(folder / name)
    assert temper(["records", "send"]) == 0
    source = resolve(client, reference(5))
    failed, _ = promote(client, source, bar(min_worst_case=0.6))
    assert [text.partition(" %")[0] for text in failed] == ["robust at all: 30.0", "worst case: 30.0"]
    for run in client.search_runs([source.run.info.experiment_id], f"tags.`upstream.victim.sha256` = '{digest}'"):
        client.delete_run(run.info.run_id)


def test_a_champion_that_cannot_be_compared_with_is_no_excuse(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client.set_registered_model_alias(NAME, "champion", "2")
    l2 = write_evaluation(tmp_path, outcomes(5), threat={"norm": "l2", "epsilon": "1/2"})
    replace_evaluations(monkeypatch, l2)
    version = resolve(client, reference(1))
    version.version.tags.update(norm="l2", epsilon="1/2")
    failed, _ = promote(client, version, bar(not_worse=True))
    assert len(failed) == 1
    assert "champion 2 cannot be compared with: another threat model" in failed[0]
    assert champion(client) == "2"


def test_a_model_that_met_no_attack_is_not_robust(client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean = {"student/clean": outcomes(5)["student/clean"]}
    bare = write_evaluation(tmp_path, clean, attacks={}, cascade={"name": "none", "attacks": {}})
    replace_evaluations(monkeypatch, bare)
    failed, _ = promote(client, resolve(client, reference(1)), bar(min_worst_case=0.1))
    assert [text.split(",")[0] for text in failed] == [
        "cascade none",
        "robust at all: not measured",
        "worst case: not measured",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["compare", "student", "."],
            "no folder with an evaluation.json, no run id, no models:/NAME/VERSION or @ALIAS",
        ),
        (["promote", "student"], "want a run id (32 hex digits), models:/NAME/VERSION or models:/NAME@ALIAS"),
        (["compare", f"models:/{NAME}/77", "."], f"models:/{NAME}/77: version: unknown '77' (allowed: "),
        (["compare", "0" * 32, "."], "not found"),
        (["promote", f"models:/{NAME}@nobody"], "nobody"),
        (["promote", "models:/nothing/1"], "models:/nothing/1: no registered model 'nothing'"),
        (["promote", reference(1), "--min-clean", "90"], "want a share from 0 to 1"),
    ],
)
def test_mistakes_are_one_line(
    client: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert temper(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_run_is_no_version_to_promote(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = resolve(client, reference(1)).run.info.run_id
    assert temper(["promote", run]) == 2
    assert "want a registered version" in capsys.readouterr().err


def test_reading_makes_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    assert temper(["compare", reference(1), "."]) == 2
    assert "nothing has been recorded here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_commands_compare_a_folder_with_a_version_and_promote(
    client: Any, store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert temper(["compare", str(store / "1"), reference(2), "--json", str(tmp_path / "found.json")]) == 0
    out, err = capfd.readouterr()
    assert "B is more robust than A by 15.0 points" in out
    assert f"B  student  {NAME} 2 " in out
    assert err == ""
    assert read_json(tmp_path / "found.json")["b"]["title"] == f"{NAME} 2"
    assert temper(["compare", str(store / "1"), f"models:/{NAME}@champion"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert temper(["promote", reference(3), "--min-worst-case", "0.7", "--not-worse-than-champion"]) == 1
    out, err = capfd.readouterr()
    assert out.count("\n") == 1
    assert out.startswith(f"refused: {NAME} 3 does not become champion: measurement: suspect, wanted trusted; worst")
    assert temper(["promote", reference(2), "--min-worst-case", "0.6", "--min-clean", "0.9"]) == 0
    assert capfd.readouterr().out.startswith(
        f"{NAME} 2 is champion: asked: shapes, 100 test images, L∞ ε = 8/255; cascade quick; measurement: trusted"
    )
    assert champion(client) == "2"


def test_the_compare_command_needs_no_tracker_for_folders(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert temper(["compare", str(store / "1"), str(store / "2")]) == 0
    assert "B is more robust than A" in capfd.readouterr().out
    assert temper(["compare", str(store / "1"), str(tmp_path / "nowhere")]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'nowhere'}: no folder with an evaluation.json")
    assert error.count("\n") == 1


def test_nothing_forces_a_promotion(capsys: pytest.CaptureFixture[str]) -> None:
    assert temper(["promote", reference(3), "--force"]) == 2
    assert "No such option: --force" in capsys.readouterr().err
    assert temper(["promote", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--min-worst-case SHARE" in out and "force" not in out


@pytest.mark.parametrize("decision", ["GO", "NO-GO"])
@pytest.mark.parametrize("own", ["GO", "NO-GO"])
def test_a_description_never_begins_with_another_decision_than_the_tags(decision: str, own: str) -> None:
    card = f"{own}: student\n\n| condition | n |"
    text = registry.described({"decision": decision}, card)
    assert text.startswith(f"{decision}: ")
    assert registry.card_of(text) == card
    assert registry.described({"decision": decision}, registry.card_of(text)) == text, "nothing piles up"
