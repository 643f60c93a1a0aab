"""Fast search networks: batch norm folded, bfloat16, compiled. Used only where they prove as good as float32."""

import copy
import shutil
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from components.attacks.parts.attack import Attack
from components.attacks.parts.victim import Victim
from components.evaluation.one_attack import TestSet, predict, run_attack
from components.foundation.errors import InputError
from components.foundation.params import strict
from components.numerics.compute import Precision, channels_last, resolved
from components.threats.parts.threat import Threat

# A fast search may miss this share of the images that the float32 search fools, and disagree on as many clean ones.
TOLERATED = 0.02


@strict
class Search:
    """How attacks compute while they search; what they find counts only once float32 confirms it.

    `compiled` needs a C++ compiler on a CPU and pays where an attack runs for minutes.
    """

    precision: Precision  # What matrix products and convolutions compute in during the search.
    compiled: bool  # Whether the network is compiled; on a CPU this needs a C++ compiler.

    def victim(self, model: nn.Module, images: Tensor) -> Victim:
        """The model with its search network, tried on a few `images` [n, C, H, W] in [0, 1].

        `model` itself stays as it is. Error: nothing to compile with.
        """
        if self.compiled and not torch.cuda.is_available() and shutil.which("c++") is None:
            raise InputError("search.compiled: got true, but there is no C++ compiler here (set it to false)")
        precision = resolved(self.precision, images.device)
        if precision == "float32" and not self.compiled:
            return Victim(model)
        search: nn.Module = Lean(model, images, torch.bfloat16 if precision == "bfloat16" else torch.float32)
        if self.compiled:
            search.compile()
        return Victim(model, search)


class Lean(nn.Module):
    """A copy of a trained model for evaluation mode alone: batch norm folded, weights in `dtype`, channels last."""

    def __init__(self, model: nn.Module, images: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        lean = fold_batch_norm(model, images).requires_grad_(False)
        for module in list(lean.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Conv2d):
                    child.to(dtype)
                if type(child) is nn.Linear:
                    setattr(module, name, FullPrecision(child))
        self.network = channels_last(lean)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        # Autocast lets normalisation work in float32: bfloat16 pixels would lose half a grey level.
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network(images).float()


class FullPrecision(nn.Module):
    """A layer that computes in float32 amid autocast.

    Linear heads are cheap, and logits of bfloat16 have three digits: a search that compares them would see most steps
    as no change at all. Where it works on tokens or maps, it is no head, and computes as the rest does.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim > 2:
            return self.layer(features)
        with torch.autocast(features.device.type, enabled=False):
            return self.layer(features.float())


@torch.no_grad()
def fold_batch_norm(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of `model` with each batch norm that follows a convolution multiplied into it; for evaluation mode.

    Modules that are registered one after the other are taken to be called so. Where that is wrong, which the logits of
    a few `images` show, the copy is returned without any folding.
    """
    plain = copy.deepcopy(model).eval()
    folded = copy.deepcopy(plain)
    for parent in folded.modules():
        children = list(parent.named_children())
        for (place, convolution), (after, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
                setattr(parent, place, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, after, nn.Identity())
    same = torch.allclose(folded(images), plain(images), rtol=1e-3, atol=1e-3)
    return folded if same else plain


def parity(victim: Victim, held_out: TestSet, attack: Attack, threat: Threat, seed: int) -> dict[str, Any]:
    """How well the search network stands for the exact one on `held_out` images (not the test split).

    `agree`: clean images on which both give the same class. `only_exact` and `only_search`: attacked images that one
    network's gradients fool (in float32) and the other's do not. `passed`: the search disagrees on, and loses, at most
    2 % of the n images.
    """
    n = len(held_out.labels)
    clean = (images for images, _, _ in held_out.batches())
    same = sum(int((predict(victim.search, images) == predict(victim.exact, images)).sum()) for images in clean)
    fallen = [run_attack(one, held_out, attack, threat, seed).right == 0 for one in (Victim(victim.exact), victim)]
    only_exact, only_search = int((fallen[0] & ~fallen[1]).sum()), int((fallen[1] & ~fallen[0]).sum())
    passed = n - same <= TOLERATED * n and only_exact - only_search <= TOLERATED * n
    return {"n": n, "agree": same, "only_exact": only_exact, "only_search": only_search, "passed": passed}


def refusal(checked: Mapping[str, Any]) -> str:
    """Why the search network is not used, in words, from what `parity` found or the reason why it was not asked."""
    if "reason" in checked:
        return str(checked["reason"])
    n, agree, only_exact, only_search = (checked[key] for key in ("n", "agree", "only_exact", "only_search"))
    alone = f"{only_exact} are fooled by the float32 search alone and {only_search} by the fast one alone"
    return f"of {n} held-out images {n - agree} get another answer, {alone}"
