"""Weights under the names of published code, in every wrapping: the same logits, or one line that says why not."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.data.normalization import Normalization
from components.data.splits import LabelledImages
from components.evaluation.outside.models import Foreign, OutsideImages
from components.foundation.errors import InputError
from components.foundation.params import member
from components.models import MODELS
from components.models.parts.state_dicts import unwrap
from tests.parts.outside_files import loaded

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
BN = {"estimator": "running", "momentum": 0.1}
SMALL = {"width": 0.125, "batch_norm": BN}
CPU = torch.device("cpu")
CLASSES = 7
STAGES = {"preact_resnet18": (2, 2, 2, 2), "resnet18": (2, 2, 2, 2), "wide_resnet": (2, 2, 2)}
MOBILE = (1, 2, 3, 4, 3, 3, 1)
# Ours -> theirs, by the names in the code of TRADES, MART and AWP, fast_adversarial and Rice, torchvision, and MTARD.
WRN = {
    r"features\.0\.": "conv1.",
    r"features\.1\.(\d+)\.": lambda m: f"block{int(m[1]) // 2 + 1}.layer.{int(m[1]) % 2}.",
    r"features\.2\.": "bn1.",
    r"head\.linear\.": "fc.",
    r"norm(\d)\.": r"bn\1.",
    r"shortcut\.": "convShortcut.",
}
PREACT = WRN | {
    r"features\.1\.(\d+)\.": lambda m: f"layer{int(m[1]) // 2 + 1}.{int(m[1]) % 2}.",
    r"features\.2\.": "bn.",
    r"head\.linear\.": "linear.",
    r"shortcut\.": "shortcut.0.",
}
TORCHVISION = {
    r"features\.0\.": "conv1.",
    r"features\.1\.": "bn1.",
    r"features\.3\.(\d+)\.": lambda m: f"layer{int(m[1]) // 2 + 1}.{int(m[1]) % 2}.",
    r"head\.linear\.": "fc.",
}
RESNET = TORCHVISION | {r"head\.linear\.": "linear.", r"downsample\.": "shortcut."}
MTARD = {
    r"features\.0\.0\.": "conv1.",
    r"features\.0\.1\.": "bn1.",
    r"features\.8\.0\.": "conv2.",
    r"features\.8\.1\.": "bn2.",
    r"features\.(\d+)\.(\d+)\.": lambda m: f"layers.{sum(MOBILE[: int(m[1]) - 1]) + int(m[2])}.",
    r"(layers\.\d+)\.(?:expand|depthwise|project)": r"\g<0>",
    r"expand\.0\.": "conv1.",
    r"expand\.1\.": "bn1.",
    r"depthwise\.0\.": "conv2.",
    r"depthwise\.1\.": "bn2.",
    r"project\.0\.": "conv3.",
    r"project\.1\.": "bn3.",
    r"head\.linear\.": "linear.",
}
FAMILIES: dict[str, tuple[dict[str, Any], Mapping[str, Any]]] = {
    "TRADES": ({"name": "wide_resnet", "depth": 16, "widen_factor": 2}, WRN),
    "Rice": ({"name": "preact_resnet18"}, PREACT),
    "fast_adversarial": ({"name": "preact_resnet18", "shortcut": "plain"}, PREACT),
    "torchvision": ({"name": "resnet18"}, TORCHVISION),
    "CIFAR": ({"name": "resnet18"}, RESNET),
    "MTARD": ({"name": "mobilenet_v2"}, MTARD),
}
EACH = pytest.mark.parametrize("family", FAMILIES)


def images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def data(classes: tuple[str, ...] = ()) -> OutsideImages:
    return OutsideImages("d", classes, LabelledImages((images() * 255).byte(), torch.tensor([0, 1, 2])), None)


def network(family: str) -> nn.Module:
    """Our own network of a family, with weights that no layer has by default."""
    spec = SMALL | FAMILIES[family][0] | ({"form": "cifar"} if family == "MTARD" else {})
    torch.manual_seed(0)
    normalization = Normalization(method="standardize", offset=MEAN, scale=STD)
    model = member(MODELS, spec, "test").build(CLASSES, (3, 16, 16), normalization).eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_(0, 0.1)
    return model


def theirs(family: str) -> dict[str, Tensor]:
    """Its weights under the names of the published code, without normalisation."""
    found = {}
    for name, tensor in network(family).state_dict().items():
        if not name.startswith("normalize."):
            for pattern, new in FAMILIES[family][1].items():
                # Once each, in order: what is before the block first, then what is in it.
                name = re.sub(pattern, new, name, count=1)
            found[name] = tensor.clone()
    return found


def load(folder: Path, family: str, state: Mapping[str, Tensor], said: Any = None, **fields: Any) -> nn.Module:
    save_file(dict(state), folder / "s.safetensors")
    architecture = SMALL | FAMILIES[family][0] | fields
    return loaded("a", str(folder / "s.safetensors"), data(), Foreign(architecture, said), CPU).model


def check_same(model: nn.Module, family: str) -> None:
    want = network(family)(images())
    assert torch.allclose(model(images()), want, rtol=1e-6, atol=1e-6 * float(want.abs().max()))


@EACH
def test_published_names_give_the_same_logits(tmp_path, family):
    state = theirs(family)
    expected = {"TRADES": "block1.layer.0.conv1.weight", "MTARD": "layers.0.conv1.weight"}
    assert {expected.get(family, "layer1.0.conv1.weight"), "conv1.weight"} <= set(state)
    assert not any(name.startswith(("features", "head")) for name in state)
    with torch.no_grad():
        check_same(load(tmp_path, family, state, (MEAN, STD)), family)


def test_a_stage_that_is_built_and_never_run_plays_no_part(tmp_path):
    state = theirs("TRADES")
    unused = {name.replace("block1.", "sub_block1."): t + 1 for name, t in state.items() if name.startswith("block1.")}
    with torch.no_grad():
        check_same(load(tmp_path, "TRADES", state | unused, (MEAN, STD)), "TRADES")


State = dict[str, Tensor]


def under(*fronts: str) -> Callable[[State], State]:
    front = "".join(f"{part}." for part in fronts)
    return lambda state: {front + name: tensor for name, tensor in state.items()}


def normalised(mean: str, std: str, front: str = "") -> Callable[[State], State]:
    shapes = (1, 3, 1, 1) if "mu" in mean else (3,)
    both = {mean: torch.tensor(MEAN).view(shapes), std: torch.tensor(STD).view(shapes)}
    return lambda state: both | {front + name: tensor for name, tensor in state.items()}


WRAPPINGS: dict[str, Callable[[State], State]] = {
    "Sequential": normalised("0.mean", "0.std", "1."),
    "mu and sigma": normalised("mu", "sigma"),
    "mu and sigma around a model": normalised("mu", "sigma", "model."),
    "normalize": normalised("normalize.mean", "normalize.std"),
    "normalizer": normalised("normalizer.new_mean", "normalizer.new_std", "model."),
    "data parallel": lambda s: under("module")(normalised("0.mean", "0.std", "1.")(s)),
    "each in the other": lambda s: under("state_dict", "module")(normalised("mean", "std", "model.module.")(s)),
    "data parallel inside": normalised("0.mean", "0.std", "1.module."),
    "compiled": lambda s: under("_orig_mod")(normalised("mean", "std")(s)),
    "average": lambda s: under("ema", "module")(normalised("mean", "std")(s)) | {"ema.n_averaged": torch.tensor(3)},
    "optimizer beside it": lambda s: under("net")(normalised("mean", "std")(s))
    | {"optimizer.state.0.momentum_buffer": torch.zeros(3), "epoch": torch.tensor(3), "acc": torch.tensor(0.5)},
    "a copy for attacks beside it": lambda s: under("model")(s)
    | under("attacker", "model")(s)
    | {"normalizer.mean": torch.tensor(MEAN), "normalizer.std": torch.tensor(STD)},
    "double precision": lambda s: normalised("mean", "std")(
        {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in s.items()}
    ),
    "training state beside it": lambda s: under("model")(normalised("mean", "std")(s))
    | {"lr": torch.tensor(0.1), "best_prec1": torch.tensor(0.5), "callbacks.x": torch.ones(2)}
    | {"val_acc.total": torch.tensor(9), "optimizer_states.0.x": torch.ones(2), "criterion.weight": torch.ones(7)},
    "training state among it": lambda s: normalised("mean", "std")(s) | {"epoch": torch.tensor(3)},
    "counters of another type": lambda s: normalised("mean", "std")(
        {name: tensor.int() if "num_batches" in name else tensor for name, tensor in s.items()}
    ),
    "no counters": lambda s: normalised("mean", "std")({n: t for n, t in s.items() if "num_batches" not in n}),
    "dictionaries": lambda s: under("model_state_dict")(normalised("mean", "std")(s)) | {"scheduler.x": torch.zeros(1)},
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("family", ["TRADES", "Rice", "CIFAR"])
def test_wrappings_go_and_the_normalisation_inside_is_used(tmp_path, family, wrapping):
    state = {name: tensor.contiguous() for name, tensor in WRAPPINGS[wrapping](theirs(family)).items()}
    with torch.no_grad():
        check_same(load(tmp_path, family, {name: t.clone() for name, t in state.items()}), family)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_stands_in_front_of_all_names_goes(tmp_path, seed):
    rng = Random(seed)
    words = ["f", "net", "teacher", "layers", "layer1", "0", "1", "my model", "state_dict", "encoder", "conv1", "_m"]
    family, depth = rng.choice(list(FAMILIES)), rng.randint(1, 5)
    state = under(*(rng.choice(words) for _ in range(depth)))(theirs(family))
    scalars = {f"{rng.choice(words)}.{word}": torch.tensor(0.5) for word in ("loss", "lr", "acc", "total")}
    front = rng.choice(["", "norm.", "module."])
    normal = {f"{front}mean": torch.tensor(MEAN), f"{front}std": torch.tensor(STD)}
    with torch.no_grad():
        check_same(load(tmp_path, family, {**state, **scalars, **normal}), family)
    twice = state | under(f"{rng.choice(words)}2")(theirs(family))
    with pytest.raises(InputError, match=r"holds several networks \(.*, .*\), want one"):
        load(tmp_path, family, twice | normal)
    # What stands in front of a model or behind it would be missing in what is attacked.
    with pytest.raises(InputError, match=r"and 1 tensors beside it, such as 'denoiser\.weight', that may belong to"):
        load(tmp_path, family, state | normal | {"denoiser.weight": torch.ones(3, 3)})


@EACH
def test_the_number_of_classes_comes_from_the_head(tmp_path, family):
    with torch.no_grad():
        assert load(tmp_path, family, theirs(family), (MEAN, STD))(images()).shape == (3, CLASSES)
    save_file(theirs(family), tmp_path / "s.safetensors")
    foreign = Foreign(SMALL | FAMILIES[family][0], (MEAN, STD))
    with pytest.raises(InputError, match=r"gives \[1, 7\] for one image, want \[1, 3\] logits"):
        loaded("a", str(tmp_path / "s.safetensors"), data(("a", "b", "c")), foreign, CPU)


def test_a_normalisation_that_is_said_and_inside_must_be_the_same(tmp_path):
    state = normalised("mean", "std")(theirs("Rice"))
    with torch.no_grad():
        check_same(load(tmp_path, "Rice", state, (MEAN, STD)), "Rice")
    for said in (((), ()), ((0.5,), (0.25,)), ((0.49, 0.48, 0.45), (0.25, 0.24, 0.27))):
        with pytest.raises(InputError, match=r"the file itself normalises by 0\.49,0\.48,0\.45:0\.25,0\.24,0\.26"):
            load(tmp_path, "Rice", state, said)
    with pytest.raises(InputError, match="without normalisation"):
        load(tmp_path, "Rice", theirs("Rice"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: under("model")(s) | under("ema")(s), "holds several networks (ema, model), want one"),
        (lambda s: s | {"std": torch.zeros(3), "mean": torch.zeros(3)}, "want finite, above 0"),
        (lambda s: s | {"std": torch.full((3,), torch.nan), "mean": torch.zeros(3)}, "want finite, above 0"),
        (lambda s: {n: t for n, t in s.items() if n != "conv1.weight"}, "missing features.0.weight"),
        (lambda s: {n: t for n, t in s.items() if not n.startswith("layer4")}, "missing features.1.6."),
        (lambda s: s | {"attention.weight": torch.zeros(3)}, "unexpected attention.weight"),
        (
            lambda s: s | {"fc.weight": s["linear.weight"]},
            "'fc.weight' and 'linear.weight' are both head.linear.weight",
        ),
        (lambda s: s | {"rotations.weight": torch.zeros(4, 9)}, "unexpected rotations.weight"),
        (lambda s: {"a": torch.zeros(1)}, "found 1 tensors: 'a'"),
        (lambda s: {"\x1b[31mred\n": torch.zeros(1)}, r"found 1 tensors: '\x1b[31mred\n'"),
    ],
)
def test_what_does_not_fit_says_what_was_found_and_what_was_expected(tmp_path, change, said):
    with pytest.raises(InputError) as refused:
        load(tmp_path, "Rice", {n: t.clone() for n, t in change(theirs("Rice")).items()}, (MEAN, STD))
    text = str(refused.value)
    assert said in text and text.isprintable() and len(text) < 600


def test_another_architecture_is_told_with_counts(tmp_path):
    with pytest.raises(InputError, match=r"missing .* more\); wanted 124 tensors: .*; found 107 tensors: 'bn\.bias', "):
        load(tmp_path, "Rice", theirs("Rice"), (MEAN, STD), name="resnet18")


def test_only_what_wraps_every_name_goes():
    for names in (("model.a", "other.b"), ("features.a",), ("0.weight", "2.weight")):
        assert unwrap({name: torch.zeros(1) for name in names}, "f").state.keys() == set(names)
