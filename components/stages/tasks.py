"""Opens the table of attacks for an evaluation: params.yaml -> the suite of attacks that each model meets."""

from components.attacks import ATTACKS
from components.attacks.parts.attack import Attack
from components.attacks.pgd import Pgd
from components.evaluation.cascades import specs
from components.evaluation.suite import EvaluationSection, Specs, Suite
from components.foundation.errors import InputError, choose
from components.foundation.params import Params, Ratio, member
from components.numerics.compute import Compute
from components.threats import NORMS
from components.threats.parts.threat import Threat, read_threat


def read_suite(params: Params, stage: str, num_classes: int) -> Suite:
    """The suite under the key `stage`, all checked, for images of `num_classes` classes."""
    threat = read_threat(NORMS, params.get("threat"), f"{params.path}: threat")
    section = params.typed(EvaluationSection, stage, epsilon=threat.epsilon)
    compute = params.typed(Compute, "compute")
    return suite_of(section, threat, compute, params.seed, num_classes, f"{params.path}: {stage}")


def suite_of(
    section: EvaluationSection, threat: Threat, compute: Compute, seed: int, num_classes: int, where: str
) -> Suite:
    """The section with its attacks built. Errors: attacks that are not there, a curve whose step cannot scale."""
    attacks = _built(section.attacks, threat, f"{where}.attacks")
    curve = choose(attacks, section.curve_attack, f"{where}.curve_attack")
    if not isinstance(curve, Pgd):
        raise InputError(
            f"{where}.curve_attack: {section.curve_attack} is {curve}, want a pgd (its step scales with ε)"
        )
    for key in ("transfer_attacks", "last_epoch_attacks"):
        for name in getattr(section, key):
            choose(attacks, name, f"{where}.{key}")
    if threat.epsilon == 0 and any(section.curve_epsilons):
        raise InputError(f"{where}.curve_epsilons: want only 0 where threat.epsilon is 0 (its step scales with ε)")
    chosen = section.cascade if isinstance(section.cascade, dict) else specs(section.cascade, num_classes, threat.norm)
    cascade = _built(chosen, threat, f"{where}.cascade")
    grid = _built(section.grid.attacks, threat, f"{where}.grid.attacks")
    for key, radii in (("cascade", section.cascade_epsilons), ("curve", section.curve_epsilons)):
        _require_radii(threat, radii, f"{where}.{key}_epsilons")
    _require_radii(threat, section.grid.epsilons, f"{where}.grid.epsilons")
    return Suite(section, attacks, cascade, grid, curve, threat, compute, seed)


def _built(named: Specs, threat: Threat, where: str) -> dict[str, Attack]:
    return {name: member(ATTACKS, spec, f"{where}.{name}", threat.epsilon) for name, spec in named.items()}


def _require_radii(threat: Threat, radii: tuple[Ratio, ...], where: str) -> None:
    largest = threat.norm.largest
    for place, radius in enumerate(radii):
        if largest is not None and radius > largest:
            raise InputError(f"{where}.{place}: got {radius}, want at most {largest}, as {threat.norm.name} has it")
