"""Where the parameters of a model enter its forward pass, so that each gets its derivative per image.

Operations are watched, not modules: what a subclass computes around them does not matter. A parameter may enter

* a layer operation (convolution, linear map, normalisation), whose inputs and place in the autograd graph are kept;
* another operation that treats each image alike, such as the product with a layer scale or the sum with position
  embeddings: there each image is given a copy of the parameter, and the gradient of the copies is that per image;
* anything else, or several operations that cannot be kept apart: it is *excluded* here, and `differentiation` takes
  its gradient image by image.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from components.foundation.errors import InputError


class Operation(NamedTuple):
    """A layer operation: its kind, its arguments by name, and where its output is in the autograd graph."""

    kind: str
    arguments: Mapping[str, Any]
    weight: str | None  # The names of the parameters to differentiate; None: there is none, or it is frozen.
    bias: str | None
    edge: GradientEdge
    outputs: torch.Size


class Copies(NamedTuple):
    """What one operation took instead of `source`, a parameter or a tensor that is made of parameters alone."""

    leaf: Tensor  # One row per image, each a copy of the source, or the source's own row.
    source: Tensor
    names: tuple[str, ...]
    own_rows: bool  # Whether the source has one row per image itself, as an expanded class token has.


class Head(NamedTuple):
    """The linear map that was called last."""

    inputs: Tensor
    has_bias: bool
    outputs: Tensor


_LAYERS = {
    functional.conv2d: ("conv2d", ("input", "weight", "bias", "stride", "padding", "dilation", "groups")),
    functional.linear: ("linear", ("input", "weight", "bias")),
    functional.batch_norm: (
        "batch_norm",
        ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    ),
    functional.layer_norm: ("layer_norm", ("input", "normalized_shape", "weight", "bias", "eps")),
    functional.group_norm: ("group_norm", ("input", "num_groups", "weight", "bias", "eps")),
    functional.rms_norm: ("rms_norm", ("input", "normalized_shape", "weight", "eps")),
}
# Operations on single elements, which broadcast their arguments; "__radd__" is "radd", and "add_" is "add".
_OPERATORS = ("add", "sub", "mul", "div", "truediv", "pow")
_BROADCAST = {*_OPERATORS, "where", "maximum", "minimum", "addcmul", "lerp", "multiply", "subtract", "divide"}
_BROADCAST |= {f"{side}{name}" for side in "ri" for name in _OPERATORS}


class Watch(TorchFunctionMode):
    """Inside the block, keeps what the operations of a model do with its parameters.

    Args:
        model: those of its parameters that require gradients are watched.
        num_images: the size of the batch. What has as many rows is taken to have one per image; `survey` checks that.
        excluded: names of parameters to leave alone.
    """

    def __init__(self, model: nn.Module, num_images: int, excluded: Collection[str]) -> None:
        super().__init__()
        parameters = dict(model.named_parameters())
        trained = {name: each for name, each in parameters.items() if each.requires_grad and name not in excluded}
        self.operations: list[Operation] = []
        self.copies: list[Copies] = []
        self.head: Head | None = None
        self.unknown: set[str] = set()
        self.rules: list[tuple[object, ...]] = []  # How each use was understood, to compare two runs.
        self._num_images = num_images
        self.watched = trained
        self._names = {id(each): name for name, each in trained.items()}
        # Tensors that are made of watched parameters alone, with the names of these; kept here, so that ids last.
        self._made = {id(each): (each, (name,)) for name, each in trained.items()}
        others = [each for name, each in parameters.items() if name not in trained]
        self._constants = {id(each) for each in [*others, *model.buffers()]}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((args, kwargs)))
        if func in _LAYERS:
            kind, keys = _LAYERS[func]
            arguments = dict(zip(keys, args, strict=False)) | kwargs
            if self._is_layer(kind, arguments):
                return self._layer(func, kind, arguments)
        names = tuple(sorted({name for each in tensors if id(each) in self._made for name in self._made[id(each)][1]}))
        if not names:
            return func(*args, **kwargs)
        if all(map(self._is_made_of_parameters, tensors)):
            outputs = func(*args, **kwargs)
            self._made |= {id(each): (each, names) for each in _tensors(outputs) if each.requires_grad}
            return outputs
        copies = self._copies(func, args, tensors)
        self.rules.append(("unknown" if copies is None else "copies", *names))
        if copies is None:
            self.unknown.update(names)
            return func(*args, **kwargs)
        self.copies += copies.values()
        leaves = {key: each.leaf for key, each in copies.items()}
        return func(*_replaced(args, leaves), **_replaced(kwargs, leaves))

    def _is_made_of_parameters(self, tensor: Tensor) -> bool:
        return id(tensor) in self._made or id(tensor) in self._constants or not tensor.is_floating_point()

    def _is_layer(self, kind: str, arguments: Mapping[str, Any]) -> bool:
        """Whether it takes a batch of images, and of parameters nothing but a weight and a bias as they are."""
        inputs = arguments["input"]
        own = [arguments[key] for key in ("weight", "bias") if arguments.get(key) is not None]
        if kind == "conv2d":
            enough = 4
        else:
            enough = 1 + len(arguments["normalized_shape"]) if "normalized_shape" in arguments else 2
        return (
            inputs.ndim >= enough
            and len(inputs) == self._num_images
            and id(inputs) not in self._made
            and not arguments.get("training", False)
            and all(id(each) in self._names or id(each) in self._constants for each in own)
        )

    def _layer(self, func: Any, kind: str, arguments: Mapping[str, Any]) -> Tensor:
        outputs = func(**arguments)
        weight, bias = (self._names.get(id(arguments.get(key))) for key in ("weight", "bias"))
        if kind == "linear":
            self.head = Head(arguments["input"].detach(), arguments.get("bias") is not None, outputs)
        if (weight or bias) and outputs.requires_grad:
            kept = {**arguments, "input": arguments["input"].detach()}
            # The edge, not the tensor: an in-place ReLU behind the layer would move the tensor along the graph.
            self.operations.append(Operation(kind, kept, weight, bias, get_gradient_edge(outputs), outputs.shape))
            self.rules.append((kind, weight, bias))
        return outputs

    def _copies(self, func: Any, args: Any, tensors: list[Tensor]) -> dict[int, Copies] | None:
        """For each tensor of parameters, by its id, one copy per image; None: not every one can have them."""
        spelled = getattr(func, "__name__", "")
        in_place = spelled.startswith("__i") or (spelled.endswith("_") and not spelled.endswith("__"))
        if in_place and id(args[0]) in self._made:
            return None
        broadcast = spelled.strip("_") in _BROADCAST
        shape = torch.broadcast_shapes(*(each.shape for each in tensors)) if broadcast else torch.Size()
        copies = {}
        for source in tensors:
            if id(source) not in self._made:
                continue
            full = (1,) * (len(shape) - source.ndim) + tuple(source.shape)
            if shape[:1] == (self._num_images,) and full[0] == 1:
                leaf, own_rows = source.detach().reshape(full).expand(self._num_images, *full[1:]), False
            elif full[:1] == (self._num_images,) and (source.ndim == len(shape) or not broadcast):
                leaf, own_rows = source.detach(), True
            else:
                return None
            names = self._made[id(source)][1]
            copies[id(source)] = Copies(leaf.requires_grad_(), source, names, own_rows)
        return copies


class Size(NamedTuple):
    """What the derivatives of one layer take: elements per image, and the shape of its weight."""

    outputs: int  # Of one direction's gradients.
    pixels: int = 0  # Of the outputs; 0: not a convolution or linear map.
    weight: tuple[int, int, int] = (0, 0, 0)  # Outputs, inputs per output, and those of one channel.
    groups: int = 1


class Survey(NamedTuple):
    """What a few images tell of a model."""

    excluded: frozenset[str]  # Names of the parameters whose gradients must be taken image by image.
    rules: tuple[tuple[object, ...], ...]  # How the others enter, in the order of their operations.
    saved: int  # Bytes per image that the autograd graph keeps.
    sizes: tuple[Size, ...]
    num_logits: int


def survey(model: nn.Module, images: Tensor) -> Survey:
    """Looks at two or three of the images, in the model's eval mode and with gradients enabled (the caller sees to it).

    Another size of the batch tells rows of images from whatever happens to have as many rows.
    Errors: logits of another shape, an image whose logits depend on the other images.
    """
    few = images[torch.arange(2 if len(images) != 2 else 3) % len(images)]
    excluded: set[str] = set()
    while True:
        watch = Watch(model, len(few), excluded)
        point = few.detach().clone().requires_grad_()
        saved: dict[int, int] = {each.untyped_storage().data_ptr(): 0 for each in model.parameters()}

        def keep(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), watch:
            # Not the leaf, which a model could not change in place.
            logits = model(point.view_as(point))
        _require_logits(logits, len(few))
        doubtful = watch.unknown | _used_otherwise(watch, logits) | _mixed(watch, logits, point)
        if not doubtful:
            kept = -(-sum(saved.values()) // len(few))
            return Survey(frozenset(excluded), tuple(watch.rules), kept, _sizes(watch, model), logits.shape[1])
        excluded |= doubtful


def _sizes(watch: Watch, model: nn.Module) -> tuple[Size, ...]:
    """In the order of the layers of `differentiation.Pass`."""
    sizes: list[Size] = []
    for each in watch.operations:
        outputs, weight = each.outputs[1:].numel(), each.arguments["weight"]
        if each.weight is None or each.kind not in ("conv2d", "linear"):
            sizes.append(Size(outputs))
        else:
            shape = (len(weight), weight[0].numel(), weight[0, 0].numel())
            sizes.append(Size(outputs, outputs // len(weight), shape, each.arguments.get("groups", 1)))
    names = {name: 0 for each in watch.copies for name in each.names}
    for each in watch.copies:
        for name in each.names:
            names[name] += each.leaf[0].numel()
    # Image by image, all parameters of one image at once.
    names |= {name: each.numel() for name, each in model.named_parameters() if name not in watch.watched}
    return (*sizes, *(Size(count) for count in names.values()))


def _require_logits(logits: Tensor, num_images: int) -> None:
    if logits.ndim != 2 or len(logits) != num_images:
        raise InputError(f"model: its output has the shape {list(logits.shape)}, want logits [{num_images}, C]")


def _used_otherwise(watch: Watch, logits: Tensor) -> set[str]:
    """Names of parameters that enter in several ways, whose cross terms would be missed, or behind the watch's back."""
    uses, nodes = _graph(logits)
    reached = [each for each in watch.operations if each.edge.node in nodes]
    by_layers = Counter(name for each in reached for name in (each.weight, each.bias) if name)
    by_copies = {name for each in watch.copies for name in each.names}
    doubtful = {name for name in by_layers if by_layers[name] > 1 or name in by_copies}
    return doubtful | {name for name, each in watch.watched.items() if uses[each] != by_layers[name]}


def _graph(logits: Tensor) -> tuple[Counter[Tensor], set[Any]]:
    """How often each parameter enters the autograd graph of `logits`, and the graph's nodes."""
    uses: Counter[Tensor] = Counter()
    stack: list[Any] = [logits.grad_fn]
    nodes = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if hasattr(node, "variable"):
                uses[node.variable] += 1
            elif node is not None and node not in nodes:
                nodes.add(node)
                stack.append(node)
    return uses, nodes


def _mixed(watch: Watch, logits: Tensor, images: Tensor) -> set[str]:
    """Names of parameters at whose operations a row is not an image: the first one's logits reach other rows."""
    cotangent = torch.zeros_like(logits)
    # Random, since a model may ignore a shift of all logits.
    cotangent[0] = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(0)).to(logits)
    uses = [(each.edge, {each.weight, each.bias} - {None}) for each in watch.operations]
    uses += [(each.leaf, set(each.names)) for each in watch.copies]
    places: list[Any] = [images, *(place for place, _ in uses)]
    own, *rows = torch.autograd.grad(logits, places, cotangent, allow_unused=True)
    if _reaches_others(own):
        raise InputError("model: an image's logits depend on the other images of the batch (batch statistics?)")
    return {str(name) for (_, names), row in zip(uses, rows, strict=True) if _reaches_others(row) for name in names}


def _reaches_others(rows: Tensor | None) -> bool:
    # What is not finite is the caller's to find: a model that has diverged is no wrong model.
    return rows is not None and bool(rows[1:].nan_to_num(0, 0, 0).any())


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for each in values:
            yield from _tensors(each)
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))


def _replaced(values: Any, by_id: Mapping[int, Tensor]) -> Any:
    if isinstance(values, Tensor):
        return by_id.get(id(values), values)
    if isinstance(values, dict):
        return {key: _replaced(each, by_id) for key, each in values.items()}
    if isinstance(values, list | tuple):
        replaced = [_replaced(each, by_id) for each in values]
        return replaced if isinstance(values, list) else tuple(replaced)
    return values
