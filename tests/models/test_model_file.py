"""A model file gives back the same model, and every kind of wrong file is one clear line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from components.data.normalization import Normalization
from components.foundation.errors import InputError
from components.foundation.params import member
from components.models import MODELS
from components.models.parts.model_file import ModelCard, load_model, require_same_architecture, save_model
from components.numerics.tensor_files import read_tensors, write_tensors

NORM = {"estimator": "running", "momentum": 0.1}
SMALL = {"name": "small_cnn", "width": 0.25, "batch_norm": NORM}
ARCHITECTURES = [
    SMALL,
    {"name": "resnet18", "width": 0.125, "batch_norm": NORM},
    {"name": "resnet56", "width": 0.5, "batch_norm": {"estimator": "cumulative", "momentum": 0.1}},
    {"name": "preact_resnet18", "width": 0.125, "batch_norm": {"estimator": "batch", "momentum": 0.1}},
    {"name": "wide_resnet", "depth": 10, "widen_factor": 1, "width": 1.0, "batch_norm": NORM},
    {"name": "mobilenet_v2", "width": 0.25, "batch_norm": NORM},
]


def make_card(architecture: dict[str, Any]) -> ModelCard:
    return ModelCard(
        architecture=architecture,
        classes=("cat", "dog", "ship"),
        image_shape=(1, 8, 8),
        normalization=Normalization(method="standardize", offset=(0.3,), scale=(0.4,)),
        stage="train_clean_teacher",
        epoch=3,
        upstream={"clean_teacher": "0" * 64},
    )


def make_model(architecture: dict[str, Any], card: ModelCard) -> torch.nn.Module:
    torch.manual_seed(0)
    model = member(MODELS, architecture, "test").build(len(card.classes), card.image_shape, card.normalization)
    model.train()(torch.rand(8, *card.image_shape))
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    card = make_card(SMALL)
    save_model(path, make_model(SMALL, card).state_dict(), card)
    return path


def resave(path: Path, **changes: Any) -> Path:
    """The same weights under a card with other values; None as a value drops the key."""
    tensors, metadata = read_tensors(path)
    card = {key: value for key, value in (metadata | changes).items() if value is not None}
    write_tensors(path, tensors, card)
    return path


def message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one["name"])
def test_round_trip_gives_the_same_logits_and_the_same_bytes(architecture: dict[str, Any], tmp_path: Path) -> None:
    card, images = make_card(architecture), torch.rand(4, 1, 8, 8)
    model = make_model(architecture, card)
    save_model(tmp_path / "a", model.state_dict(), card)
    loaded, loaded_card = load_model(tmp_path / "a")
    assert loaded_card == card and not loaded.training
    assert torch.equal(loaded(images), model(images))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    save_model(tmp_path / "b", loaded.to(memory_format=torch.channels_last).state_dict(), loaded_card)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_table_of_this_test_is_the_family() -> None:
    assert [one["name"] for one in ARCHITECTURES] == [
        name for name, kind in MODELS.items() if not hasattr(kind, "library")
    ]


def test_loading_draws_no_random_numbers(saved: Path) -> None:
    before = torch.get_rng_state()
    load_model(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_normalisation_travels_with_the_weights(saved: Path) -> None:
    tensors, _ = read_tensors(saved)
    assert tensors["normalize.offset"].item() == pytest.approx(0.3)
    assert tensors["normalize.scale"].item() == pytest.approx(0.4)


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "absent.safetensors")


def test_truncated_file(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    assert "truncated" in message(saved)


def test_file_without_a_card(saved: Path) -> None:
    save_file({"weight": torch.zeros(2)}, saved)
    assert "no model card" in message(saved)


def test_data_file_instead_of_a_model(saved: Path) -> None:
    write_tensors(saved, {"train.images": torch.zeros(1)}, {"dataset": "digits", "classes": ["0", "1"]})
    assert "model card.dataset: unknown key" in message(saved)


@pytest.mark.parametrize(
    "key", ["architecture", "classes", "image_shape", "normalization", "stage", "epoch", "upstream"]
)
def test_card_without_a_key(saved: Path, key: str) -> None:
    assert f"model card.{key}: missing" in message(resave(saved, **{key: None}))


def test_unknown_architecture(saved: Path) -> None:
    text = message(resave(saved, architecture=SMALL | {"name": "resnet19"}))
    assert "unknown 'resnet19'" in text and "resnet18" in text


def test_unknown_field_of_an_architecture(saved: Path) -> None:
    assert "depht: unknown key" in message(resave(saved, architecture=SMALL | {"depht": 3}))


def test_weights_of_another_width(saved: Path) -> None:
    text = message(resave(saved, architecture=SMALL | {"width": 1.0}))
    assert "do not fit" in text and "want float32[" in text


@pytest.mark.parametrize("missing", [True, False])
def test_missing_and_extra_weights(saved: Path, missing: bool) -> None:
    tensors, card = read_tensors(saved)
    if missing:
        del tensors["normalize.scale"]
    else:
        tensors["more"] = torch.zeros(1)
    write_tensors(saved, tensors, card)
    assert ("missing normalize.scale" if missing else "unexpected more") in message(saved)


def test_weights_of_another_type(saved: Path) -> None:
    tensors, card = read_tensors(saved)
    write_tensors(saved, {name: tensor.double() for name, tensor in tensors.items()}, card)
    assert "float64" in message(saved)


def test_card_is_plain_json(saved: Path) -> None:
    _, metadata = read_tensors(saved)
    assert json.loads(json.dumps(metadata))["architecture"] == SMALL


def test_same_architecture_compares_values_not_spelling() -> None:
    same = {"name": "small_cnn", "batch_norm": {"momentum": "1e-1", "estimator": "running"}, "width": "1/4"}
    require_same_architecture(make_card(SMALL), same, "params.yaml: model")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"width": 1.0}, "width"),
        ({"batch_norm": NORM | {"estimator": "cumulative"}}, "batch_norm.estimator"),
        ({"name": "resnet18"}, "name"),
    ],
)
def test_another_architecture_is_refused_with_the_field_that_differs(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"^params.yaml: model.{field}: got .* but the train_clean_teacher model"):
        require_same_architecture(make_card(SMALL), SMALL | changes, "params.yaml: model")


def test_equal_cards_are_equal_values() -> None:
    assert make_card(SMALL) == make_card(dict(SMALL)) != replace(make_card(SMALL), epoch=4)
