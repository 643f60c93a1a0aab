"""Rates as the document writes them: from per-image outcomes, rounded to six decimals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from components.statistics.intervals import rate

Document = dict[str, Any]


def share(outcomes: Tensor) -> Document:
    """The share of nonzero `outcomes`: `value`, its 95 % interval `low` to `high`, and `count` of `n`."""
    return {key: shortened(value) for key, value in asdict(rate(outcomes)).items()}


def mean_of_two(one: Document, other: Document) -> Document:
    """The mean of two rates over the same images; its interval is the mean of the two intervals.

    That interval holds however the two outcomes of an image depend on each other.
    """
    return {**{key: shortened((one[key] + other[key]) / 2) for key in ("value", "low", "high")}, "n": one["n"]}


def shortened(value: Any) -> Any:
    """A float to six decimals, anything else as it is."""
    return round(value, 6) if isinstance(value, float) else value


# As many as a person looks at.
SHOWN = 12


def hardest(
    classes: Sequence[str], labels: Tensor, runs: Mapping[str, Sequence[Tensor]], outcomes: Mapping[str, Tensor]
) -> Document | None:
    """What is hard: `kept_by`, the number of images that k models keep in the worst case, and the hardest `images`.

    Args:
        classes: their names.
        labels: the true classes [n].
        runs: per attacked model, the outcomes [n] of each attack (a cascade counts as one).
        outcomes: holds `<model>/clean` and `<model>/worst_case` [n] of these models.

    An image's place follows from the share of attacks it survives over all models, then from how many models keep it,
    then from how many know it clean. None where nothing was attacked.
    """
    if not runs:
        return None
    survived = torch.stack([run != 0 for attacks in runs.values() for run in attacks])
    clean = torch.stack([outcomes[f"{model}/clean"] != 0 for model in runs])
    worst = torch.stack([outcomes[f"{model}/worst_case"] != 0 for model in runs])
    kept, order = worst.sum(0), torch.arange(len(labels))
    for key in (clean.sum(0), kept, survived.sum(0)):
        order = order[torch.argsort(key[order], stable=True)]
    names = list(runs)
    return {
        "kept_by": [{"models": k, "count": int((kept == k).sum())} for k in range(len(names) + 1)],
        "images": [
            {
                "index": index,
                "class": classes[int(labels[index])],
                "survived": int(survived[:, index].sum()),
                "attacks": len(survived),
                "clean": _named(names, clean[:, index]),
                "worst_case": _named(names, worst[:, index]),
            }
            for index in order[:SHOWN].tolist()
        ],
    }


def _named(names: Sequence[str], chosen: Tensor) -> list[str]:
    return [name for name, one in zip(names, chosen.tolist(), strict=True) if one]
