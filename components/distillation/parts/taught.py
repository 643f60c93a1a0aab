"""What the members of the family share as methods: students that are attacked first, and then learn from teachers."""

from torch import Tensor, nn

from components.data.batch import Batch
from components.methods.parts.contract import Attacked, Loss, Teacher
from components.methods.parts.crafting import crafting
from components.numerics.random_numbers import Rng
from components.threats.parts.threat import Threat


class Taught(Attacked):
    """A method in two phases whose fields have an `attack`, an `InnerAttack`, that may ask the robust teacher.

    The student is attacked in the mode that the field `batch_norm` says. The loss is the fields' `objective`, which is
    given the networks by name, unless a member has state and an objective of its own.
    """

    robust_teacher: Teacher

    @property
    def host_decides(self) -> str:
        """Nothing: the attack has no restarts."""
        return ""

    def craft(self, model: nn.Module, batch: Batch, threat: Threat, rng: Rng) -> Tensor:
        with crafting(model, self.fields.batch_norm) as network:
            return self.fields.attack(network, batch, threat, rng, self.robust_teacher)


class TaughtByEpoch(Taught):
    """The same for a loss that changes with the epochs: its `objective` is given the `epoch` too, counted from 0."""

    epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Keeps the number of this epoch."""
        self.epoch = epoch

    def objective(self, model: nn.Module, batch: Batch, images_adv: Tensor) -> Loss:
        return self.fields.objective(model, batch, images_adv, epoch=self.epoch, **dict(self.named_children()))
