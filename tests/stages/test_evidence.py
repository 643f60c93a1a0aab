"""Which attacks of an evaluation the verdict looks at."""

from types import SimpleNamespace
from typing import Any

import torch

from components.attacks.apgd import Apgd
from components.evaluation.campaign import ModelResults, Task, cascade
from components.foundation.params import Ratio
from components.stages.evidence import _budgets, _counted
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

MAIN = Threat(norm=Linf(), epsilon=Ratio(8, 255))
APGD = Apgd(steps=100, restarts=1, loss="cross_entropy", rho=0.75)


def test_the_budget_is_checked_at_every_radius_that_enters_the_worst_case():
    """Of a cascade at half, once and twice the radius the first two count; no attack at all has no budget."""
    tasks = [Task("clean", None, MAIN), *cascade({"apgd": APGD}, [MAIN, *(MAIN.at(Ratio(n, 255)) for n in (4, 16))])]
    suite: Any = SimpleNamespace(full_tasks=lambda: tasks, threat=MAIN)
    ones = torch.ones(3, dtype=torch.uint8)
    results = ModelResults(ones, {}, {task.name: ones for task in tasks}, largest={t.name: 0.01 for t in tasks})
    found = _budgets(results, _counted(results, suite))
    assert [(one["attack"], one["epsilon"]) for one in found] == [
        ("cascade/apgd@4/255", 4 / 255),
        ("cascade/apgd", 8 / 255),
    ]
