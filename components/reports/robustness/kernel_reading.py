"""What one run's kernel did, in sentences with their numbers."""

from collections.abc import Mapping, Sequence

from components.reports.robustness.kernel_phases import (
    MIN_STEPS,
    KernelReading,
    Phase,
    Stretch,
    kernel_curve,
    read_kernel,
)
from components.statistics.number_text import percent

KINDS = {"adversarial": "attacked", "clean": "clean"}


def readings(curves: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, list[str]]:
    """The sentences on every model whose curves tell of its kernel."""
    found = {model: kernel_curve(rows) for model, rows in curves.items()}
    return {model: sentences(read_kernel(curve)) for model, curve in found.items() if curve}


def sentences(reading: KernelReading) -> list[str]:
    """How fast it turned, whether it became lazy, its phases, jumps and rank, and which epochs bought nothing."""
    first, last = reading.phases[0], reading.phases[-1]
    return [
        f"The kernel of {KINDS[reading.kind]} images was measured {reading.probes} times from epoch {first.start:g} to "
        f"{last.end:g}; it turned fastest from {_epochs(reading.fastest)}, by {_speed(reading.fastest.velocity)}.",
        _laziness(reading),
        *_phases(reading),
        _jumps(reading),
        f"Its effective rank went from {first.rank_start:.3g} to {last.rank_end:.3g}.",
        _idle(reading),
    ]


def _laziness(reading: KernelReading) -> str:
    limit, fastest = f"the limit is {_percent(reading.lazy_limit)}", reading.fastest.velocity
    if reading.lazy_since is None or reading.lazy_velocity is None:
        few = ", which one interval alone is below" if reading.phases[-1].lazy else ""
        turned = f"{_speed(reading.last.velocity)}, {_share(reading.last.velocity, fastest)} of the fastest"
        return f"It did not become lazy: from {_epochs(reading.last)} it turned by {turned} ({limit}{few})."
    turned = f"{_speed(reading.lazy_velocity)}, {_share(reading.lazy_velocity, fastest)} of the fastest"
    return f"It was lazy from epoch {reading.lazy_since:g} on: it turned by at most {turned} ({limit})."


def _phases(reading: KernelReading) -> list[str]:
    """Nothing where the two sentences before it have said all: a moving phase, then perhaps a lazy one."""
    if len(reading.phases) < 3:
        return []
    return [f"Its phases: {'; '.join(_phase(phase) for phase in reading.phases)}."]


def _phase(phase: Phase) -> str:
    return f"{'lazy' if phase.lazy else 'moving'} from {_epochs(phase)} ({_speed(phase.velocity)})"


def _jumps(reading: KernelReading) -> str:
    if not reading.fastest.velocity:
        return "It did not jump: it never moved."
    if reading.largest_score is None:
        return f"Its {reading.probes - 1} intervals are too few to tell a jump, which takes {MIN_STEPS + 1}."
    if not reading.jumps:
        score, limit = f"{reading.largest_score:.1f}", f"more than {reading.jump_limit:g}"
        return f"It did not jump: the largest robust z-score is {score} (a jump has {limit}, at twice the velocity)."
    told = [
        f"from {_epochs(jump)}, where it turned {_digits(jump.ratio)} times as fast as before, by "
        f"{_speed(jump.velocity)} (robust z-score {jump.score:.1f})"
        for jump in reading.jumps
    ]
    return f"It jumped {'; '.join(told)}."


def _idle(reading: KernelReading) -> str:
    limit = f"{percent(reading.gain_limit)} points"
    if not any(phase.lazy for phase in reading.phases):
        return f"No epoch was wasted: it was never as slow as {_percent(reading.lazy_limit)} of the fastest."
    if not reading.idle:
        return (
            f"No epoch was wasted: whenever it was lazy, the best clean or robust accuracy rose by more than {limit}."
        )
    told = "; ".join(
        f"from {_epochs(one)}, where clean accuracy {_gained(one.gain_clean)} and robust accuracy "
        f"{_gained(one.gain_robust)}"
        for one in reading.idle
    )
    return f"{_percent(reading.idle_share)} of the epochs bought nothing (lazy, no gain above {limit}): {told}."


def _gained(gain: float) -> str:
    """Of the best accuracy of some epochs, against the best one before."""
    tenths = round(1000 * gain)
    if not tenths:
        return "stayed as it was"
    return f"rose by {percent(gain)} points" if tenths > 0 else f"stayed {percent(-gain)} points below its best before"


def _epochs(stretch: Stretch) -> str:
    return f"epoch {stretch.start:g} to {stretch.end:g}"


def _speed(velocity: float) -> str:
    return f"{velocity:.2g} per epoch"


def _share(velocity: float, fastest: float) -> str:
    return _percent(velocity / fastest if fastest else 0.0)


def _percent(share: float) -> str:
    return f"{_digits(100 * share)} %"


def _digits(number: float) -> str:
    """Two digits, and all before the point: `1.6`, `120`."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"
