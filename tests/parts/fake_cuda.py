"""What stands for the parts of `torch.cuda` that a recording moves: the current stream, and the generators."""

from typing import NamedTuple

import pytest
import torch


class State(NamedTuple):
    """Of a generator: how far it is, and whether a recording draws from it."""

    offset: int = 0
    recorded: bool = False


class FakeGenerator:
    """A generator whose state can be exchanged, as those of a GPU can."""

    def __init__(self) -> None:
        self.state = State()

    def clone_state(self) -> State:
        # A copy takes no part in a recording.
        return State(self.state.offset)

    def graphsafe_set_state(self, state: State) -> None:
        self.state = state


class FakeCuda:
    """One GPU of which nothing is computed on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream, self.default, self.own = "everyone's", FakeGenerator(), FakeGenerator()
        parts = {
            "current_device": lambda: 0,
            "current_stream": lambda: self.stream,
            "set_stream": lambda stream: setattr(self, "stream", stream),
            "default_generators": (self.default,),
        }
        for name, part in parts.items():
            monkeypatch.setattr(torch.cuda, name, part)

    def begin_recording(self) -> None:
        """What torch does to them when a recording begins, and does not undo when it fails (2.11)."""
        self.stream = "the recording's"
        for generator in (self.default, self.own):
            generator.state = State(generator.state.offset + 5, recorded=True)

    @property
    def untouched(self) -> bool:
        """Whether all is as it was in the beginning."""
        return self.stream == "everyone's" and self.default.state == State()
