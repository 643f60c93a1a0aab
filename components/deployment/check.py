"""Whether an exported model answers as the original does: logits, classes, worst cases, and pixels outside [0, 1]."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.attacks.parts.attack import Attack
from components.deployment.contents import Agreement, Answers
from components.deployment.formats import NAN, REFUSED, Format, Logits
from components.evaluation.one_attack import TestSet, run_attack
from components.numerics.losses import answers
from components.statistics.outcomes import share, worst
from components.threats.parts.threat import Threat

CLEAN, WORST_CASE = "clean", "worst_case"
# So that the last batch is smaller than the others: a program has to take both.
BATCH = 96


class Original(NamedTuple):
    """What the original answers: by condition (`clean` and each attack) images [N, C, H, W], and its logits [N, K]."""

    labels: Tensor
    images: dict[str, Tensor]
    logits: dict[str, Tensor]

    @property
    def largest(self) -> float:
        """The largest logit, without sign; at least 1."""
        return max(1.0, *(float(logits.abs().max()) for logits in self.logits.values()))


class Compared(NamedTuple):
    """How far an export agrees, run by one program, and why that is not enough, a line each."""

    agreement: Agreement | None
    reasons: list[str]


def asked(model: nn.Module, test: TestSet, attacks: Mapping[str, Attack], threat: Threat, seed: int) -> Original:
    """The original's answers to clean images, and to those that attacks on it make of them."""
    images = {
        name: run_attack(model, test, attack, threat, seed).images_adv
        for name, attack in {CLEAN: None, **attacks}.items()
    }
    with torch.no_grad():
        logits = {name: run(model, batch) for name, batch in images.items()}
    return Original(test.labels, images, logits)


def run(logits: Logits, images: Tensor) -> Tensor:
    """The logits of all images, batch by batch."""
    return torch.cat([logits(batch) for batch in images.split(BATCH)])


def compare(export: Logits, original: Original, kind: Format, by: str) -> Compared:
    """Whether an export does what it must: see `Agreement`.

    Args:
        export: the file, run by the program called `by`.
        original: what it must agree with.
        kind: the format, which says how far logits may differ and what becomes of pixels outside [0, 1].
        by: for the reasons.
    """
    allowed = kind.tolerance * original.largest
    found = {name: run(export, images) for name, images in original.images.items()}
    reasons = []
    differences = [(found[name] - logits).abs().max() for name, logits in original.logits.items()]
    largest = float(torch.stack(differences).max())
    # Written so that NaN fails too.
    if not largest <= allowed:
        reasons.append(f"{by}: logits differ by {largest:.3g}, want at most {allowed:.3g}")
    undecided = 0
    for name, logits in original.logits.items():
        other = answers(found[name]) != answers(logits)
        best = logits.topk(2, dim=1).values
        close = best[:, 0] - best[:, 1] <= 2 * allowed
        undecided += int((other & close).sum())
        if wrong := int((other & ~close).sum()):
            reasons.append(f"{by}: {wrong} of {len(logits)} images get another class ({name})")
    outside = _outside(export, original.images[CLEAN])
    if outside != kind.outside:
        reasons.append(f"{by}: pixels outside [0, 1] are {outside}, want {kind.outside}")
    if reasons:
        return Compared(None, reasons)
    both = _answers(original, found)
    agreement = Agreement(
        largest_difference=float(f"{largest:.3g}"), undecided=undecided, answers=both, pixels_outside=outside
    )
    return Compared(agreement, [])


def _answers(original: Original, found: Mapping[str, Tensor]) -> dict[str, Answers]:
    """Both sides by condition, and in the worst case."""
    labels = original.labels
    classes = {name: (answers(logits), answers(found[name])) for name, logits in original.logits.items()}
    rows = {
        name: _row((one == labels).byte(), (other == labels).byte(), one == other)
        for name, (one, other) in classes.items()
    }
    first, second = (worst([(side[index] == labels).byte() for side in classes.values()]) for index in (0, 1))
    return rows | {WORST_CASE: _row(first, second, first == second)}


def _row(original: Tensor, export: Tensor, same: Tensor) -> Answers:
    return Answers(n=len(same), same=int(same.sum()), original=share(original), export=share(export))


def _outside(export: Logits, images: Tensor) -> str:
    """What becomes of one pixel below 0, above 1, or NaN, among images that are as they should be."""
    found = set[str]()
    for pixel in (-1e-3, 1 + 1e-3, float("nan")):
        batch = images[:3].clone()
        batch[-1, 0, 0, 0] = pixel
        try:
            logits = export(batch)
        except (RuntimeError, ValueError):
            found.add(REFUSED)
            continue
        marked = logits.isnan()
        found.add(NAN if marked[-1].all() and not marked[:-1].any() else "taken")
    return found.pop() if len(found) == 1 else "taken"
