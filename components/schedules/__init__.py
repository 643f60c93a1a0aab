"""How a number changes as training goes on: today the factor on the learning rate."""

from components.schedules.constant import Constant
from components.schedules.cosine import Cosine
from components.schedules.cyclic import Cyclic
from components.schedules.linear import Linear
from components.schedules.one_cycle import OneCycle
from components.schedules.parts.schedule import Schedule
from components.schedules.step import Step

SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "linear": Linear,
    "one_cycle": OneCycle,
    "cyclic": Cyclic,
}
