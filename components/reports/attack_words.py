"""Attacks in words: documents hold an attack as its exact settings, `Pgd(steps=20, …)`; people read a sentence."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from components.reports.wording import ABSENT, grey_text, measured_text, sentence, title

# What an attack does that none of its fields says.
_DOES = {
    "bim": "steps of one grey level, in L2 and L1 of ε / 8",
    "eot": "the mean answer",
    "fab": "towards the nearest decision boundary",
    "fgsm": "one step of length ε",
    "iter_ll": "steps of one grey level, in L2 and L1 of ε / 8, towards the least likely class",
    "r_fgsm": "a random step, then one step, of ε / 2 each",
    "square": "random search without gradients",
    "step_ll": "one step of length ε towards the least likely class",
    "step_rnd": "one step of length ε towards a random class",
}
# A field in words, in the order of a sentence: behind a comma, or with a leading blank behind the words before it.
_FIELDS: dict[str, str | Mapping[str, str]] = {
    "samples": " of {} passes",
    "steps": "{} steps",
    "queries": "{} queries",
    "step_size": " of {}",
    "start": {
        "zero": " from the image itself",
        "uniform": " from a uniform start",
        "gaussian": " from a Gaussian start beside the image",
    },
    "loss": {
        "cross_entropy": "up the cross-entropy",
        "margin": "up the margin",
        "dlr": "up the DLR loss",
        "targeted_dlr": "up the targeted DLR loss",
    },
    "aim": {
        "true": "away from the true class",
        "predicted": "away from the model's own answer",
        "least_likely": "towards the least likely class",
        "random": "towards a random class",
    },
    "targets": "{} target classes",
    "restarts": "{} restarts",
    "confidence": "up the margin as far as {}",
    "decay": "momentum {}",
    "p_init": "first squares over {} of the image",
    "rho": "ρ = {}",
    "alpha_max": "α ≤ {}",
    "eta": "η = {}",
    "beta": "β = {}",
    "attack": "under {}",
}


def attack_text(described: str) -> str:
    """An attack in words: `Pgd(steps=20, step_size=1/51, …)` -> `PGD: 20 steps of 5/255 from …`.

    What is not described by a name and its fields, as an attack from outside may be, is returned as it is.
    """
    if (call := _call(described)) is None:
        return described
    does = ", ".join(part for part in [_DOES.get(kind(described), ""), *_fields(call)] if part).replace(",  ", " ")
    name = sentence(title(kind(described)))
    return f"{name}: {does.strip()}" if does else name


def kind(described: str) -> str:
    """The key of a described attack's class in the table of attacks: `RFgsm(...)` -> `r_fgsm`."""
    return re.sub(r"(?<=.)(?=[A-Z])", "_", described.partition("(")[0]).lower()


def with_attacks(value: Any) -> Any:
    """The same tree with every described attack in it in words."""
    if isinstance(value, Mapping):
        return {key: with_attacks(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_attacks(inner) for inner in value]
    return attack_text(value) if isinstance(value, str) else value


def _call(described: str) -> ast.Call | None:
    """The description as a call with named arguments; None where it is no such thing."""
    try:
        call = ast.parse(described, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        return None
    return call if all(word.arg for word in call.keywords) else None


def _fields(call: ast.Call) -> list[str]:
    """Each field in words, those without words of their own last."""
    values = {str(word.arg): _value(word.value) for word in call.keywords}
    values = {name: value for name, value in values.items() if (name, value) != ("targets", "0")}
    known = [_field(words, values[name]) for name, words in _FIELDS.items() if name in values]
    return [*known, *(f"{title(name)} {title(value)}" for name, value in values.items() if name not in _FIELDS)]


def _field(words: str | Mapping[str, str], value: str) -> str:
    if isinstance(words, str):
        return (words.removesuffix("s") if value == "1" and words.startswith("{} ") else words).format(value)
    return words.get(value, title(value))


def _value(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return attack_text(ast.unparse(node))
    if isinstance(node, ast.Tuple | ast.List):
        return " and ".join(map(_value, node.elts)) or ABSENT
    if isinstance(node, ast.Constant):
        return measured_text(node.value)
    text = ast.unparse(node).replace(" ", "")
    return grey_text(text) if re.fullmatch(r"\d+/\d+", text) else text
