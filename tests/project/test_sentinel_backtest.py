"""The back-test of the sentinel counts what it says: kinds of runs, the split, leads, misses and false alarms."""

import gzip
import hashlib
import json
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from benchmarks import sentinel_backtest as backtest
from benchmarks.sentinel_backtest import BASE, DEFAULT, Detector, count
from benchmarks.sentinel_runs import Run, Truth, given, public, split, truth, with_fewer
from components.foundation.errors import InputError
from components.foundation.params import typed
from components.foundation.storage import write_csv, write_json
from components.training.sentinel.rules import RuleName, Rules
from tests.parts.sentinel_fields import RULES

COLLAPSE = Detector((("collapse", BASE),))
FALL = Detector((("fall", BASE),))
RISE = [0.1 + 0.02 * epoch for epoch in range(16)]  # To 40 %.


def looks(levels: list[float], **columns: list[float]) -> list[dict[str, float]]:
    return [
        {"epoch": epoch, "pgd_accuracy": level, **{name: values[epoch - 1] for name, values in columns.items()}}
        for epoch, level in enumerate(levels, 1)
    ]


def run(name: str, levels: list[float], group: str = "a", **columns: list[float]) -> Run:
    return Run(name, group, name, looks(levels, **columns))


@pytest.mark.parametrize(
    ("levels", "want"),
    [
        (RISE, Truth("healthy")),
        ([*RISE, 0.19, 0.1], Truth("collapse", start=17, collapse=17, lasting=False)),
        ([*RISE, 0.19, 0.1, 0.1], Truth("collapse", start=17, collapse=17, lasting=True)),
        # 0.365 is still above 90 %; from 0.35 on it falls for four epochs.
        ([*RISE, 0.365, 0.35, 0.3, 0.25, 0.19, 0.1, 0.1], Truth("collapse", 18, 21, slow=True, lasting=True)),
        ([*RISE, 0.38, 0.3, 0.25, 0.19, 0.4, 0.4], Truth("collapse", 18, 20)),
        # Half of it is not below half, and 5 % is nothing that could be lost.
        ([*RISE, 0.2, 0.4, 0.4], Truth("healthy")),
        ([0.05, 0.01, 0.05, 0.05], Truth("healthy")),
    ],
)
def test_what_a_collapse_is(levels, want):
    assert truth(looks(levels)) == want


def test_what_robust_overfitting_is():
    levels = [*RISE, *[0.4] * 4, 0.38, 0.37, 0.36, 0.36, 0.36, 0.36]  # 0.4 for epochs 16 to 20, then the decline.
    trained = [0.1 + 0.02 * epoch for epoch in range(len(levels))]
    assert truth(looks(levels, train_adversarial_accuracy=trained)) == Truth("overfitting", start=21)
    assert truth(looks(levels, train_adversarial_accuracy=trained[::-1])) == Truth("healthy")
    assert truth(looks(levels)) == Truth("healthy")
    # Three points are not more than three points.
    small = [*RISE, *[0.4] * 4, *[0.375] * 6]
    assert truth(looks(small, train_adversarial_accuracy=trained)) == Truth("healthy")
    # Looks within an epoch and before training are not asked.
    extra = [{"epoch": 0, "pgd_accuracy": 0.9}, *looks(RISE), {"epoch": 16.5, "pgd_accuracy": 0.0}]
    assert truth(extra) == Truth("healthy")


def test_the_split_is_stable_and_by_kind():
    runs = [run(f"{group}/{n}", RISE, group) for group in "ab" for n in range(9)]
    runs += [run(f"{group}/sick/{n}", [*RISE, 0.1], group) for group in "ab" for n in range(4)]
    learn, judge = split(runs)
    names = [one.id for one in learn]
    assert len(learn) == 2 * (3 + 2) and len(judge) == 2 * (6 + 2)
    assert [sum(name.startswith("a/sick") for name in names), sum(name.startswith("b/sick") for name in names)] == [
        2,
        2,
    ]
    # Neither the order of the runs nor another data set changes who is where.
    assert {one.id for one in split(runs[::-1])[0]} == set(names)
    assert {one.id for one in split([one for one in runs if one.group == "a"])[0]} == {n for n in names if n[0] == "a"}
    first = min((f"a/{n}" for n in range(9)), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert first in names


def test_leads_misses_and_false_alarms_by_hand():
    runs = [
        run("at once", [*RISE, 0.1]),  # Falls by 30 points at 17, which is the collapse.
        run("in two", [*RISE, 0.21, 0.1]),  # Falls by 19 points at 17; a collapse at 18.
        run("in two again", [*RISE, 0.41, 0.206, 0.1]),  # Falls by 20.4 points at 18; a collapse at 19.
        run(
            "at the beginning", [0.3, 0.05, *RISE, *[0.4] * 20, 0.1]
        ),  # A collapse at 2; what comes later is not asked.
        run("healthy", RISE),
        run("shaken", [*RISE, 0.205, 0.4]),
        run("overfitted", [*RISE, *[0.4] * 4, *[0.3] * 6], train_adversarial_accuracy=[0.01 * n for n in range(26)]),
    ]
    kinds = [truth(one.looks).kind for one in runs]
    assert kinds == ["collapse"] * 4 + ["healthy"] * 2 + ["overfitting"]
    told = count(COLLAPSE, runs)
    assert (told.sick, told.hits, told.missed, told.premature, told.leads) == (4, 4, 0, 0, (0, 0, 0, 0))
    assert (told.healthy, told.false_alarms, told.early) == (2, 0, 0)
    lenient = Detector((("fall", replace(BASE, fall=0.17)),))
    told = count(lenient, runs)
    assert told.leads == (1, 1, 0, 0) and told.early == 2 and (told.healthy, told.false_alarms) == (2, 1)


def test_alarms_far_from_a_collapse_are_no_hits():
    steady = [*RISE, *[0.4] * 20]
    shaken = [*RISE, 0.21, *[0.4] * 20, 0.1]  # A fall of 19 points at 17, a collapse at 38.
    slow = [*steady, 0.3, 0.25, 0.22, 0.19, 0.17, 0.16, 0.15]  # A collapse at 40; nothing falls by 19 points.
    late = [*steady, 0.3, 0.25, 0.22, 0.19, 0.17, 0.4, 0.1]  # The same; falls by 30 points at 43.
    soon = [*steady, 0.3, 0.25, 0.22, 0.19, 0.4, 0.1]  # The same at 42.
    detector = Detector((("fall", replace(BASE, fall=0.185)),))
    told = count(detector, [run(str(n), levels) for n, levels in enumerate((shaken, slow, late, soon))])
    assert (told.sick, told.premature, told.missed, told.hits, told.leads) == (4, 1, 2, 1, (-2,))
    assert (told.slow, told.slow_hits) == (3, 1)


def test_robust_overfitting_is_counted_by_the_epochs_that_are_left():
    levels, trained = [*RISE, 0.35, *[0.4] * 8, *[0.3] * 15], [0.01 * epoch for epoch in range(40)]
    detector = Detector((("robust_overfitting", replace(BASE, window=2, decline=0.06)),))
    # Means of two: below 0.34 from the second epoch at 0.3 on, which is the 27th of 40.
    told = count(detector, [run("one", levels, train_adversarial_accuracy=trained), run("no signal", levels)])
    assert (told.sick, told.hits, told.leads, told.healthy) == (1, 1, (13,), 0)
    # The dip at 17 is before the best five epochs.
    eager = Detector((("robust_overfitting", replace(BASE, window=1, decline=-1.0)),))
    assert count(eager, [run("one", levels, train_adversarial_accuracy=trained)]).premature == 1


def test_two_rules_are_joined_by_looks():
    seen = run("one", [*RISE, 0.3, 0.1], fgsm_accuracy=[*RISE, 0.5, 0.4])
    rules: tuple[tuple[RuleName, Rules], ...] = (("fall", BASE), ("gap", BASE))
    assert Detector((("fall", replace(BASE, fall=0.15)),)).first(seen) == 18
    assert Detector(rules, "or").first(seen) == 17
    lenient: tuple[tuple[RuleName, Rules], ...] = (("fall", replace(BASE, fall=0.15)), ("gap", BASE))
    assert Detector(lenient, "and").first(seen) == 18
    blind = run("two", [*RISE, 0.3, 0.1])
    assert Detector(rules, "or").sees(blind) and not Detector(rules, "and").sees(blind)


def test_a_family_that_is_judged_is_not_learned_from(monkeypatch):
    learn, judge = ([run(name, RISE) for name in names] for names in ("abc", "bd"))
    asked: list[list[str]] = []

    def best(runs, choices):
        asked.append([one.family for one in runs])
        return COLLAPSE

    monkeypatch.setattr(backtest, "best", best)
    assert backtest.left_out("collapse", learn, judge).healthy == 2 and asked == [["a", "c"], ["a", "b", "c"]]


def test_fewer_images_waver_as_they_should(monkeypatch):
    whole = run("one", [0.3] * 200, fgsm_accuracy=[0.5] * 200)
    monkeypatch.setattr(backtest, "DRAWS", 1)
    drawn = with_fewer(whole, 100, seed=0)
    assert drawn.looks == with_fewer(whole, 100, seed=0).looks != with_fewer(whole, 100, seed=1).looks
    gaps = [look["fgsm_accuracy"] - look["pgd_accuracy"] for look in drawn.looks]
    levels = [look["pgd_accuracy"] for look in drawn.looks]
    assert fmean(gaps) == pytest.approx(0.2, abs=0.01) and fmean(levels) == pytest.approx(0.3, abs=0.01)
    assert stdev(gaps) == pytest.approx(0.04, abs=0.008) and stdev(levels) == pytest.approx(0.046, abs=0.008)
    points = backtest.fewer_images([whole])
    # A gap of 20 % at 100 images wavers by 4 points, at 500 by 1.8.
    alarmed = {(one["images"], one["widening"]): one["false_alarms"] / one["healthy"] for one in points}
    assert alarmed[100, 0.05] == 1 and alarmed[500, 0.15] == 0 and len(alarmed) == 18


def test_few_healthy_runs_show_no_rate():
    one = count(FALL, [run(str(n), RISE) for n in range(60)])
    rate = one.per_100()
    assert isinstance(rate, dict) and rate["value"] == rate["low"] == 0
    assert rate["high"] == pytest.approx(100 * (1 - 0.025 ** (1 / 60)))
    assert one._replace(healthy=59).per_100() == "not shown"


def test_what_is_written_down_is_what_the_page_and_the_tests_say():
    assert typed(Rules, RULES, "rules") == BASE and DEFAULT == ("collapse", "widening")


@pytest.fixture
def curves(tmp_path):
    """Two data sets of three methods with three seeds; the last method collapses, one epoch after its gap opens."""

    def seed(collapses: bool, number: int) -> dict[str, list[float]]:
        pgd = [level + 0.001 * number for level in RISE]
        fgsm = [level + 0.02 for level in pgd]
        if collapses:
            pgd, fgsm = [*pgd, 0.36, 0.1, 0.1, 0.1], [*fgsm, 0.47, 0.6, 0.6, 0.6]
        else:
            pgd, fgsm = [*pgd, *[0.4] * 4], [*fgsm, *[0.42] * 4]
        return {
            "model_pgd_acc_list": pgd,
            "model_fgsm_acc_list": fgsm,
            "model_val_acc_list": fgsm,
            "train_acc_list": fgsm,
            "wa_pgd_acc_list": [],
        }

    methods = {"calm": False, "quiet": False, "wild": True}
    content = {
        dataset: {m: {"seeds": {str(n): seed(bad, n) for n in range(3)}} for m, bad in methods.items()}
        for dataset in ("a", "b")
    }
    path = tmp_path / "curves.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


def test_from_files_to_a_table(curves, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(backtest, "FEWER", (100,))
    monkeypatch.setattr(backtest, "DRAWS", 1)
    out = tmp_path / "out.json"
    write_csv(
        tmp_path / "runs/one/curves/student.csv",
        [{"epoch": n, "clean_accuracy": 0.9, "robust_accuracy": level} for n, level in enumerate([*RISE, 0.1])],
    )
    backtest.main(["--curves", str(curves), "--runs", str(tmp_path / "runs"), "--out", str(out)])
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["kinds"]["judge"]["together"] == {
        "collapse": 2,
        "slow": 0,
        "lasting": 2,
        "overfitting": 0,
        "healthy": 8,
    }
    # Of three sick runs of a data set two are learned from, as of six healthy ones.
    default = result["written_down"]["default"]["judge"]
    assert default["together"]["leads"] == [1, 1] and default["a"]["sick"] == 1
    assert default["together"]["false_per_100"] == "not shown"
    assert "| default: collapse or widening | collapse 0.5, widening 0.075, memory 8 | 2 | 0 | 0 | 2 | 1 |" in printed
    assert result["rules"]["hidden"]["judge"] == result["rules"]["pert_align"]["roc"] == "not shown"
    # Nothing is learned from the method that is judged, so nothing of it is known.
    assert result["left_out"]["collapse"]["healthy"] == 8 and len(result["rules"]["gap"]["roc"]) == 10
    assert result["others"]["collapse"]["together"]["leads"] == [0]
    before = out.read_bytes()
    backtest.main(["--curves", str(curves), "--learn-only", "--out", str(out)])
    assert "together: collapse 4" in capsys.readouterr().out and out.read_bytes() == before


def test_a_wrong_file_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.json").write_text('{"a": {"b": 3}}')
    with pytest.raises(SystemExit) as ended:
        backtest.main(["--curves", str(tmp_path / "bad.json")])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    for path in ("none.json", "none.json.gz"):
        with pytest.raises(InputError, match="not readable"):
            public(tmp_path / path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="no curves/MODEL"):
        given(tmp_path / "runs")


def test_runs_of_this_project_are_read(tmp_path):
    rows = [{"epoch": n, "clean_accuracy": 0.9, "robust_accuracy": 0.3} for n in range(3)]
    for role in ("clean_teacher", "robust_teacher"):
        write_csv(tmp_path / f"x/curves/{role}.csv", rows)
    seen = [{"epoch": 0.5 * n, "pgd_accuracy": 0.2, "dropped": n == 3, "attempt": 0, "alarms": []} for n in range(5)]
    write_json(tmp_path / "x/curves/robust_teacher.sentinel.json", {"looks": seen, "events": []})
    (one,) = given(tmp_path)
    assert one.id == "x/curves/robust_teacher" and [look["epoch"] for look in one.looks] == [0, 0.5, 1, 2]
    assert one.looks[0] == {"epoch": 0, "pgd_accuracy": 0.2}
    curve = [{"epoch": n, "clean_accuracy": 0.9, "robust_accuracy": 0.3, "balance": {}} for n in range(3)]
    study = {"schema": "temper/study/1", "study": "s", "role": "robust_teacher"}
    write_json(tmp_path / "cpu.json", study | {"arms": {"arm": {"seeds": {"0": {"curve": curve}}}}})
    (one,) = given(tmp_path / "cpu.json")
    assert one.id == "s/arm/0" and one.looks[2] == {"epoch": 2, "clean_accuracy": 0.9, "pgd_accuracy": 0.3}
