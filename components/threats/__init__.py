"""The threat models: one class per norm. Everything that depends on the norm is here."""

from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.linf import Linf
from components.threats.parts.norm import Norm

NORMS: dict[str, type[Norm]] = {"l1": L1, "l2": L2, "linf": Linf}
