"""What a model has gained or lost against the models that taught it, image by image."""

from collections.abc import Mapping
from typing import get_args

from components.evaluation.criteria import Condition, Criteria
from components.reports.robustness.contents import AgainstTeacher, ModelReport
from components.statistics.intervals import paired
from components.statistics.outcomes import Outcomes, shortened, six_digits


def against(
    model: str, best: Mapping[str, ModelReport], criteria: Criteria | None, outcomes: Outcomes
) -> dict[Condition, AgainstTeacher]:
    """Clean and in the worst case, the paired difference to a teacher; what was not measured of both is left out.

    The teacher is the one that the criteria name, else the best of those that the model was made from.
    """
    compared: dict[Condition, AgainstTeacher] = {}
    for condition in get_args(Condition):
        own, teacher = outcomes.get(f"{model}/{condition}"), _teacher(model, condition, best, criteria, outcomes)
        if own is None or teacher is None:
            continue
        pair = paired(outcomes[f"{teacher}/{condition}"], own)
        value, low, high = map(shortened, (pair.value, pair.low, pair.high))
        compared[condition] = AgainstTeacher(
            teacher=teacher, value=value, low=low, high=high, p=six_digits(pair.p), n=pair.n
        )
    return compared


def _teacher(
    model: str,
    condition: Condition,
    best: Mapping[str, ModelReport],
    criteria: Criteria | None,
    outcomes: Outcomes,
) -> str | None:
    named = getattr(criteria.not_worse_than, condition) if criteria and criteria.model == model else None
    names = [named] if named is not None else [name for name in best[model].upstream if name in best]
    right = {name: int(outcomes[key].count_nonzero()) for name in names if (key := f"{name}/{condition}") in outcomes}
    return max(right, key=lambda name: right[name]) if right else None
