"""By what teachers are attacked, whoever asks."""

from typing import Any

from components.attacks.apgd import Apgd
from components.attacks.pgd import Pgd
from components.evaluation.advice.looks import Attacks
from components.evaluation.cascades import specs
from components.evaluation.few_classes import TARGETED_DLR
from components.foundation.params import Ratio, member
from components.threats.parts.threat import Threat

STEPS = 20
# The members in use and no others: a new attack measures no teacher again.
MEMBERS = {"pgd": Pgd, "apgd": Apgd}


def attacks_of(threat: Threat, num_classes: int) -> Attacks:
    """PGD from a random start for what others are shown, then the cascade `quick`, or its first attack.

    With fewer classes than the targeted loss needs, or in a norm without a standard, APGD on cross-entropy alone.
    """
    step = {"steps": STEPS, "step_size": str(Ratio(threat.epsilon / 4)), "start": "uniform"}
    crafting = {"name": "pgd", **step, "loss": "cross_entropy", "restarts": 1}
    apgd: dict[str, Any] = {"name": "apgd", "steps": 100, "restarts": 1, "loss": "cross_entropy", "rho": 0.75}
    cascade = {"apgd_ce": apgd}
    if num_classes >= TARGETED_DLR and threat.norm.standard is not None:
        cascade = specs("quick", num_classes, threat.norm)
    built = {name: member(MEMBERS, spec, f"cascade.{name}", threat.epsilon) for name, spec in cascade.items()}
    return Attacks(member(MEMBERS, crafting, "pgd", threat.epsilon), built)
