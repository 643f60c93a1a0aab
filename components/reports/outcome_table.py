"""The per-image outcomes of an evaluation as one tidy table: a row per model, attack and image (docs/evaluation.md)."""

from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from components.evaluation.document import Evaluation
from components.evaluation.results import read_evaluation
from components.foundation.errors import InputError
from components.foundation.storage import replacing
from components.reports.frames import frame, joined
from components.statistics.outcomes import Outcomes

SUFFIXES = (".parquet", ".csv")


def outcome_table(folder: Path) -> Any:
    """The outcomes in `folder` (evaluation.json, outcomes.safetensors) as a `pandas.DataFrame`, a row per image.

    Its columns are model, image (place in the test split), label (class name), attack, epsilon (share of the pixel
    range) and right (bool).

    Errors: missing, broken or foreign files, outcomes of another number of images, pandas is not installed.
    """
    evaluation, outcomes = read_evaluation(folder)
    about = {
        "image": np.arange(evaluation.num_images),
        "label": np.array(evaluation.classes)[outcomes["labels"].numpy()],
    }
    return joined(
        frame({"model": model, **about, "attack": attack, "epsilon": epsilon, "right": right.numpy() != 0})
        for model, attack, epsilon, right in _measured(evaluation, outcomes)
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


def _measured(evaluation: Evaluation, outcomes: Outcomes) -> Iterator[tuple[str, str, float, Tensor]]:
    """Model, attack, size and outcomes of everything measured, in the order of evaluation.json."""
    models, main = evaluation.models, evaluation.threat.epsilon
    named = [(model, f"{model}/{name}", *rest) for model in models for name, *rest in _conditions(evaluation)]
    for made in (f"transfer/{attack}/{source}" for attack in evaluation.transfer.attacks for source in models):
        named += [(model, f"{made}/{model}", made, main) for model in models]
    for model, key, attack, epsilon in named:
        if key in outcomes:
            yield model, attack, float(Fraction(epsilon)), outcomes[key]


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
