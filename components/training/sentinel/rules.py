"""The overfitting sentinel's rules and settings: which looks at a model in training say that it collapses.

A look is plain data: named numbers of one moment (`probe.py` measures them). A rule says of the
last of some looks whether it alarms, so that rules can be tried on any curve, also after the fact (`replay.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import Field

from components.foundation.params import Count, NotNegative, PositiveLength, Real, Share, strict

Look = Mapping[str, float]
"""`epoch` (a whole number at an epoch's end), `clean_accuracy`, `fgsm_accuracy`, `pgd_accuracy`, `clean_loss`,
`adversarial_loss`, `alignment`, `direction`, `distortion`, and where known `train_loss` since the look before,
`kernel_velocity` and `kernel_rank`; at an epoch's end also `averaged_accuracy` (of averaged weights, under the
validation attack), and of the epoch's training `train_adversarial_accuracy` and `pert_align`."""

RuleName = Literal[
    "collapse",
    "catastrophic",
    "hidden",
    "fall",
    "gap",
    "widening",
    "robust_overfitting",
    "alignment",
    "pert_align",
    "direction",
    "loss",
    "distortion",
    "kernel",
]


@strict
class Rules:
    """The thresholds. Shares are of the largest value seen: of all looks so far, or of the last `memory` looks.

    `collapse` defines a collapse, together with `gap` catastrophic overfitting, and `recovery` its end; the other rules
    try to be early, or see what these do not.
    """

    gap: Real  # The FGSM accuracy minus the PGD accuracy above which there is a gap.
    collapse: Share  # Share of the largest PGD accuracy so far, below which it has collapsed.
    recovery: Share  # Share of the largest PGD accuracy so far, above which it has come back.
    hidden: Share  # Share of the averaged weights' accuracy, below which the PGD accuracy of the raw ones is hidden.
    widening: Real  # What the gap may exceed its mean over the last `memory` looks by.
    decline: Real  # What the PGD accuracy, a mean over `window` epochs, may lose while training accuracy rises.
    window: Annotated[int, Field(ge=1, le=10_000)]  # Epochs of the means that `decline` compares.
    fall: Real  # The most PGD accuracy that may be lost between two looks.
    alignment: Share  # Least share of the recent cosine of the gradients at an image and beside it.
    pert_align: Share  # Least share of the recent cosine of the gradients that attack and training take.
    direction: Share  # Least share of the recent cosine of the FGSM and the PGD perturbation.
    loss_drop: Share  # The most of the adversarial loss, as a share, that may be lost between two looks.
    wobble: Share  # A `loss_drop` counts while the clean loss moves by less than this share.
    stride: tuple[NotNegative, NotNegative]  # Bounds of what the training loss may fall between two looks.
    distortion: Share  # Least share of the recent length of the Frank-Wolfe perturbation.
    velocity: Real  # How many times as fast as before the kernel may turn.
    rank: Share  # Least share of the recent effective rank of the kernel.
    memory: Annotated[int, Field(ge=1, le=10_000)]  # Recent looks that shares refer to.

    def __post_init__(self) -> None:
        if self.stride[1] < self.stride[0]:
            raise ValueError(f"got stride {list(self.stride)}, want the smallest, then the largest")


@strict
class Sentinel:
    """What is looked at during training, which rules alarm, and what happens then.

    `looks` per epoch, the last at its end, at `images` held-out images, stratified by class; PGD takes `steps` steps of
    `step_size`. An alarm is noted; or training stops, or goes back to the last good checkpoint: the end of the last
    epoch without alarm and with at least the share `good` of the largest PGD accuracy. The n-th roll back puts the n-th
    of `changes` on top of those before: deltas of the training section (`components.foundation.recipes`) of
    fields of `method` and of its wrappers `smoothing` and `perturbation`. When all are used up, an alarm stops
    training.
    """

    images: Annotated[int, Field(ge=2)]  # Held-out images of a look, stratified by class.
    looks: Annotated[int, Field(ge=1, le=10_000)]  # Looks per epoch, the last at its end.
    steps: Count  # Steps of the PGD of a look.
    step_size: PositiveLength  # Length of one PGD step, a fraction of the pixel range.
    alarm_on: tuple[RuleName, ...]  # The rules that raise an alarm.
    action: Literal["note", "stop", "roll_back"]  # What an alarm does.
    changes: tuple[dict[str, Any], ...]  # Changes of the training section, one for each `roll_back`; else none.
    good: Share  # Share of the largest PGD accuracy that a good checkpoint has.
    rules: Rules  # The thresholds of the rules.

    def __post_init__(self) -> None:
        if bool(self.changes) != (self.action == "roll_back"):
            given = f"action '{self.action}' with {len(self.changes)} changes"
            raise ValueError(f"got {given}, want changes with 'roll_back' and with no other")


# In the first epochs hardly any image withstands PGD: one more or less is no collapse.
LEARNED = 0.05


def collapse(looks: Sequence[Look], rules: Rules) -> bool:
    """A collapse by definition: the PGD accuracy had been learned (more than 5 %) and is below a share of its best. It
    needs no FGSM gap, since a slow death may show none (own rule)."""
    best = _best(looks)
    return best > LEARNED and looks[-1]["pgd_accuracy"] < rules.collapse * best


def catastrophic(looks: Sequence[Look], rules: Rules) -> bool:
    """Catastrophic overfitting by definition: a collapse, and FGSM no longer stands for PGD."""
    return gap(looks, rules) and collapse(looks, rules)


def hidden(looks: Sequence[Look], rules: Rules) -> bool:
    """A collapse that an average of weights hides: the averaged weights withstand the validation attack, the raw ones
    do not withstand PGD (own rule; by the last epoch's end at which both are known)."""
    last = _ends(looks, "averaged_accuracy")[-1:]
    return any(
        look["averaged_accuracy"] > LEARNED and look["pgd_accuracy"] < rules.hidden * look["averaged_accuracy"]
        for look in last
    )


def recovered(looks: Sequence[Look], rules: Rules) -> bool:
    """Whether the PGD accuracy has come back by the last look, after a collapse that none before it had come back
    from."""
    collapsed = back = False
    for count in range(1, len(looks) + 1):
        back = collapsed and looks[count - 1]["pgd_accuracy"] > rules.recovery * _best(looks[:count])
        collapsed = (collapsed and not back) or collapse(looks[:count], rules)
    return back


def gap(looks: Sequence[Look], rules: Rules) -> bool:
    """FGSM no longer stands for PGD: the other half of the definition alone."""
    return "fgsm_accuracy" in looks[-1] and _gap(looks[-1]) > rules.gap


def widening(looks: Sequence[Look], rules: Rules) -> bool:
    """The gap has opened at once: it exceeds its mean over the `memory` looks before, of which there must be as many.

    Own rule: the attack's size decides how large the gap of a healthy run is, the number of images how far it wavers.
    """
    gaps = [_gap(look) for look in looks if "fgsm_accuracy" in look]
    known = "fgsm_accuracy" in looks[-1] and len(gaps) > rules.memory
    return known and gaps[-1] - fmean(gaps[-1 - rules.memory : -1]) > rules.widening


def fall(looks: Sequence[Look], rules: Rules) -> bool:
    """PGD accuracy fell at once (rule W: Wong et al., arXiv 2001.03994; on held-out images here)."""
    return len(looks) > 1 and looks[-2]["pgd_accuracy"] - looks[-1]["pgd_accuracy"] > rules.fall


def robust_overfitting(looks: Sequence[Look], rules: Rules) -> bool:
    """Robust overfitting: the mean PGD accuracy of the last `window` epochs is below the best such mean, while the
    training accuracy of the same epochs is above what it was then (the phenomenon: Rice et al., arXiv 2002.11569; the
    windows are ours, since without them the rule alarmed on every public run)."""
    ends = _ends(looks, "train_adversarial_accuracy")
    held_out = _moving(rules.window, (look["pgd_accuracy"] for look in ends))
    trained = _moving(rules.window, (look["train_adversarial_accuracy"] for look in ends))
    if not held_out:
        return False
    best = max(range(len(held_out)), key=lambda index: (held_out[index], index))
    return held_out[-1] < held_out[best] - rules.decline and trained[-1] > trained[best]


def alignment(looks: Sequence[Look], rules: Rules) -> bool:
    """The gradient beside an image has turned away (rule GA: Andriushchenko & Flammarion, arXiv 2007.02617)."""
    return _fell_below(looks, "alignment", rules.alignment, rules.memory)


def pert_align(looks: Sequence[Look], rules: Rules) -> bool:
    """The gradient that the attack took and the input gradient of the same step's backward pass have parted (after
    PertAlign, arXiv 2606.00738: it costs no pass). What it is worth has not been measured."""
    return _fell_below(looks, "pert_align", rules.pert_align, rules.memory)


def direction(looks: Sequence[Look], rules: Rules) -> bool:
    """FGSM and PGD no longer go the same way (the same paper)."""
    return _fell_below(looks, "direction", rules.direction, rules.memory)


def loss(looks: Sequence[Look], rules: Rules) -> bool:
    """The adversarial loss dropped while the clean loss hardly moved, or the training loss fell farther than its
    stride, the fall before within bounds (rule CS, after the convergence stride of Zhao et al., arXiv 2308.12857)."""
    if len(looks) < 2:
        return False
    before, now = looks[-2:]
    dropped = all(name in look for name in ("adversarial_loss", "clean_loss") for look in (before, now)) and (
        now["adversarial_loss"] < (1 - rules.loss_drop) * before["adversarial_loss"]
        and abs(now["clean_loss"] - before["clean_loss"]) < rules.wobble * before["clean_loss"]
    )
    losses = _values(looks, "train_loss")
    if len(losses) < 3 or "train_loss" not in now:
        return dropped
    least, most = rules.stride
    stride = min(max(abs(losses[-2] - losses[-3]), least), most)
    return dropped or losses[-2] - losses[-1] > stride


def distortion(looks: Sequence[Look], rules: Rules) -> bool:
    """Two Frank-Wolfe steps contradict each other (rule FW: Tsiligkaridis & Roberts, arXiv 2012.12368)."""
    return _fell_below(looks, "distortion", rules.distortion, rules.memory)


def kernel(looks: Sequence[Look], rules: Rules) -> bool:
    """The tangent kernel on attacked images turns suddenly, or its effective rank drops (rule NTK, a hypothesis)."""
    velocities = _values(looks, "kernel_velocity")
    spike = "kernel_velocity" in looks[-1] and len(velocities) > 1 and velocities[-1] > rules.velocity * velocities[-2]
    return spike or _fell_below(looks, "kernel_rank", rules.rank, rules.memory)


RULES: dict[RuleName, Callable[[Sequence[Look], Rules], bool]] = {
    "collapse": collapse,
    "catastrophic": catastrophic,
    "hidden": hidden,
    "fall": fall,
    "gap": gap,
    "widening": widening,
    "robust_overfitting": robust_overfitting,
    "alignment": alignment,
    "pert_align": pert_align,
    "direction": direction,
    "loss": loss,
    "distortion": distortion,
    "kernel": kernel,
}


def alarms(looks: Sequence[Look], rules: Rules, names: Iterable[RuleName] = tuple(RULES)) -> list[RuleName]:
    """Which of these rules alarm at the last of the looks."""
    return [name for name in names if RULES[name](looks, rules)]


def is_good(looks: Sequence[Look], share: float) -> bool:
    """Whether the PGD accuracy of the last look is at least this share of the largest so far."""
    return looks[-1]["pgd_accuracy"] >= share * _best(looks)


def _gap(look: Look) -> float:
    return look["fgsm_accuracy"] - look["pgd_accuracy"]


def _best(looks: Sequence[Look]) -> float:
    return max(look["pgd_accuracy"] for look in looks)


def _values(looks: Sequence[Look], name: str) -> list[float]:
    return [look[name] for look in looks if name in look]


def _ends(looks: Sequence[Look], name: str) -> list[Look]:
    """The looks at ends of epochs that have this signal, which there is once an epoch."""
    return [look for look in looks if name in look]


def _moving(window: int, values: Iterable[float]) -> list[float]:
    """The mean of each `window` values in a row."""
    sums = list(accumulate(values, initial=0.0))
    return [(after - before) / window for before, after in zip(sums, sums[window:], strict=False)]


def _fell_below(looks: Sequence[Look], name: str, share: float, memory: int) -> bool:
    """Whether a signal of the last look is below a share of the largest of the `memory` values before it."""
    *before, now = _values(looks, name) or [0.0]
    return name in looks[-1] and bool(before) and now < share * max(before[-memory:])
