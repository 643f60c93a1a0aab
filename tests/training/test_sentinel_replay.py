"""The sentinel's rules that need a whole run, and the replay of finished runs: by hand, on curves short enough."""

from dataclasses import replace
from typing import Any

import pytest

from components.foundation.storage import read_csv, write_csv
from components.training.sentinel.replay import lead_times, looks_of, replay
from components.training.sentinel.rules import RULES, RuleName, Rules, alarms
from tests.parts.sentinel_fields import RULES as RULE_FIELDS

THRESHOLDS = Rules(**RULE_FIELDS | {"stride": (0.1, 0.3), "memory": 3, "widening": 0.1, "window": 2, "decline": 0.02})
WAVES = (0.0, 0.01, -0.01, 0.008, -0.012, 0.004)


def looks(**columns: list[float | None]) -> list[dict[str, float]]:
    """A look an epoch, from 1, of these signals; None: not known then. FGSM accuracy is 5 points above if not named."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    known = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return [{"epoch": epoch, "fgsm_accuracy": row["pgd_accuracy"] + 0.05, **row} for epoch, row in enumerate(known, 1)]


def epochs(rule: RuleName, seen: list[dict[str, float]], **changes: Any) -> list[float]:
    """When the rule alarms."""
    heard = replay(seen, replace(THRESHOLDS, **changes), (rule,))
    return [look["epoch"] for look, names in zip(seen, heard, strict=True) if names == [rule]]


def test_a_collapse_needs_no_gap_and_something_that_was_learned():
    slow = looks(pgd_accuracy=[0.3, 0.4, 0.3, 0.25, 0.19, 0.15, 0.25])
    assert epochs("collapse", slow) == [5, 6] and epochs("catastrophic", slow) == []
    assert epochs("collapse", slow, collapse=0.7) == [4, 5, 6, 7]
    assert epochs("collapse", looks(pgd_accuracy=[0.04, 0.05, 0.01])) == []


def test_a_gap_widens_against_its_own_past():
    # It is 20 points from the start, which says nothing; then it opens.
    seen = looks(pgd_accuracy=[0.4] * 6, fgsm_accuracy=[0.6, 0.61, 0.59, 0.68, 0.74, 0.74])
    assert epochs("widening", seen) == [5]  # 0.34 against (0.21 + 0.19 + 0.28) / 3 = 0.227; then against 0.27.
    assert epochs("widening", seen, widening=0.0799) == [4, 5]
    assert epochs("widening", seen, memory=5, widening=0.095) == [6]
    assert epochs("widening", looks(pgd_accuracy=[0.4, 0.1, 0.1])) == []
    # The first looks of a run, whose gap grows from nothing, are not asked.
    assert epochs("widening", looks(pgd_accuracy=[0.1, 0.1, 0.1], fgsm_accuracy=[0.1, 0.1, 0.5])) == []


def test_what_an_average_hides_is_seen_at_the_ends_of_epochs():
    seen = looks(pgd_accuracy=[0.4, 0.1, 0.05, 0.05, 0.3], averaged_accuracy=[0.5, 0.5, 0.5, None, 0.5])
    assert epochs("hidden", seen) == [3, 4]
    # An average that has learned nothing yet hides nothing.
    assert epochs("hidden", looks(pgd_accuracy=[0.0], averaged_accuracy=[0.04])) == []


def test_robust_overfitting_is_a_lasting_decline_while_training_images_are_better_defended():
    held_out: list[float | None] = [0.4, 0.44, 0.46, 0.44, 0.44, 0.4, 0.44]
    rising: list[float | None] = [0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
    # Means of two: 0.42, 0.45, 0.45, 0.44, 0.42, 0.42.
    assert epochs("robust_overfitting", looks(pgd_accuracy=held_out, train_adversarial_accuracy=rising)) == [6, 7]
    falling = [*rising[:4], 0.5, 0.45, 0.4]
    assert epochs("robust_overfitting", looks(pgd_accuracy=held_out, train_adversarial_accuracy=falling)) == []
    assert epochs("robust_overfitting", looks(pgd_accuracy=held_out)) == []


def test_looks_within_epochs_change_nothing_about_rules_of_epochs():
    ends = looks(pgd_accuracy=[0.46, 0.46, 0.4, 0.4], train_adversarial_accuracy=[0.4, 0.5, 0.6, 0.7])
    within = {"epoch": 2.5, "pgd_accuracy": 0.0, "fgsm_accuracy": 0.0}
    assert epochs("robust_overfitting", [*ends[:2], within, *ends[2:]]) == [3, 4]


def test_pert_align_is_a_share_of_its_recent_past():
    assert epochs("pert_align", looks(pgd_accuracy=[0.4] * 4, pert_align=[0.9, 0.8, 0.4, 0.5])) == [3]


@pytest.mark.parametrize("memory, window", [(8, 12), (3, 4)])
def test_noise_of_a_healthy_run_alarms_nobody(memory, window):
    levels = [0.2 + 0.3 * epoch / 40 + WAVES[epoch % 6] for epoch in range(40)]
    trained = [0.2 + 0.4 * epoch / 40 for epoch in range(40)]
    averaged = [level + 0.03 for level in levels]
    gaps = [0.02 + 0.03 * epoch / 40 + WAVES[(epoch + 2) % 6] for epoch in range(40)]
    seen = looks(
        pgd_accuracy=[*levels],
        fgsm_accuracy=[level + gap for level, gap in zip(levels, gaps, strict=True)],
        averaged_accuracy=[*averaged],
        train_adversarial_accuracy=[*trained],
    )
    rules = Rules(**RULE_FIELDS | {"stride": (0.1, 0.3), "memory": memory, "window": window})
    assert not any(replay(seen, rules))


def test_a_replay_says_at_each_look_what_was_said_live():
    seen = looks(pgd_accuracy=[0.4, 0.4, 0.4, 0.4, 0.1, 0.4], fgsm_accuracy=[0.5, 0.5, 0.5, 0.5, 0.8, 0.5])
    heard = replay(seen, THRESHOLDS)
    assert heard == [alarms(seen[:count], THRESHOLDS) for count in range(1, 7)]
    assert heard[4] == ["collapse", "catastrophic", "fall", "gap", "widening"] and not any(heard[:4] + heard[5:])


def test_leads_are_counted_to_a_collapse_that_has_no_gap():
    leads = lead_times(looks(pgd_accuracy=[0.4, 0.4, 0.15, 0.1]), THRESHOLDS)
    assert set(leads) == set(RULES)
    assert leads["collapse"] == (3, 0, 0) and leads["fall"] == (3, 0, 0) and leads["catastrophic"] == (None, None, 0)


def test_looks_come_out_of_a_curves_file(tmp_path):
    rows = [
        {"epoch": 0, "clean_accuracy": 0.1, "robust_accuracy": 0.1},
        {"epoch": 1, "clean_accuracy": 0.6, "robust_accuracy": 0.3, "train_loss": 1.5}
        | {"train_adversarial_accuracy": 0.3, "ntk_adversarial_effective_rank": 8.0},
        {"epoch": 3, "clean_accuracy": 0.7, "robust_accuracy": 0.4, "pert_align": 0.9}
        | {"ntk_adversarial_effective_rank": 4.0, "ntk_adversarial_distance_previous": 0.5},
    ]
    write_csv(tmp_path / "plain.csv", rows)
    plain = looks_of(read_csv(tmp_path / "plain.csv"))
    assert plain[1] == {
        "epoch": 1,
        "clean_accuracy": 0.6,
        "pgd_accuracy": 0.3,
        "train_loss": 1.5,
        "train_adversarial_accuracy": 0.3,
        "kernel_rank": 8.0,
    }
    assert (plain[2]["kernel_velocity"], plain[2]["kernel_rank"], plain[2]["pert_align"]) == (0.25, 4.0, 0.9)
    watched = {"sentinel_pgd_accuracy": 0.2, "sentinel_averaged_accuracy": 0.3, "sentinel_share": 0.1}
    write_csv(tmp_path / "watched.csv", [row | watched for row in rows])
    first, *_ = looks_of(read_csv(tmp_path / "watched.csv"))
    assert first == {"epoch": 0, "pgd_accuracy": 0.2, "averaged_accuracy": 0.3}
