"""A CUDA graph's stand-in on a CPU, as strict as the real one: operations are noted with the very tensors that they
read and wrote, and done again on those. What the host knew at the time of recording stays as it was."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What has the host wait for a number, or sends it one; on a GPU neither can be recorded.
HOST = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "lift", "equal")
# Its schema does not say that it writes the running statistics.
BATCH_NORM = ("native_batch_norm", "_batch_norm_with_update")

Step = tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor], list[bool]]


class TapeGraph:
    """Notes the work's operations, undoes what they did, and does them again at each replay."""

    made: ClassVar[list["TapeGraph"]] = []

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators, self.steps, self.result, self.replays = generators, [], None, 0
        self.made.append(self)

    def run(self, work: Callable[[], Any]) -> Any:
        return work()

    def record(self, work: Callable[[], Any]) -> None:
        states, world = [generator.get_state() for generator in self.generators], torch.get_rng_state()
        tape = _Tape()
        try:
            with tape:
                self.result = work()
        finally:
            with torch.no_grad():
                for tensor, before in reversed(tape.before):
                    tensor.copy_(before)
            for generator, state in zip(self.generators, states, strict=True):
                generator.set_state(state)
            torch.set_rng_state(world)
        self.steps = tape.steps

    @torch.no_grad()
    def replay(self) -> Any:
        self.replays += 1
        for function, args, kwargs, outputs, aliases in self.steps:
            for output, new, alias in zip(outputs, _tensors(function(*args, **kwargs)), aliases, strict=True):
                if not alias:
                    output.copy_(new)
        return self.result


class _Tape(TorchDispatchMode):
    """What the operations inside the block were, and what the tensors held that they wrote over."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        # What was there before, and what it held.
        self.before: list[tuple[Tensor, Tensor]] = []
        self.own: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        masks = name in ("index", "index_put_", "index_put") and any(i.dtype == torch.bool for i in _tensors(args[1]))
        if name in HOST or masks:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}\nmore of it")
        for tensor in _written(func, name, args):
            if _storage(tensor) not in self.own:
                self.before.append((tensor, tensor.detach().clone()))
        inside = {_storage(tensor) for tensor in _tensors((args, kwargs))}
        result = func(*args, **kwargs)
        outputs = list(_tensors(result))
        aliases = [_storage(output) in inside for output in outputs]
        self.own |= {_storage(output) for output, alias in zip(outputs, aliases, strict=True) if not alias}
        if not (all(aliases) and outputs) or func._schema.is_mutable:
            self.steps.append((func, args, kwargs, outputs, aliases))
        return result


def _written(func: Any, name: str, args: Any) -> Iterable[Tensor]:
    if name in BATCH_NORM:
        return _tensors(args[3:5])
    marked = [a for a, known in zip(args, func._schema.arguments, strict=False) if known.is_write]
    return _tensors(marked)


def _tensors(tree: Any) -> Iterable[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
