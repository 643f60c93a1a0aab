"""Fast search networks: folding changes no logit, and a search that is not as good as float32 is refused."""

import pytest
import torch
from torch import Tensor, nn

from components.attacks.parts.victim import Victim, confirm
from components.attacks.pgd import Pgd
from components.data.normalization import Normalization
from components.evaluation.one_attack import TestSet
from components.evaluation.search_network import Lean, Search, fold_batch_norm, parity
from components.foundation.errors import InputError
from components.foundation.params import Ratio, member
from components.models import MODELS
from components.numerics.compute import Compute
from components.threats.linf import Linf
from components.threats.parts.threat import Threat

SHAPE = (3, 16, 16)
ARCHITECTURES = {
    "small_cnn": {},
    "resnet18": {},
    "resnet56": {},
    "preact_resnet18": {},
    "mobilenet_v2": {},
    "wide_resnet": {"depth": 10, "widen_factor": 1},
}
LINF = Threat(norm=Linf(), epsilon=Ratio(8, 255))
PGD = Pgd(steps=5, step_size=Ratio(2, 255), start="zero", loss="cross_entropy", restarts=1)


def trained(name: str, estimator: str = "running") -> nn.Module:
    """A narrow network with batch-norm statistics of its own; in evaluation mode."""
    torch.manual_seed(0)
    spec = {"name": name, "width": 0.25, "batch_norm": {"estimator": estimator, "momentum": 0.5}}
    fields = {key: value for key, value in ARCHITECTURES[name].items()}
    normalization = Normalization(method="standardize", offset=(0.4, 0.5, 0.6), scale=(0.2, 0.3, 0.25))
    model = member(MODELS, spec | fields, name).build(10, SHAPE, normalization)
    model.train()
    for _ in range(2):
        model(torch.rand(32, *SHAPE))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if not hasattr(kind, "library")])
def test_folding_changes_no_logit_and_leaves_the_model_alone(name):
    model, images = trained(name), torch.rand(5, *SHAPE)
    before, num_norms = model(images).detach(), batch_norms(model)
    folded = fold_batch_norm(model, images)
    torch.testing.assert_close(folded(images), before, rtol=1e-4, atol=1e-4)
    assert batch_norms(folded) < num_norms
    assert batch_norms(model) == num_norms and torch.equal(model(images).detach(), before)


def test_batch_norm_without_statistics_is_not_folded():
    model, images = trained("small_cnn", "batch"), torch.rand(5, *SHAPE)
    folded = fold_batch_norm(model, images)
    assert batch_norms(folded) == batch_norms(model)
    torch.testing.assert_close(folded(images), model(images))


class Backwards(nn.Module):
    """Calls its layers in another order than they are listed in."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.convolution(self.norm(images)))


def test_a_network_that_folding_would_change_is_left_unfolded():
    model = Backwards()
    model.train()(torch.rand(32, *SHAPE))
    images = torch.rand(4, *SHAPE)
    torch.testing.assert_close(fold_batch_norm(model.eval(), images)(images), model(images))


def test_a_search_answers_in_float32_and_gives_gradients_to_the_input_alone():
    model, images = trained("small_cnn"), torch.rand(4, *SHAPE, requires_grad=True)
    victim = Search(precision="bfloat16", compiled=False).victim(model, torch.rand(4, *SHAPE))
    logits = victim(images)
    assert logits.dtype == torch.float32 and isinstance(victim.search, Lean)
    torch.testing.assert_close(logits, model(images), rtol=0.05, atol=0.1)
    logits.sum().backward()
    assert images.grad is not None and images.grad.dtype == torch.float32
    assert all(parameter.grad is None for parameter in victim.search.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_float32_searches_with_the_model_itself():
    model = trained("small_cnn")
    victim = Search(precision="float32", compiled=False).victim(model, torch.rand(4, *SHAPE))
    assert victim.search is victim.exact is model and victim.networks == (model,)


def test_compiling_without_a_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"search\.compiled: got true, but there is no C\+\+ compiler"):
        Search(precision="bfloat16", compiled=True).victim(trained("small_cnn"), torch.rand(4, *SHAPE))


def held_out(model: nn.Module) -> TestSet:
    images = torch.rand(60, *SHAPE, generator=torch.Generator().manual_seed(3))
    return TestSet(images, model(images).argmax(1), 32)


def test_parity_passes_for_bfloat16_and_counts_what_it_compares():
    model = trained("small_cnn")
    found = parity(
        Search(precision="bfloat16", compiled=False).victim(model, torch.rand(4, *SHAPE)), held_out(model), PGD, LINF, 0
    )
    assert found["n"] == 60 and found["agree"] >= 58 and found["passed"]


def test_parity_fails_for_a_search_that_answers_otherwise():
    model = trained("small_cnn")
    other = trained("small_cnn")
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    found = parity(Victim(model, other), held_out(model), PGD, LINF, 0)
    assert not found["passed"] and found["agree"] < 50


def test_parity_fails_for_a_search_without_gradients():
    model = trained("small_cnn")

    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return model(images).detach() + 0 * images.sum()

    found = parity(Victim(model, Flat()), held_out(model), PGD, LINF, 0)
    assert found["agree"] == 60 and found["only_exact"] > found["only_search"] and not found["passed"]


def test_float32_is_float32_on_a_gpu_too():
    torch.backends.cudnn.allow_tf32 = True
    Compute(device="cpu", threads=1, deterministic=False).prepare()
    assert not torch.backends.cudnn.allow_tf32


def test_deterministic_mode_costs_no_filling_of_new_tensors(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    Compute(device="cpu", threads=1, deterministic=True).prepare()
    assert torch.get_deterministic_debug_mode() == 2
    assert not torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]


def test_only_what_the_exact_network_confirms_is_fooled():
    right, wrong = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    right.weight.data, wrong.weight.data = torch.eye(2), -torch.eye(2)
    points, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 0])
    suspected = torch.tensor([True, True, False])
    assert confirm(Victim(right, wrong), points, labels, suspected).tolist() == [False, True, False]
    assert confirm(right, points, labels, suspected).tolist() == suspected.tolist()
