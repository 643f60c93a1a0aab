"""What comes before a run of dvc.yaml: a recipe that is changed and checked, and stages that are there.

Nothing heavy is imported before the cheap questions are answered, so that a mistake is refused at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.foundation.errors import InputError
from components.foundation.params import is_mapping, read_yaml
from pipelines.parameters.change import change

if TYPE_CHECKING:
    from pipelines.graph import Stage

GRAPH = "dvc.yaml"


def prepared(root: Path, preset: str | None, assignments: Sequence[str], targets: Sequence[str]) -> "dict[str, Stage]":
    """The stages to run, once params.yaml is changed and checked. Errors: whatever a user has mistaken, in one line."""
    require_stages(root, targets)
    change(root, preset, assignments)
    from pipelines import graph

    return graph.select(graph.read_graph(root), targets)


def require_stages(root: Path, targets: Sequence[str]) -> None:
    """Refuses a target that dvc.yaml does not have; DVC itself would take seconds to say so."""
    if not targets:
        return
    stages = read_yaml(root / GRAPH).get("stages")
    names = list(stages) if is_mapping(stages) else []
    for target in targets:
        if target not in names:
            raise InputError(f"unknown stage {target!r} (allowed: {', '.join(names)})")
