"""Attacks: `ATTACKS[name](**fields)(model, images, labels, threat, rng)` -> adversarial images of the same shape."""

from components.attacks.cw import Cw
from components.attacks.fgsm import Fgsm
from components.attacks.pgd import Pgd
from components.contracts import Attack

ATTACKS: dict[str, type[Attack]] = {"cw": Cw, "fgsm": Fgsm, "pgd": Pgd}
