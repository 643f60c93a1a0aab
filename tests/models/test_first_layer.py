"""Weights begin behind the normalisation that they expect, and a line says which one it is and who says so."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.data.normalization import Normalization, normalization_of
from components.foundation.errors import InputError
from components.foundation.params import member, typed
from components.models import MODELS
from components.models.parts.first_layer import Published, normalize_as_expected, same
from components.models.parts.initial_weights import Initial
from components.stages.training_stage import new_model

# The compiler that timm imports warns of a module of its own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DATA = Normalization(method="standardize", offset=(0.25, 0.5, 0.375), scale=(0.25, 0.125, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHAPE = (3, 32, 32)
SMALL = {"name": "small_cnn", "width": 0.25, "batch_norm": {"estimator": "running", "momentum": 0.1}}
RESNET10 = {"name": "timm", "architecture": "resnet10t"}
WHERE = "p.yaml: s"


def pictures() -> Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(3))


def trained(network: nn.Module) -> nn.Module:
    """As if it had been trained: running statistics of images that it has seen."""
    with torch.no_grad():
        network.train()(torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(5)))
    return network.eval()


def written(path: Path, network: nn.Module) -> str:
    save_file({name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}, path)
    return str(path)


def begun(file: str, fields: Mapping, **said: Any) -> tuple[nn.Module, list[str]]:
    """The model that a training stage begins with, and the lines that it tells."""
    told = list[str]()
    section = SimpleNamespace(model=fields, initial=typed(Initial, {"file": file, **said}, f"{WHERE}.initial"))
    settings = SimpleNamespace(model=member(MODELS, fields, "test"), section=section, seed=0)
    splits = SimpleNamespace(classes=tuple("abcde"), image_shape=SHAPE, normalization=DATA)
    journal = SimpleNamespace(note=told.append)
    model = new_model(cast(Any, settings), cast(Any, splits), torch.device("cpu"), WHERE, cast(Any, journal))
    return model.eval(), told


def of_timm(architecture: str) -> tuple[nn.Module, Any]:
    """A network as timm makes it, and what timm does to pixels before it."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    network = trained(timm.create_model(architecture, pretrained=False, num_classes=5, **size(architecture)))
    return network, timm.data.resolve_model_data_config(network)


def size(architecture: str) -> dict[str, int]:
    return {"img_size": SHAPE[1]} if "vit" in architecture else {}


def behind(network: nn.Module, mean: Any, std: Any) -> Tensor:
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (mean, std))
    return network((pictures() - mean) / std)


@pytest.mark.parametrize("architecture", ["resnet10t", "resnet10t.c3_in1k", "test_resnet", "test_vit"])
def test_a_plain_file_of_timm_gives_the_logits_of_timms_own_pipeline(architecture, tmp_path):
    network, config = of_timm(architecture)
    file, fields = written(tmp_path / "w.safetensors", network), {"name": "timm", "architecture": architecture}
    model, told = begun(file, fields)
    assert torch.equal(model(pictures()), behind(network, config["mean"], config["std"]))
    assert not torch.allclose(model(pictures()), behind(network, DATA.offset, DATA.scale), rtol=0, atol=1e-3)
    (line,) = [line for line in told if "normalised by" in line]
    assert "as timm's configuration of the pretrained " + architecture in line and not line.startswith("warning")
    assert line.startswith("initial weights: normalised by 0.485,0.456,0.406:0.2" if "10t" in architecture else "init")


def test_a_plain_file_of_torchvision_gives_the_logits_of_its_own_pipeline(tmp_path):
    from torchvision.models import ResNet18_Weights, resnet18
    from torchvision.transforms.functional import normalize

    torch.manual_seed(0)
    network = trained(resnet18(num_classes=5))
    file, pipeline = written(tmp_path / "w.safetensors", network), ResNet18_Weights.IMAGENET1K_V1.transforms()
    model, told = begun(file, {"name": "torchvision", "architecture": "resnet18"})
    assert torch.equal(model(pictures()), network(normalize(pictures(), pipeline.mean, pipeline.std)))
    assert [line for line in told if "normalised by" in line] == [
        "initial weights: normalised by 0.485,0.456,0.406:0.229,0.224,0.225, as torchvision's "
        "resnet18.IMAGENET1K_V1; the file holds nothing else"
    ]


def test_weights_of_one_name_that_expect_different_things_are_warned_of():
    pytest.importorskip("timm", reason="timm is not installed")
    found = member(MODELS, {"name": "timm", "architecture": "vit_base_patch16_224"}, "test").published()
    assert found.numbers == ((0.5,) * 3, (0.5,) * 3) and "vit_base_patch16_224.mae" in found.others
    assert all("augreg" not in name for name in found.others)
    exact = member(MODELS, {"name": "timm", "architecture": "vit_base_patch16_224.mae"}, "test").published()
    assert exact == Published(IMAGENET, "timm's configuration of the pretrained vit_base_patch16_224.mae")
    plain = member(MODELS, {"name": "torchvision", "architecture": "vgg16"}, "test").published()
    assert plain.numbers == IMAGENET and plain.others == ("vgg16.IMAGENET1K_FEATURES",)
    model = member(MODELS, SMALL, "test").build(5, SHAPE, DATA)
    lines = normalize_as_expected(model, None, None, found, WHERE, "w.safetensors")
    assert lines[1].startswith("warning: ") and "vit_base_patch16_224.mae" in lines[1] and len(lines) == 2


def test_a_tag_that_timm_has_not_is_one_line():
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(InputError, match=r"^model.architecture: timm has no weights 'no' of resnet10t, only c3_in1k$"):
        member(MODELS, {"name": "timm", "architecture": "resnet10t.no"}, "test").build(5, SHAPE, DATA)


@pytest.mark.parametrize("fields", [RESNET10, SMALL], ids=lambda fields: fields["name"])
@pytest.mark.parametrize(
    ("layer", "mean", "std"),
    [
        ("identity", (0.0,) * 3, (1.0,) * 3),
        ({"mean": [0.5], "std": [0.25]}, (0.5,) * 3, (0.25,) * 3),
        ({"mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1]}, (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)),
    ],
    ids=str,
)
def test_the_key_decides_where_the_file_holds_none(fields, layer, mean, std, tmp_path):
    """Also against what the library publishes."""
    if fields is RESNET10:
        network, _ = of_timm("resnet10t")
        plain = network
    else:
        network = cast(Any, trained(member(MODELS, fields, "test").build(5, SHAPE, DATA)))
        plain = nn.Sequential(network.features, network.head)
    state = {n: t.clone() for n, t in network.state_dict().items() if not n.startswith("normalize.")}
    save_file(state, tmp_path / "w.safetensors")
    model, told = begun(str(tmp_path / "w.safetensors"), fields, normalization=layer)
    assert torch.equal(model(pictures()), behind(plain, mean, std))
    assert normalization_of(model, DATA).offset == pytest.approx(mean)
    (line,) = [line for line in told if "normalised by" in line]
    assert line.endswith(", as initial.normalization says") and not line.startswith("warning")


def test_without_any_word_the_statistics_of_the_data_stay_with_a_warning(tmp_path):
    network = trained(member(MODELS, SMALL, "test").build(5, SHAPE, DATA))
    state = {n: t.clone() for n, t in network.state_dict().items() if not n.startswith("normalize.")}
    save_file(state, tmp_path / "w.safetensors")
    model, told = begun(str(tmp_path / "w.safetensors"), SMALL)
    assert torch.equal(model(pictures()), network(pictures()))
    (line,) = [line for line in told if "normalised by" in line]
    assert line.startswith("warning: initial weights: normalised by 0.25,0.5,0.375:0.25,0.125,0.5, as the data are")
    assert "initial.normalization" in line and "\n" not in line


def test_what_the_file_holds_is_told_and_comes_first(tmp_path):
    network = trained(member(MODELS, SMALL, "test").build(5, SHAPE, DATA))
    file = written(tmp_path / "w.safetensors", network)
    for said in ({}, {"normalization": {"mean": [0.25, 0.5, 0.375], "std": [0.25, 0.125, 0.5]}}):
        _, told = begun(file, SMALL, **said)
        assert told[-1] == "initial weights: normalised by 0.25,0.5,0.375:0.25,0.125,0.5, as in the file"
    line = "initial.normalization: .*w.safetensors itself normalises by 0.25,0.5,0.375:0.25,0.125,0.5, leave the key"
    with pytest.raises(InputError, match=line):
        begun(file, SMALL, normalization="identity")


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "normalises 2 channels, the images have 3"),
        ({"mean": [0.5] * 4, "std": [0.5] * 4}, "normalises 4 channels, the images have 3"),
        ({"mean": [123.7], "std": [58.4]}, "which is for other pixels than ours"),
        ({"mean": [0.5], "std": [0]}, "normalization.std.0: got 0, want more than 0"),
        ({"mean": [0.5], "std": [-0.5]}, "want more than 0"),
        ({"mean": [0.5] * 3, "std": [0.5]}, "got 3 means and 1 deviations"),
        ({"mean": [], "std": []}, "got 0 means and 0 deviations"),
        ({"mean": [float("nan")], "std": [0.5]}, "normalization.mean.0: "),
        ({"mean": [0.5]}, "normalization.std: missing"),
        ("imagenet", "normalization: input should be 'identity' or a mapping with mean and std, got 'imagenet'"),
    ],
    ids=str,
)
def test_a_wrong_normalisation_is_one_line(layer, line, tmp_path):
    network = member(MODELS, SMALL, "test").build(5, SHAPE, DATA)
    state = {n: t.clone() for n, t in network.state_dict().items() if not n.startswith("normalize.")}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as caught:
        begun(str(tmp_path / "w.safetensors"), SMALL, normalization=layer)
    text = str(caught.value)
    assert line in text and "\n" not in text and text.startswith(f"{WHERE}.initial.normalization")


def test_a_library_that_publishes_for_other_channels_says_nothing():
    gray = Normalization(method="standardize", offset=(0.5,), scale=(0.5,))
    model = member(MODELS, SMALL, "test").build(5, (1, 8, 8), gray)
    (line,) = normalize_as_expected(model, None, None, Published(IMAGENET, "a library"), WHERE, "w.safetensors")
    assert line.startswith("warning: initial weights: normalised by 0.5:0.5, as the data are")


def test_a_few_digits_are_the_same_normalisation():
    assert same(IMAGENET, ((0.485, 0.456, 0.406), (0.2295, 0.224, 0.225)))
    assert not same(IMAGENET, ((0.5,), (0.5,)))
    assert same(((0.5,), (0.5,)), ((0.5,) * 3, (0.5,) * 3))
