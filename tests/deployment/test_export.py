"""`temper export`: files that run elsewhere, answer like the original, and refuse what is no image in [0, 1]."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import temper
from components.commands import export
from components.deployment import formats
from components.deployment.contents import Export
from components.deployment.pixel_range import Refusing, refusing
from components.foundation.storage import sha256
from components.models.parts.model_file import load_model
from components.numerics.tensor_files import write_tensors
from components.statistics.documents import read_document
from temper.cli import main as temper_main
from tests.parts.outside_files import make_case, network, pixels, save, write_images

ROOT = Path(__file__).parents[2]
ONNX = pytest.mark.skipif(bool(formats.missing_packages("onnx")), reason="needs the extra onnx")
KINDS = ["safetensors", "pt2", pytest.param("onnx", marks=ONNX)]


@pytest.fixture
def case(tmp_path, monkeypatch) -> Path:
    """A model, images that it never saw, and nothing else."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "student.safetensors")
    write_images(tmp_path / "images.safetensors", 130)
    return tmp_path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Times are not what is tested, and what the command sets for its process is put back."""
    before = torch.get_num_threads()
    monkeypatch.setattr("components.evaluation.latency.FEWEST", 2)
    monkeypatch.setattr("components.deployment.export.SECONDS", 0.0)
    # As in a process of its own, without its signals.
    monkeypatch.setattr("components.commands.export.run", export.main)
    yield
    torch.set_num_threads(before)


def main(arguments: list[str]) -> int:
    """The exit status of `temper`."""
    try:
        return temper_main(arguments)
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def run(to: str, *more: str, images: str = "130") -> int:
    told = ["--data", "images.safetensors", "--threat", "linf:26/255", "--images", images, *more]
    return main(["export", "student.safetensors", "--to", to, *told])


def document(path: Path) -> Export:
    return read_document(Export, path.with_name(path.name + ".json"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_answers_like_the_original_and_says_how_that_was_found_out(case, kind, capsys):
    path = case / f"out.{kind}"
    assert run(path.name) == 0
    made = document(path)
    assert made.format == kind and made.export.sha256 == sha256(path) and made.bytes == path.stat().st_size
    assert made.source.sha256 == sha256("student.safetensors")
    assert made.num_parameters == sum(p.numel() for p in network().parameters())
    for agreement in made.checks.values():
        assert agreement.largest_difference <= made.tolerance
        assert set(agreement.answers) == {"clean", "pgd", "pgd_margin", "worst_case"}
        assert all(one.same == one.n == 130 and one.original == one.export for one in agreement.answers.values())
        # An attack that does nothing would prove nothing.
        assert agreement.answers["worst_case"].original.value < agreement.answers["clean"].original.value - 0.1
    assert set(made.latency.by_batch) == {"1", "32"} and made.latency.threads == 1 and made.latency.processor
    assert sorted(os.listdir(case)) == ["images.safetensors", path.name, f"{path.name}.json", "student.safetensors"]
    printed = capsys.readouterr().out
    assert f"out.{kind}" in printed and "130/130" in printed and "260/260" in printed and "n = 130" in printed


@pytest.mark.parametrize("kind", KINDS)
def test_equal_models_give_equal_bytes(case, kind):
    first, second = case / f"first.{kind}", case / f"second.{kind}"
    model, card = load_model("student.safetensors")
    for path in (first, second):
        formats.FORMATS[kind].write(path, model.requires_grad_(False), card)
    assert first.read_bytes() == second.read_bytes()
    # Where the code lay that was exported is nobody's business.
    assert str(ROOT).encode() not in first.read_bytes()


def test_weights_are_exported_as_they_are(case):
    assert run("out.safetensors") == 0
    assert Path("out.safetensors").read_bytes() == Path("student.safetensors").read_bytes()


def test_a_folder_gets_every_format_that_can_be_written(case, capsys):
    assert run("out") == 0
    names = ["student.pt2", "student.pt2.json", "student.safetensors", "student.safetensors.json"]
    names += ["student.onnx", "student.onnx.json"] if not formats.missing_packages("onnx") else []
    assert sorted(os.listdir("out")) == sorted(names)
    assert ("onnx is left out" in capsys.readouterr().out) == bool(formats.missing_packages("onnx"))
    assert run("two", "--format", "pt2") == 0
    assert sorted(os.listdir("two")) == ["student.pt2", "student.pt2.json"]


class Twisted(nn.Module):
    """A model that gives a few images another answer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return torch.where((images.mean((1, 2, 3)) > 0.38)[:, None], logits.flip(1), logits)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda model: Refusing(Twisted(model)), "images get another class"),
        (lambda model: Refusing(nn.Sequential(model, nn.LeakyReLU(1.0001))), "logits differ by"),
        (lambda model: model, "pixels outside [0, 1] are taken, want refused"),
    ],
)
def test_a_wrong_export_leaves_no_file(case, wrong, reason, monkeypatch, capsys):
    """What a mistake in an exporter would do: each check sees its own."""
    monkeypatch.setattr(formats, "Refusing", wrong)
    for to in ("out.pt2", "folder/deep"):
        assert run(to) == 1
        printed = capsys.readouterr().out
        assert reason in printed and "no file was written" in printed
    assert sorted(path.name for path in case.rglob("*")) == sorted(
        ["folder", "images.safetensors", "student.safetensors"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "out.bin"], "--to: got out.bin, want a folder, or a file ending in 'safetensors', 'pt2', 'onnx'"),
        (["--to", "out.pt2", "--format", "safetensors"], "--format: got safetensors for out.pt2"),
        (["--to", "."], "would replace the model itself"),
        (["--to", "out", "--images", "0"], "--images: got 0"),
        (["--to", "out.pt2", "--threat", "linf"], "--threat: got 'linf'"),
        (["--to", "out.pt2", "--data", "digits.safetensors"], "digits.safetensors: no such file"),
        (["--to", "out.pt2", "--data", "other.safetensors"], "made for 10 of [1, 8, 8]"),
    ],
)
def test_mistakes_are_one_line(case, arguments, message, capsys):
    other = {"images": torch.zeros(9, 1, 9, 9, dtype=torch.uint8), "labels": torch.arange(9)}
    write_tensors("other.safetensors", other)
    told = ["--data", "images.safetensors", "--threat", "linf:26/255", *arguments]
    assert main(["export", "student.safetensors", *told]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert {path.name for path in case.iterdir()} == {"images.safetensors", "other.safetensors", "student.safetensors"}


def test_a_format_whose_packages_are_missing_is_refused(case, monkeypatch, capsys):
    monkeypatch.setattr(formats, "ONNX_PACKAGES", ("no_such_package",))
    assert run("out.onnx") == 2
    assert "needs no_such_package, which is not installed (pip install '.[onnx]')" in capsys.readouterr().err


OUTSIDE = [torch.full((2, 1, 8, 8), value) for value in (-1e-3, 1.001, float("nan"))]


@pytest.mark.parametrize("images", OUTSIDE, ids=["below", "above", "nan"])
def test_a_loaded_model_refuses_pixels_outside(case, images):
    model = temper.load("student.safetensors")
    with pytest.raises(temper.InputError, match=r"pixels in .*want \[0, 1\]"):
        model(images)
    assert torch.isfinite(temper.load("student.safetensors", checked=False)(images[:0])).all()
    temper.load("student.safetensors", checked=False)(images)


def test_the_check_of_pixels_is_in_nobodys_way(case):
    """Gradients, torch.func, compilers that only look, batches without images: the check is not there for them."""
    checked, plain = temper.load("student.safetensors"), copy.deepcopy(network())
    images = pixels(3).requires_grad_()
    checked(images).sum().backward()
    assert images.grad is not None and len(checked(pixels(0))) == 0
    mapped = torch.func.vmap(lambda image: torch.func.functional_call(checked, {}, (image[None],)))(pixels(3))
    assert torch.allclose(mapped[:, 0], plain(pixels(3)), atol=1e-5)
    assert torch.export.export(checked.requires_grad_(False), (pixels(2),))
    assert refusing(plain.to("meta"))(torch.empty(2, 1, 8, 8, device="meta")).shape == (2, 10)


FRESH = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("components", "temper", "pydantic", "safetensors", "torchvision"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
import numpy as np
images = np.load("images.npy")
"""
# What a page says has to work as it stands there.
BLOCKS = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "docs" / "deployment.md").read_text())
WITH_TORCH, WITH_ONNXRUNTIME, WITH_TEMPER = BLOCKS
MORE_TORCH = """
np.save("logits.npy", model(torch.from_numpy(images)).detach().numpy())
try:
    model(torch.from_numpy(images) * 1.1)
except RuntimeError as error:
    print(error)
"""
MORE_ONNXRUNTIME = """
np.save("logits.npy", session.run(None, {"images": images})[0])
assert not refused.any()
images[1] *= 1.1
print(np.isnan(session.run(["logits"], {"images": images})[0]).all(1)[:3].tolist())
assert "torch" not in sys.modules
"""


def test_a_page_says_how_weights_are_loaded(case):
    told: dict[str, Any] = {}
    exec(WITH_TEMPER, told)
    assert torch.equal(told["model"](pixels(3)), network()(pixels(3)))


@pytest.mark.parametrize(
    ("kind", "program", "said"),
    [
        ("pt2", WITH_TORCH + MORE_TORCH, "pixels outside [0, 1]"),
        pytest.param("onnx", WITH_ONNXRUNTIME + MORE_ONNXRUNTIME, "[False, True, False]", marks=ONNX),
    ],
)
def test_an_export_runs_without_this_project(case, kind, program, said):
    """In a process that finds neither our packages nor what they need."""
    assert run(f"student.{kind}") == 0
    images = pixels(7) / pixels(7).amax((1, 2, 3), keepdim=True)
    np.save("images.npy", images.numpy())
    command = [sys.executable, "-c", FRESH + program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert np.abs(np.load("logits.npy") - network()(images).numpy()).max() < 1e-4


@pytest.mark.slow
def test_an_evaluation_of_the_export_finds_the_same_outcomes(tmp_path):
    """Every attack, image by image: our own exports are on the list of what an evaluation runs."""
    case = make_case(tmp_path / "case", 40)
    told = ["export", str(case / "one.safetensors"), "--data", str(case / "images.safetensors")]
    assert main([*told, "--threat", "linf:26/255", "--to", str(case / "made")]) == 0
    models = {"original": "one.safetensors", "program": "made/one.pt2", "weights": "made/one.safetensors"}
    outcomes, verdicts = {}, {}
    for name, file in models.items():
        evaluation = ["--data", "images.safetensors", "--params", "small.yaml", "--out", name]
        command = [sys.executable, "-m", "temper", "evaluate", "--model", f"student={file}", *evaluation]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=case, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outcomes[name] = load_file(case / name / "outcomes.safetensors")
        verdicts[name] = json.loads((case / name / "robustness.json").read_text())["verdict"]["student"]["status"]
    assert len(outcomes["original"]) > 8 and len(set(verdicts.values())) == 1
    for name in ("program", "weights"):
        assert outcomes[name].keys() == outcomes["original"].keys()
        assert all(torch.equal(found, outcomes["original"][key]) for key, found in outcomes[name].items()), name
