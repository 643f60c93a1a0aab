"""Weights to begin training with, from a safetensors file: of this project, of published code, of another library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.params import strict
from components.models.parts.blocks import blocks_of
from components.models.parts.first_layer import Layer, OfLibrary, normalize_as_expected
from components.models.parts.positions import resampled
from components.models.parts.state_dicts import State, own_names, unwrap
from components.numerics.tensor_files import read_tensors

# Counts that play no part in a step: a file may lack them.
COUNTER = "num_batches_tracked"
# Names that an error shows.
FEW = 3


@strict
class Initial:
    """Weights to begin with. What wraps the names in the file is taken off: `module.`, `model.`, `state_dict.`.

    The weights belong to a normalisation, which takes the place of the data's: that in the file, or `normalization`, or
    for networks of timm and torchvision that of their published weights. With `replace_head` a head that is absent, or
    made for another number of classes, begins anew. Position embeddings for images of another size are interpolated.
    """

    file: str  # A safetensors file: a model of this project, a state dict of published code, timm or torchvision.
    replace_head: bool = True
    """Whether a head that does not fit the classes begins anew; false: it is a mistake."""
    normalization: Layer = None
    """What pixels go through first, where the file does not hold it; null: what timm or torchvision publish with the
    network, or else the statistics of the data, with a warning."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(self.file).expanduser()


def begin_with(
    model: nn.Module,
    initial: Initial,
    architecture: Mapping[str, Any],
    where: str,
    built: object = None,
) -> list[str]:
    """Loads the file's weights into a fresh model; the result is what to tell about it, in lines.

    Args:
        model: normalises in its first layer, as all models here do.
        initial: the file, and what becomes of its head.
        architecture: the section of params.yaml that the model was built from.
        where: file and key of the section, for messages.
        built: the member of the family that this section names: a library's knows what its own weights expect.

    Errors: no such file; nothing in it that fits; tensors that are absent, too many or of other shapes; a normalisation
    of another number of channels. Each is one line that says what was found and what is expected.
    """
    section, where = where, f"{where}: {one_line(initial.file)}"
    unwrapped = unwrap(read_tensors(initial.path)[0], where)
    state = own_names(unwrapped.state, architecture, where)[0]
    expected = {name: t for name, t in model.state_dict().items() if not name.startswith("normalize.")}
    state, moved = resampled(_aligned(state, expected, where), expected, _network(model), where)
    fresh = _head_to_replace(model, state, expected, initial, where)
    _require_fit({n: t for n, t in state.items() if n not in fresh}, expected.keys() - fresh, expected, where)
    told = [
        f"initial weights: {len(expected.keys() & state.keys() - fresh)} of {len(expected)} tensors of {initial.file}"
    ]
    told += moved
    if fresh:
        told.append(f"initial weights: the head begins anew ({', '.join(sorted(fresh))})")
    file, published = one_line(initial.file), built.published() if isinstance(built, OfLibrary) else None
    told += normalize_as_expected(model, unwrapped.normalization, initial.normalization, published, section, file)
    model.load_state_dict({name: state[name] for name in state.keys() - fresh}, strict=False)
    return told


def _network(model: nn.Module) -> nn.Module:
    """What a library has built, behind the first layer; the model itself where it is one of ours."""
    return getattr(model, "network", model)


def _aligned(state: State, expected: Mapping[str, Tensor], where: str) -> State:
    """The file's tensors under the model's names, by what stands in front of either.

    Errors: nothing fits; as much fits under two prefixes, such as a model and its average.
    """
    inner = {name: name.split(".", 1)[1] for name in expected if name.startswith("network.")}
    ours = {inner.get(name, name): name for name in expected}
    counts: dict[str, int] = {}
    for name in state:
        parts = name.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in ours:
                front = "".join(f"{part}." for part in parts[:depth])
                counts[front] = counts.get(front, 0) + 1
    if not counts:
        wanted = f"want such as {_few(ours)}"
        raise InputError(f"{where}: none of its {len(state)} tensors fits the model: found {_few(state)}; {wanted}")
    most = max(counts.values())
    fronts = [front for front, count in counts.items() if count == most]
    if len(fronts) > 1:
        names = ", ".join(front.rstrip(".") or "one without a prefix" for front in sorted(fronts))
        raise InputError(f"{where}: holds several networks ({one_line(names)}), want one: keep its tensors alone")
    front = fronts[0]
    # What has another prefix keeps its name, and is found to be too much.
    short = {name.removeprefix(front) if name.startswith(front) else name: t for name, t in state.items()}
    return {ours.get(name, name): tensor for name, tensor in short.items()}


def _head_to_replace(
    model: nn.Module, state: State, expected: Mapping[str, Tensor], initial: Initial, where: str
) -> set[str]:
    """The tensors of the head that begin anew. Error: there are some, and they may not."""
    head = [name for name in blocks_of(model)[-1].names if name in expected]
    absent = {name for name in head if name not in state}
    other = {n for n in head if n in state and _is_of_other_classes(state[n], expected[n])}
    if not (absent or other) or initial.replace_head:
        return absent | other
    if other:
        name = sorted(other)[-1]
        found, want = len(state[name]), len(expected[name])
        raise InputError(f"{where}: its head {name} is for {found} classes, want {want} (or replace_head: true)")
    raise InputError(f"{where}: has no head, want {_few(sorted(absent))} (or replace_head: true)")


def _is_of_other_classes(tensor: Tensor, expected: Tensor) -> bool:
    same = tensor.ndim == expected.ndim and tensor.shape[1:] == expected.shape[1:]
    return same and len(tensor.reshape(-1)) > 0 and tensor.shape[:1] != expected.shape[:1]


def _require_fit(state: State, wanted: set[str], expected: Mapping[str, Tensor], where: str) -> None:
    problems = [f"missing {n}" for n in expected if n in wanted and n not in state and not n.endswith(COUNTER)]
    problems += [f"unexpected {one_line(name)}" for name in state if name not in expected]
    for name in expected:
        if name in state and name in wanted and state[name].shape != expected[name].shape:
            found, want = list(state[name].shape), list(expected[name].shape)
            problems.append(f"{name} is {found}, want {want}")
    problems += [f"{n} holds numbers that are not finite" for n, t in state.items() if not bool(t.isfinite().all())]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{where}: does not fit the model: {problems[0]}{more}")


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(map(one_line, names[:FEW])) + (", …" if len(names) > FEW else "")
