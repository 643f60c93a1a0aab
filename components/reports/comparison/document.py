"""Two models on the same test images: what may be compared, and by how much they differ, image by image."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from components.evaluation.document import Cascade, Evaluation, ModelFacts
from components.evaluation.results import read_evaluation
from components.evaluation.verdict.rules import judge
from components.foundation.errors import InputError, choose
from components.reports.attack_words import attack_text
from components.reports.comparison import contents
from components.reports.comparison.contents import Comparison, PairedDifference, paired_difference
from components.reports.wording import title
from components.statistics import intervals
from components.statistics import outcomes as per_image
from components.statistics.intervals import CONFIDENCE, Paired, holm, paired
from components.statistics.number_text import p_text, percent, points, undecided
from components.statistics.outcomes import Outcomes, by_class, share, six_digits, worst

SIGNIFICANT = 1 - CONFIDENCE


class Side(NamedTuple):
    """One model in one evaluation; `title` says where that is from."""

    title: str
    model: str
    evaluation: Evaluation
    outcomes: Outcomes

    @property
    def labels(self) -> Tensor:
        """The true classes, [n]."""
        return self.outcomes["labels"]

    @property
    def facts(self) -> ModelFacts:
        """What the evaluation says of the model."""
        return self.evaluation.models[self.model]

    @property
    def cascade(self) -> Cascade:
        """Name and attacks of the cascade."""
        return self.evaluation.cascade

    @property
    def attacked(self) -> dict[str, Tensor]:
        """The outcomes [n] under each attack that this model met on every image, and after the whole `cascade`."""
        return per_image.attacked(self.model, self.evaluation.attacks, self.cascade.attacks, self.outcomes)


def load(folder: Path | str, model: str | None = None, title: str = "") -> Side:
    """A model in the evaluation that a folder, or its subfolder `evaluation`, holds.

    Args:
        folder: with evaluation.json and outcomes.safetensors.
        model: its name there; the student by default, or the only (selected) one.
        title: what to call the folder.

    Errors: missing, broken or foreign files, no such model, several models and none named.
    """
    folder = Path(folder)
    if not (folder / "evaluation.json").exists() and (folder / "evaluation/evaluation.json").exists():
        folder = folder / "evaluation"
    where = folder / "evaluation.json"
    evaluation, outcomes = read_evaluation(folder)
    try:
        side = Side(title or str(folder), _chosen(evaluation, model, where), evaluation, outcomes)
        needed = [side.labels, outcomes[f"{side.model}/clean"], *side.attacked.values()]
    except KeyError as error:
        raise InputError(f"{folder}: nothing called {error}, which every evaluation has") from None
    if len({tensor.shape for tensor in needed}) > 1 or needed[0].shape != (evaluation.num_images,):
        raise InputError(f"{folder}: outcomes are not those of {evaluation.num_images} images")
    return side


def _chosen(evaluation: Evaluation, model: str | None, where: Path) -> str:
    models = evaluation.models
    if model is not None:
        choose(models, model, f"{where}: models")
        return model
    selected = [name for name, facts in models.items() if facts.checkpoint == "best"] or list(models)
    if "student" not in models and len(selected) != 1:
        raise InputError(f"{where}: {len(models)} models and no student, name one (allowed: {', '.join(models)})")
    return "student" if "student" in models else selected[0]


def compare(a: Side, b: Side) -> Comparison:
    """How B differs from A: the content of comparison.json (docs/compare.md).

    Errors: evaluations on other test images, under another threat model, with another cascade, or without a common
    attack.
    """
    _require_comparable(a, b)
    shared, left_out = _shared(a, b)
    if left_out and not shared:
        why = "; ".join(f"{title(name)} {reason}" for name, reason in left_out.items())
        raise InputError(f"{_both(a, b)} cannot be compared: no attack in common ({why})")
    clean = {"clean": (a.outcomes[f"{a.model}/clean"], b.outcomes[f"{b.model}/clean"])}
    tables = clean | shared
    if shared:
        first, second = zip(*tables.values(), strict=True)
        tables["worst_case"] = (worst(first), worst(second))
    conditions = {name: _condition(name, *sides) for name, sides in tables.items()}
    headline = conditions["worst_case" if shared else "clean"]
    evaluation = a.evaluation
    return Comparison(
        schema_="temper/comparison/1",
        answer=headline.answer,
        remarks=list(_remarks(a, b, left_out)),
        **evaluation.pick("dataset", "threat", "classes", "num_images"),
        confidence=CONFIDENCE,
        power=intervals.POWER,
        a=_described(a),
        b=_described(b),
        attacks={name: evaluation.attacks[name] for name in shared if name != "cascade"},
        cascade=a.cascade if "cascade" in shared else Cascade(name="none", attacks={}),
        left_out=left_out,
        conditions=conditions,
        per_class=_per_class(a, tables["worst_case"]) if shared else [],
    )


def _both(a: Side, b: Side) -> str:
    return f"{a.title} and {b.title}" if a.title != b.title else f"{a.model} and {b.model} in {a.title}"


def _data_hash(side: Side) -> str:
    """The hash of the test images, or, in older evaluations, of the file that holds the training images as well."""
    provenance = side.evaluation.provenance
    return provenance.get("test.sha256") or provenance.get("data.sha256", "")


def other_question(a: Side, b: Side) -> list[str]:
    """What makes two evaluations ask another question: other images, another threat model. Nothing: the same one."""
    one, other = a.evaluation, b.evaluation
    problems: list[str] = []
    data = [_data_hash(side) for side in (a, b)]
    if one.classes != other.classes or not torch.equal(a.labels, b.labels):
        images = ", ".join(f"{side.num_images} of {side.dataset}" for side in (one, other))
        problems.append(f"other test images ({images})")
    elif all(data) and data[0] != data[1]:
        problems.append(f"other test images (sha256 {data[0][:12]}, {data[1][:12]})")
    threats = [(side.threat.norm, Fraction(side.threat.epsilon)) for side in (one, other)]
    if threats[0] != threats[1]:
        problems.append("another threat model ({} {}, {} {})".format(*threats[0], *threats[1]))
    return problems


def _require_comparable(a: Side, b: Side) -> None:
    """Refuses to compare what was not measured alike, and names all that differs."""
    problems = other_question(a, b)
    if a.cascade.name != b.cascade.name:
        problems.append(f"another cascade ({a.cascade.name}, {b.cascade.name})")
    elif list(a.cascade.attacks.items()) != list(b.cascade.attacks.items()):
        problems.append(f"other settings in the cascade {a.cascade.name}")
    if problems:
        raise InputError(f"{_both(a, b)} cannot be compared: {'; '.join(problems)}")


def _shared(a: Side, b: Side) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str]]:
    """The outcomes of both under each attack that was the same for both, and why the others are left out."""
    settings = [{**side.evaluation.attacks, "cascade": side.cascade.name} for side in (a, b)]
    one, other = a.attacked, b.attacked
    shared, left_out = {}, {}
    for name in dict.fromkeys([*one, *other]):
        if name not in one or name not in other:
            left_out[name] = f"met only by {'A' if name in one else 'B'}"
        elif settings[0][name] != settings[1][name]:
            left_out[name] = "for A {}; for B {}".format(*(attack_text(side[name]) for side in settings))
        else:
            shared[name] = (one[name], other[name])
    return shared, left_out


def _condition(name: str, a: Tensor, b: Tensor) -> contents.Condition:
    found, n = paired(a, b), a.numel()
    smallest = intervals.detectable_paired((found.only_a + found.only_b) / n, n)
    apart = intervals.detectable_unpaired(share(a, float).value, n, n)
    return contents.Condition(
        answer=answer(name, found, smallest),
        a=share(a, six_digits),
        b=share(b, six_digits),
        difference=paired_difference(found),
        detectable=contents.Detectable(paired=six_digits(smallest), unpaired=six_digits(apart)),
    )


def answer(condition: str, found: Paired | PairedDifference, detectable: float, a: str = "A", b: str = "B") -> str:
    """Whether B is better, by how much and how sure, in one sentence that calls the two `a` and `b`."""
    against = "" if condition in ("clean", "worst_case", "cascade") else f" against {title(condition)}"
    interval = f"{100 * CONFIDENCE:.0f} % interval"
    if found.p >= SIGNIFICANT:
        what = "accuracy on clean images" if condition == "clean" else f"robustness{against}"
        bounds = f"{points(found.low)} to {points(found.high)}"
        return (
            f"no difference in {what} can be told: with n = {found.n} only differences above {percent(detectable)} "
            f"points would be ({b} minus {a}: {points(found.value)}, {interval} {bounds}, {p_text(found.p)}"
            f"{undecided(found.low, found.high)})"
        )
    better = "accurate on clean images" if condition == "clean" else f"robust{against}"
    names, sign = ((b, a), 1) if found.value > 0 else ((a, b), -1)
    low, high = sorted((sign * found.low, sign * found.high))
    return (
        f"{names[0]} is more {better} than {names[1]} by {percent(sign * found.value)} points "
        f"({interval} {percent(low)} to {percent(high)}, n = {found.n}, {p_text(found.p)})"
    )


def _remarks(a: Side, b: Side, left_out: Mapping[str, str]) -> Iterator[str]:
    """What a reader has to know before believing the answer."""
    if a.facts.sha256 == b.facts.sha256:
        yield "A and B are the same file."
    for letter, side in (("A", a), ("B", b)):
        status, reasons = _verdict(side)
        if status not in ("trusted", "not judged"):
            why = ", ".join(reasons)
            yield f"The evaluation of {letter} is {status} ({why}): it may be less robust than measured."
    known = all(_data_hash(side) for side in (a, b))
    if not known and a.evaluation != b.evaluation:
        yield "That the test images are the same is known from their labels only."
    if a.evaluation.seed != b.evaluation.seed:
        seeds = f"{a.evaluation.seed} and {b.evaluation.seed}"
        yield f"The attacks were seeded differently ({seeds}): their luck is part of the difference."
    if left_out:
        yield f"Left out: {', '.join(f'{title(name)} ({why})' for name, why in left_out.items())}."


def _verdict(side: Side) -> tuple[str, list[str]]:
    evidence = side.evaluation.evidence.get(side.model)
    if evidence is None:
        return "not judged", []
    verdict = judge(evidence)
    return verdict.status, verdict.reasons


def _described(side: Side) -> contents.ComparedSide:
    facts = side.facts.pick("file", "sha256", "checkpoint", "architecture", "num_parameters", "epoch")
    return contents.ComparedSide(title=side.title, model=side.model, verdict=_verdict(side)[0], **facts)


def _per_class(a: Side, worst_cases: tuple[Tensor, Tensor]) -> list[contents.ClassComparison]:
    """Per class both worst cases and their difference; p also corrected for the number of classes."""
    masks = by_class(a.evaluation.classes, a.labels)
    sides = {name: [outcome[mask] for outcome in worst_cases] for name, mask in masks.items()}
    found = {name: paired(*both) for name, both in sides.items()}
    corrected = holm([one.p for one in found.values()])
    return [
        contents.ClassComparison(
            class_=name,
            a=share(one, six_digits),
            b=share(other, six_digits),
            difference=paired_difference(found[name], p_corrected=p),
        )
        for (name, (one, other)), p in zip(sides.items(), corrected, strict=True)
    ]
