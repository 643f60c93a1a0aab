"""What a result cost: passes of single images through the networks, counted where they happen."""

from typing import Any

from torch import Tensor, nn


class PassCounter:
    """Counts images that pass forward through any of `models`, and images whose logits are differentiated.

    A network that only asks others, its modules in `asked`, costs what each of them does. Unlike seconds, passes depend
    on the inputs alone, so declared outputs may hold them.
    """

    def __init__(self, *models: nn.Module) -> None:
        self.forward, self.backward = 0, 0
        computing = [one for model in models for one in _asked(model)]
        self._handles = [model.register_forward_hook(self._count) for model in computing]

    def _count(self, module: nn.Module, args: Any, logits: Tensor) -> None:
        self.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward += len(gradient)

    def take(self) -> dict[str, int]:
        """The counts since the last call, which start again at zero."""
        counts = {"forward": self.forward, "backward": self.backward}
        self.forward = self.backward = 0
        return counts

    def close(self) -> None:
        """Removes the hooks from the models."""
        for handle in self._handles:
            handle.remove()


def _asked(model: nn.Module) -> list[nn.Module]:
    """The networks that a model asks; itself where it asks none."""
    # A teacher is a network within a module of its own.
    asked = getattr(getattr(model, "network", model), "asked", None)
    return list(asked) if isinstance(asked, nn.ModuleList) else [model]
