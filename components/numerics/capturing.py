"""What training and evaluation have in common where they record CUDA graphs: the rule of `compute.capture`, and that
nothing remembers a recording."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.numerics.compute import CaptureMode


def uncaptured(mode: CaptureMode, what: str, reason: str) -> str:
    """The line that says what is not captured, and why. Error: the reason, with `on`."""
    if mode == "on":
        raise InputError(f"compute.capture: got 'on', but {reason} (auto goes on without)")
    return f"capture: {what}: {reason}"


def reason_of(error: BaseException) -> str:
    """Why a recording failed, in one line. What ends a recording is an error of its own, which hides the first."""
    first = error.__context__ or error
    return one_line(str(first).strip().partition("\n")[0]) or type(first).__name__


class Draws:
    """What has been drawn, since this was made, from the generators that any code may draw from."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._host, self._torch = _host_states(), torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @property
    def on_host(self) -> bool:
        """Whether the host drew numbers that no graph of the device knows of: from Python, from numpy, or from torch's
        generator of a CPU that is not the device."""
        return _host_states() != self._host or (self._cuda is not None and self._torch_moved())

    @property
    def anywhere(self) -> bool:
        """Whether anything was drawn, on the host or on the device."""
        on_device = self._cuda is not None and not torch.equal(torch.cuda.get_rng_state(self.device), self._cuda)
        return self.on_host or self._torch_moved() or on_device

    def put_back(self) -> None:
        """Has all of them go on from where they were."""
        state, arrays = self._host
        random.setstate(state)
        name, keys, *rest = arrays
        np.random.set_state((name, np.frombuffer(keys, np.uint32), *rest))
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self.device)

    def _torch_moved(self) -> bool:
        return not torch.equal(torch.get_rng_state(), self._torch)


def _host_states() -> tuple[Any, tuple[Any, ...]]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), (name, np.asarray(keys, np.uint32).tobytes(), *rest)


@contextmanager
def undone_on_failure(generators: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """Inside the block CUDA graphs are recorded that draw from `generators` and the device's own.

    Where that fails, torch may leave the stream that it records on as the current one (2.11 does), and generators that
    refuse to draw. Afterwards the stream is the one before, and the generators go on from where they were.
    """
    stream, default = torch.cuda.current_stream(), torch.cuda.default_generators[torch.cuda.current_device()]
    states = [(generator, generator.clone_state()) for generator in (*generators, default)]
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(stream)
        for generator, state in states:
            generator.graphsafe_set_state(state)
        raise
