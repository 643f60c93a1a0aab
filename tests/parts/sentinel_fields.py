"""The section `sentinel` of a training stage, and rules for it."""

from typing import Any

RULES: dict[str, Any] = {
    "gap": 0.15,
    "collapse": 0.5,
    "recovery": 0.8,
    "hidden": 0.2,
    "fall": 0.2,
    "widening": 0.075,
    "decline": 0.015,
    "window": 12,
    "alignment": 0.5,
    "pert_align": 0.5,
    "direction": 0.5,
    "loss_drop": 0.3,
    "wobble": 0.1,
    "stride": [0.1, 0.3],
    "distortion": 0.85,
    "velocity": 3,
    "rank": 0.7,
    "memory": 8,
}
SENTINEL: dict[str, Any] = {
    "images": 10,
    "looks": 2,
    "steps": 2,
    "step_size": "20/255",
    "alarm_on": ["catastrophic"],
    "action": "note",
    "changes": [],
    "good": 0.8,
    "rules": RULES,
}
# FGSM accuracy is always more than 100 points below PGD accuracy: an alarm at every look.
ALWAYS = {"alarm_on": ["gap"], "rules": RULES | {"gap": -2}}
