"""A study's document from made-up evaluations: means, paired differences and their correction, by hand."""

from statistics import fmean, pstdev
from typing import Any

import pytest
import torch

from components.foundation.errors import InputError
from components.reports.robustness.contents import Transfer
from components.reports.study.contents import LeadTime, SentinelEvent, SentinelRecord, StudyPlan, StudyRun
from components.reports.study.document import RunFiles, build
from components.reports.study.tables import leads, leaks, markdown, nrr, trade_offs, transfer
from components.statistics.documents import document_of
from components.statistics.intervals import holm, paired, spread
from components.statistics.number_text import percent
from components.statistics.outcomes import share
from tests.parts.evaluation_files import built, evaluation, outcomes

MODELS = ["best", "last"]
CURVE = [{"epoch": str(epoch), "clean_accuracy": "0.5", "robust_accuracy": "0.25"} for epoch in range(3)]
METRICS = {"best": {"epoch": 1}, "last": {"epoch": 2}, "passes": {"forward": 3, "backward": 2}, "num_parameters": 7}
LEADS = {("one", 0): 1.5, ("one", 1): None, ("two", 0): -2, ("two", 1): None}


def run(name: str, seed: int) -> StudyRun:
    facts = {"trained": "t", "evaluated": "e", "seconds": 1.0, "code": "c", "section": {}}
    return StudyRun(name=name, arm=name, variant="", role="student", seed=seed, **facts)


def plan(**changes: Any) -> StudyPlan:
    runs = [run(name, seed).model_dump() for name in ("one", "two") for seed in (0, 1)]
    words = {"study": "toy", "scale": "cpu", "question": "Which?", "claim": "None.", "role": "student"}
    choices = {"robust": "pgd_sat", "figure": "points", "transfer": "last"}
    more = {"pairs": [["one", "two"], ["one", "absent"]], "runs": runs, "transfers": {}}
    return document_of(StudyPlan, words | choices | more | changes, "plan.json")


def finding(name: str, seed: int) -> RunFiles:
    found = outcomes(60, torch.Generator().manual_seed(seed + 10 * len(name) + (name == "two")), MODELS)
    lead = LEADS[name, seed]
    events = [SentinelEvent(epoch=2, rules=["gap"], action="note", line="")]
    rules = {
        "catastrophic": LeadTime(first=None, lead=None if lead is None else 0.0, false_alarms=0),
        "gap": LeadTime(first=2, lead=lead, false_alarms=int(lead is None and seed == 1 and name == "one")),
    }
    watched = SentinelRecord(events=events, leads=rules)
    return RunFiles(run(name, seed), built(evaluation(60, MODELS), found), found, CURVE, METRICS, watched)


FINDINGS = [finding(name, seed) for name in ("one", "two") for seed in (0, 1)]


def test_means_and_paired_differences_follow_from_the_outcomes() -> None:
    study = build(plan(), FINDINGS, {})
    assert list(study.arms) == ["one", "two"] and list(study.arms["one"].seeds) == ["0", "1"]
    values = [seed.last["pgd_sat"].value for seed in study.arms["two"].seeds.values()]
    mean = study.arms["two"].over_seeds["last"]["pgd_sat"]
    assert (mean.mean, mean.n) == (pytest.approx(spread(values).mean, abs=1e-6), 2)
    assert list(study.arms["one"].seeds["0"].best) == list(study.arms["one"].over_seeds["best"])
    assert [(p.a, p.b, p.checkpoint, p.condition) for p in study.pairs] == [
        ("one", "two", checkpoint, condition) for checkpoint in MODELS for condition in ("clean", "pgd_sat")
    ]
    one, two = FINDINGS[:2], FINDINGS[2:]
    for pair in study.pairs:
        name = f"{pair.checkpoint}/{pair.condition}"
        want = [paired(a.outcomes[name], b.outcomes[name]) for a, b in zip(one, two, strict=True)]
        corrected = holm([found.p for found in want])
        for got, found, p in zip(pair.seeds.values(), want, corrected, strict=True):
            assert (got.value, got.p, got.p_corrected) == pytest.approx((found.value, found.p, p), rel=1e-5)
        assert pair.over_seeds.mean == pytest.approx(sum(found.value for found in want) / 2, abs=1e-6)


def test_students_have_both_accuracies_in_one_number() -> None:
    study = build(plan(), FINDINGS, {})
    rows = trade_offs(study)
    assert [row[:2] for row in rows[1:]] == [[name, kind] for name in ("one", "two") for kind in MODELS]
    seeds = [seed.last for seed in study.arms["two"].seeds.values()]
    both = [(one["clean"].value, one["pgd_sat"].value) for one in seeds]
    means, harmonic = [(c + r) / 2 for c, r in both], [1 / ((1 / c + 1 / r) / 2) for c, r in both]
    for cell, values in zip(rows[-1][2:], (means, harmonic), strict=True):
        assert cell.startswith(percent(sum(values) / 2)) and cell.endswith(f"({', '.join(map(percent, values))})")
    assert "## Accuracy and robustness in one number" in markdown(study)
    assert "in one number" not in markdown(build(plan(role="robust_teacher"), FINDINGS, {}))
    assert nrr(0.0, 0.0) == 0 and nrr(0.5, 0.0) == 0


def test_students_are_compared_in_w_robust_on_the_same_images() -> None:
    study = build(plan(), FINDINGS, {})
    assert [(one.a, one.b, one.checkpoint) for one in study.trade_offs] == [("one", "two", kind) for kind in MODELS]
    for pair in study.trade_offs:
        for seed, (a, b) in enumerate(zip(FINDINGS[:2], FINDINGS[2:], strict=True)):
            right = [[one.outcomes[f"{pair.checkpoint}/{name}"] for name in ("clean", "pgd_sat")] for one in (a, b)]
            each = [
                (int(bc) + int(br) - int(ac) - int(ar)) / 2 for ac, ar, bc, br in zip(*right[0], *right[1], strict=True)
            ]
            half = 1.959964 * pstdev(each) / len(each) ** 0.5
            found = pair.seeds[str(seed)]
            want = fmean(each), fmean(each) - half, fmean(each) + half
            assert (found.value, found.low, found.high) == pytest.approx(want, abs=1e-6) and found.n == 60
        assert pair.over_seeds.mean == pytest.approx(fmean(one.value for one in pair.seeds.values()), abs=1e-6)
    assert "## Paired differences in W-Robust" in markdown(study)
    assert not build(plan(role="robust_teacher"), FINDINGS, {}).trade_offs


def test_a_curve_keeps_the_balances_of_a_student() -> None:
    row = {"temperature_robust": "0.5", "weight_clean": "0.25", "weight_robust": ""}
    study = build(plan(), [one._replace(curve=[line | row for line in CURVE]) for one in FINDINGS], {})
    points = study.arms["one"].seeds["0"].curve
    assert all(point.balance == {"temperature_robust": 0.5, "weight_clean": 0.25} for point in points)


def test_leads_are_counted_to_a_collapse_with_or_without_a_gap() -> None:
    leads_of = {
        "collapse": LeadTime(first=4, lead=0, false_alarms=0),
        "catastrophic": LeadTime(first=None, lead=None, false_alarms=0),
    }
    slow = FINDINGS[0]._replace(sentinel=SentinelRecord(events=[], leads=leads_of))
    study = build(plan(), [slow, *FINDINGS[1:]], {})
    assert leads(study)[1] == ["collapse", "1", "+0", "0", "0", "0"]
    # The other records, which have no `collapse`, say the same of theirs as before.
    assert leads(study)[2] == ["catastrophic", "2", "+0", "1", "2", "0"]


def test_the_tables_say_what_the_seeds_say() -> None:
    matrix = {s: {t: share(torch.tensor([1, 0, s == t, 0])) for t in ("one", "two")} for s in ("two", "one")}
    kinds = {"accuracy": {"fgsm": matrix}, "fooling": {}, "attacks": {"fgsm": "Fgsm()"}}
    study = build(plan(), FINDINGS, {"0": Transfer(**kinds), "1": Transfer(**kinds)})
    assert transfer(study, "fgsm") == [["made for", "one", "two"], ["two", "25.0", "50.0"], ["one", "50.0", "25.0"]]
    # Both arms collapsed with seed 0: one had 1.5 epochs of warning, the other was told 2 epochs after.
    rows = [["catastrophic", "2", "+0, +0", "0", "2", "0"], ["gap", "2", "+1.5, −2", "0", "2", "1"]]
    assert leads(study)[1:] == rows
    head, *arms = leaks(study)
    assert head == ["arm", "ε = 1/20", "ε = 1/10", "ε = 51/255", "ε = 102/255"] and len(arms) == 2
    text = markdown(study)
    parts = ("Course", "Lead times", "Paired differences", "Label leaking", "Transfer, FGSM")
    assert all(f"## {part}" in text for part in parts)


def test_arms_that_cannot_stand_in_one_table_are_refused() -> None:
    other = built(evaluation(60, MODELS) | {"dataset": "squares"}, outcomes(60, torch.Generator(), MODELS))
    with pytest.raises(InputError, match="two-1: another dataset than one-0, so no table of both"):
        build(plan(), [*FINDINGS[:3], FINDINGS[3]._replace(robustness=other)], {})
    with pytest.raises(InputError, match="one-0: robust: unknown 'square'"):
        build(plan(robust="square"), FINDINGS, {})
    turned = FINDINGS[2].outcomes | {"labels": torch.zeros(60)}  # type: ignore[operator]
    with pytest.raises(InputError, match="other test images"):
        build(plan(), [*FINDINGS[:2], FINDINGS[2]._replace(outcomes=turned)], {})
    with pytest.raises(InputError, match=r"plan\.json: figure: input should be 'curves', .*, got 'pie'"):
        plan(figure="pie")
