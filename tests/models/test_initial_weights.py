"""Initial weights: the same logits as the network that the file was written from, or one line that says why not."""

from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.data.normalization import Normalization, normalization_of
from components.foundation.errors import InputError
from components.foundation.params import member
from components.models import MODELS
from components.models.parts.blocks import blocks_of
from components.models.parts.initial_weights import Initial, begin_with
from components.models.parts.model_file import ModelCard, save_model
from tests.evaluation.test_state_dicts import CLASSES, FAMILIES, images, network, theirs
from tests.evaluation.test_state_dicts import SMALL as PUBLISHED

NORM = {"estimator": "running", "momentum": 0.1}
SHAPE = (3, 8, 8)
OURS = Normalization(method="standardize", offset=(0.25, 0.5, 0.375), scale=(0.25, 0.125, 0.5))
THEIRS = Normalization(method="standardize", offset=(0.485, 0.456, 0.406), scale=(0.229, 0.224, 0.225))
SMALL = {"name": "small_cnn", "width": 0.25, "batch_norm": NORM}
RESIDUAL = {"name": "resnet18", "width": 0.125, "batch_norm": NORM}


def built(fields: Mapping, classes: int = 4, seed: int = 0, normalization: Normalization = OURS) -> nn.Module:
    torch.manual_seed(seed)
    model = member(MODELS, fields, "test").build(classes, SHAPE, normalization)
    with torch.no_grad():  # as if it had been trained: running statistics of images that it has seen
        model.train()(torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(seed)))
    return model


def written(path: Path, state: Mapping[str, Tensor]) -> str:
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, str(path))
    return str(path)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("normalize.")}


def logits(model: nn.Module) -> Tensor:
    return model.eval()(torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(7)))


def begun(file: str, fields: Mapping, classes: int = 4, replace_head: bool = True) -> tuple[nn.Module, list[str]]:
    model = built(fields, classes, seed=1)
    return model, begin_with(model, Initial(file=file, replace_head=replace_head), fields, "p.yaml: s.initial")


def refused(file: str, fields: Mapping, classes: int = 4, replace_head: bool = True) -> str:
    with pytest.raises(InputError) as caught:
        begun(file, fields, classes, replace_head)
    line = str(caught.value)
    assert "\n" not in line and file in line
    return line


@pytest.mark.parametrize("normalization", [OURS, THEIRS], ids=["same", "other"])
@pytest.mark.parametrize("fields", [SMALL, RESIDUAL], ids=lambda fields: fields["name"])
def test_a_model_file_begins_with_its_logits_bit_for_bit(fields, normalization, tmp_path):
    trained = built(fields, normalization=normalization)
    card = ModelCard(
        architecture=dict(fields),
        classes=tuple("abcd"),
        image_shape=SHAPE,
        normalization=normalization,
        stage="train_clean_teacher",
        epoch=1,
        upstream={},
    )
    save_model(tmp_path / "trained.safetensors", trained.state_dict(), card)
    model, told = begun(str(tmp_path / "trained.safetensors"), fields, replace_head=False)
    assert torch.equal(logits(model), logits(trained))
    assert [line.endswith(", as in the file") for line in told if "normalised by" in line] == [True]
    assert normalization_of(model, OURS).offset == pytest.approx(normalization.offset)


def wrappings() -> list[tuple[str, Mapping]]:
    """Prefixes and company that files have, drawn at random; each is the same network."""
    rng = Random(0)
    fronts = ["", "module.", "model.", "state_dict.", "model_ema.", "0."]
    company = {
        "epoch": torch.tensor(3),
        "optimizer.state.0.momentum_buffer": torch.ones(3),
        "scaler.scale": torch.ones(()),
    }
    cases = []
    for number in range(24):
        front = "".join(rng.sample(fronts, rng.randrange(3)))
        beside = {name: company[name] for name in rng.sample(sorted(company), rng.randrange(3))}
        cases.append((front, beside, number))
    return cases


@pytest.mark.parametrize("fields", [SMALL, RESIDUAL], ids=lambda fields: fields["name"])
@pytest.mark.parametrize("front, beside, number", wrappings())
def test_what_wraps_the_names_is_taken_off(fields, front, beside, number, tmp_path):
    trained = built(fields, seed=number)
    state = {f"{front}{name}": tensor for name, tensor in weights(trained).items()}
    if number % 2:
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    model, _ = begun(written(tmp_path / "w.safetensors", {**state, **beside}), fields, replace_head=False)
    assert torch.equal(logits(model), logits(trained))


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_published_code_are_ours(family, tmp_path):
    trained = network(family).eval()
    fields = PUBLISHED | FAMILIES[family][0] | ({"form": "cifar"} if family == "MTARD" else {})
    normalization = normalization_of(trained, OURS)
    model = member(MODELS, fields, "test").build(CLASSES, (3, 16, 16), normalization)
    initial = Initial(file=written(tmp_path / "w.safetensors", theirs(family)), replace_head=False)
    begin_with(model, initial, fields, "p.yaml: s.initial")
    with torch.no_grad():
        assert torch.equal(model.eval()(images()), trained(images()))


def test_half_precision_is_read(tmp_path):
    trained = built(SMALL).half().float()
    state = {n: t.half() if t.is_floating_point() else t for n, t in weights(trained).items()}
    model, _ = begun(written(tmp_path / "w.safetensors", state), SMALL)
    assert torch.equal(model.state_dict()["features.0.weight"], trained.state_dict()["features.0.weight"])


@pytest.mark.parametrize("fields", [SMALL, RESIDUAL], ids=lambda fields: fields["name"])
@pytest.mark.parametrize("head", ["other classes", "none"])
def test_a_head_of_other_classes_begins_anew_and_all_else_is_the_files(fields, head, tmp_path):
    trained = built(fields, classes=6)
    names = blocks_of(trained)[-1].names
    state = {name: t for name, t in weights(trained).items() if head == "other classes" or name not in names}
    file = written(tmp_path / "w.safetensors", state)
    fresh = built(fields, seed=1).state_dict()
    model, told = begun(file, fields)
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, fresh[name] if name in names else state[name]), name
    assert any("the head begins anew" in line for line in told)
    line = refused(file, fields, replace_head=False)
    assert ("is for 6 classes, want 4" in line) if head == "other classes" else ("has no head" in line)


def mistakes(state: dict[str, Tensor]) -> dict[str, tuple[dict[str, Tensor], str]]:
    """A file's content, and what the line says."""
    first = "features.0.weight"
    return {
        "nothing": ({}, "none of its 0 tensors fits the model"),
        "nothing fits": (
            {"a": torch.ones(2), "b": torch.ones(2)},
            "none of its 2 tensors fits the model: found a, b; want",
        ),
        "one is missing": ({n: t for n, t in state.items() if n != first}, f"missing {first}"),
        "one too many": (state | {"features.99.weight": torch.ones(2)}, "unexpected features.99.weight"),
        "wrong shape": (state | {first: torch.ones(8, 1, 3, 3)}, f"{first} is [8, 1, 3, 3], want [8, 3, 3, 3]"),
        "scalar": (state | {first: torch.ones(1)}, f"{first} is [1], want [8, 3, 3, 3]"),
        "not finite": (
            state | {first: torch.full((8, 3, 3, 3), torch.nan)},
            f"{first} holds numbers that are not finite",
        ),
        "two networks": (
            {f"{front}.{n}": t for front in ("model", "model_ema") for n, t in state.items()},
            "holds several networks",
        ),
        "normalisation of one channel more": (
            state | {"mean": torch.ones(4), "std": torch.ones(4)},
            "normalises 4 channels, the images have 3",
        ),
        "pixels of 0 to 255": (
            state | {"mean": torch.full((3,), 123.7), "std": torch.full((3,), 58.4)},
            "normalises by 123.7,123.7,123.7:58.4,58.4,58.4, which is for other pixels than ours",
        ),
        "division by zero": (state | {"mean": torch.ones(3), "std": torch.zeros(3)}, "want finite, above 0"),
        "deeper": ({n.replace("features.3", "features.4"): t for n, t in state.items()}, "missing features.3.weight"),
    }


@pytest.mark.parametrize("kind", mistakes({}))
def test_a_file_that_does_not_fit_is_one_line(kind, tmp_path):
    state, expected = mistakes(weights(built(SMALL)))[kind]
    assert expected in refused(written(tmp_path / "w.safetensors", state), SMALL)


@pytest.mark.parametrize("width", [0.5, 1])
def test_a_wider_network_is_no_other_head(width, tmp_path):
    file = written(tmp_path / "w.safetensors", weights(built(SMALL | {"width": width})))
    assert "does not fit the model: features.0.weight is" in refused(file, SMALL)


def test_no_file_and_no_safetensors(tmp_path):
    assert "no such file" in refused(str(tmp_path / "absent.safetensors"), SMALL)
    (tmp_path / "w.safetensors").write_bytes(b"PK\x03\x04 a pickle in a zip")
    assert "no safetensors file" in refused(str(tmp_path / "w.safetensors"), SMALL)
