"""What is read from a kernel's curves: made-up runs whose phases, jumps and wasted epochs are known beforehand."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest

from components.reports.robustness.kernel_phases import (
    KernelCurve,
    KernelReading,
    Limits,
    find_idle,
    jump_scores,
    kernel_curve,
    read_kernel,
)
from components.reports.robustness.kernel_reading import readings, sentences
from components.statistics.documents import as_json, document_of

# Slowing down, lazy at 6, a jump from 12 to 14 as at a drop of the learning rate, lazy again.
VELOCITIES = (0.1, 0.05, 0.03, 0.004, 0.003, 0.002, 0.04, 0.003, 0.002)
EPOCHS = (0, 0.5, 2, 6, 8, 10, 12, 14, 16, 20)
RANKS = (40, 38, 30, 20, 19, 18, 17, 25, 24, 23.4)


def curve(
    velocities: Sequence[float] = VELOCITIES,
    epochs: Sequence[float] = EPOCHS,
    robust: Sequence[float] = (),
    clean: Sequence[float] = (),
) -> KernelCurve:
    """Accuracies are of the probes' epochs; the robust ones rise without them, the clean ones do not."""
    distances = [speed * (end - start) for speed, start, end in zip(velocities, epochs[:-1], epochs[1:], strict=True)]
    accuracies = zip(clean or [0.5] * len(epochs), robust or [0.01 * n for n in range(len(epochs))], strict=True)
    ranks = RANKS[: len(epochs)]
    return KernelCurve(
        "adversarial", tuple(epochs), tuple(distances), ranks, tuple(zip(epochs, accuracies, strict=True))
    )


def spans(found: Sequence) -> list[tuple[float, float]]:
    return [(one.start, one.end) for one in found]


def test_phases_cut_the_run_where_the_velocity_crosses_the_limit() -> None:
    reading = read_kernel(curve())
    assert [(one.start, one.end, one.lazy) for one in reading.phases] == [
        (0, 6, False),
        (6, 12, True),
        (12, 14, False),
        (14, 20, True),
    ]
    moving = reading.phases[0]
    assert moving.velocity == pytest.approx((0.1 * 0.5 + 0.05 * 1.5 + 0.03 * 4) / 6)
    assert (moving.rank_start, moving.rank_end) == (40, 20)
    assert (reading.fastest.start, reading.fastest.end, reading.fastest.velocity) == (0, 0.5, 0.1)
    assert (reading.lazy_since, reading.lazy_velocity) == (14, pytest.approx(0.003))


@pytest.mark.parametrize(
    ("velocities", "since"),
    [
        ((0.1, 0.005, 0.004, 0.003), 0.5),
        ((0.1, 0.005, 0.004, 0.02), None),
        ((0.1, 0.05, 0.04, 0.003), None),  # One interval is not staying.
        ((0.1, 0.01, 0.01, 0.01), 0.5),  # The limit itself is lazy.
        ((0.0, 0.0, 0.0, 0.0), 0),
    ],
)
def test_lazy_is_below_the_limit_to_the_end(velocities: Sequence[float], since: float | None) -> None:
    assert read_kernel(curve(velocities, EPOCHS[:5])).lazy_since == since


def test_a_jump_stands_out_among_the_changes_of_velocity() -> None:
    reading = read_kernel(curve())
    (jump,) = reading.jumps
    assert (jump.start, jump.end, jump.ratio) == (12, 14, pytest.approx(20))
    # By hand: the logarithms of the ratios have the median ln(2/3), and the median deviation from it below.
    steps = [math.log(after / before) for before, after in pairwise(VELOCITIES)]
    middle = sorted(steps)[3] / 2 + sorted(steps)[4] / 2
    deviations = sorted(abs(step - middle) for step in steps)
    deviation = 1.4826 * (deviations[3] + deviations[4]) / 2
    assert jump.score == reading.largest_score == pytest.approx((math.log(20) - middle) / deviation)
    # The fall after it is as sudden, and no jump.
    assert min(jump_scores(VELOCITIES, Limits())) < -3.5


def test_a_steady_run_does_not_jump() -> None:
    steady = [0.1 * 0.5**n for n in range(9)]
    assert read_kernel(curve(steady)).jumps == ()
    # All ratios but one are equal, so their deviation is 0: what counts is that it is twice as fast as before.
    for factor, count in ((2.1, 0), (3.9, 0), (4.1, 1)):
        changed = [*steady[:5], *(factor * speed for speed in steady[5:])]
        assert len(read_kernel(curve(changed)).jumps) == count
    # A kernel that stands still does not jump where it twitches.
    twitching = read_kernel(curve([0.1, *[1e-9] * 7, 9e-5]))
    assert twitching.jumps == () and twitching.largest_score == 0


def test_few_intervals_tell_no_jump() -> None:
    reading = read_kernel(curve((0.1, 0.001, 0.001, 0.09, 0.001), EPOCHS[:6]))
    assert reading.jumps == () and reading.largest_score is None
    assert "Its 5 intervals are too few to tell a jump, which takes 6." in sentences(reading)


def test_idle_epochs_are_lazy_and_gain_nothing() -> None:
    #                    0    .5   2    6    8     10     12    14   16     20
    robust = (0.0, 0.1, 0.2, 0.3, 0.35, 0.352, 0.349, 0.36, 0.363, 0.364)
    found = read_kernel(curve(robust=robust))
    assert spans(found.idle) == [(8, 12), (14, 20)]
    assert [one.gain_robust for one in found.idle] == pytest.approx([0.002, 0.004])
    assert [one.gain_clean for one in found.idle] == [0, 0]
    assert found.idle_share == pytest.approx(10 / 20)
    # Without a gain, but moving: not idle.
    assert spans(find_idle(curve(robust=[0.3] * 10), Limits())) == [(6, 12), (14, 20)]


def test_small_gains_of_neighbours_add_up() -> None:
    still = (0.1, *[0.001] * 8)
    slow = [0.004 * n for n in range(10)]
    # Two steps of 0.4 points are more than half a point: every second interval counts.
    assert spans(find_idle(curve(still, range(10), robust=slow), Limits())) == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert spans(find_idle(curve(still, range(10), robust=slow), Limits(gain=0.1))) == [(1, 9)]


def test_what_idle_epochs_reached_counts_as_the_best_before() -> None:
    found = find_idle(curve((0.1, 0.001, 0.1, 0.001), EPOCHS[:5], robust=(0.3, 0.3, 0.304, 0.3, 0.307)), Limits())
    assert spans(found) == [(0.5, 2), (6, 8)]
    assert [one.gain_robust for one in found] == pytest.approx([0.004, 0.003])


def test_a_gain_in_clean_accuracy_counts_too() -> None:
    flat, rising = [0.3] * 10, [0.05 * n for n in range(10)]
    assert find_idle(curve(robust=flat, clean=rising), Limits()) == ()
    falling = [0.5 - 0.01 * n for n in range(10)]
    (_, last) = find_idle(curve(robust=flat, clean=falling), Limits())
    # The best in it, at epoch 16, against the best of all before.
    assert last.gain_clean == pytest.approx(-0.08)


def test_without_accuracies_in_an_interval_nothing_is_wasted() -> None:
    known = curve(robust=[0.3] * 10)
    assert find_idle(known._replace(accuracies=known.accuracies[:1]), Limits()) == ()
    assert find_idle(known._replace(accuracies=()), Limits()) == ()


def rows(kinds: Sequence[str] = ("clean", "adversarial")) -> list[dict[str, str]]:
    """A curves file: every epoch validated, some probed, the first of them without a distance behind it."""
    found = []
    for epoch in range(9):
        row = {"epoch": str(epoch), "clean_accuracy": "0.5", "robust_accuracy": str(0.01 * epoch)}
        for kind in ("clean", "adversarial"):
            probed = kind in kinds and epoch in (0, 1, 4, 8)
            row[f"ntk_{kind}_distance_previous"] = str(0.1 * epoch) if probed else ""
            row[f"ntk_{kind}_effective_rank"] = str(epoch + 2) if probed else ""
        found.append(row)
    return found


def test_a_curve_is_read_from_the_rows_of_its_file() -> None:
    found = kernel_curve(rows())
    assert found is not None and found.kind == "adversarial" and len(found.accuracies) == 9
    assert (found.epochs, found.ranks) == ((0, 1, 4, 8), (2, 3, 6, 10))
    assert found.velocities == pytest.approx([0.1, 0.4 / 3, 0.2])
    clean = kernel_curve(rows(["clean"]))
    assert clean is not None and clean.kind == "clean"
    assert kernel_curve(rows()[:1]) is None and kernel_curve(rows([])) is None
    assert kernel_curve([row | {"robust_accuracy": ""} for row in rows()]) is None
    assert list(readings({"student": rows(), "teacher": rows([])})) == ["student"]


def test_a_reading_is_a_document() -> None:
    reading = read_kernel(curve(robust=[0.3] * 10))
    assert document_of(KernelReading, as_json(reading), "reading") == reading


def test_sentences_have_their_numbers() -> None:
    robust = (0.0, 0.1, 0.2, 0.3, 0.35, 0.352, 0.349, 0.36, 0.363, 0.364)
    assert sentences(read_kernel(curve(robust=robust))) == [
        "The kernel of attacked images was measured 10 times from epoch 0 to 20; it turned fastest from epoch 0 "
        "to 0.5, by 0.1 per epoch.",
        "It was lazy from epoch 14 on: it turned by at most 0.003 per epoch, 3 % of the fastest (the limit is 10 %).",
        "Its phases: moving from epoch 0 to 6 (0.041 per epoch); lazy from epoch 6 to 12 (0.003 per epoch); "
        "moving from epoch 12 to 14 (0.04 per epoch); lazy from epoch 14 to 20 (0.0023 per epoch).",
        "It jumped from epoch 12 to 14, where it turned 20 times as fast as before, by 0.04 per epoch "
        "(robust z-score 11.5).",
        "Its effective rank went from 40 to 23.4.",
        "50 % of the epochs bought nothing (lazy, no gain above 0.5 points): from epoch 8 to 12, where clean accuracy "
        "stayed as it was and robust accuracy rose by 0.2 points; from epoch 14 to 20, where clean accuracy stayed "
        "as it was and robust accuracy rose by 0.4 points.",
    ]


@pytest.mark.parametrize(
    ("velocities", "said"),
    [
        (
            (0.1, 0.05, 0.05, 0.05),
            [
                "It did not become lazy: from epoch 6 to 8 it turned by 0.05 per epoch, 50 % of the fastest "
                "(the limit is 10 %).",
                "No epoch was wasted: it was never as slow as 10 % of the fastest.",
            ],
        ),
        (
            (0.1, 0.05, 0.05, 0.001),
            [
                "It did not become lazy: from epoch 6 to 8 it turned by 0.001 per epoch, 1 % of the fastest "
                "(the limit is 10 %, which one interval alone is below).",
                "No epoch was wasted: whenever it was lazy, the best clean or robust accuracy rose by more than "
                "0.5 points.",
            ],
        ),
        (
            (0.0, 0.0, 0.0, 0.0),
            [
                "It was lazy from epoch 0 on: it turned by at most 0 per epoch, 0 % of the fastest "
                "(the limit is 10 %).",
                "It did not jump: it never moved.",
            ],
        ),
    ],
)
def test_sentences_on_other_runs(velocities: Sequence[float], said: list[str]) -> None:
    assert set(said) <= set(sentences(read_kernel(curve(velocities, EPOCHS[:5]))))


def test_a_steady_run_is_said_to_have_no_jump() -> None:
    told = sentences(read_kernel(curve([0.1 * 0.5**n for n in range(9)])))
    assert (
        "It did not jump: the largest robust z-score is 0.0 (a jump has more than 3.5, at twice the velocity)." in told
    )
    # Every number that a sentence promises is there.
    assert all(any(letter.isdigit() for letter in line) for line in told)
