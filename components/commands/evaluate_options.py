"""The options of an evaluation of models from outside, and the section of params.yaml that they stand for."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from components.attacks.parts.kurakin import num_steps
from components.evaluation.campaign import Shard
from components.evaluation.criteria import Criteria
from components.evaluation.outside.models import Foreign
from components.foundation.errors import InputError
from components.foundation.params import AUTO, Params, Ratio, typed
from components.numerics.compute import MOST_THREADS
from components.threats import NORMS
from components.threats.parts.threat import Threat, read_threat

SECTION = "evaluate_attacks"
SEARCHES = {precision: {"precision": precision, "compiled": False} for precision in ("float32", "bfloat16")}
# As multiples of epsilon: the radii of the curve, which has to reach zero accuracy, and of the tables of one-step
# attacks.
CURVE, GRID = ("0", "1/4", "1/2", "1", "3/2", "2", "4"), ("1/4", "1/2", "1", "2")

# Attacks by steps of one grey level are left out where they would take more: a side table costs no more than a cascade.
MOST_GREY_STEPS = 128
MOST_IMAGES, MOST_SHARDS = 10**9, 1000


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What an evaluation is asked for; `temper evaluate --help` says what each means."""

    model: Sequence[str]
    data: str
    threat: Sequence[str] = ()
    params: Path | None = None
    cascade: str | None = None
    precision: str | None = None
    images: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    out: Path = Path("evaluation/outside")
    adversarial: str | None = None
    architecture: Sequence[str] = ()
    normalization: Sequence[str] = ()
    criteria: str | None = None
    shard: str = "0/1"
    device: str | None = None
    threads: int | None = None
    track: bool = False


def named_models(given: Sequence[str]) -> dict[str, str]:
    """The models `NAME=REF` in order, name to reference. Errors: another form, a name of no file, a name twice."""
    models: dict[str, str] = {}
    for text in given:
        name, _, reference = text.partition("=")
        if not (reference and re.fullmatch(r"[\w.-]+", name)):
            raise InputError(f"--model: got {text!r}, want NAME=REF with a name of letters, digits, '.', '_' and '-'")
        if name in models:
            raise InputError(f"--model: two models called {name!r}")
        models[name] = reference
    return models


def shard_of(text: str) -> Shard:
    """`0/4` is the first of four."""
    number, slash, processes = text.partition("/")
    numbers = [int(part) for part in (number, processes) if part.isascii() and part.isdigit() and len(part) < 9]
    if not (slash and len(numbers) == 2 and numbers[0] < numbers[1] <= MOST_SHARDS):
        raise InputError(f"--shard: got {text!r}, want I/N with 0 <= I < N <= {MOST_SHARDS}, such as 0/4")
    return Shard(*numbers)


def threats_of(given: Sequence[str]) -> list[Threat]:
    """The threat model, and others of the same norm. Errors: another form, another norm, no radius, one twice."""
    threats = []
    for text in given:
        norm, colon, epsilon = text.partition(":")
        if not colon:
            raise InputError(f"--threat: got {text!r}, want NORM:EPSILON, such as linf:8/255, l2:1/2 or l1:12")
        threats.append(read_threat(NORMS, {"norm": norm, "epsilon": epsilon}, f"--threat {text}"))
    if threats and threats[0].epsilon == 0:
        raise InputError(f"--threat: got {given[0]}, want a radius above 0 to attack within")
    for index, threat in enumerate(threats):
        if threat.norm != threats[0].norm:
            raise InputError(f"--threat: got {given[0]} and {given[index]}, want one norm in one run")
        if threat in threats[:index]:
            raise InputError(f"--threat: got {given[index]} twice")
    return threats


def params_of(given: EvaluateOptions, uint8: bool) -> Params:
    """Every section that an evaluation reads, from a file or from defaults, with what the command line says on top.

    `uint8`: whether the images are kept so.
    """
    threats = threats_of(given.threat)
    if given.params is not None:
        read = Params.read(given.params)
        seed, threat = read.get("seed"), read.get("threat")
        # An outside model is a selected one: there is no last epoch.
        section, compute = read.section(SECTION) | {"last_epoch_attacks": []}, read.section("compute")
    elif threats:
        section = default_section(threats[0], len(given.model) > 1)
        compute = {"device": "auto", "threads": AUTO, "deterministic": True}
        threat, seed = {}, 0
    else:
        raise InputError("--threat: missing, say what the attacker may change, such as linf:8/255")
    if threats:
        threat = threats[0].section
        section["cascade_epsilons"] = [str(other.epsilon) for other in threats[1:]]
    section |= {"adversarial": given.adversarial or (section.get("adversarial", "uint8") if uint8 else "float32")}
    section |= _said(batch_size=given.batch_size, cascade=given.cascade)
    if given.precision:
        section["search"] = SEARCHES[given.precision]
    if section.get("cascade") == "none" and len(threats) > 1:
        raise InputError(f"--threat: got {given.threat[1]} beside --cascade none, want a cascade for further radii")
    if section["adversarial"] == "uint8" and not uint8:
        raise InputError("--adversarial: got uint8 for images that are no 8-bit ones, want float32")
    compute |= _said(device=given.device, threads=given.threads)
    values = {"seed": seed, "compute": compute, "threat": threat, SECTION: section, **_said(seed=given.seed)}
    return Params(values, str(given.params or "command line"))


def default_section(threat: Threat, several: bool) -> dict[str, Any]:
    """What a run without a file does at this threat model: the attacks, radii and tables of docs/evaluating.md."""
    epsilon = threat.epsilon
    curve, grid = (
        list(dict.fromkeys(str(threat.up_to(Ratio(Fraction(times) * epsilon)).epsilon) for times in many))
        for many in (CURVE, GRID)
    )
    one_step = {"fgsm": {"name": "fgsm"}, "fgsm_predicted": {"name": "fgsm", "aim": "predicted"}}
    many = ("bim", "iter_ll") if num_steps(threat.at(Ratio(grid[-1]))) <= MOST_GREY_STEPS else ()
    tabled = one_step | {name: {"name": name} for name in ("step_ll", "r_fgsm", *many)}
    steps = {"steps": 20, "step_size": str(Ratio(epsilon / 4)), "start": "uniform"}
    pgd = {"name": "pgd", **steps, "loss": "cross_entropy", "restarts": 1}
    return {
        "batch_size": 500,
        "search": SEARCHES["float32"],
        "attacks": {"fgsm": {"name": "fgsm"}, "pgd": pgd},
        "cascade": "quick",
        "cascade_epsilons": [],
        "curve_attack": "pgd",
        "curve_epsilons": curve,
        "grid": {"epsilons": grid, "attacks": tabled},
        "transfer_attacks": ["fgsm", "pgd"] if several else [],
        "last_epoch_attacks": [],
        "probe_images": 500,
        "gallery_images": 10,
        "adversarial": "uint8",
    }


def foreign_of(given: EvaluateOptions) -> dict[str, Foreign]:
    """Per model what the command line says of its state dict. Errors: a name that no model has, broken YAML."""
    names = list(named_models(given.model))
    architectures = _for_each(given.architecture, names, "--architecture")
    normalizations = _for_each(given.normalization, names, "--normalization")
    read = {name: mapping(text, "--architecture") for name, text in architectures.items()}
    measured = {name: _normalization(text) for name, text in normalizations.items()}
    return {name: Foreign(read.get(name), measured.get(name)) for name in names}


def require_possible(given: EvaluateOptions) -> None:
    """Returns if numbers are ones that a machine can have, and results can go where they shall."""
    for option, value, most in (
        ("--images", given.images, MOST_IMAGES),
        ("--batch-size", given.batch_size, MOST_IMAGES),
        ("--threads", given.threads, MOST_THREADS),
    ):
        if value is not None and value > most:
            raise InputError(f"{option}: got {value}, want at most {most}")
    if given.images is not None and given.images < 1:
        raise InputError(f"--images: got {given.images}, want at least 1")
    there = next(path for path in (given.out, *given.out.parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"--out: got {given.out}, but {there} is a file, want a folder")


def criteria_of(given: EvaluateOptions) -> Criteria | None:
    """What `--criteria` asks of one of the models; what it leaves out asks for nothing.

    Errors: an unknown key, a share out of range, a model that is not evaluated.
    """
    if given.criteria is None:
        return None
    names, told = list(named_models(given.model)), mapping(given.criteria, "--criteria")
    nothing = {"clean": None, "worst_case": None}
    rest: dict[str, Any] = {"model": names[0], **nothing, "weakest_class": None, "not_worse_than": nothing}
    criteria: Criteria = typed(Criteria, rest | {"champion": False} | told, "--criteria")
    others = criteria.not_worse_than
    for name in (criteria.model, others.clean, others.worst_case):
        if name is not None and name not in names:
            raise InputError(f"--criteria: no model {name!r} (given: {', '.join(names)})")
    return criteria


def mapping(text: str, option: str) -> dict[str, Any]:
    """A YAML mapping in one line. Errors: broken YAML, no mapping."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{option}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise InputError(f"{option}: got {text!r}, want a mapping such as {{name: resnet18, …}}")
    return value


def _for_each(given: Sequence[str], names: Sequence[str], option: str) -> dict[str, str]:
    """Model to text: `NAME=TEXT` for one of them, `TEXT` for all that have none of their own."""
    own, shared = {}, {}
    for text in given:
        name, equals, rest = text.partition("=")
        if equals and name in names:
            own[name] = rest
        elif equals and "{" not in name:
            raise InputError(f"{option}: no model {name!r} (given: {', '.join(names)})")
        else:
            shared = dict.fromkeys(names, text)
    return shared | own


def _normalization(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`identity`, or means and standard deviations: `0.49,0.48,0.45:0.25,0.24,0.26`, or `0.13:0.31` for all."""
    if text == "identity":
        return (), ()
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split(":"))
    except ValueError:
        mean, std = (), ()
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise InputError(
            f"--normalization: got {text!r}, want identity or MEAN:STD, finite, for each channel or once for all"
        )
    return mean, std


def _said(**options: Any) -> Mapping[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
