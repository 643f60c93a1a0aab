"""Programs of torch.export: what they compute is what was exported, and nothing in a file is run."""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import input_gradient
from components.data.splits import LabelledImages
from components.evaluation.outside.models import Foreign, OutsideImages
from components.evaluation.outside.program_files import load_program
from components.foundation.errors import InputError
from components.foundation.params import member
from components.models import MODELS
from tests.parts.outside_files import ARCHITECTURE, CLASSES, NORMALIZATION, bomb, digits, loaded, network, pixels, same

# What other libraries build is read back as a state dict; as programs, some of their networks would be new operators.
OWN = sorted(name for name, kind in MODELS.items() if not hasattr(kind, "library"))
CPU = torch.device("cpu")
NOTHING = Foreign(None, None)


TYPICAL = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s inception_v3 maxvit_t mobilenet_v2
mobilenet_v3_small mnasnet0_5 regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 swin_t
swin_v2_t vgg11_bn vit_b_16 wide_resnet50_2
"""


class Attention(nn.Module):
    """Everything that the small networks have not: views, lists, constants, numbers made of shapes."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, 8, 4, 4)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 10)
        self.register_buffer("places", torch.randn(1, 4, 8), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.cut(images).flatten(2).transpose(1, 2).chunk(2, 1)
        tokens = torch.cat([first, second], 1) + self.places
        tokens = tokens + torch.zeros(tokens.shape[0], 1, 8)
        return self.head(nn.functional.gelu(self.mix(tokens), approximate="tanh").mean(1))


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "attention":
        return Attention().eval().requires_grad_(False)
    fields = {"width": 0.25, "batch_norm": ARCHITECTURE["batch_norm"]}
    fields |= {"depth": 10, "widen_factor": 1} if name == "wide_resnet" else {}
    return (
        member(MODELS, {"name": name, **fields}, name).build(10, (1, 8, 8), NORMALIZATION).eval().requires_grad_(False)
    )


def export(path: Path, model: nn.Module, batch_size: int | None = None, decompose: bool = False) -> Path:
    """A program for batches of one size, or of any."""
    shapes = None if batch_size else ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it traces
        program = torch.export.export(model, (pixels(batch_size or 3),), dynamic_shapes=shapes)
        torch.export.save(program.run_decompositions() if decompose else program, path)
    return path


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("name", ["small_cnn", "attention", "resnet18"])
def test_a_program_answers_and_differentiates_like_its_model(tmp_path, name, batch_size, decompose):
    model = built(name)
    program = load_program(export(tmp_path / "m.pt2", model, batch_size, decompose))
    images, labels = pixels(7), torch.arange(7)
    assert program.batch_size == batch_size and program.image_shape == (1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(program(images), model(images), atol=1e-5)
        assert len(program(images[:0])) == 0 or batch_size is None

    def loss(logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    # Float32: how far the two round apart depends on the processor's kernels.
    assert torch.allclose(
        input_gradient(program, images, loss), input_gradient(model, images, loss), rtol=1e-4, atol=1e-5
    )
    assert sum(p.numel() for p in program.parameters()) == sum(p.numel() for p in model.parameters())
    assert not any(p.requires_grad for p in program.parameters())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("resnet56", "mobilenet_v2"))) for name in OWN],
)
def test_every_architecture_of_ours_passes_as_a_program(tmp_path, name):
    program = load_program(export(tmp_path / "m.pt2", built(name)))
    assert same(program, built(name), pixels(3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("name", TYPICAL.split())
def test_typical_vision_models_pass(tmp_path, name, decompose):
    from torchvision import models

    torch.manual_seed(0)
    model = getattr(models, name)(weights=None, num_classes=10).eval().requires_grad_(False)
    images = torch.rand(2, 3, *((299, 299) if name == "inception_v3" else (224, 224)))
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program.run_decompositions() if decompose else program, tmp_path / "m.pt2")
    with torch.no_grad():
        assert torch.allclose(load_program(tmp_path / "m.pt2")(images), model(images), rtol=1e-3, atol=1e-4)


class Formula(nn.Module):
    """A layer around a formula of the logits and the images."""

    def __init__(self, formula: Callable[[nn.Linear, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula, self.line = formula, nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.formula(self.line, self.line(images.flatten(1)), images)


def layers(*middle: nn.Module, wide: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), *middle, nn.Flatten(), nn.Linear(wide, 10))


def scaled(line: nn.Linear, logits: Tensor, images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.5]).view(1, 1, 1, 1), torch.tensor([0.2]).view(1, 1, 1, 1)
    return line(((images - mean) / std).flatten(1)) + logits


def attended(_: nn.Linear, logits: Tensor, images: Tensor) -> Tensor:
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    return logits + nn.functional.scaled_dot_product_attention(images, images, images, mask).mean((1, 2, 3))[:, None]


NORMS = nn.utils.parametrizations
CONSTRUCTS: dict[str, Callable[[], nn.Module]] = {
    "cast to double": lambda: Formula(lambda line, _, images: line((images.double() - 0.5).float().flatten(1))),
    "cast to half": lambda: Formula(lambda _, logits, images: logits.to(torch.bfloat16).float()),
    "constants": lambda: Formula(scaled),
    "constant places": lambda: Formula(lambda _, logits, images: logits[:, torch.tensor([1, 0, *range(2, 10)])]),
    "one-hot": lambda: Formula(lambda _, logits, images: nn.functional.one_hot(logits.argmax(1), 10).float()),
    "attention with a mask": lambda: Formula(attended),
    "cosine head": lambda: Formula(
        lambda line, _, images: nn.functional.cosine_similarity(images.flatten(1)[:, None], line.weight[None], dim=2)
    ),
    "weight norm": lambda: layers(NORMS.weight_norm(nn.Conv2d(4, 4, 3)), wide=64),
    "spectral norm": lambda: layers(NORMS.spectral_norm(nn.Conv2d(4, 4, 3)), wide=64),
    "layer norm": lambda: layers(nn.LayerNorm(6), nn.GELU(), wide=144),
    "group norm": lambda: layers(nn.GroupNorm(2, 4), nn.SiLU(), wide=144),
    "instance norm": lambda: layers(nn.InstanceNorm2d(4, affine=True), nn.Hardswish(), wide=144),
    "local response norm": lambda: layers(nn.LocalResponseNorm(3), wide=144),
    "adaptive pools": lambda: layers(nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(2), wide=16),
    "shrinking": lambda: layers(nn.Softshrink(), nn.Hardshrink(), nn.Tanhshrink(), wide=144),
    "resizing": lambda: layers(nn.Upsample(scale_factor=1.7, mode="bilinear"), wide=400),
}


@pytest.mark.parametrize("decompose", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CONSTRUCTS)
def test_what_networks_are_made_of_passes(tmp_path, name, decompose):
    torch.manual_seed(0)
    model = CONSTRUCTS[name]().eval().requires_grad_(False)
    program = load_program(export(tmp_path / "m.pt2", model, decompose=decompose))
    assert same(program, model, pixels(2)) and same(program, model, pixels(5))


def test_a_program_keeps_the_mode_it_was_exported_in(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    program = load_program(export(tmp_path / "m.pt2", model, 5))
    model.load_state_dict(before, strict=False)
    for mode in (True, False):
        assert program.train(mode) is program and program.training is mode
    with torch.no_grad():
        want = model(pixels(5))
        assert torch.allclose(program.eval()(pixels(5)), want, atol=1e-5)
        # Batch norm in training mode: an image's answer depends on its neighbours, and buffers move. Not ours to hide.
        assert not torch.allclose(program(torch.cat([pixels(4), pixels(9)[8:]]))[:4], want[:4], atol=1e-3)
    moved = {tuple(buffer.shape): buffer for buffer in program.buffers() if buffer.is_floating_point()}
    assert not torch.equal(moved[(4,)], before["1.running_mean"])


def test_a_program_as_a_reference(tmp_path):
    images, labels = digits()
    narrow = OutsideImages("d", CLASSES, LabelledImages(images[:9], labels[:9]), None)
    found = loaded("mine", str(export(tmp_path / "m.pt2", network())), narrow, NOTHING, CPU)
    assert same(found.model, network(), pixels())
    assert found.facts["architecture"] == {"name": "torch.export program", "file": "m.pt2"}
    assert found.facts["num_parameters"] == sum(p.numel() for p in network().parameters())
    wide = OutsideImages("d", CLASSES, LabelledImages(images[:9].repeat(1, 1, 2, 1), labels[:9]), None)
    with pytest.raises(InputError, match=r"takes images of \[1, 8, 8\], the data has \[1, 16, 8\]"):
        loaded("mine", str(tmp_path / "m.pt2"), wide, NOTHING, CPU)


def changed(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of an archive whose files were changed."""
    copy = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return copy


def edited(ending: str, edit: Callable[[Any], None]) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(ending):
            return content
        value = json.loads(content)
        edit(value)
        return json.dumps(value).encode()

    return change


def first_node(**fields: Any) -> Callable[[str, bytes], bytes]:
    return edited("models/model.json", lambda program: program["graph_module"]["graph"]["nodes"][0].update(fields))


def weights(**fields: Any) -> Callable[[str, bytes], bytes]:
    return edited("weights_config.json", lambda found: next(iter(found["config"].values())).update(fields))


def text_argument(value: str) -> list[dict[str, Any]]:
    return [{"name": "x", "arg": {"as_string": value}, "kind": 1}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first_node(target="torch.hub.load"), "operator 'torch.hub.load' (allowed: those of torch.ops.aten"),
        (first_node(target="torch.ops.aten.from_file.default"), "operator 'torch.ops.aten.from_file.default'"),
        (first_node(target="torch.ops.aten.__class__.mro"), "operator 'torch.ops.aten.__class__.mro'"),
        (first_node(target="_operator.attrgetter"), "operator '_operator.attrgetter'"),
        (first_node(target="torch.ops.higher_order.cond"), "operator 'torch.ops.higher_order.cond'"),
        (first_node(inputs=[{"arg": {"as_graph": {}}, "kind": 1}]), "an argument of kind 'as_graph'"),
        (first_node(inputs=[{"arg": {"as_custom_obj": {}}, "kind": 1}]), "an argument of kind 'as_custom_obj'"),
        (first_node(outputs=[{"as_custom_obj": {}}]), "a result of kind 'as_custom_obj'"),
        (weights(use_pickle=True), "is pickled, and pickles are not read"),
        (weights(path_name="../../secret"), "no readable program"),
        (edited("model.json", lambda program: program["schema_version"].update(major=9)), "schema 9 of torch.export"),
        (edited("model.json", lambda program: program.pop("graph_module")), "no readable program of torch.export"),
        (lambda name, content: content[:40] if "weight_" in name else content, "no readable program"),
        (lambda name, content: b"{" if name.endswith("model.json") else content, "no readable program"),
    ],
)
def test_a_program_that_wants_more_than_tensors_is_refused(tmp_path, change, message):
    path = changed(export(tmp_path / "m.pt2", network()), change)
    with pytest.raises(InputError) as refused:
        load_program(path)(pixels(2))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_nothing_in_a_program_is_unpickled_or_evaluated(tmp_path):
    """What torch.export.load would run: sample inputs, which are a pickle, guards and shapes, which are code."""
    command = f"__import__('os').mkdir({str(tmp_path / 'exploded')!r})"

    def plant(name: str, content: bytes) -> bytes:
        if "sample_inputs" in name:
            return bomb(tmp_path)
        if not name.endswith("models/model.json"):
            return content
        program = json.loads(content)
        program["guards_code"] = [command]
        for node in program["graph_module"]["graph"]["nodes"]:
            node["metadata"] = {"nn_module_stack": command, "custom": command}
        shapes = program["graph_module"]["graph"]["sym_int_values"]
        for name in shapes:
            shapes[name] = {"as_expr": {"expr_str": command, "hint": None}}
        return json.dumps(program).encode()

    path = changed(export(tmp_path / "m.pt2", network()), plant)
    assert same(load_program(path), network(), pixels()) and not (tmp_path / "exploded").exists()
    # The same file does harm elsewhere: were it harmless, this test would show nothing.
    with io.BytesIO(path.read_bytes()) as file, pytest.raises(Exception):  # noqa: B017
        torch.export.load(file)
    assert (tmp_path / "exploded").exists()


def test_files_that_are_no_programs(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_program(tmp_path / "none.pt2")
    (tmp_path / "text.pt2").write_text("hello")
    with pytest.raises(InputError, match="no readable program"):
        load_program(tmp_path / "text.pt2")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("root/data.pkl", "")
    with pytest.raises(InputError, match=r"no program of torch\.export in it"):
        load_program(tmp_path / "other.pt2")


@pytest.mark.parametrize("model", [lambda x, y: x + y, lambda x, _=None: (x, x)], ids=["two inputs", "two outputs"])
def test_programs_of_another_form(tmp_path, model):
    class Odd(nn.Module):
        def forward(self, *images: Tensor) -> Any:
            return model(*images)

    inputs = (pixels(2),) * (2 if model.__code__.co_argcount == 2 and not model.__defaults__ else 1)
    torch.export.save(torch.export.export(Odd(), inputs), tmp_path / "m.pt2")
    with pytest.raises(InputError, match=r"takes 2 inputs|returns 2 values"):
        load_program(tmp_path / "m.pt2")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_program_made_on_a_cpu_runs_on_a_gpu(tmp_path):
    program = load_program(export(tmp_path / "m.pt2", built("attention")), "cuda")
    with torch.no_grad():
        assert torch.allclose(program(pixels(4).cuda()).cpu(), built("attention")(pixels(4)), atol=1e-4)
