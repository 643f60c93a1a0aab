"""Programs of torch.export, carried out one operator after another, those that are on a list of our own alone.

The text of a file is never run as code. A trial without memory finds out first whether the operators fit each
other, and how large what they compute is.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from components.evaluation.outside.operators import is_in_place, operator_of
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.memory import lack_of_memory

# Bytes of anything that a program computes, of one image, and of a whole batch where its size is fixed.
MOST_OF_AN_IMAGE, MOST_OF_A_BATCH = 2**28, 2**32
# The codes of the file format.
_NAMES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"}
DTYPES: dict[int, torch.dtype] = {
    code: getattr(torch, name) for code, name in {**_NAMES, 12: "bool", 13: "bfloat16"}.items()
}
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
# Kinds of arguments that do not depend on what was computed, and what the file's value means.
CONSTANTS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_int_lists"), lambda value: value),
    # JSON has no infinity: there it is a word.
    "as_float": float,
    "as_floats": lambda value: [float(one) for one in value],
    "as_none": lambda value: None,
    "as_scalar_type": DTYPES.__getitem__,
    "as_memory_format": MEMORY_FORMATS.__getitem__,
    "as_layout": lambda value: torch.strided,
}
# Inputs of a program that are its own tensors, and which key holds their name in the archive.
PLACES = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}

Spec = Mapping[str, Any]
Values = dict[str, Any]


class Program(nn.Module):
    """A program as a module that takes images [N, C, H, W] and returns what the program returns: its logits.

    It does what it was exported to do: `train()` and `eval()` change nothing, since the mode is part of a program. One
    that was exported for batches of one size gets batches of that size, the last one filled up with zeros.
    """

    # Nobody here knows what its operators do with random numbers, or with the other images of a batch.
    from_outside = True

    def __init__(self, graph: Spec, signature: Spec, tensors: Mapping[str, tuple[Tensor, bool]], where: str) -> None:
        """`tensors` are parameters (marked true), buffers and constants under the names that the signature gives."""
        super().__init__()
        self.where, self._places = where, {}
        for argument, target in _inputs(signature):
            if target not in tensors:
                raise InputError(f"{where}: no tensor {target!r}, which its program wants")
            tensor, is_parameter = tensors[target]
            # Names in a program have dots, which a module's own do not.
            place = f"tensor_{len(self._places)}"
            self._places[argument] = place
            if is_parameter:
                self.register_parameter(place, nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(place, tensor)
        self._input, self._output = _input(graph, signature, where), _output(signature, where)
        self._moved = [(name, self._places[argument]) for name, argument in _mutations(signature)]
        self.image_shape, self.batch_size = _shape(graph["tensor_values"][self._input], where)
        self._targets = [node["target"] for node in graph["nodes"]]
        self._nodes = [_node(node, where) for node in graph["nodes"]]
        # An image that is written into would no longer be the one that was attacked.
        self._writes = any(map(is_in_place, self._targets))
        self._forget = _last_uses(graph["nodes"], {self._output, *(name for name, _ in self._moved)})

    def train(self, mode: bool = True) -> "Program":
        """Notes the mode, to no effect."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        size = self.batch_size
        if size is None or len(images) == size:
            return self._run(images)
        logits = []
        for part in images.split(size):
            filled = torch.cat([part, part.new_zeros(size - len(part), *part.shape[1:])])
            logits.append(self._run(filled)[: len(part)])
        return torch.cat(logits)

    def try_out(self) -> None:
        """Runs the program without memory. Error: operators that do not fit, or compute more than any model needs."""
        own = {name: tensor.to("meta") for name, tensor in self._own().items()}
        most = MOST_OF_AN_IMAGE if self.batch_size is None else MOST_OF_A_BATCH
        most = max(most, *(tensor.untyped_storage().nbytes() for tensor in own.values())) if own else most

        def bounded(value: object) -> None:
            for part in value if isinstance(value, list | tuple) else [value]:
                # What only looks at other memory, as a view of large weights does, takes none.
                if isinstance(part, Tensor) and part.untyped_storage().nbytes() > most:
                    raise MemoryError(f"a tensor {list(part.shape)}, want at most {most} bytes")

        images = torch.empty(self.batch_size or 1, *self.image_shape, device="meta")
        bounded(images)
        self._values(images, own, bounded)

    def _own(self) -> Values:
        return {argument: getattr(self, place) for argument, place in self._places.items()}

    def _run(self, images: Tensor) -> Tensor:
        values = self._values(images.clone() if self._writes else images, self._own(), lambda value: None)
        with torch.no_grad():
            for name, place in self._moved:
                getattr(self, place).copy_(values[name])
        return values[self._output]

    def _values(self, images: Tensor, own: Values, seen: Callable[[object], None]) -> Values:
        """What the program returns, by name, with its buffers' new content; `seen` is shown all that is computed."""
        values = {**own, self._input: images}
        steps = zip(self._targets, self._nodes, self._forget, strict=True)
        for target, (function, arguments, options, results), unused in steps:
            try:
                # A program may name the device on which it was made.
                named = {name: read(values, images) for name, read in options.items()}
                found = function(*(read(values, images) for read in arguments), **named)
                seen(found)
                values.update(results(found))
            except Exception as error:
                refused = InputError(f"{self.where}: operator {target} fails: {reason(error)}")
                raise (error if lack_of_memory(error) else refused) from None
            for name in unused:
                values.pop(name, None)
        for name in (self._output, *(name for name, _ in self._moved)):
            if not isinstance(values.get(name), Tensor):
                raise InputError(f"{self.where}: returns {name!r}, which is no tensor that it computes")
        return values


def _inputs(signature: Spec) -> list[tuple[str, str]]:
    """Of every parameter, buffer and constant: what the graph calls it, and what the archive does."""
    found = [next(iter(spec.items())) for spec in signature["input_specs"]]
    return [(spec["arg"]["name"], spec[PLACES[kind]]) for kind, spec in found if kind in PLACES]


def _input(graph: Spec, signature: Spec, where: str) -> str:
    given = [spec for spec in signature["input_specs"] if not PLACES.keys() & set(spec)]
    names = [spec["user_input"]["arg"]["as_tensor"]["name"] for spec in given if "as_tensor" in str(spec)]
    if len(given) != 1 or len(names) != 1:
        raise InputError(f"{where}: takes {len(given)} inputs, want one tensor of images")
    return names[0]


def _output(signature: Spec, where: str) -> str:
    given = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
    if len(given) != 1 or "as_tensor" not in given[0]:
        raise InputError(f"{where}: returns {len(given)} values, want one tensor of logits")
    return given[0]["as_tensor"]["name"]


def _mutations(signature: Spec) -> list[tuple[str, str]]:
    """What the program computes as new content of its buffers: name of the value, what the graph calls the buffer."""
    arguments = {target: argument for argument, target in _inputs(signature)}
    moved = [spec["buffer_mutation"] for spec in signature["output_specs"] if "buffer_mutation" in spec]
    return [(spec["arg"]["name"], arguments[spec["buffer_name"]]) for spec in moved]


def _shape(meta: Spec, where: str) -> tuple[tuple[int, int, int], int | None]:
    """Channels, height and width of the images, and how many a batch has, if that is fixed."""
    sizes = [size.get("as_int") for size in meta["sizes"]]
    fixed = all(isinstance(size, int) and size > 0 for size in sizes[1:])
    if len(sizes) != 4 or not fixed or not isinstance(sizes[0] or 1, int) or meta["dtype"] != 7:
        raise InputError(f"{where}: takes sizes {sizes} (dtype code {meta['dtype']}), want float32 images [N, C, H, W]")
    return (sizes[1], sizes[2], sizes[3]), sizes[0]


Read = Callable[[Values, Tensor], Any]
Node = tuple[Callable[..., Any], list[Read], dict[str, Read], Callable[[Any], Values]]


def _node(node: Spec, where: str) -> Node:
    """An operator, how to read its arguments, positional and by name, and how to name what it returns."""
    inputs = [(given, _argument(given["arg"], where)) for given in node["inputs"]]
    arguments = [read for given, read in inputs if given["kind"] != 2]
    options = {given["name"]: read for given, read in inputs if given["kind"] == 2}
    return operator_of(node["target"], where), arguments, options, _results(node["outputs"], where)


def _argument(given: Spec, where: str) -> Read:
    (kind, value), *_ = given.items()
    if kind in CONSTANTS:
        constant = CONSTANTS[kind](value)
        return lambda values, images: constant
    if kind == "as_tensor":
        return lambda values, images: values[value["name"]]
    if kind == "as_tensors":
        return lambda values, images: [values[one["name"]] for one in value]
    if kind in ("as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor"):
        return _maybe_named(value)
    if kind in ("as_sym_ints", "as_sym_bools", "as_sym_floats", "as_optional_tensors"):
        parts = [_maybe_named(one) for one in value]
        return lambda values, images: [part(values, images) for part in parts]
    if kind == "as_device":
        return lambda values, images: images.device
    raise InputError(f"{where}: an argument of kind {kind!r} (want tensors and numbers: run_decompositions() first)")


def _maybe_named(given: Spec) -> Read:
    """A part of a list: the name of a value, or the value itself."""
    (kind, value), *_ = given.items()
    if kind in ("as_name", "as_tensor"):
        name = value if kind == "as_name" else value["name"]
        return lambda values, images: values[name]
    return lambda values, images: None if kind == "as_none" else value


def _results(outputs: list[Spec], where: str) -> Callable[[Any], Values]:
    names = [_names(output, where) for output in outputs]
    if len(names) == 1:
        (only,) = names
        return lambda found: {only: found} if isinstance(only, str) else dict(zip(only, found, strict=True))
    return lambda found: {str(name): one for name, one in zip(names, found or (), strict=True)}


def _names(output: Spec, where: str) -> str | list[str]:
    (kind, value), *_ = output.items()
    if kind == "as_tensors":
        return [one["name"] for one in value]
    if kind in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float", "as_none"):
        return str(value.get("name") or value.get("as_name")) if isinstance(value, Mapping) else "nothing"
    raise InputError(f"{where}: a result of kind {kind!r} (want tensors, numbers and shapes alone)")


def _last_uses(nodes: list[Spec], kept: set[str]) -> list[list[str]]:
    """After every node, the names that no later one asks for, so that their memory can go."""
    seen, after = set(kept), []
    for node in reversed(nodes):
        used = set(re.findall(r'"(?:name|as_name)": "(\w+)"', json.dumps([node["inputs"], node["outputs"]])))
        # Names of arguments of operators are among them, and harmless: a name is dropped where a value has it.
        after.append(sorted(used - seen))
        seen |= used
    return after[::-1]


def reason(error: Exception) -> str:
    """An error in one line of some length, without what would move a terminal's cursor."""
    return one_line(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
