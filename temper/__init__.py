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
    from components.data.batch import Batch
    from components.methods.parts.contract import Loss, Method
    from components.ntk.kernels import trace_kernel
    from components.ntk.metrics import kernel_metrics
    from components.numerics.random_numbers import Rng
    from components.threats.parts.threat import Threat
    from temper.arrays import threat
    from temper.defaults import BUDGETS
    from temper.evaluation import Evaluation, attack, evaluate
    from temper.models import load
    from temper.training import Trained, train

__version__ = "0.1.0"
__all__ = [
    "BUDGETS",
    "Batch",
    "Evaluation",
    "InputError",
    "Loss",
    "Method",
    "Rng",
    "Threat",
    "Trained",
    "attack",
    "evaluate",
    "kernel_metrics",
    "load",
    "threat",
    "trace_kernel",
    "train",
]

_HOMES = {
    "BUDGETS": "temper.defaults",
    "Batch": "components.data.batch",
    "Evaluation": "temper.evaluation",
    "Loss": "components.methods.parts.contract",
    "Rng": "components.numerics.random_numbers",
    "Method": "components.methods.parts.contract",
    "Threat": "components.threats.parts.threat",
    "Trained": "temper.training",
    "attack": "temper.evaluation",
    "evaluate": "temper.evaluation",
    "kernel_metrics": "components.ntk.metrics",
    "load": "temper.models",
    "threat": "temper.arrays",
    "trace_kernel": "components.ntk.kernels",
    "train": "temper.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'temper' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
