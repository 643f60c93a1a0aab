"""The per-image outcomes of an evaluation as one tidy table: a row per model, attack and image (docs/evaluation.md)."""

from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from components.evaluation.document import Evaluation
from components.foundation.errors import InputError
from components.foundation.storage import replacing
from components.numerics.tensor_files import read_tensors
from components.reports.frames import frame
from components.statistics.documents import read_document
from components.statistics.outcomes import Outcomes

SUFFIXES = (".parquet", ".csv")


class Measured(NamedTuple):
    """One tensor of an outcomes file: whose answers, to which attack, at which size."""

    model: str
    attack: str
    epsilon: str
    right: Tensor


def outcome_table(folder: Path) -> Any:
    """The outcomes in `folder` (evaluation.json, outcomes.safetensors) as a `pandas.DataFrame`, a row per image.

    Its columns are model, image (place in the test split), label (class name), attack, epsilon (share of the pixel
    range) and right (bool).

    Errors: missing, broken or foreign files, outcomes of another number of images, pandas is not installed.
    """
    evaluation, where = read_document(Evaluation, folder / "evaluation.json"), folder / "outcomes.safetensors"
    outcomes, _ = read_tensors(where)
    n = evaluation.num_images
    for name, outcome in outcomes.items():
        if outcome.shape != (n,):
            raise InputError(f"{where}: {name} is {list(outcome.shape)}, want [{n}]")
    measured = list(_measured(evaluation, outcomes))
    return frame(
        {
            "model": np.repeat([one.model for one in measured], n),
            "image": np.tile(np.arange(n), len(measured)),
            "label": np.tile(np.array(evaluation.classes)[outcomes["labels"].numpy()], len(measured)),
            "attack": np.repeat([one.attack for one in measured], n),
            "epsilon": np.repeat([float(Fraction(one.epsilon)) for one in measured], n),
            "right": np.concatenate([one.right.numpy() != 0 for one in measured]),
        }
    )


def write_outcome_table(folder: Path, out: Path) -> int:
    """Writes the table as `out`, a .csv or .parquet file, and returns its number of rows.

    Errors: another suffix, pyarrow is not installed (for .parquet), and those of `outcome_table`.
    """
    if out.suffix not in SUFFIXES:
        raise InputError(f"--outcomes: got {out}, want a file that ends in {' or '.join(SUFFIXES)}")
    if out.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise InputError(f"{out}: needs pyarrow, which is not installed (pip install pyarrow, or write a .csv file)")
    table = outcome_table(folder)
    with replacing(out) as partial:
        if out.suffix == ".csv":
            table.to_csv(partial, index=False, lineterminator="\n")
        else:
            table.to_parquet(partial, index=False, engine="pyarrow")
    return len(table)


def _measured(evaluation: Evaluation, outcomes: Outcomes) -> Iterator[Measured]:
    """Every condition that a model was measured under, in the order of evaluation.json; what was not is left out."""
    for model in evaluation.models:
        for name, attack, epsilon in _conditions(evaluation):
            if (right := outcomes.get(f"{model}/{name}")) is not None:
                yield Measured(model, attack, epsilon, right)
    for attack in evaluation.transfer.attacks:
        for source in evaluation.models:
            for model in evaluation.models:
                made = f"transfer/{attack}/{source}"
                if (right := outcomes.get(f"{made}/{model}")) is not None:
                    yield Measured(model, made, evaluation.threat.epsilon, right)


def _conditions(evaluation: Evaluation) -> Iterator[tuple[str, str, str]]:
    """Per condition the name of its tensor behind the model's name, its attack and its size."""
    main, cascade = evaluation.threat.epsilon, evaluation.cascade
    yield "clean", "clean", "0"
    for attack in evaluation.attacks:
        yield attack, attack, main
    for epsilon in dict.fromkeys((main, *cascade.epsilons)):
        for attack in cascade.attacks:
            yield f"cascade/{attack}{'' if epsilon == main else f'@{epsilon}'}", f"cascade/{attack}", epsilon
    yield "worst_case", "worst_case", main
    for index, epsilon in enumerate(evaluation.curve.epsilons):
        yield f"curve/{index}", "curve", epsilon
    for attack in evaluation.grid.attacks:
        for index, epsilon in enumerate(evaluation.grid.epsilons):
            yield f"grid/{attack}/{index}", f"grid/{attack}", epsilon
