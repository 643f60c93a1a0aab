"""Networks of timm and torchvision: built by name for any images, read back from their files, trained like ours."""

import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.data.batch import Batch
from components.data.normalization import Normalization
from components.data.splits import LabelledImages
from components.evaluation.outside.models import Foreign, OutsideImages
from components.evaluation.search_network import Lean, fold_batch_norm
from components.foundation.errors import InputError
from components.foundation.params import member
from components.models import MODELS
from components.models.parts.averaging import Ema, Swa
from components.models.parts.batch_norm import synchronised
from components.models.parts.blocks import blocks_of
from components.models.parts.initial_weights import Initial, begin_with
from components.models.parts.library_network import require_known
from components.models.parts.model_file import ModelCard, load_model, save_model
from components.models.parts.positions import resampled
from components.ntk.kernels import tangent_kernels
from components.ntk.probe import KernelProbe, ProbeSchedule
from components.numerics import parallel
from components.numerics.compute import channels_last
from tests.parts.method_members import MEMBERS
from tests.parts.outside_files import loaded
from tests.parts.tangent_networks import brute_force, relative_error, trace_of

# The compiler that timm imports warns of a module of its own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NORM = Normalization(method="standardize", offset=(0.25, 0.5, 0.375), scale=(0.25, 0.125, 0.5))
VIT = {"name": "timm", "architecture": "test_vit"}
CONVNEXT = {"name": "timm", "architecture": "test_convnext"}
RESIDUAL = {"name": "timm", "architecture": "test_resnet"}
MOBILE = {"name": "torchvision", "architecture": "mobilenet_v3_small"}
SHAPE = (3, 32, 32)


def built(fields: Mapping, classes: int = 5, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> nn.Module:
    if fields["name"] == "timm":
        pytest.importorskip("timm")
    torch.manual_seed(seed)
    channels = shape[0]
    norm = Normalization(method="standardize", offset=NORM.offset[:channels], scale=NORM.scale[:channels])
    return member(MODELS, fields, "test").build(classes, shape, norm)


def pictures(count: int = 6, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(3))


def card(fields: Mapping, classes: int = 5) -> ModelCard:
    return ModelCard(
        architecture=dict(fields),
        classes=tuple(map(str, range(classes))),
        image_shape=SHAPE,
        normalization=NORM,
        stage="train_clean_teacher",
        epoch=1,
        upstream={},
    )


EACH = pytest.mark.parametrize("fields", [VIT, CONVNEXT, RESIDUAL, MOBILE], ids=lambda f: f["architecture"])


@EACH
def test_a_file_gives_the_same_network_and_draws_nothing(fields, tmp_path):
    model = built(fields)
    save_model(tmp_path / "m.safetensors", model.state_dict(), card(fields))
    before = torch.get_rng_state()
    again, _ = load_model(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    want = model.state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in again.state_dict().items())
    # Convolutions round by the order of a tensor in memory, on some processors.
    logits = model.eval()(pictures()).detach()
    torch.testing.assert_close(again(pictures()).detach(), logits, rtol=0, atol=1e-4 * float(logits.abs().max()))
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))


@EACH
def test_pixels_are_normalised_first_and_the_seed_makes_the_weights(fields):
    one, same, other = (built(fields, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    model = built(fields).eval()
    images = pictures()
    plain = (images - torch.tensor(NORM.offset).view(1, 3, 1, 1)) / torch.tensor(NORM.scale).view(1, 3, 1, 1)
    assert torch.equal(model(images), dict(model.named_children())["network"](plain))


@pytest.mark.parametrize("fields", [VIT, CONVNEXT, RESIDUAL], ids=lambda f: f["architecture"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 48, 64), (4, 64, 64)], ids=str)
def test_any_size_and_channels(fields, shape):
    channels = {1: (0.0,), 3: (0.0,) * 3, 4: (0.0,) * 4}[shape[0]]
    norm = Normalization(method="none", offset=channels, scale=tuple(1.0 for _ in channels))
    pytest.importorskip("timm")
    model = member(MODELS, fields, "test").build(7, shape, norm)
    assert model(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("fields", "shape", "line"),
    [
        (
            VIT | {"architecture": "vit_tiny_patch16_24"},
            SHAPE,
            "timm has no classifier 'vit_tiny_patch16_24'; did you mean",
        ),
        (VIT | {"architecture": "hf-hub:somebody/net"}, SHAPE, "timm has no classifier 'hf-hub:somebody/net'"),
        (VIT | {"architecture": "local-dir:/etc"}, SHAPE, "timm has no classifier 'local-dir:/etc'"),
        (VIT | {"architecture": ""}, SHAPE, "timm has no classifier ''; none of its"),
        (VIT | {"architecture": "a\nb"}, SHAPE, "timm has no classifier 'a\\\\nb'"),
        (VIT, (3, 8, 8), "timm's test_vit does not take images of 3x8x8"),
        (VIT, (3, 33, 33), "timm's test_vit does not take images of 3x33x33"),
        ({"name": "timm", "architecture": "vgg11", "drop_path": 0.1}, SHAPE, "timm's vgg11 cannot be built"),
        (
            MOBILE | {"architecture": "mobilenetv2"},
            SHAPE,
            "torchvision has no classifier 'mobilenetv2'; did you mean mobilenet_v2",
        ),
        (MOBILE | {"architecture": "fcn_resnet50"}, SHAPE, "torchvision has no classifier 'fcn_resnet50'"),
        (MOBILE, (1, 32, 32), "torchvision's mobilenet_v3_small takes 3 channels, the images have 1"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_one_line(fields, shape, line):
    with pytest.raises(InputError) as caught:
        built(fields, shape=shape)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_near_names_are_said():
    names = ["resnet18", "resnet34", "vit_tiny_patch16_224"]
    with pytest.raises(InputError, match=r"did you mean resnet18, resnet34\?"):
        require_known("resnet_18", names, "x", "model")
    with pytest.raises(InputError, match="did you mean vit_tiny_patch16_224"):
        require_known("vit", names, "x", "model")


def test_without_timm_the_remedy_is_said():
    code = """
import sys
sys.modules["timm"] = None
from components.data.normalization import Normalization
from components.foundation.errors import InputError
from components.models.timm import Timm
try:
    Timm(architecture="resnet18").build(2, (3, 8, 8), Normalization(method="none", offset=(0.,) * 3, scale=(1.,) * 3))
except InputError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert found.stdout == "model: timm is not installed (pip install '.[timm]')\n"


@pytest.mark.parametrize(
    ("fields", "first", "last"),
    [
        (VIT, "patch_embed.proj.weight", ["head.weight", "head.bias"]),
        (CONVNEXT, "stem.0.weight", None),
        (RESIDUAL, "conv1.0.weight", ["fc.weight", "fc.bias"]),
        (MOBILE, "features.0.0.weight", ["classifier.3.weight", "classifier.3.bias"]),
    ],
    ids=lambda value: value["architecture"] if isinstance(value, dict) else "",
)
def test_blocks_go_from_the_input_to_the_head(fields, first, last):
    blocks = blocks_of(built(fields))
    assert blocks[0].names[0] == f"network.{first}" and len(blocks) >= 4
    assert last is None or blocks[-1].names == [f"network.{name}" for name in last]


@EACH
@pytest.mark.parametrize("front", ["", "module.", "model.", "state_dict.model."])
def test_weights_of_the_library_begin_a_run_with_the_same_logits(fields, front, tmp_path):
    from safetensors.torch import save_file

    trained = built(fields).eval()
    inner = dict(trained.named_children())["network"].state_dict()
    save_file({f"{front}{name}": tensor.clone() for name, tensor in inner.items()}, tmp_path / "w.safetensors")
    initial = Initial(file=str(tmp_path / "w.safetensors"), replace_head=False)
    model = built(fields, seed=1)
    begin_with(model, initial, fields, "p.yaml: s.initial")
    assert torch.equal(model.eval()(pictures()), trained(pictures()))
    other = built(fields, classes=3, seed=1)
    with pytest.raises(InputError, match="is for 5 classes, want 3"):
        begin_with(other, initial, fields, "p.yaml: s.initial")
    told = begin_with(other, Initial(file=initial.file), fields, "p.yaml: s.initial")
    assert any("the head begins anew" in line for line in told) and other(pictures()).shape == (6, 3)


@EACH
def test_averages_and_search_networks_work_without_batch_norm_too(fields):
    model = channels_last(built(fields).eval())
    images = pictures()
    assert torch.allclose(fold_batch_norm(model, images)(images), model(images), rtol=1e-3, atol=1e-3)
    search = Lean(model, images, torch.bfloat16)
    assert torch.allclose(search(images), model(images), atol=0.1)
    for fields_of_average in (Ema(name="ema", decay=0.9), Swa(name="swa", start=1, batches=1)):
        average = fields_of_average.of(model)
        average.update(model)
        average.end_epoch(model, 1, lambda count: [images])
        # Batch norm's statistics are estimated anew.
        if isinstance(fields_of_average, Ema) or fields in (VIT, CONVNEXT):
            assert torch.allclose(average.model(images), model.eval()(images), atol=1e-5)


@EACH
def test_the_tangent_kernel_is_exact(fields):
    """None of their parameters is differentiated image by image, which would take long."""
    model = built(fields).double()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)  # layer scales begin at almost nothing
    kernels = tangent_kernels(model, pictures(3).double(), {"full", "trace"})
    assert kernels.choice.apart == ()
    wanted = brute_force(model, pictures(3).double())
    assert relative_error(kernels["full"], wanted) < 1e-12
    assert relative_error(kernels["trace"], trace_of(wanted)) < 1e-12


def test_a_network_without_a_kernel_is_one_line_with_the_remedy():
    images, labels = pictures(8), torch.arange(8) % 2
    probe = KernelProbe(ProbeSchedule(epochs=(0,), size=4, directions=4), images, labels, 5, seed=0)
    row = probe.measure(built(VIT), 0, None)
    assert row["ntk_clean_trace"] > 0
    model = built(RESIDUAL)
    next(each for each in model.modules() if isinstance(each, nn.BatchNorm2d)).running_mean = None
    with pytest.raises(
        InputError, match=r"^ntk: model: network.* has no running .*; ntk.epochs: \[\] trains"
    ) as caught:
        probe.measure(model, 0, None)
    assert "\n" not in str(caught.value)


@EACH
@pytest.mark.parametrize("front", ["", "module.", "state_dict.model."])
def test_weights_of_the_library_are_evaluated(fields, front, tmp_path):
    from safetensors.torch import save_file

    trained = built(fields).eval()
    inner = dict(trained.named_children())["network"].state_dict()
    save_file({f"{front}{name}": tensor.clone() for name, tensor in inner.items()}, tmp_path / "w.safetensors")
    images = (pictures() * 255).byte()
    data = OutsideImages("d", tuple("abcde"), LabelledImages(images, torch.arange(6) % 5), None)
    foreign = Foreign(dict(fields), (NORM.offset, NORM.scale))
    model = loaded("a", str(tmp_path / "w.safetensors"), data, foreign, torch.device("cpu")).model
    assert torch.allclose(model(pictures()), trained(pictures()), atol=1e-5)


@pytest.mark.parametrize("fields", [VIT, CONVNEXT], ids=lambda f: f["architecture"])
@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_every_method_trains_a_network_without_batch_norm(fields, name, linf):
    """Attacks, losses, and where a method differentiates twice, that too."""
    model = built(fields, classes=3)
    if MEMBERS[name]().networks():
        pytest.skip("its teachers here take images of another shape")
    batch = Batch.of(pictures(), torch.arange(6) % 3)._replace(total=6)
    method = MEMBERS[name]()
    method.begin_epoch(0)
    loss = method.loss(model, batch, linf, torch.Generator().manual_seed(0))
    loss.total.backward()
    assert loss.total.isfinite() and all(parameter.grad is not None for parameter in model.parameters())


def test_batch_norm_of_another_kind_is_not_synchronised(monkeypatch):
    """One line, where processes train together; alone nothing is to be synchronised."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.BatchNorm1d(3))
    with synchronised(model):
        pass
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    with pytest.raises(InputError, match="BatchNorm1d cannot be synchronised, want per_process"), synchronised(model):
        pass
    with synchronised(nn.Sequential(nn.BatchNorm2d(3))):
        pass


def test_positions_of_another_size_are_interpolated(tmp_path):
    """As timm's own function does it; the other weights are those of the file."""
    timm = pytest.importorskip("timm")
    large, small, name = built(VIT, shape=(3, 64, 64)), built(VIT, seed=1), "network.pos_embed"
    state = {key: tensor for key, tensor in large.state_dict().items() if not key.startswith("normalize.")}
    save_file(state, str(tmp_path / "large.safetensors"))
    initial = Initial(file=str(tmp_path / "large.safetensors"), normalization="identity")
    told = begin_with(small, initial, VIT, "p.yaml: s.initial")
    assert f"{name} is made for 4 x 4 patches, and is interpolated to 2 x 2" in " ".join(told)
    want = timm.layers.resample_abs_pos_embed(state[name], [2, 2], num_prefix_tokens=1)
    begun = small.state_dict()
    torch.testing.assert_close(begun[name], want)
    assert all(torch.equal(begun[key], tensor) for key, tensor in state.items() if key != name)


@pytest.mark.parametrize(("given", "prefix"), [(None, 1), (5, 5), (1, 0)])
def test_tokens_before_the_patches_keep_their_positions(given, prefix):
    """torchvision's name; a class and registers; a network whose class token has no position."""
    timm, network, key = pytest.importorskip("timm"), nn.Identity(), "network.encoder.pos_embedding"
    if given is not None:
        network.num_prefix_tokens = given
    theirs, ours = torch.randn(1, prefix + 16, 8), torch.zeros(1, prefix + 36, 8)
    again = resampled({key: theirs}, {key: ours}, network, "here")[0][key]
    torch.testing.assert_close(again, timm.layers.resample_abs_pos_embed(theirs, [6, 6], num_prefix_tokens=prefix))


def test_positions_that_are_no_square_are_one_line(tmp_path):
    state = built(VIT, shape=(3, 48, 64)).state_dict()
    save_file({key: t for key, t in state.items() if not key.startswith("normalize.")}, str(tmp_path / "a.safetensors"))
    with pytest.raises(InputError, match=r"pos_embed has 13 positions, the model 5, .* want weights for images of"):
        begin_with(built(VIT), Initial(file=str(tmp_path / "a.safetensors")), VIT, "p.yaml: s.initial")
