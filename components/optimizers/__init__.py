"""What moves the weights along their gradients. Torch's own ones import its compiler, a second of every process."""

from components.optimizers.adamw import AdamW
from components.optimizers.parts.optimizer import Rule
from components.optimizers.sgd import Sgd

OPTIMIZERS: dict[str, type[Rule]] = {"sgd": Sgd, "adamw": AdamW}
