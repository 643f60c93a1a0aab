"""The check of a fast search is kept in the evaluation's journal, and refused searches with `compute.capture: on`."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components.evaluation import captured_search, engine
from components.evaluation.search_network import parity
from components.foundation.errors import InputError
from components.numerics.compute import Compute
from tests.parts.outside_files import SECTION, digits, evaluate_here, make_case, start_evaluation, write_images
from tests.parts.pipeline_files import finish

# A short evaluation with a search to check.
SHORT: dict[str, Any] = {
    "search": {"precision": "bfloat16", "compiled": False},
    "attacks": {"pgd": SECTION["attacks"]["pgd"]},
    "cascade": "none",
    "cascade_epsilons": [],
    "curve_epsilons": [0],
    "grid": {"epsilons": [], "attacks": {}},
    "transfer_attacks": [],
    "probe_images": 10,
}


class Stop(Exception):
    """An evaluation that ends here."""


class Checks:
    """What takes the place of the check: it counts, and may stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: int = 99, passed: bool = True) -> None:
        self.made, self.stop_at, self.passed = 0, stop_at, passed
        monkeypatch.setattr(engine, "parity", self)

    def __call__(self, *args: Any) -> dict[str, Any]:
        self.made += 1
        if self.made == self.stop_at:
            raise Stop
        return parity(*args) | {"passed": self.passed}


class Attacked(Exception):
    """The first attack begins."""


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return make_case(tmp_path / "case", **SHORT)


def units(folder: Path) -> list[str]:
    lines = (folder / "out/journal.jsonl").read_text().splitlines()[1:]
    return [json.loads(line)["unit"] for line in lines]


def results(folder: Path) -> dict[str, bytes]:
    names = ("outcomes.safetensors", "evaluation.json", "gallery.safetensors", "journal.jsonl")
    return {name: (folder / "out" / name).read_bytes() for name in names}


def until_the_first_attack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attack(*args: Any) -> None:
        raise Attacked

    monkeypatch.setattr(engine.Campaign, "run", attack)
    with pytest.raises(Attacked):
        evaluate_here(folder)


def test_a_stopped_evaluation_checks_no_search_twice(case, tmp_path, monkeypatch):
    whole = make_case(tmp_path / "whole", **SHORT)
    evaluate_here(whole)
    stopped = Checks(monkeypatch, stop_at=2)
    with pytest.raises(Stop):
        evaluate_here(case)
    assert [unit.rpartition("/")[0] for unit in units(case)] == ["parity/one"]
    again = Checks(monkeypatch)
    evaluate_here(case)
    assert (stopped.made, again.made) == (2, 1)
    assert results(case) == results(whole)
    evaluate_here(case)
    assert again.made == 1 and results(case) == results(whole)


@pytest.mark.slow
def test_a_killed_evaluation_checks_no_search_twice(case, monkeypatch):
    process = start_evaluation(case)
    deadline = time.monotonic() + 120
    while not (case / "out/journal.jsonl").exists() or len(units(case)) < 1:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    kept, again = sum(unit.startswith("parity/") for unit in units(case)), Checks(monkeypatch)
    assert kept
    evaluate_here(case)
    assert again.made == 2 - kept


def params(folder: Path, compute: dict[str, Any] | None = None, **section: Any) -> None:
    told = yaml.safe_load((folder / "small.yaml").read_text())
    told["compute"] |= compute or {}
    told["evaluate_attacks"] |= section
    (folder / "small.yaml").write_text(yaml.safe_dump(told))


def held_out(folder: Path, begin: int) -> None:
    names = ("held_out.images", "held_out.labels")
    parts = (part[begin : begin + 40].clone() for part in digits())
    write_images(folder / "images.safetensors", **dict(zip(names, parts, strict=True)))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder, patch: held_out(folder, 1600),
        lambda folder, patch: patch.setattr(engine, "resolved", lambda *_: "float32"),
        lambda folder, patch: patch.setattr(captured_search, "recorder_on", lambda device: lambda work, sample: work),
    ],
    ids=["held_out", "precision", "captured"],
)
def test_a_check_of_another_search_or_on_other_images_does_not_count(change, case, monkeypatch):
    """None of these is in the journal's key, since attacks may go on."""
    held_out(case, 1500)
    first = Checks(monkeypatch)
    until_the_first_attack(case, monkeypatch)
    until_the_first_attack(case, monkeypatch)
    assert first.made == 2
    change(case, monkeypatch)
    until_the_first_attack(case, monkeypatch)
    assert first.made == 4


def test_attacks_with_and_without_replays_are_not_mixed(case, monkeypatch):
    checks = Checks(monkeypatch)
    until_the_first_attack(case, monkeypatch)
    params(case, {"capture": "off"})
    with pytest.raises(InputError, match=r"a journal of another evaluation: captured was True, is False"):
        evaluate_here(case)
    # The same numbers, or none.
    params(case, {"capture": "on"})
    monkeypatch.setattr(Compute, "prepare", lambda self: torch.device("cpu"))
    until_the_first_attack(case, monkeypatch)
    assert checks.made == 2


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("passed", [True, False])
def test_a_refused_search_is_not_captured_and_on_says_so(mode, passed, case, monkeypatch, capsys):
    """As is one that never was one, before anything is written."""
    Checks(monkeypatch, passed=passed)
    monkeypatch.setattr(captured_search, "recorder_on", lambda device: lambda work, sample: work)
    monkeypatch.setattr(Compute, "prepare", lambda self: torch.device("cpu"))
    params(case, {"capture": mode})
    if mode == "on" and not passed:
        with pytest.raises(InputError) as refused:
            evaluate_here(case)
        why = "one: its bfloat16 search is refused (auto goes on without)"
        assert str(refused.value) == f"compute.capture: got 'on', but {why}"
    else:
        until_the_first_attack(case, monkeypatch)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("capture: ")]
    refusals = [
        f"capture: passes of attacks are not captured: {n}: its bfloat16 search is refused" for n in ("one", "two")
    ]
    assert lines == (refusals if mode == "auto" and not passed else [])


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_float32_search_is_told_once_for_all_models_or_refused(mode, case, monkeypatch, capsys):
    monkeypatch.setattr(captured_search, "recorder_on", lambda device: lambda work, sample: work)
    monkeypatch.setattr(Compute, "prepare", lambda self: torch.device("cpu"))
    params(case, {"capture": mode}, search=SECTION["search"])
    why = "the search is the float32 network itself (search.precision)"
    if mode == "on":
        with pytest.raises(InputError) as refused:
            evaluate_here(case)
        assert str(refused.value) == f"compute.capture: got 'on', but {why} (auto goes on without)"
        assert not (case / "out/journal.jsonl").exists()
        return
    until_the_first_attack(case, monkeypatch)
    assert capsys.readouterr().out.splitlines().count(f"capture: passes of attacks are not captured: {why}") == 1
