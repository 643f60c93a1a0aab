"""The images that stand up to the fewest attacks, and how many images how many models keep."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from components.report.rates import Document

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
