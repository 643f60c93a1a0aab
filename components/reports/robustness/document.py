"""The robustness document: every rate, from per-image outcomes, under a versioned schema (docs/report-schema.md)."""

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.reports.robustness import label_leaking as kurakin
from components.statistics.intervals import CONFIDENCE
from components.statistics.outcomes import Document, hardest, mean_of_two, share

SCHEMA = "temper/robustness/2"
EVALUATION_SCHEMA = "temper/evaluation/2"

Outcomes = Mapping[str, Tensor]
Judge = Callable[[Mapping[str, Any]], Document]

_KEPT = ("dataset", "threat", "classes", "num_images", "precision", "seed", "adversarial", "attacks", "cascade")
_CARD = ("file", "sha256", "checkpoint", "of", "architecture", "num_parameters", "epoch", "upstream")


def build(evaluation: Document, outcomes: Outcomes, training: Document, data: Document, judge: Judge) -> Document:
    """The document of reports/robustness.json.

    Args:
        evaluation: the content of evaluation/evaluation.json (docs/evaluation.md).
        outcomes: the per-image outcomes [n] of evaluation/outcomes.safetensors, 1 where the model was right.
        training: per trained model, the reference to its curves file, and the sentinel's alarms.
        data: the content of metrics/data.json.
        judge: from a model's evidence to its verdict as JSON: `status`, `reasons` and `checks`.

    Errors: another schema, missing outcomes, outcomes of another number of images, a worst case that is none.
    """
    _check(evaluation, outcomes)
    models = {name: _model(name, evaluation, outcomes) for name in evaluation["models"]}
    best = {name: model for name, model in models.items() if model["checkpoint"] == "best"}
    attacked = {name: list(_attacked(name, evaluation, outcomes).values()) for name in best}
    runs = {name: found for name, found in attacked.items() if found}
    return {
        "schema": SCHEMA,
        "verdict": {name: judge(evidence) for name, evidence in evaluation["evidence"].items() if name in best},
        **{key: evaluation[key] for key in _KEPT},
        "confidence": CONFIDENCE,
        "models": models,
        "curve": evaluation["curve"],
        "grid": evaluation["grid"],
        "transfer": _transfer(list(best), evaluation["transfer"]["attacks"], outcomes),
        "capacity": kurakin.capacity(best),
        "hardest": hardest(evaluation["classes"], outcomes["labels"], runs, outcomes),
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


def status(document: Document, name: str) -> str:
    """The verdict on a model in one word: trusted, suspect, broken or, where none was given, not_judged."""
    return document["verdict"][name]["status"] if name in document["verdict"] else "not_judged"


def reasons(document: Document, name: str) -> list[str]:
    """The rules because of which a model is not trusted."""
    return document["verdict"][name]["reasons"] if name in document["verdict"] else []


def failed(document: Document, name: str) -> list[Document]:
    """The checks of these rules: the broken ones first, what had to be measured and was not last."""
    checks = document["verdict"].get(name, {"checks": []})["checks"]
    mine = [check for check in checks if check["rule"] in reasons(document, name)]
    return [check for wanted in ("broken", "suspect", "not_measured") for check in mine if check["status"] == wanted]


def headline(document: Document) -> dict[str, float | int]:
    """Flat numbers for DVC metrics and the tracker: per selected model clean, each attack, worst case, W-Robust.

    The figure of the cascade is called as the cascade is: `student.autoattack`, `student.quick`, `student.custom`.
    """
    flat: dict[str, float | int] = {"num_images": document["num_images"]}
    for name in best_models(document):
        for condition, found in conditions(document["models"][name]).items():
            flat[f"{name}.{document['cascade']['name'] if condition == 'cascade' else condition}"] = found["value"]
    return flat


def conditions(model: Document) -> dict[str, Document]:
    """The columns of the main table: clean, each attack, the cascade, worst case and its W-Robust, where measured."""
    found = {"clean": model["clean"], **model["attacks"]}
    if model["cascade"]:
        found["cascade"] = model["cascade"][-1]
    if model["worst_case"] is not None:
        found |= {"worst_case": model["worst_case"], "w_robust": model["w_robust"]["worst_case"]}
    return found


def _check(evaluation: Document, outcomes: Outcomes) -> None:
    found = evaluation.get("schema") if isinstance(evaluation, dict) else None
    if found != EVALUATION_SCHEMA:
        raise InputError(f"evaluation.json: schema {found!r}, want {EVALUATION_SCHEMA!r}")
    if not any(model["checkpoint"] == "best" for model in evaluation["models"].values()):
        raise InputError("evaluation.json: no model with checkpoint 'best'")
    attacked = [name for name in evaluation["models"] if _attacked(name, evaluation, outcomes)]
    clean = [f"{name}/clean" for name in evaluation["models"]]
    for name in ["labels", *clean, *(f"{name}/worst_case" for name in attacked)]:
        if name not in outcomes:
            raise InputError(f"outcomes.safetensors: no tensor {name!r}, which evaluation.json announces")
    for name, outcome in outcomes.items():
        if outcome.shape != (evaluation["num_images"],):
            raise InputError(
                f"outcomes.safetensors: {name} is {list(outcome.shape)}, want [{evaluation['num_images']}]"
            )
    for name in attacked:
        # The report names what the worst case is the worst of, so it has to be that.
        parts = {"clean": outcomes[f"{name}/clean"], **_attacked(name, evaluation, outcomes)}
        if not torch.equal(_worst(parts.values()), outcomes[f"{name}/worst_case"] != 0):
            raise InputError(f"outcomes.safetensors: {name}/worst_case is not the worst of {', '.join(parts)}")


def _attacked(name: str, evaluation: Document, outcomes: Outcomes) -> dict[str, Tensor]:
    """The outcomes of a model [n] under each attack on every image, and what stands after the whole `cascade`."""
    found = {attack: outcomes[key] for attack in evaluation["attacks"] if (key := f"{name}/{attack}") in outcomes}
    steps = _cascade(name, evaluation, outcomes)
    return found | ({"cascade": _worst(steps.values()).to(torch.uint8)} if steps else {})


def _cascade(name: str, evaluation: Document, outcomes: Outcomes) -> dict[str, Tensor]:
    keys = {attack: f"{name}/cascade/{attack}" for attack in evaluation["cascade"]["attacks"]}
    return {attack: outcomes[key] for attack, key in keys.items() if key in outcomes}


def _cascade_curve(name: str, evaluation: Document, outcomes: Outcomes) -> list[Document]:
    """What stands after the whole cascade at each of its epsilons, rising; empty where it ran at one only."""
    main, last = evaluation["threat"]["epsilon"], list(evaluation["cascade"]["attacks"])[-1:]
    others = [epsilon for epsilon in evaluation["cascade"].get("epsilons", []) if epsilon != main]
    keys = {e: f"{name}/cascade/{attack}{'' if e == main else f'@{e}'}" for attack in last for e in [main, *others]}
    found = [{"epsilon": e, **share(outcomes[key])} for e, key in keys.items() if key in outcomes]
    return sorted(found, key=lambda point: Fraction(point["epsilon"])) if len(found) > 1 else []


def _worst(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack([part != 0 for part in parts]).all(0)


def _model(name: str, evaluation: Document, outcomes: Outcomes) -> Document:
    card, clean = evaluation["models"][name], share(outcomes[f"{name}/clean"])
    attacked = _attacked(name, evaluation, outcomes)
    attacks = {attack: share(found) for attack, found in attacked.items() if attack != "cascade"}
    cascade = {"cascade": evaluation["cascade"]["name"] if "cascade" in attacked else None}
    worst = outcomes[f"{name}/worst_case"] if attacked else None
    worst_case = None if worst is None else {**share(worst), "attacks": list(attacks), **cascade}
    return {
        **{key: card[key] for key in _CARD},
        "clean": clean,
        "attacks": attacks,
        "cascade": [
            {"attack": attack, **share(found)} for attack, found in _cascade(name, evaluation, outcomes).items()
        ],
        "cascade_curve": _cascade_curve(name, evaluation, outcomes),
        "worst_case": worst_case,
        "w_robust": {
            attack: mean_of_two(clean, found)
            for attack, found in {**attacks, "worst_case": worst_case}.items()
            if found is not None
        },
        "per_class": _per_class(evaluation["classes"], outcomes["labels"], outcomes[f"{name}/clean"], worst),
        "curve": _curve(name, evaluation, outcomes),
        "grid": kurakin.grid(name, evaluation["grid"], outcomes),
        "label_leak": kurakin.label_leak(name, evaluation["grid"], outcomes),
        "cost": evaluation["cost"].get(name, {}),
        "training_cost": evaluation["training_cost"].get(name),
    }


def _per_class(classes: list[str], labels: Tensor, clean: Tensor, worst: Tensor | None) -> list[Document]:
    found = []
    for index, name in enumerate(classes):
        of_class = labels == index
        if of_class.any():
            robust = None if worst is None else share(worst[of_class])
            found.append({"class": name, "clean": share(clean[of_class]), "worst_case": robust})
    return found


def _curve(name: str, evaluation: Document, outcomes: Outcomes) -> list[Document]:
    keys = {epsilon: f"{name}/curve/{index}" for index, epsilon in enumerate(evaluation["curve"]["epsilons"])}
    return [{"epsilon": epsilon, **share(outcomes[key])} for epsilon, key in keys.items() if key in outcomes]


def _transfer(names: list[str], attacks: Document, outcomes: Outcomes) -> Document:
    """Per attack: each target's accuracy on what was crafted on each source, and the share of fooling images."""
    accuracy, fooling = {}, {}
    for attack in attacks:
        pairs = {
            source: {target: key for target in names if (key := f"transfer/{attack}/{source}/{target}") in outcomes}
            for source in names
        }
        keys = {source: row for source, row in pairs.items() if row}
        if keys:
            accuracy[attack] = {s: {t: share(outcomes[key]) for t, key in row.items()} for s, row in keys.items()}
            fooling[attack] = kurakin.fooling(keys, outcomes)
    return {"attacks": attacks, "accuracy": accuracy, "fooling": fooling}


def _best_versus_last(evaluation: Document, outcomes: Outcomes) -> Document:
    """Per role, both checkpoints on the attacks that both were given: the worst of fewer attacks is no comparison."""
    models, found = evaluation["models"], {}
    for last, card in models.items():
        best = card["of"]
        if card["checkpoint"] != "last" or best not in models:
            continue
        given = {name: _attacked(name, evaluation, outcomes) for name in (best, last)}
        shared = [attack for attack in given[best] if attack in given[last]]
        found[best] = {"attacks": shared}
        for checkpoint, model in (("best", best), ("last", last)):
            clean = outcomes[f"{model}/clean"]
            worst = _worst([clean, *(given[model][attack] for attack in shared)])
            found[best][checkpoint] = {
                "epoch": models[model]["epoch"],
                "clean": share(clean),
                "worst_case": share(worst) if shared else None,
            }
    return found
