"""Robustness of image classifiers: attacks, adversarial training, evaluation with a verdict.

    import temper

    images_adv = temper.attack(model, images, labels, "linf:8/255")
    result = temper.evaluate(model, images, labels, "linf:8/255")
    print(result)

The command line is `temper` (docs/command.md); `components` and `pipelines` are internal. Names are imported when they
are first used, since torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from components.foundation.errors import InputError

if TYPE_CHECKING:
    from components.threats.parts.threat import Threat
    from temper.defaults import BUDGETS
    from temper.evaluation import Evaluation, attack, evaluate
    from temper.models import load
    from temper.training import Trained, train

__version__ = "0.1.0"
__all__ = ["BUDGETS", "Evaluation", "InputError", "Threat", "Trained", "attack", "evaluate", "load", "train"]

_HOMES = {
    "BUDGETS": "temper.defaults",
    "Evaluation": "temper.evaluation",
    "Threat": "components.threats.parts.threat",
    "Trained": "temper.training",
    "attack": "temper.evaluation",
    "evaluate": "temper.evaluation",
    "load": "temper.models",
    "train": "temper.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'temper' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
