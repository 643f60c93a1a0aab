"""Every key that params.yaml may have, as a tree made from the dataclasses: type, range, meaning, members."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from components.attacks.pgd import Pgd
from components.foundation.params import Ratio

# What a range is asked with: below zero, zero, just above, the usual shares and bounds, just above one, large.
INTEGERS = (-1, 0, 1, 2, 3, 4, 10, 30, 31, 10**6)
NUMBERS = (-1.0, 0.0, 1e-6, 0.5, 1 - 1e-6, 1.0, 1 + 1e-6, 2.0, 1e6)


@dataclass(frozen=True)
class Key:
    """What may stand in one place: in words and as JSON Schema; `children` are the keys below it.

    `family` names the table whose members may stand here, `many` says that it is a mapping of such members.
    """

    words: str
    schema: dict[str, Any]
    meaning: str = ""
    allowed: str = ""
    children: dict[str, "Key"] = field(default_factory=dict)
    required: bool = True
    family: str = ""
    many: bool = False


def of_class(
    kind: type, example: Callable[[type], Any], families: Mapping[str, tuple[str, bool]] | None = None
) -> dict[str, Key]:
    """The keys of a dataclass. `example` gives a valid instance, by changing which ranges are found, or None.

    `families` says which fields name members: field to the family and whether there may be many.
    """
    hints, told, found, sample = get_type_hints(kind, include_extras=True), meanings(kind), {}, example(kind)
    for one in fields(kind):
        needed = one.default is MISSING and one.default_factory is MISSING
        family, many = (families or {}).get(one.name, ("", False))
        key = Key("", {}) if family else of_type(hints[one.name], example)
        accepts = None if sample is None else lambda new, name=one.name: _accepts(sample, name, new)
        allowed, bounds = _range(hints[one.name], accepts)
        words = f"named {family}" if many else f"one of the {family}" if family else key.words
        found[one.name] = replace(
            key,
            words=words,
            schema=key.schema | bounds,
            meaning=told[one.name] or GLOSSARY.get(one.name, ""),
            allowed=allowed,
            required=needed,
            family=family,
            many=many,
        )
    return found


def of_type(kind: Any, example: Callable[[type], Any] = lambda kind: None) -> Key:
    """The key of a type annotation. Error: a kind of annotation that params.yaml has not had so far."""
    if get_origin(kind) is Annotated:
        inner = get_args(kind)[0]
        if inner is Ratio:
            return Key("fraction", {"type": ["string", "number"]})
        return Key("number", {"type": ["number", "string"]}) if inner is float else of_type(inner, example)
    if kind in SCALARS:
        return SCALARS[kind]
    if is_dataclass(kind):
        children = of_class(kind, example)  # pyright: ignore[reportArgumentType]
        if kind in ALONE:
            words = f"fields of the attack `{ALONE[kind]}`"
            return Key(words, object_of(children))
        return Key("mapping", object_of(children), children=children)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return Key(", ".join(f"`{_yaml(choice)}`" for choice in arguments), {"enum": list(arguments)})
    if origin in (Union, UnionType):
        return _either([of_type(choice, example) for choice in arguments])
    if origin is tuple:
        item = of_type(arguments[0], example)
        return Key(f"list of {item.words}", {"type": "array", "items": item.schema})
    if origin is dict:
        item = of_type(arguments[1], example)
        return Key("mapping", {"type": "object", "additionalProperties": item.schema})
    raise TypeError(f"no words for the type {kind}")


# Attacks that a field holds without a name, since it can be no other.
ALONE = {Pgd: "pgd"}
# What a name means wherever it stands, where the class says no more of it.
GLOSSARY = {
    "action": "what an alarm does",
    "aim": "the class that is left (`true`, `predicted`) or reached (`least_likely`, `random`)",
    "alarm_on": "the rules that alarm",
    "attack": "how the images to train on are attacked",
    "attacks": "attacks, each under a name of one's own",
    "augmentation": "what becomes of each image before a step",
    "batch_norm": "how batch norm is computed",
    "batch_size": "images that go through the model at a time",
    "beta": "weight of the divergence between both predictions",
    "clean_accuracy": "least accuracy without attack",
    "color": "three channels, or one",
    "companion": "where the companion starts from",
    "correct_guidance": "the teacher says which wrong classes the target names",
    "curve_epsilons": "radii of the ε curve, fractions of the pixel range",
    "decay": "of the moving average, or of the rate",
    "delay": "steps on clean images before attacks begin",
    "deterministic": "only operations that give the same bits again",
    "epochs": "passes over the training images",
    "epsilons": "radii of the ball, fractions of the pixel range",
    "estimator": "what batch norm uses in evaluation mode",
    "flip": "horizontal flips, with chance one half",
    "folder": "absolute, or relative to where the command runs",
    "form": "each image's own loss, or the batch's mean",
    "gallery_images": "images that the report shows",
    "image_size": "height and width of the result, in pixels",
    "label_smoothing": "share of the target that goes evenly to all classes",
    "learning_rate": "the largest of the run; the schedule multiplies it",
    "loss": "what the attack climbs",
    "lower_difficulty": "targets are softer than labels",
    "magnitude": "strength of the operations",
    "mix": "which share of a batch is attacked, how, and how much it counts",
    "momentum": "of the optimizer, of batch norm, or of the perturbation",
    "name": "which one",
    "nesterov": "Nesterov's form of momentum",
    "num_ops": "operations on each image",
    "precision": "what matrix products and convolutions compute in",
    "rand_augment": "RandAugment, before the shift; null: none",
    "recipe": "how the model is trained, apart from the objective",
    "rectify": "where the target prefers a wrong class, the label is mixed into it",
    "resize": "the middle square, or the whole with another aspect ratio",
    "restarts": "tries of the attack",
    "robust_accuracy": "least accuracy under the validation attack",
    "rules": "thresholds of the sentinel's rules",
    "seed": "of all random numbers",
    "start": "where the attack starts",
    "steps": "steps of the attack",
    "step_size": "length of one step, a fraction of the pixel range",
    "streamed": "null decodes every image now; otherwise files are listed and decoded in training",
    "temperature_max": "the largest temperature of the balance",
    "temperature_min": "the smallest temperature of the balance",
    "temperature_step": "how far a temperature moves in one step of the balance",
    "test_limit": "at most that many test images; null: all",
    "train_limit": "at most that many training images; null: all",
    "validation_attack": "the attack by which epochs are compared",
    "warmup": "epochs of the linear warm-up",
    "weight_decay": "of the optimizer",
    "weight_step": "how far a weight moves in one step of the balance",
    "weight": "of the second term of the loss",
    "width": "multiplies the number of channels",
    "depth": "layers",
    "widen_factor": "multiplies the channels of the residual blocks",
}
SCALARS = {
    bool: Key("true or false", {"type": "boolean"}),
    int: Key("integer", {"type": "integer"}),
    float: Key("number", {"type": "number"}),
    str: Key("text", {"type": "string"}),
    type(None): Key("null", {"type": "null"}),
    Any: Key("anything", {}),
}


def _either(keys: list[Key]) -> Key:
    children: dict[str, Key] = {}
    for name, child in ((name, child) for key in keys for name, child in key.children.items()):
        same = name in children and children[name].words != child.words
        children[name] = replace(child, words=f"{children[name].words}, {child.words}" if same else child.words)
    words = dict.fromkeys(key.words for key in keys)
    return Key(" or ".join(words), {"anyOf": [key.schema for key in keys]}, children=children)


def object_of(children: Mapping[str, Key]) -> dict[str, Any]:
    """The JSON Schema of a mapping with these keys and no others."""
    properties = {
        name: ({"description": key.meaning} if key.meaning else {}) | key.schema for name, key in children.items()
    }
    required = [name for name, key in children.items() if key.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _accepts(sample: Any, name: str, value: object) -> bool:
    try:
        replace(sample, **{name: value})
    except (ValueError, TypeError, ZeroDivisionError):
        return False
    return True


def _range(kind: Any, accepts: Callable[[Any], bool] | None) -> tuple[str, dict[str, Any]]:
    """The range of a number in words and as JSON Schema, by asking the checks themselves."""
    choices = [_plain(choice) for choice in (get_args(kind) if _is_union(kind) else (kind,))]
    inner = next((choice for choice in choices if choice in (int, float, Ratio)), None)
    if accepts is None or inner is None:
        return "", {}
    points = INTEGERS if inner is int else NUMBERS
    taken = [
        point
        for point in points
        if accepts(Ratio(Fraction(point).limit_denominator(10**6)) if inner is Ratio else point)
    ]
    if not taken:
        return "", {}
    low, high = taken[0], taken[-1]
    if low == high:
        return "", {}
    told = {0.5: "", 1e-6: "above 0", 1 + 1e-6: "above 1"}.get(low, f"at least {low:g}")
    lower = "" if low == points[0] else told
    # An upper bound is told only where the next point shows that it is one.
    after = points[points.index(high) + 1 :][:1]
    upper = f"at most {high:g}" if after and (after[0] == high + 1 or high == 1.0) else ""
    upper = "below 1" if high in (0.5, 1 - 1e-6) else upper
    bounds = {"minimum": low} if inner is int and lower else {}
    return ", ".join(filter(None, (lower, upper))), bounds


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def meanings(kind: type) -> dict[str, str]:
    """What a dataclass says of each field: the comment or the text at it, else the sentences that name it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    body, found = tree.body[0].body, {}  # pyright: ignore[reportAttributeAccessIssue]
    sentences = re.split(r"(?<=[.:;])\s+(?=[A-Z`])", " ".join((kind.__doc__ or "").split()))
    for place, node in enumerate(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name, after = node.target.id, body[place + 1 : place + 2]
        comment = re.search(r"#\s*(.*)$", lines[node.lineno - 1])
        if after and isinstance(after[0], ast.Expr) and isinstance(after[0].value, ast.Constant):
            found[name] = " ".join(str(after[0].value.value).split())
        elif comment:
            found[name] = comment[1]
        else:
            found[name] = ""
    names = [one.name for one in fields(kind)]
    return {
        name: found.get(name) or " ".join(sentence for sentence in sentences if f"`{name}`" in sentence)
        for name in names
    }


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
