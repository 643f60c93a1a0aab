"""Adversarial distillation: `DISTILLATIONS[name](**fields).build(...)` -> a training method of one or two teachers."""

from components.distillation.adaad import AdaAd
from components.distillation.akd import Akd
from components.distillation.ard import Ard
from components.distillation.b_mtard import BMtard
from components.distillation.ciard import Ciard
from components.distillation.iad_1 import Iad1
from components.distillation.iad_2 import Iad2
from components.distillation.kd_swa import KdSwa
from components.distillation.mtard import Mtard
from components.distillation.peer import Peer
from components.distillation.rslad import Rslad
from components.distillation.saad import Saad
from components.methods.parts.contract import Fields

DISTILLATIONS: dict[str, type[Fields]] = {
    "adaad": AdaAd,
    "akd": Akd,
    "ard": Ard,
    "b_mtard": BMtard,
    "ciard": Ciard,
    "iad_1": Iad1,
    "iad_2": Iad2,
    "kd_swa": KdSwa,
    "mtard": Mtard,
    "peer": Peer,
    "rslad": Rslad,
    "saad": Saad,
}
