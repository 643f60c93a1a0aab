"""Per-image measures of teachers -> the document."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from components.evaluation.advice.ranking import FIRST, Measures, difference, ranked, second_key
from components.evaluation.advice.summary import summed_up
from components.reports.advice.contents import Advice, Calibration
from components.reports.advice.sentences import sentences
from components.statistics.intervals import CONFIDENCE
from components.statistics.outcomes import shortened


def build(
    measures: Measures,
    facts: Mapping[str, Mapping[str, Any]],
    counts: Tensor,
    most_common: float,
    about: dict[str, Any],
) -> Advice:
    """The document.

    Args:
        measures: teacher to measure to what it is for each image.
        facts: teacher to its fields of `Network`.
        counts: how often each image is in each resample, as `resampled` gives them.
        most_common: the share of images of the most common class.
        about: the other fields: what was measured, on what, by which attacks.
    """
    places = ranked(measures, counts)
    order = list(places)
    teachers = {name: _teacher(name, order[0], measures, counts) | dict(facts[name]) for name in order}
    for name, place in places.items():
        teachers[name] |= {
            "place": place.place,
            "group": place.group,
            "place_low": place.low,
            "place_high": place.high,
            "robust": teachers[name]["measures"][FIRST].low > most_common,
        }
    fixed = {"schema": "temper/advice/1", "confidence": CONFIDENCE, "decides": second_key(measures), "order": order}
    found = Advice.model_validate({**about, **fixed, "teachers": teachers, "sentences": []})
    return found.model_copy(update={"sentences": sentences(found, most_common)})


def _teacher(name: str, first: str, measures: Measures, counts: Tensor) -> dict[str, Any]:
    own, others = measures[name], measures[first]
    apart = {key: difference(own[key], others[key], counts)._asdict() for key in own if key in others}
    return {
        "measures": summed_up(own, counts),
        "against_first": {key: {k: shortened(v) for k, v in found.items()} for key, found in apart.items()},
    }


def misfit(calibration: Calibration, about: Mapping[str, Any]) -> str:
    """Why a calibration says nothing of these teachers: other data, threat model or threshold. Empty where it does."""
    wanted = {"dataset": about["dataset"], **about["threat"], "confident": about["confident"]}
    found = {key: getattr(calibration, key) for key in wanted}
    return ", ".join(f"{key} {found[key]} instead of {value}" for key, value in wanted.items() if found[key] != value)
