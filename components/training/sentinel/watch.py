"""The overfitting sentinel at work: when it looks, what it says, and what an alarm does to a training run."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.methods.parts.contract import Method
from components.numerics.parallel import agreed, mean, world_size
from components.training.sentinel.probe import SentinelProbe
from components.training.sentinel.replay import OF_RECORD, of_epoch
from components.training.sentinel.rules import RULES, RuleName, Sentinel, alarms, is_good, recovered

TITLES: dict[RuleName, str] = {
    "collapse": "collapse of PGD accuracy",
    "catastrophic": "catastrophic overfitting",
    "hidden": "raw weights far below their average",
    "fall": "PGD accuracy fell",
    "gap": "FGSM accuracy far above PGD accuracy",
    "widening": "FGSM accuracy leaves PGD accuracy behind",
    "robust_overfitting": "robust overfitting",
    "alignment": "gradients no longer agree",
    "pert_align": "attack and training no longer agree",
    "direction": "FGSM and PGD no longer agree",
    "loss": "training loss dropped",
    "distortion": "Frank-Wolfe steps contradict each other",
    "kernel": "tangent kernel moved",
}
# What looking may cost: a share of the epoch's passes.
AFFORDABLE = 0.03


class Watch:
    """What a sentinel has seen and done in one run; its state is in the run's checkpoints.

    `rows` holds every look with its `alarms` (of all rules), the `attempt` it belongs to (roll backs before it) and
    whether it was `dropped` with its epoch; `events` what was said and done. `alarmed`: the epoch under way is to be
    given up. `stopped`: so is the training. `passes`: of single images, in the looks since the epoch began.

    Args:
        sentinel: settings.
        probe: what looks.
        adapt: gives the method of this many roll backs, with as many of the sentinel's changes.
        tell: takes each line on an alarm.
    """

    def __init__(
        self, sentinel: Sentinel, probe: SentinelProbe, adapt: Callable[[int], Method], tell: Callable[[str], None]
    ) -> None:
        self.sentinel, self.probe, self.adapt, self.tell = sentinel, probe, adapt, tell
        self.rows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.alarmed = self.stopped = False
        # Nothing of these two outlives an epoch.
        self._losses: list[Tensor] = []
        self.passes = {"forward": 0, "backward": 0}

    @property
    def looks(self) -> list[dict[str, Any]]:
        """The looks at the run as it stands: without those that were rolled back."""
        return [row for row in self.rows if not row["dropped"]]

    @property
    def roll_backs(self) -> int:
        """How often training went back."""
        return sum(event["action"] == "roll_back" for event in self.events)

    @property
    def good(self) -> bool:
        """Whether the epoch that has just ended is one to come back to."""
        last = self.looks[-1]
        untroubled = not self._heard(last) and is_good(self.looks, self.sentinel.good)
        return self.sentinel.action == "roll_back" and (untroubled or last["epoch"] == 0)

    def after_step(self, model: nn.Module, loss: Tensor, epoch: int, step: int, num_steps: int) -> bool:
        """Looks, where a look is due after this many of the steps of `epoch` (counted from 0).

        Whether the epoch is to be given up. No look where the detached `loss` is not finite: that is an error of the
        training's own.
        """
        self._losses.append(loss)
        looks = self.sentinel.looks
        due = [place for place in range(1, looks) if round(num_steps * place / looks) == step]
        if not due or step == num_steps or not math.isfinite(self._loss()):
            return False
        self._look(model, epoch + step / num_steps, epoch * looks + due[-1], {})
        return self.alarmed

    def end_epoch(
        self, model: nn.Module, record: Mapping[str, float], trained: int, averaged: bool = False
    ) -> dict[str, float]:
        """The columns `sentinel_*` of an epoch's record, after a look at its end.

        Args:
            model: as trained, not its average, which would hide a collapse for a while.
            record: what the epoch is known by so far.
            trained: passes of single images in the epoch's training, the looks' not among them, over all processes.
            averaged: whether the record's accuracies are of averaged weights.
        """
        epoch = int(record["epoch"])
        known = of_epoch(record, self.looks, averaged)
        signals = self._look(model, epoch, epoch * self.sentinel.looks, known)
        columns = {f"sentinel_{name}": signals[name] for name in signals if name not in OF_RECORD}
        columns["sentinel_roll_backs"] = float(self.roll_backs)
        if trained:
            columns["sentinel_share"] = share = world_size() * sum(self.passes.values()) / trained
            if epoch == 1 and share > AFFORDABLE:
                wanted = f"fewer images, looks or steps make them cheaper (wanted: {AFFORDABLE:.0%})"
                self.tell(f"sentinel: looks take {share:.1%} of the passes of training; {wanted}")
        self.passes = dict.fromkeys(self.passes, 0)
        return columns

    def act(self, last: int, good: int) -> int:
        """Decides what an alarm leads to, and returns the epoch to go back to.

        Args:
            last: the last epoch that has ended.
            good: the last one that was good.
        """
        before = self.looks
        change = self.sentinel.changes[self.roll_backs] if self.roll_backs < len(self.sentinel.changes) else None
        back_to, action = (last, "stop") if change is None else (good, "roll_back")
        done = "stopped" if change is None else f"rolled back to epoch {good}, {_told(change)}"
        self._say(before[-1], self._heard(before[-1]), action, done)
        self.events[-1] |= {"back_to": back_to, "change": change}
        for row in before:
            row["dropped"] = row["epoch"] > back_to
        self.stopped, self.alarmed = action == "stop", False
        self._losses, self.passes = [], dict.fromkeys(self.passes, 0)
        return back_to

    def method(self) -> Method | None:
        """The method that roll backs have led to; None before the first."""
        return self.adapt(self.roll_backs) if self.roll_backs else None

    def numbers(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        # As pairs: metadata is written with sorted keys, but rows have an order.
        return {
            "rows": [list(row.items()) for row in self.rows],
            "events": [list(event.items()) for event in self.events],
            "stopped": self.stopped,
        }

    def load(self, numbers: Mapping[str, Any]) -> None:
        """Takes the state of `numbers`."""
        self.rows, self.events = ([dict(pairs) for pairs in numbers[name]] for name in ("rows", "events"))
        self.stopped, self.alarmed = numbers["stopped"], False

    def _look(self, model: nn.Module, epoch: float, number: int, known: dict[str, float]) -> dict[str, float]:
        signals, passes = self.probe.look(model, number)
        self.passes = {name: count + passes[name] for name, count in self.passes.items()}
        if self._losses:
            known = {"train_loss": self._loss(), **known}
        self._losses = []
        signals = agreed(signals | known)
        before = self.looks
        row = {"epoch": epoch, "attempt": self.roll_backs, "dropped": False, **signals}
        self.rows.append(row)
        row["alarms"] = alarms(self.looks, self.sentinel.rules)
        # Before the first step there is nothing to give up.
        heard = self._heard(row) if epoch else []
        if self.sentinel.action == "note":
            heard_before = self._heard(before[-1]) if before else []
            fresh: list[RuleName] = [name for name in heard if heard_before.count(name) == 0]
            if fresh:
                self._say(row, fresh, "note", "noted")
        else:
            self.alarmed = bool(heard)
        # Nobody asks for the end of what nobody was told of.
        if any(self._heard(one) for one in before) and recovered(self.looks, self.sentinel.rules):
            self._say(row, [], "note", "recovered")
        return signals

    def _loss(self) -> float:
        """The mean training loss since the last look, over all processes."""
        return float(mean(torch.stack(self._losses).mean()))

    def _heard(self, row: Mapping[str, Any]) -> list[RuleName]:
        return [name for name in RULES if name in row["alarms"] and name in self.sentinel.alarm_on]

    def _say(self, row: Mapping[str, Any], rules: Sequence[RuleName], action: str, done: str) -> None:
        accuracies = f"FGSM {100 * row['fgsm_accuracy']:.1f} %, PGD {100 * row['pgd_accuracy']:.1f} %"
        seen = f"({accuracies}, n = {len(self.probe.labels)})"
        what = ", ".join(TITLES[name] for name in rules) or "no longer overfitted"
        line = f"sentinel: epoch {round(row['epoch'], 2):g}: {what} {seen}: {done}"
        self.events.append({"epoch": row["epoch"], "rules": list(rules), "action": action, "line": line})
        self.tell(line)


def _told(change: Mapping[str, Any]) -> str:
    """A change in words: `noise 2`, `method.attack.steps 3`, or `smoothing: 10 values`."""
    told = []
    for key, value in change.items():
        leaves = _leaves(value, key)
        told += [f"{key}: {len(leaves)} values"] if len(leaves) > 3 else [f"{name} {leaf}" for name, leaf in leaves]
    return ", ".join(told)


def _leaves(value: Any, name: str) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{name}.{key}")]
