"""The evaluation of Kurakin, Goodfellow, Bengio (2017, "Adversarial Machine Learning at Scale") for any set of models.

Label leaking and one-step against iterative attacks over a grid of epsilons, transfer as the share of images that fool
the source and fool the target too, and accuracy against capacity.
"""

import json
from collections.abc import Mapping

from torch import Tensor

from components.evaluation.document import AttackGrid
from components.reports.attack_words import kind
from components.reports.robustness.contents import Capacity, Change, Leak, ModelReport, SizedModel
from components.statistics.intervals import paired
from components.statistics.outcomes import Outcomes, Rate, RateAt, share, shares_at, shortened

# What an attack is, by the class that its description names.
ONE_STEP = ("fgsm", "r_fgsm", "step_ll", "step_rnd")
ITERATIVE = ("bim", "iter_ll", "pgd", "apgd", "mi_fgsm", "cw", "fab")
# Fields of an architecture that change its size and nothing else.
WIDTHS = ("width", "widen_factor")


def grid(model: str, described: AttackGrid, outcomes: Outcomes) -> dict[str, list[RateAt]]:
    """Attack -> its rates over the grid's epsilons, as far as they were measured."""
    points = {
        attack: shares_at({e: f"{model}/grid/{attack}/{index}" for index, e in enumerate(described.epsilons)}, outcomes)
        for attack in described.attacks
    }
    return {attack: found for attack, found in points.items() if found}


def label_leak(model: str, described: AttackGrid, outcomes: Outcomes) -> list[Leak]:
    """Per epsilon of the grid at which FGSM with the true label ran: the differences `leak`, `gap` and `mask`.

    leak = accuracy under FGSM(true label) − clean accuracy: above 0, the attack tells the model the answer.
    gap = accuracy under FGSM(true label) − the lowest under the other one-step attacks, which a model cannot read so.
    mask = accuracy under FGSM(true label) − the lowest under iterative attacks: a large one is gradient masking.
    """
    attacks = described.attacks
    fgsm = next((name for name in attacks if leaks(attacks[name])), None)
    one_step = [name for name in attacks if name != fgsm and kind(attacks[name]) in ONE_STEP]
    iterative = [name for name in attacks if kind(attacks[name]) in ITERATIVE]
    rows: list[Leak] = []
    for index, epsilon in enumerate(described.epsilons):
        under = {name: outcomes[key] for name in attacks if (key := f"{model}/grid/{name}/{index}") in outcomes}
        if (mine := under.get(fgsm or "")) is not None:
            leak = _change("clean", outcomes[f"{model}/clean"], mine)
            gap, mask = (_above_lowest(rivals, under, mine) for rivals in (one_step, iterative))
            rows.append(Leak(epsilon=epsilon, leak=leak, gap=gap, mask=mask))
    return rows


def _above_lowest(rivals: list[str], under: Outcomes, mine: Tensor) -> Change | None:
    ran = [rival for rival in rivals if rival in under]
    lowest = min(ran, key=lambda rival: int(under[rival].sum()), default=None)
    return None if lowest is None else _change(lowest, under[lowest], mine)


def _change(versus: str, theirs: Tensor, mine: Tensor) -> Change:
    found = paired(theirs, mine)
    value, low, high = map(shortened, (found.value, found.low, found.high))
    return Change(versus=versus, value=value, low=low, high=high, n=found.n)


def leaks(described: str) -> bool:
    """Whether the attack is a single gradient step from the image with the true label, which a model can learn."""
    return kind(described) == "fgsm" and "predicted" not in described


def fooling(accuracy_keys: Mapping[str, Mapping[str, str]], outcomes: Outcomes) -> dict[str, dict[str, Rate | None]]:
    """Source -> target -> the share, of the images that fool the source, that fool the target too; None where none do.

    Args:
        accuracy_keys: source -> target -> the name of the target's outcomes on what was crafted on the source.
        outcomes: the tensors [n] of those names.
    """
    found: dict[str, dict[str, Rate | None]] = {}
    for source, row in accuracy_keys.items():
        if source in row:
            fooled = outcomes[row[source]] == 0
            n = int(fooled.sum())
            found[source] = {t: share(outcomes[key][fooled] == 0) if n else None for t, key in row.items()}
    return found


def capacity(models: Mapping[str, ModelReport]) -> list[Capacity]:
    """Per architecture of which several sizes are among the models: clean and worst-case accuracy by size, rising."""
    families: dict[str, list[tuple[str, ModelReport]]] = {}
    for name, model in models.items():
        if model.architecture is not None:
            same = {key: value for key, value in model.architecture.items() if key not in WIDTHS}
            families.setdefault(json.dumps(same, sort_keys=True), []).append((name, model))
    return [
        Capacity(
            architecture=str(json.loads(same).get("name", "")),
            models=[_sized(name, model) for name, model in sorted(members, key=lambda m: m[1].num_parameters)],
        )
        for same, members in families.items()
        if len({model.num_parameters for _, model in members}) > 1
    ]


def _sized(name: str, model: ModelReport) -> SizedModel:
    architecture = model.architecture or {}
    width = {key: architecture[key] for key in WIDTHS if key in architecture}
    return SizedModel(model=name, width=width, **model.pick("num_parameters", "clean", "worst_case"))
