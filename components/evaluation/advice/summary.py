"""Per-image measures of teachers -> means with intervals, as documents hold them."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from components.evaluation.advice.document import ENTROPIES, Measured, Teaching
from components.evaluation.advice.looks import Setting
from components.evaluation.advice.measures import Student, measured, unlearnable
from components.numerics.confidence import CONFIDENT
from components.numerics.random_numbers import derived
from components.statistics.bootstrap import PerImage, means, percentile_interval, resampled
from components.statistics.intervals import interval
from components.statistics.outcomes import shortened


def summed_up(measures: Mapping[str, PerImage], counts: Tensor) -> dict[str, Measured]:
    """Each measure with its interval: a share has that of a rate, an entropy that of the bootstrap.

    `counts` says how often each image is in each resample, as `resampled` gives it.
    """
    return {name: _summed_up(name, measure, counts) for name, measure in measures.items()}


def _summed_up(name: str, measure: PerImage, counts: Tensor) -> Measured:
    if name in ENTROPIES:
        low, high = percentile_interval(means(measure, counts))
    else:
        low, high = interval(round(float(measure.values.sum())), measure.n)
    value, low, high = map(shortened, (measure.mean, low, high))
    return Measured(value=value, low=low, high=high, n=measure.n)


def resamples(setting: Setting) -> Tensor:
    """The resamples of a setting's images, the same for all networks."""
    return resampled(len(setting.test.labels), derived(setting.seed, "bootstrap"))


def teaching(
    networks: Mapping[str, nn.Module], teachers: Mapping[str, Sequence[str]], student: nn.Module, setting: Setting
) -> Teaching:
    """What the network of each role is like, and how it and the student that it taught stand to each other.

    Args:
        networks: role to network.
        teachers: role to the names of those who teach in it.
        student: the student, once it is trained.
        setting: what all of them meet.
    """
    labels, counts = setting.test.labels.cpu(), resamples(setting)
    seen = setting.look(student, cascade=False)
    pupil = Student(student, seen, unlearnable([seen], labels))
    found = {role: measured(network, pupil, setting, CONFIDENT) for role, network in networks.items()}
    # Read like a file, so that names of measures are checked.
    return Teaching.model_validate(
        {
            "num_images": len(labels),
            "crafting": repr(setting.attacks.crafting),
            "cascade": {name: repr(attack) for name, attack in setting.attacks.cascade.items()},
            "confident": CONFIDENT,
            "unlearnable": int(pupil.unlearnable.sum()),
            "roles": {
                role: {"teachers": list(teachers[role]), "measures": summed_up(measures, counts)}
                for role, measures in found.items()
            },
        }
    )
