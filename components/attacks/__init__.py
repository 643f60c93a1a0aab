"""Attacks: `ATTACKS[name](**fields)(model, images, labels, threat, rng)` -> adversarial images of the same shape."""

from components.attacks.apgd import Apgd
from components.attacks.bim import Bim
from components.attacks.cw import Cw
from components.attacks.eot import Eot
from components.attacks.fab import Fab
from components.attacks.fgsm import Fgsm
from components.attacks.iter_ll import IterLl
from components.attacks.mi_fgsm import MiFgsm
from components.attacks.parts.attack import Attack
from components.attacks.pgd import Pgd
from components.attacks.r_fgsm import RFgsm
from components.attacks.square import Square
from components.attacks.step_ll import StepLl
from components.attacks.step_rnd import StepRnd

ATTACKS: dict[str, type[Attack]] = {
    "apgd": Apgd,
    "bim": Bim,
    "cw": Cw,
    "eot": Eot,
    "fab": Fab,
    "fgsm": Fgsm,
    "iter_ll": IterLl,
    "mi_fgsm": MiFgsm,
    "pgd": Pgd,
    "r_fgsm": RFgsm,
    "square": Square,
    "step_ll": StepLl,
    "step_rnd": StepRnd,
}
