"""The robustness document: every rate, from per-image outcomes, under a versioned schema (docs/report-schema.md)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from components.errors import InputError
from components.statistics import CONFIDENCE, Rate, rate

SCHEMA = "temper/robustness/1"
EVALUATION_SCHEMA = "temper/evaluation/1"

Outcomes = Mapping[str, Tensor]
Document = dict[str, Any]

_CARD = ("file", "sha256", "checkpoint", "of", "architecture", "num_parameters", "epoch", "upstream")


def build(evaluation: Document, outcomes: Outcomes, training: Document, data: Document) -> Document:
    """The document of reports/robustness.json.

    Args:
        evaluation: the content of evaluation/evaluation.json.
        outcomes: per-image outcomes [n], 1 where the model was right, under `<model>/clean`, `<model>/<attack>`,
            `<model>/curve/<i>` and `transfer/<source>/<target>`, and `labels` [n].
        training: per trained model, the reference to its curves file.
        data: the content of metrics/data.json.

    Errors: another schema, missing outcomes, outcomes of another number of images.
    """
    _check(evaluation, outcomes)
    return {
        "schema": SCHEMA,
        **{key: evaluation[key] for key in ("dataset", "threat", "classes", "num_images", "precision", "seed")},
        "confidence": CONFIDENCE,
        "attacks": evaluation["attacks"],
        "models": {name: _model(name, evaluation, outcomes) for name in evaluation["models"]},
        "curve": evaluation["curve"],
        "transfer": {**evaluation["transfer"], "accuracy": _transfer(evaluation, outcomes)},
        "best_versus_last": _best_versus_last(evaluation, outcomes),
        "training": training,
        "data": data,
        "params": evaluation.get("params", {}),
        "provenance": evaluation["provenance"],
    }


def best_models(document: Document) -> list[str]:
    """The names of the selected models (checkpoint `best`), in the order they were evaluated."""
    return [name for name, model in document["models"].items() if model["checkpoint"] == "best"]


def subject(document: Document) -> str:
    """The model the report is about: the student, or the last selected model where there is none."""
    best = best_models(document)
    return "student" if "student" in best else best[-1]


def headline(document: Document) -> dict[str, float | int]:
    """Flat numbers for DVC metrics and the tracker: per selected model clean, each attack, worst case, W-Robust."""
    flat: dict[str, float | int] = {"num_images": document["num_images"]}
    for name in best_models(document):
        for condition, found in conditions(document["models"][name]).items():
            flat[f"{name}.{condition}"] = found["value"]
    return flat


def conditions(model: Document) -> dict[str, Document]:
    """The columns of the main table: clean, each attack, worst case and its W-Robust, where measured."""
    found = {"clean": model["clean"], **model["attacks"]}
    if model["worst_case"] is not None:
        found |= {"worst_case": model["worst_case"], "w_robust": model["w_robust"]["worst_case"]}
    return found


def _check(evaluation: Document, outcomes: Outcomes) -> None:
    found = evaluation.get("schema") if isinstance(evaluation, dict) else None
    if found != EVALUATION_SCHEMA:
        raise InputError(f"evaluation.json: schema {found!r}, want {EVALUATION_SCHEMA!r}")
    if not any(model["checkpoint"] == "best" for model in evaluation["models"].values()):
        raise InputError("evaluation.json: no model with checkpoint 'best'")
    for name in ["labels", *(f"{model}/clean" for model in evaluation["models"])]:
        if name not in outcomes:
            raise InputError(f"outcomes.safetensors: no tensor {name!r}, which evaluation.json announces")
    for name, outcome in outcomes.items():
        if outcome.shape != (evaluation["num_images"],):
            raise InputError(
                f"outcomes.safetensors: {name} is {list(outcome.shape)}, want [{evaluation['num_images']}]"
            )


def _model(name: str, evaluation: Document, outcomes: Outcomes) -> Document:
    card, clean = evaluation["models"][name], outcomes[f"{name}/clean"]
    attacks = {
        attack: outcomes[f"{name}/{attack}"] for attack in evaluation["attacks"] if f"{name}/{attack}" in outcomes
    }
    under = {**attacks, "worst_case": _worst_case(clean, list(attacks.values()))} if attacks else {}
    return {
        **{key: card[key] for key in _CARD},
        "clean": _plain(rate(clean)),
        "attacks": {attack: _plain(rate(outcome)) for attack, outcome in attacks.items()},
        "worst_case": {**_plain(rate(under["worst_case"])), "attacks": list(attacks)} if attacks else None,
        "w_robust": {attack: _w_robust(rate(clean), rate(outcome)) for attack, outcome in under.items()},
        "per_class": _per_class(evaluation["classes"], outcomes["labels"], clean, under.get("worst_case")),
        "curve": _curve(name, evaluation, outcomes),
        "cost": evaluation["cost"].get(name, {}),
        "training_cost": evaluation["training_cost"].get(name),
    }


def _worst_case(clean: Tensor, attacked: Sequence[Tensor]) -> Tensor:
    """1 for each image that stays right clean and under every attack, [n]: no perturbation is in the ball as well."""
    return torch.stack([clean, *attacked]).amin(0)


def _w_robust(clean: Rate, attacked: Rate) -> Document:
    # The mean of the two intervals holds however the two outcomes of an image depend on each other.
    pairs = {key: (getattr(clean, key) + getattr(attacked, key)) / 2 for key in ("value", "low", "high")}
    return {**{key: round(value, 6) for key, value in pairs.items()}, "n": clean.n}


def _per_class(classes: list[str], labels: Tensor, clean: Tensor, worst: Tensor | None) -> list[Document]:
    found = []
    for index, name in enumerate(classes):
        of_class = labels == index
        if of_class.any():
            robust = None if worst is None else _plain(rate(worst[of_class]))
            found.append({"class": name, "clean": _plain(rate(clean[of_class])), "worst_case": robust})
    return found


def _curve(name: str, evaluation: Document, outcomes: Outcomes) -> list[Document]:
    keys = {epsilon: f"{name}/curve/{index}" for index, epsilon in enumerate(evaluation["curve"]["epsilons"])}
    return [{"epsilon": epsilon, **_plain(rate(outcomes[key]))} for epsilon, key in keys.items() if key in outcomes]


def _transfer(evaluation: Document, outcomes: Outcomes) -> Document:
    names = best_models(evaluation)
    pairs = {source: {target: outcomes.get(f"transfer/{source}/{target}") for target in names} for source in names}
    rows = {
        source: {target: _plain(rate(outcome)) for target, outcome in row.items() if outcome is not None}
        for source, row in pairs.items()
    }
    return {source: row for source, row in rows.items() if row}


def _best_versus_last(evaluation: Document, outcomes: Outcomes) -> Document:
    """Per role, both checkpoints on the attacks that both were given: the worst of fewer attacks is no comparison."""
    models, found = evaluation["models"], {}
    for last, card in models.items():
        best = card["of"]
        if card["checkpoint"] != "last" or best not in models:
            continue
        shared = [name for name in evaluation["attacks"] if {f"{best}/{name}", f"{last}/{name}"} <= outcomes.keys()]
        found[best] = {"attacks": shared}
        for checkpoint, model in (("best", best), ("last", last)):
            clean = outcomes[f"{model}/clean"]
            worst = _worst_case(clean, [outcomes[f"{model}/{name}"] for name in shared])
            robust = _plain(rate(worst)) if shared else None
            found[best][checkpoint] = {
                "epoch": models[model]["epoch"],
                "clean": _plain(rate(clean)),
                "worst_case": robust,
            }
    return found


def _plain(found: Rate) -> Document:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(found).items()}
