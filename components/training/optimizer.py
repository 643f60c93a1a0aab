"""SGD without the import of torch's compiler, which takes a second of every process that trains."""

from collections.abc import Callable
from typing import Any

import torch


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of torch's optimizers without what keeps the compiler out of it. Here nothing is compiled."""
    return getattr(method, "__wrapped__", method)


class Sgd(torch.optim.SGD):
    """`torch.optim.SGD`, number for number."""

    add_param_group = _plain(torch.optim.SGD.add_param_group)
    load_state_dict = _plain(torch.optim.SGD.load_state_dict)
    state_dict = _plain(torch.optim.SGD.state_dict)
    zero_grad = _plain(torch.optim.SGD.zero_grad)
    step = torch.no_grad()(_plain(torch.optim.SGD.step))
