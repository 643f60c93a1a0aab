"""What a method remembers under names that it does not know beforehand, or in shapes that grow."""

from typing import Any

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """Tensors by name, as buffers that come, change their shape and go; names may hold dots, as those of weights do.

    `load_state_dict` takes what a state holds in the place of all that was remembered.
    """

    _place: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Where there is nothing to remember yet, this says on which device what is restored belongs.
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self.register_load_state_dict_pre_hook(_make_room)  # pyright: ignore[reportUnknownMemberType]

    def named(self) -> dict[str, Tensor]:
        """All that is remembered, by name."""
        buffers = self.named_buffers(recurse=False)
        return {_dotted(name): tensor for name, tensor in buffers if name != "_place"}

    def __contains__(self, name: str) -> bool:
        return name in self.named()

    def __getitem__(self, name: str) -> Tensor:
        return self.named()[name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(_undotted(name), tensor)

    def clear(self) -> None:
        """Nothing is remembered."""
        for name in self.named():
            delattr(self, _undotted(name))

    def room(self, tensor: Tensor) -> Tensor:
        """An empty tensor like this one, on the device of the memory."""
        return torch.empty_like(tensor, device=self._place.device)


def _make_room(memory: Memory, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    memory.clear()
    for name, tensor in state.items():
        if name.startswith(prefix):
            memory[_dotted(name.removeprefix(prefix))] = memory.room(tensor)


# A buffer's name must hold no dot.
def _undotted(name: str) -> str:
    return name.replace(".", "/")


def _dotted(name: str) -> str:
    return name.replace("/", ".")
