"""Programs that nobody exported: whatever a file holds, it is refused in one line or answers."""

import copy
import json
import random
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.evaluation.outside.operators import ELEMENTWISE, FUNCTIONAL, operator_of
from components.evaluation.outside.program_files import load_program
from components.foundation.errors import InputError
from tests.evaluation.test_programs import export
from tests.parts.outside_files import pixels

# What exporting torchvision's ResNet, DenseNet, EfficientNet, MobileNet-v3, ShuffleNet, SqueezeNet, RegNet, GoogLeNet,
# Inception, ConvNeXt, Swin (1 and 2) and MaxViT gave with torch 2.15, decomposed or not.
EXPORTED = """
_adaptive_avg_pool2d.default _native_batch_norm_legit_no_training.default _softmax.default adaptive_avg_pool2d.default
add.Tensor add_.Tensor addmm.default arange.start_step as_strided.default avg_pool2d.default batch_norm.default
bmm.default cat.default chunk.default clamp.default clamp_min.default clone.default constant_pad_nd.default
contiguous.default conv2d.default convolution.default div.Tensor dropout.default dropout_.default einsum.default
eq.Scalar exp.default expand.default expand_as.default fill_.Scalar flatten.using_ints fmod.Scalar full.default
full_like.default gelu.default hardsigmoid.default hardswish_.default index.Tensor index_select.default
layer_norm.default linalg_vector_norm.default linear.default masked_fill.Scalar matmul.default max_pool2d.default
max_pool2d_with_indices.default mean.dim mm.default mul.Tensor native_layer_norm.default ne.Scalar new_zeros.default
pad.default permute.default pow.Tensor_Scalar relu.default relu_.default reshape.default roll.default
scalar_tensor.default select.int sigmoid.default silu.default silu_.default slice.Tensor slice_scatter.default
softmax.int split_with_sizes.default sub.Tensor sum.dim_IntList swapaxes.default sym_size.int tanh.default
transpose.int unsqueeze.default view.default where.self zero_.default
"""
HUGE = (
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    10**30,
    -1,
    -(2**63),
    0,
    1e308,
    "x" * 10**5,
    None,
    True,
    [],
    {},
    [[1]],
    "Infinity",
)


@cache
def parts() -> dict[str, bytes]:
    """The files of a small program."""
    import tempfile

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = export(Path(folder, "m.pt2"), model.requires_grad_(False))
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


@cache
def program() -> tuple[str, Any]:
    name = next(name for name in parts() if name.endswith("models/model.json"))
    return name, json.loads(parts()[name])


def written(path: Path, changed: Any, **options: Any) -> Path:
    """The program with another graph."""
    name, _ = program()
    with zipfile.ZipFile(path, "w", **options) as archive:
        for file, content in parts().items():
            archive.writestr(file, json.dumps(changed) if file == name else content)
    return path


def outcome(path: Path) -> str:
    """What becomes of a program: the one line that refuses it, or nothing where it answers."""
    try:
        with torch.no_grad():
            load_program(path)(pixels(2))
    except InputError as error:
        text = str(error)
        assert text.startswith(f"{path}: ") and text.isprintable() and len(text) < 600, text
        return text
    return ""


def nodes_of(changed: Any) -> list[Any]:
    return changed["graph_module"]["graph"]["nodes"]


def leaves(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(way for key, part in inner for way in leaves(part, (*where, key)))]


def put(value: Any, way: tuple[Any, ...], new: Callable[[Any], Any]) -> None:
    for key in way[:-1]:
        value = value[key]
    value[way[-1]] = new(value[way[-1]])


def aten(name: str, *arguments: dict[str, Any], result: str = "made") -> dict[str, Any]:
    inputs = [{"name": f"a{index}", "arg": one, "kind": 1} for index, one in enumerate(arguments)]
    outputs = [{"as_tensor": {"name": result}}]
    return {"target": f"torch.ops.aten.{name}", "inputs": inputs, "outputs": outputs, "metadata": {}}


def number(name: str, *arguments: dict[str, Any]) -> dict[str, Any]:
    return {**aten("", *arguments), "target": f"_operator.{name}", "outputs": [{"as_sym_int": {"as_name": "made"}}]}


IMAGE = {"as_tensor": {"name": "@"}}


def ints(*values: int) -> dict[str, Any]:
    return {"as_ints": list(values)}


def test_what_it_changes_is_a_program_that_answers(tmp_path):
    assert outcome(written(tmp_path / "m.pt2", program()[1])) == ""


@pytest.mark.parametrize("name", EXPORTED.split())
def test_what_vision_models_are_made_of_is_allowed(name):
    assert callable(operator_of(f"torch.ops.aten.{name}", "m.pt2"))


def test_of_all_operators_of_torch_only_those_on_the_list_are_allowed():
    refused = 0
    for namespace in (torch.ops.aten, torch.ops.prim, torch.ops.prims, torch.ops.quantized, torch.ops.mkldnn):
        for name in dir(namespace):
            packet = getattr(namespace, name, None)
            for overload in getattr(packet, "overloads", list)():
                target = f"torch.ops.{namespace.name}.{name}.{overload}"
                on_list = name in FUNCTIONAL or name.removesuffix("_") in ELEMENTWISE
                if (
                    namespace is torch.ops.aten
                    and on_list
                    and "out" not in overload.replace("layout", "").replace("prim_", "out")
                ):
                    continue
                with pytest.raises(InputError, match="allowed: those of"):
                    operator_of(target, "m.pt2")
                refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    "target",
    [
        None,
        3,
        [],
        "",
        "torch.ops.aten.relu",
        "torch.ops.aten.relu.default.x",
        "torch.ops.aten.relu.overloads",
        "torch.ops.aten.relu.__class__",
        "torch.ops.aten.__class__.mro",
        "torch.ops.aten._sparse_coo_tensor_unsafe.default",
        "torch.ops.aten._to_dense.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.add.out",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.\x1b[31m.default",
        "_operator.pow",
        "_operator.attrgetter",
        "builtins.eval",
        "torch.ops.aten.relu.default\n",
        "x" * 10**6,
    ],
    ids=lambda target: repr(target)[:60],
)
def test_other_targets_are_refused_in_one_line(tmp_path, target):
    changed = copy.deepcopy(program()[1])
    nodes_of(changed)[0]["target"] = target
    assert "operator" in outcome(written(tmp_path / "m.pt2", changed))


def test_the_write_outside_of_memory_is_refused(tmp_path):
    """A sparse tensor whose indices nobody checked, made dense: an element is written to wherever the file says."""
    changed = copy.deepcopy(program()[1])
    graph = nodes_of(changed)
    graph.insert(0, aten("full.default", ints(1, 1), {"as_int": 2**40}, result="index"))
    index, value = {"as_tensor": {"name": "index"}}, {"as_tensor": {"name": "index"}}
    graph.insert(1, aten("_sparse_coo_tensor_unsafe.default", index, value, ints(4), result="sparse"))
    graph.insert(2, aten("_to_dense.default", {"as_tensor": {"name": "sparse"}}))
    assert "operator 'torch.ops.aten._sparse_coo_tensor_unsafe.default'" in outcome(
        written(tmp_path / "m.pt2", changed)
    )


@pytest.mark.parametrize(
    "node",
    [
        aten("full.default", ints(10**12), {"as_int": 0}),
        aten("full.default", ints(2**40, 2**40), {"as_int": 0}),
        aten("full.default", ints(2**31, 2**31, 2**31), {"as_int": 0}),
        aten("zeros.default", ints(-5)),
        aten("arange.default", {"as_int": 2**50}),
        aten("arange.default", {"as_float": "Infinity"}),
        aten("eye.default", {"as_int": 10**6}),
        aten("linspace.default", {"as_int": 0}, {"as_int": 1}, {"as_int": 10**13}),
        aten("randn.default", ints(10**7, 10**7)),
        aten("full.default", {"as_string": "x" * 100}, {"as_int": 0}),
        number("mul", {"as_string": "x" * 1000}, {"as_int": 10**11}),
        number("mul", {"as_int": 10**300}, {"as_int": 10**300}),
        number("floordiv", {"as_int": 1}, {"as_int": 0}),
        number("getitem", {"as_ints": [1]}, {"as_int": 5}),
        aten("upsample_nearest2d.default", IMAGE, ints(9, 9), {"as_float": 1e-300}, {"as_float": 1e-300}),
        aten("upsample_bilinear2d.default", IMAGE, ints(10**6, 10**6), {"as_bool": False}),
        aten("mm.default", IMAGE, IMAGE),
        aten("relu.default"),
        aten("relu.default", {"as_tensor": {"name": "nobody"}}),
        aten("relu.default", IMAGE, IMAGE),
        aten("repeat.default", IMAGE, ints(10**6, 1, 1000, 1000)),
        aten("constant_pad_nd.default", IMAGE, ints(10**6, 10**6, 10**6, 10**6)),
        aten("as_strided.default", IMAGE, ints(4), ints(1), {"as_int": 2**40}),
        aten("index_select.default", IMAGE, {"as_int": 9}, IMAGE),
        aten("view.default", IMAGE, ints(7, 7, 7)),
        aten("conv2d.default", IMAGE, IMAGE, {"as_none": True}, ints(0, 0)),
    ],
    ids=lambda node: node["target"].rpartition("aten.")[2],
)  # fmt: skip
def test_an_operator_that_cannot_be_is_refused_before_it_is_carried_out(tmp_path, node):
    changed = copy.deepcopy(program()[1])
    image = next(
        spec["user_input"]["arg"]["as_tensor"]["name"]
        for spec in changed["graph_module"]["signature"]["input_specs"]
        if "user_input" in spec
    )
    nodes_of(changed).insert(0, json.loads(json.dumps(node).replace('"@"', json.dumps(image))))
    text = outcome(written(tmp_path / "m.pt2", changed))
    assert "fails: " in text or "no readable program" in text or "operator" in text


@pytest.mark.parametrize("seed", range(300))
def test_a_program_changed_anywhere_is_refused_or_answers(tmp_path, seed):
    """A value anywhere is replaced, left out or doubled; an argument is taken from another operator."""
    draws = random.Random(seed)
    changed = copy.deepcopy(program()[1])
    graph, nodes = changed["graph_module"]["graph"], nodes_of(program()[1])
    part = draws.choice([graph["nodes"], graph["nodes"], graph["tensor_values"], changed["graph_module"], changed])
    for _ in range(draws.randint(1, 2)):
        node, kind = draws.choice(nodes), draws.randrange(5)
        new = [draws.choice(HUGE), draws.choice(node["inputs"] or [0]), node["outputs"], {}, None][kind]
        put(
            part,
            draws.choice([way for way in leaves(part) if way]),
            lambda old, n=new, k=kind: [old, old] if k == 4 else copy.deepcopy(n),
        )
    outcome(written(tmp_path / "m.pt2", changed))


@pytest.mark.parametrize("seed", range(60))
def test_a_list_of_weights_changed_anywhere_is_refused_or_answers(tmp_path, seed):
    draws, file = random.Random(seed), next(name for name in parts() if name.endswith("weights_config.json"))
    weights = json.loads(parts()[file])
    for _ in range(draws.randint(1, 3)):
        way = draws.choice([way for way in leaves(weights) if way])
        put(weights, way, lambda old: draws.choice(HUGE))
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        for name, content in parts().items():
            archive.writestr(name, json.dumps(weights) if name == file else content)
    outcome(tmp_path / "m.pt2")


@pytest.mark.parametrize("seed", range(60))
def test_damaged_bytes_are_refused_or_answer(tmp_path, seed):
    draws, path = random.Random(seed), written(tmp_path / "m.pt2", program()[1])
    content = bytearray(path.read_bytes())
    if seed % 3:
        for _ in range(draws.choice([1, 10, 1000])):
            content[draws.randrange(len(content))] = draws.randrange(256)
    else:
        content = content[: draws.randrange(len(content))]
    path.write_bytes(content)
    outcome(path)


def test_a_compressed_file_and_one_that_nests_too_deep(tmp_path):
    compressed = written(tmp_path / "a.pt2", program()[1], compression=zipfile.ZIP_DEFLATED)
    assert "compressed, which torch.export.save never does" in outcome(compressed)
    deep = json.loads('{"graph_module": 0}')
    for _ in range(300):
        deep = {"graph_module": deep}
    assert outcome(written(tmp_path / "b.pt2", deep))
    name, _ = program()
    with zipfile.ZipFile(tmp_path / "c.pt2", "w") as archive:
        archive.writestr(name, "[" * 10**5)
    assert "no readable program" in outcome(tmp_path / "c.pt2")


def test_weights_larger_than_their_file(tmp_path):
    file = next(name for name in parts() if name.endswith("weights_config.json"))
    weights = json.loads(parts()[file])
    meta = next(iter(weights["config"].values()))["tensor_meta"]
    meta["sizes"], meta["strides"] = [{"as_int": 2**40}], [{"as_int": 0}]
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        for name, content in parts().items():
            archive.writestr(name, json.dumps(weights) if name == file else content)
    assert "is larger than the file" in outcome(tmp_path / "m.pt2")


class Short(nn.Module):
    """Batch norm of many channels whose weights and statistics are those of one."""

    one: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.line = channels, nn.Linear(64, 10)
        self.register_buffer("one", torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        logits, statistics = self.line(images.flatten(1)), self.one.expand(self.channels)
        wide = logits.sum(1)[:, None, None, None].expand(-1, self.channels, 1, 1)
        normed = torch.ops.aten._native_batch_norm_legit_no_training.default(
            wide, self.one, self.one, statistics, statistics, 0.1, 1e-5
        )
        return logits + normed[0].mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("channels", [2, 4000, 40_000_000])
def test_weights_that_are_too_few_are_refused_before_anything_is_read(tmp_path, channels):
    path = export(tmp_path / "m.pt2", Short(channels).eval().requires_grad_(False))
    assert f"weight: sizes [1], want [{channels}], one for each channel" in outcome(path)


def test_a_program_does_not_write_into_the_images_that_it_is_given(tmp_path):
    changed = copy.deepcopy(program()[1])
    first = nodes_of(changed)[0]["inputs"][0]["arg"]
    nodes_of(changed).insert(0, aten("mul_.Scalar", first, {"as_int": 0}))
    built, images = load_program(written(tmp_path / "m.pt2", changed)), pixels(3)
    with torch.no_grad():
        assert torch.equal(built(images), built(torch.zeros_like(images)))
    assert torch.equal(images, pixels(3)) and images.sum() > 0
