"""A network of the architecture of another one, untrained."""

from torch import nn

from components.foundation.errors import InputError


def start_afresh(network: nn.Module, wanted: str) -> None:
    """Draws every weight anew from torch's global generator. Errors: a layer that does not know how; `wanted` says what
    to ask for then."""
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif next(module.parameters(recurse=False), None) is not None:
            raise InputError(f"{wanted}: {type(module).__name__} cannot start afresh")
