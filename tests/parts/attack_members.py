"""One of every attack, in the forms that differ, and a ball of every norm: what the tables of tests run over."""

from typing import Any

from components.attacks.apgd import Apgd
from components.attacks.bim import Bim
from components.attacks.cw import Cw
from components.attacks.eot import Eot
from components.attacks.fab import Fab
from components.attacks.fgsm import Fgsm
from components.attacks.iter_ll import IterLl
from components.attacks.mi_fgsm import MiFgsm
from components.attacks.pgd import Pgd
from components.attacks.r_fgsm import RFgsm
from components.attacks.square import Square
from components.attacks.step_ll import StepLl
from components.attacks.step_rnd import StepRnd
from components.foundation.params import Ratio
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

STEP = Ratio(1, 50)


def pgd(**changes: Any) -> Pgd:
    fields = {"steps": 10, "step_size": STEP, "start": "uniform", "loss": "cross_entropy", "restarts": 1}
    return Pgd(**fields | changes)


MEMBERS = [
    Fgsm(),
    Fgsm(aim="predicted"),
    RFgsm(),
    RFgsm(aim="least_likely"),
    StepLl(),
    StepRnd(),
    Bim(),
    IterLl(),
    MiFgsm(steps=10, step_size=STEP, decay=1.0),
    pgd(start="zero"),
    pgd(),
    pgd(start="gaussian", loss="margin", restarts=3),
    pgd(loss="dlr", aim="random"),
    pgd(loss="kl"),
    Cw(steps=10, step_size=STEP, confidence=50.0),
    Apgd(steps=20, restarts=2, loss="cross_entropy", rho=0.75),
    Apgd(steps=20, restarts=1, loss="dlr", rho=0.75),
    Apgd(steps=20, restarts=1, loss="targeted_dlr", rho=0.75, targets=3),
    Fab(steps=10, targets=2, restarts=2, alpha_max=0.1, eta=1.05, beta=0.9),
    Square(queries=100, p_init=0.8, restarts=1, loss="margin"),
    Eot(samples=2, attack=pgd(steps=3)),
]
# Large enough to fool some images: attacks that find no such point return the image itself.
THREATS = [
    Threat(norm=Linf(), epsilon=Ratio(1, 5)),
    Threat(norm=L2(), epsilon=Ratio(1)),
    Threat(norm=L1(), epsilon=Ratio(3)),
]
