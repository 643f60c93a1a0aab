"""The sentinel in a training stage: what it writes, what its changes may be, and what a mistake in them says."""

from pathlib import Path
from typing import Any

import pytest

from components.foundation.errors import InputError
from components.foundation.params import Params, typed
from components.foundation.storage import read_csv, read_json
from components.stages.train_robust_teacher import read
from components.tracking.journal_files import Reader
from components.training.sentinel.replay import looks_of, replay
from components.training.sentinel.rules import Rules
from tests.parts.pipeline_files import hashes, make_project, run_here, small_params
from tests.parts.sentinel_fields import ALWAYS, RULES, SENTINEL

KEY = "train_robust_teacher.sentinel"


def project(folder: Path, sentinel: dict[str, Any]) -> Path:
    """A project in which the robust teacher has been trained, with this sentinel."""
    made = make_project(folder, **{KEY: SENTINEL | sentinel})
    run_here(made, "fetch_data", "normalize_data", "train_robust_teacher")
    return made


def journal(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob(".temper/journals/*/train_robust_teacher.jsonl")
    return [event for _, event in Reader(path).new()]


def test_looks_are_written_and_are_columns_at_epoch_ends(tmp_path, capsys):
    made = project(tmp_path / "a", {})
    seen = read_json(made / "curves/robust_teacher.sentinel.json")
    # An epoch has three batches: half of it is over after two.
    assert [look["epoch"] for look in seen["looks"]] == [0, 2 / 3, 1, 1 + 2 / 3, 2] and seen["events"] == []
    rows = read_csv(made / "curves/robust_teacher.csv")
    ends = [look for look in seen["looks"] if look["epoch"] == int(look["epoch"])]
    for signal in ("pgd_accuracy", "fgsm_accuracy", "alignment", "direction", "distortion", "adversarial_loss"):
        assert [float(row[f"sentinel_{signal}"]) for row in rows] == [look[signal] for look in ends]
    # The files tell a replay what the rules were told: each look of it, and all that a look knows of its epoch.
    live = [look["alarms"] for look in seen["looks"]]
    assert replay(seen["looks"], typed(Rules, RULES, "rules")) == live
    signals = {"train_loss", "attempt", "dropped", "alarms"}
    replayed = [{name: look[name] for name in look if name not in signals} for look in looks_of(rows)]
    assert replayed == [{name: look[name] for name in look if name not in signals} for look in ends]
    assert "averaged_accuracy" in replayed[-1] and "train_adversarial_accuracy" in replayed[-1]
    blind = project(tmp_path / "b", {"images": 12})
    models = [path for path in hashes(made, "train_robust_teacher") if path.startswith("models/")]
    assert models and all(hashes(made)[path] == hashes(blind)[path] for path in models)


def test_roll_backs_are_told_and_end_in_a_stop(tmp_path, capsys):
    changes = [{"method.attack.steps": 3}, {"method": {"label_smoothing": "1/10"}}]
    made = project(tmp_path, {"action": "roll_back", "changes": changes} | ALWAYS)
    lines = [event["text"] for event in journal(made) if event["event"] == "note"]
    alarms = [line.split(": ") for line in lines if line.startswith("sentinel: epoch")]
    assert [line[1] for line in alarms] == ["epoch 0.67"] * 3
    assert [line[-1] for line in alarms] == [
        "rolled back to epoch 0, method.attack.steps 3",
        "rolled back to epoch 0, method.label_smoothing 1/10",
        "stopped",
    ]
    assert all(line in capsys.readouterr().out for line in lines[:1])
    tags = {key: value for event in journal(made) if event["event"] == "tags" for key, value in event["tags"].items()}
    told = {key: value for key, value in tags.items() if key.startswith("sentinel.")}
    assert told == {"sentinel.alarms": "3", "sentinel.roll_backs": "2", "sentinel.stopped": "True"}
    events = read_json(made / "curves/robust_teacher.sentinel.json")["events"]
    assert [(event["action"], event["back_to"], event["change"]) for event in events] == [
        ("roll_back", 0, changes[0]),
        ("roll_back", 0, changes[1]),
        ("stop", 0, None),
    ]
    metrics = read_json(made / "metrics/robust_teacher.json")
    # Three times two batches were trained and given up: their passes count.
    assert metrics["last"]["epoch"] == 0 and metrics["passes"]["forward"] > 0


def test_changes_come_on_top_of_each_other():
    changes = [{"method.attack.steps": 3}, {"method.label_smoothing": 0.1, "perturbation": {"gamma": 0.01, "start": 0}}]
    values = small_params(**{KEY: SENTINEL | {"action": "roll_back", "changes": changes}})
    settings = read(Params(values)).training
    assert [one.method.attack.steps for one in (settings, *settings.changed)] == [2, 3, 3]
    assert [one.method.label_smoothing for one in (settings, *settings.changed)] == [0, 0, 0.1]
    assert [one.section.perturbation is None for one in (settings, *settings.changed)] == [True, True, False]


@pytest.mark.parametrize(
    ("sentinel", "message"),
    [
        (
            {"action": "roll_back", "changes": [{"method.nois": 2}]},
            f"{KEY}.changes.0.method.nois: unknown key (allowed: ",
        ),
        ({"action": "roll_back", "changes": [{"noise": 2}]}, f"{KEY}.changes.0: no key 'noise' (allowed: "),
        (
            {"action": "roll_back", "changes": [{"recipe.epochs": 3}]},
            f"{KEY}.changes.0: cannot change 'recipe' (allowed: method, smoothing, perturbation)",
        ),
        (
            {"action": "roll_back", "changes": [{"method": {"name": "standard", "label_smoothing": 0}}]},
            f"{KEY}.changes.0.method: got {{'name': 'standard', 'label_smoothing': 0}}, want other fields of pgd_at",
        ),
        (
            {"action": "roll_back", "changes": [{"method": None}]},
            f"{KEY}.changes.0.method: got None, want other fields",
        ),
        ({"looks": 0}, f"{KEY}.looks: got 0, want at least 1"),
        ({"rules": RULES | {"gap": None}}, f"{KEY}.rules.gap: "),
        ({"rules": RULES | {"memory": 0}}, f"{KEY}.rules.memory: got 0, want at least 1"),
        ({"alarm_on": ["panic"]}, f"{KEY}.alarm_on.0: "),
        ({"action": "roll_back"}, f"{KEY}: got action 'roll_back' with 0 changes, want changes with 'roll_back'"),
        ({"lookz": 1}, f"{KEY}.lookz: unknown key (allowed: action, alarm_on, "),
    ],
    ids=str,
)
def test_mistakes_are_one_line(sentinel, message):
    with pytest.raises(InputError) as error:
        read(Params(small_params(**{KEY: SENTINEL | sentinel})))
    assert f"params.yaml: {message}" in str(error.value) and "\n" not in str(error.value)
