"""The robustness document: every rate, from per-image outcomes, under a versioned schema (docs/report-schema.md)."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from components.evaluation.criteria import Criteria, Decision, decide
from components.evaluation.document import Evaluation, Passes
from components.evaluation.verdict.rules import Check, Verdict
from components.foundation.errors import InputError
from components.foundation.provenance import fingerprint
from components.reports.robustness import contents, teachers
from components.reports.robustness import label_leaking as kurakin
from components.reports.robustness.contents import Report
from components.statistics import outcomes as per_image
from components.statistics.class_balance import BalancedRate, balanced
from components.statistics.intervals import CONFIDENCE
from components.statistics.outcomes import MeanRate, Outcomes, Rate, RateAt, share, shares_at

Judge = Callable[[Mapping[str, Any]], Verdict]


def build(
    evaluation: Evaluation,
    outcomes: Outcomes,
    training: Mapping[str, contents.Training],
    data: Mapping[str, Any],
    judge: Judge,
    params: Mapping[str, Any] | None = None,
    criteria: Criteria | None = None,
) -> Report:
    """The document of reports/robustness.json.

    Args:
        evaluation: the content of evaluation/evaluation.json (docs/evaluation.md).
        outcomes: the per-image outcomes [n] of evaluation/outcomes.safetensors, 1 where the model was right.
        training: per trained model, the reference to its curves file, and the sentinel's alarms.
        data: the content of metrics/data.json.
        judge: from a model's evidence to its verdict.
        params: every parameter of the run; those that the evaluation read, if there are no others.
        criteria: what a model must reach to go live; without them nothing is decided.

    Errors: missing outcomes, outcomes of another number of images, a worst case that is none.
    """
    _check(evaluation, outcomes)
    models = {name: _model(name, evaluation, outcomes) for name in evaluation.models}
    best = {name: model for name, model in models.items() if model.checkpoint == "best"}
    under = {name: list(_attacked(name, evaluation, outcomes).values()) for name in best}
    runs = {name: found for name, found in under.items() if found}
    verdict = {name: judge(evidence) for name, evidence in evaluation.evidence.items() if name in best}
    decision = None
    if criteria is not None:
        said = verdict[criteria.model].status if criteria.model in verdict else "not judged"
        decision = decide(criteria, said, outcomes, evaluation.classes)
    return Report(
        schema_="temper/robustness/2",
        decision=decision,
        against=teachers.against(_subject(list(best), decision), best, criteria, outcomes),
        verdict=verdict,
        **evaluation.pick("dataset", "threat", "classes", "num_images", "precision", "seed", "adversarial"),
        **evaluation.pick("attacks", "cascade", "curve", "grid", "provenance"),
        confidence=CONFIDENCE,
        models=models,
        transfer=_transfer(list(best), evaluation.transfer.attacks, outcomes),
        capacity=kurakin.capacity(best),
        hardest=per_image.hardest(evaluation.classes, outcomes["labels"], runs, outcomes, evaluation.curve.epsilons),
        best_versus_last=_best_versus_last(evaluation, outcomes),
        training=dict(training),
        **({} if evaluation.teachers is None else evaluation.pick("teachers")),
        data=dict(data),
        params=evaluation.params if params is None else dict(params),
    )


def best_models(document: Report) -> list[str]:
    """The names of the selected models (checkpoint `best`), in the order they were evaluated."""
    return [name for name, model in document.models.items() if model.checkpoint == "best"]


def subject(document: Report) -> str:
    """The model the report is about: the one decided on, else the student, or the last selected model."""
    return _subject(best_models(document), document.decision)


def _subject(best: list[str], decision: Decision | None) -> str:
    if decision is not None and decision.model in best:
        return decision.model
    return "student" if "student" in best else best[-1]


def status(document: Report, name: str) -> str:
    """The verdict on a model in one word: trusted, suspect, broken or, where none was given, not_judged."""
    return document.verdict[name].status if name in document.verdict else "not_judged"


def reasons(document: Report, name: str) -> list[str]:
    """The rules because of which a model is not trusted."""
    return document.verdict[name].reasons if name in document.verdict else []


def failed(document: Report, name: str) -> list[Check]:
    """The checks of these rules: the broken ones first, what had to be measured and was not last."""
    verdict = document.verdict.get(name)
    mine = [check for check in verdict.checks if check.rule in verdict.reasons] if verdict else []
    return [check for wanted in ("broken", "suspect", "not_measured") for check in mine if check.status == wanted]


def headline(document: Report) -> dict[str, float | int]:
    """Flat numbers for DVC metrics and the tracker: per selected model clean, each attack, worst case, W-Robust.

    The figure of a named cascade is called as the cascade is: `student.autoattack`, `student.quick`. That of an attack,
    or of a cascade of one's own, ends in a short hash of its settings and the threat model, `student.pgd.3fa2`: the
    same name in another run is the same attack.
    """
    threat, cascade = (document.threat.norm, document.threat.epsilon), document.cascade

    def marked(name: str, kind: str, told: Any) -> str:
        return f"{name}.{fingerprint({kind: told, 'threat': threat})[:4]}"

    marks = {name: marked(name, "attack", told) for name, told in document.attacks.items()}
    own = cascade.name == "custom"
    marks["cascade"] = marked(cascade.name, "cascade", cascade.attacks) if own else cascade.name
    flat: dict[str, float | int] = {"num_images": document.num_images}
    for name in best_models(document):
        for condition, found in conditions(document.models[name]).items():
            flat[f"{name}.{marks.get(condition, condition)}"] = found.value
    return flat


def rates(model: contents.ModelReport) -> dict[str, Rate]:
    """What a model was measured under: clean, each attack, the cascade and the worst case, where measured."""
    last: dict[str, Rate] = {"cascade": model.cascade[-1]} if model.cascade else {}
    worst_case: dict[str, Rate] = {"worst_case": model.worst_case} if model.worst_case else {}
    return {"clean": model.clean, **model.attacks, **last, **worst_case}


def conditions(model: contents.ModelReport) -> dict[str, Rate | BalancedRate | MeanRate]:
    """The columns of the main table: what the model was measured under, and what is derived from the worst case."""
    balanced_rate = {"balanced_worst_case": model.balanced_worst_case} if model.balanced_worst_case else {}
    w_robust = {"w_robust": model.w_robust["worst_case"]} if model.worst_case else {}
    return {**rates(model), **balanced_rate, **w_robust}


def total(cost: Mapping[str, Passes]) -> Passes:
    """The passes of all tasks together."""
    forward, backward = (sum(getattr(one, kind) for one in cost.values()) for kind in ("forward", "backward"))
    return Passes(forward=forward, backward=backward)


def _check(evaluation: Evaluation, outcomes: Outcomes) -> None:
    if not any(model.checkpoint == "best" for model in evaluation.models.values()):
        raise InputError("evaluation.json: no model with checkpoint 'best'")
    under = {name: found for name in evaluation.models if (found := _attacked(name, evaluation, outcomes))}
    clean = [f"{name}/clean" for name in evaluation.models]
    for name in ["labels", *clean, *(f"{name}/worst_case" for name in under)]:
        if name not in outcomes:
            raise InputError(f"outcomes.safetensors: no tensor {name!r}, which evaluation.json announces")
    for name, outcome in outcomes.items():
        if outcome.shape != (evaluation.num_images,):
            raise InputError(f"outcomes.safetensors: {name} is {list(outcome.shape)}, want [{evaluation.num_images}]")
    for name, found in under.items():
        # The report names what the worst case is the worst of, so it has to be that.
        parts = {"clean": outcomes[f"{name}/clean"], **found}
        if not torch.equal(per_image.worst(parts.values()) != 0, outcomes[f"{name}/worst_case"] != 0):
            raise InputError(f"outcomes.safetensors: {name}/worst_case is not the worst of {', '.join(parts)}")


def _attacked(name: str, evaluation: Evaluation, outcomes: Outcomes) -> dict[str, Tensor]:
    return per_image.attacked(name, evaluation.attacks, evaluation.cascade.attacks, outcomes)


def _cascade(name: str, evaluation: Evaluation, outcomes: Outcomes) -> list[contents.CascadeStep]:
    keys = {attack: f"{name}/cascade/{attack}" for attack in evaluation.cascade.attacks}
    standing = {attack: share(outcomes[key]) for attack, key in keys.items() if key in outcomes}
    return [contents.CascadeStep(attack=attack, **dict(found)) for attack, found in standing.items()]


def _cascade_curve(name: str, evaluation: Evaluation, outcomes: Outcomes) -> list[RateAt]:
    """What stands after the whole cascade at each of its epsilons, rising; empty where it ran at one only."""
    main, last = evaluation.threat.epsilon, list(evaluation.cascade.attacks)[-1:]
    others = [epsilon for epsilon in evaluation.cascade.epsilons if epsilon != main]
    keys = {e: f"{name}/cascade/{attack}{'' if e == main else f'@{e}'}" for attack in last for e in [main, *others]}
    found = shares_at(keys, outcomes)
    return sorted(found, key=lambda point: Fraction(point.epsilon)) if len(found) > 1 else []


def _model(name: str, evaluation: Evaluation, outcomes: Outcomes) -> contents.ModelReport:
    clean, under = share(outcomes[f"{name}/clean"]), _attacked(name, evaluation, outcomes)
    attacks = {attack: share(found) for attack, found in under.items() if attack != "cascade"}
    worst_case = balanced_worst_case = None
    if under:
        balanced_worst_case = balanced(outcomes[f"{name}/worst_case"], outcomes["labels"])
        found, cascade = share(outcomes[f"{name}/worst_case"]), evaluation.cascade.name if "cascade" in under else None
        worst_case = contents.WorstCase(**dict(found), attacks=list(attacks), cascade=cascade)
    attacked_rates = attacks | ({"worst_case": worst_case} if worst_case else {})
    return contents.ModelReport(
        **dict(evaluation.models[name]),
        clean=clean,
        attacks=attacks,
        cascade=_cascade(name, evaluation, outcomes),
        cascade_curve=_cascade_curve(name, evaluation, outcomes),
        worst_case=worst_case,
        balanced_worst_case=balanced_worst_case,
        w_robust={attack: per_image.mean_of_two(clean, found) for attack, found in attacked_rates.items()},
        per_class=_per_class(name, evaluation, outcomes, bool(under)),
        curve=shares_at({e: f"{name}/curve/{index}" for index, e in enumerate(evaluation.curve.epsilons)}, outcomes),
        grid=kurakin.grid(name, evaluation.grid, outcomes),
        label_leak=kurakin.label_leak(name, evaluation.grid, outcomes),
        cost=evaluation.cost.get(name, {}),
        training_cost=evaluation.training_cost.get(name),
    )


def _per_class(name: str, evaluation: Evaluation, outcomes: Outcomes, under_attack: bool) -> list[contents.ClassRates]:
    return [
        contents.ClassRates(
            class_=class_,
            clean=share(outcomes[f"{name}/clean"][mine]),
            worst_case=share(outcomes[f"{name}/worst_case"][mine]) if under_attack else None,
        )
        for class_, mine in per_image.by_class(evaluation.classes, outcomes["labels"]).items()
    ]


def _transfer(names: list[str], attacks: dict[str, str], outcomes: Outcomes) -> contents.Transfer:
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
    return contents.Transfer(attacks=attacks, accuracy=accuracy, fooling=fooling)


def _best_versus_last(evaluation: Evaluation, outcomes: Outcomes) -> dict[str, contents.BestVersusLast]:
    """Per role, both checkpoints on the attacks that both were given: the worst of fewer attacks is no comparison."""
    models, found = evaluation.models, {}
    pairs = {facts.of: name for name, facts in models.items() if facts.checkpoint == "last" and facts.of in models}
    for best, last in pairs.items():
        under = {name: _attacked(name, evaluation, outcomes) for name in (best, last)}
        shared = [attack for attack in under[best] if attack in under[last]]
        sides = []
        for name in (best, last):
            clean, parts = outcomes[f"{name}/clean"], [under[name][attack] for attack in shared]
            robust = share(per_image.worst([clean, *parts])) if parts else None
            sides.append(contents.CheckpointRates(epoch=models[name].epoch, clean=share(clean), worst_case=robust))
        found[best] = contents.BestVersusLast(attacks=shared, best=sides[0], last=sides[1])
    return found
