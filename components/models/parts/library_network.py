"""Networks that another library builds: by name, for our images and classes, behind our normalisation."""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from components.data.normalization import Normalization, Normalize
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.memory import lack_of_memory
from components.models.parts.classifier import ImageShape

# Names that resemble an unknown one, as a message shows them.
NEAR = 4
# Characters of a library's own message.
LONGEST = 160


def require_known(name: str, names: Sequence[str], library: str, where: str) -> None:
    """Refuses an unknown architecture, with those whose names resemble it. `where` is the section that names it."""
    if name in names:
        return
    near = difflib.get_close_matches(name, names, NEAR) or [one for one in names if name and name in one][:NEAR]
    advice = f"did you mean {', '.join(near)}?" if near else f"none of its {len(names)} names resembles it"
    raise InputError(f"{where}.architecture: {library} has no classifier {one_line(name)!r}; {advice}")


def library_classifier(
    make: Callable[[], nn.Module], name: str, num_classes: int, image_shape: ImageShape, normalization: Normalization
) -> nn.Sequential:
    """Pixels [N, C, H, W] in [0, 1] -> normalisation -> the network that `make` builds -> logits [N, num_classes].

    Errors: an architecture that cannot be built with these fields, or does not take images of this size.
    """
    size = "x".join(map(str, image_shape))
    try:
        network = make()
    except Exception as error:
        if lack_of_memory(error):
            raise
        raise InputError(f"model: {name} cannot be built for images of {size}: {_said(error)}") from None
    model = nn.Sequential(OrderedDict[str, nn.Module](normalize=Normalize(normalization), network=network))
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *image_shape))
    except Exception as error:
        if lack_of_memory(error):
            raise
        raise InputError(f"model: {name} does not take images of {size}: {_said(error)}") from None
    shown = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shown != [1, num_classes]:
        raise InputError(f"model: {name} gives {shown} for one image, want logits [1, {num_classes}]")
    return model.train()


def _said(error: Exception) -> str:
    text = one_line(str(error).strip().split("\n")[0]) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
