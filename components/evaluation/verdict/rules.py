"""The verdict on an evaluation: rules that can fail, judged from what was measured (docs/verdict.md explains each).

`broken`: a condition of the measurement is violated, so its numbers mean something else than they say. `suspect`: the
numbers are upper bounds that a stronger attack probably lowers. A rule that could not be measured has not passed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from components.evaluation.verdict import findings
from components.evaluation.verdict.findings import CheckStatus, Evidence, Finding, never_gains
from components.statistics.documents import Document


@dataclass(frozen=True)
class Rule:
    """A test of the evidence: what passes, what a failure means, what to do then. It is called as `find` is.

    A `required` rule must have been measured for the verdict `trusted`; the others apply where their evidence can
    exist at all: several models, a cascade with Square, a fast search network.
    """

    find: Callable[[Evidence], Finding]
    bound: str
    meaning: str
    remedy: str
    required: bool = True

    @property
    def name(self) -> str:
        return self.find.__name__


class Check(Document):
    """A rule applied: what was measured, the bound, what a failure means, what to do then."""

    rule: str
    status: CheckStatus
    """What the rule made of the evidence; one that could not be measured has not passed."""
    measured: dict[str, Any]
    """The numbers that the rule looked at."""
    bound: str
    """What passes."""
    meaning: str
    """What a failure means."""
    remedy: str
    """What to do then."""
    required: bool = True
    """Whether the verdict `trusted` needs it measured."""


class ShortVerdict(Document):
    """A verdict without its checks."""

    status: Literal["trusted", "suspect", "broken"]
    """Whether the numbers can be believed."""
    reasons: list[str]
    """The rules because of which they are not trusted."""


class Verdict(ShortVerdict):
    """The worst status among the checks; a required one that was not measured makes it `suspect` at least."""

    checks: list[Check]


def judge(evidence: Evidence) -> Verdict:
    """The verdict on what `probes.probe` measured, with what the evaluation adds (docs/verdict.md lists the keys)."""
    checks = [_check(rule, evidence) for rule in RULES]
    # What had to be measured and was not is no pass.
    missing = [check.rule for check in checks if check.required and check.status == "not_measured"]
    reasons = [check.rule for check in checks if check.status in ("suspect", "broken") or check.rule in missing]
    broken = any(check.status == "broken" for check in checks)
    return Verdict(status="broken" if broken else "suspect" if reasons else "trusted", reasons=reasons, checks=checks)


def _check(rule: Rule, evidence: Evidence) -> Check:
    try:
        status, measured = rule.find(evidence)
    except KeyError:
        # Evidence that is absent, whole or in part: never a pass.
        status, measured = "not_measured", {}
    rounded = {key: float(f"{one:.4g}") if isinstance(one, float) else one for key, one in measured.items()}
    texts = {key: getattr(rule, key) for key in ("bound", "meaning", "remedy", "required")}
    return Check(rule=rule.name, status=status, measured=rounded, **texts)


_MASKED = "gradient masking: the attack loses its way, the model is not robust"
_ATTACK_MORE = "add APGD-T, FAB-T and Square with more steps, restarts and queries, or an attack made for this defence"

RULES = (
    Rule(
        findings.enough_images,
        bound="at least 100 probed images; else suspect",
        meaning="so few images show only differences of many points",
        remedy="probe more test images",
    ),
    Rule(
        findings.constant_answer,
        bound="without an attack more images are right than with the most common class for each: one-sided exact "
        "McNemar p < 0.01; else suspect",
        meaning="no better than always giving the same answer, which no attack can change",
        remedy="balance the classes in training; read the numbers class by class",
    ),
    Rule(
        findings.pixel_range,
        bound="all pixels in [0, 1]; else broken. The largest above 1/8; else suspect (scaled twice)",
        meaning="images were normalised or scaled before the model: epsilon is then not a share of the pixel range",
        remedy="hand over pixels in [0, 1] and make normalisation the model's first layer",
    ),
    Rule(
        findings.logits,
        bound="finite, on attacked images too, and not probabilities on every image; else broken. No "
        "log-probabilities; else suspect",
        meaning="NaN or infinity is no answer; a softmax inside the model flattens the losses that attacks climb",
        remedy="keep the arithmetic finite on every image with pixels in [0, 1]; return the values before the softmax",
    ),
    Rule(
        findings.eval_mode,
        bound="no module in training mode, no buffer that a forward pass moves; else broken",
        meaning="dropout or batch statistics are live: what was handed over is not what is measured",
        remedy="call model.eval(); use batch norm with stored statistics",
    ),
    Rule(
        findings.deterministic,
        bound="5 forward passes: logits equal to 1e-4 of their size; else suspect, or broken if an answer changes",
        meaning="a random layer: an image counts as robust because one draw went well",
        remedy="remove the randomness, or attack its expectation (EOT) and report the mean over draws",
    ),
    Rule(
        findings.batch_independence,
        bound="logits alone, in batches of 7, in one, in other order: as for deterministic",
        meaning="an image's answer depends on its neighbours, as with batch statistics",
        remedy="use stored batch-norm statistics (estimator running or cumulative)",
    ),
    Rule(
        findings.zero_gradients,
        bound="no gradient of margin or cross-entropy on at most 1 % of the images classified right; else suspect, "
        "above 50 % or without a derivative broken",
        meaning="gradient attacks have nothing to follow there: they were run, but did not attack",
        remedy="replace the layer by a smooth stand-in in the backward pass (BPDA); rely on Square",
    ),
    Rule(
        findings.epsilon_zero,
        bound="an attack at epsilon 0 changes no answer; else broken",
        meaning="the evaluation changes answers without changing images",
        remedy="see the checks “deterministic”, “eval mode”, “batch independence”; does the attack honour its radius?",
    ),
    Rule(
        findings.large_epsilon,
        bound="where every image can become grey, PGD leaves at most 5 % right; else suspect; more than one constant "
        "answer gets right: broken",
        meaning=_MASKED + "; or, if all that is left is of one class, it gives that answer whatever the image",
        remedy="look at the check “zero gradients”; " + _ATTACK_MORE,
    ),
    Rule(
        never_gains("monotone_epsilon"),
        bound="accuracy never rises from 0 over ε/2, ε and 2ε to grey: one-sided exact McNemar p >= 0.01; else suspect",
        meaning=_MASKED,
        remedy="more steps, smaller steps, several restarts; " + _ATTACK_MORE,
    ),
    Rule(
        never_gains("more_steps"),
        bound="accuracy does not rise from 5 to 20 steps of PGD: p >= 0.01; else suspect",
        meaning="the steps do not climb: wrong size, wrong sign, or a masked gradient",
        remedy="check the attack's step size; " + _ATTACK_MORE,
    ),
    Rule(
        never_gains("more_restarts"),
        bound="accuracy does not rise from 1 to 3 restarts of PGD: p >= 0.01; else suspect",
        meaning="the best of several restarts is not what is kept",
        remedy="keep an image's point as soon as it fools the model",
    ),
    Rule(
        never_gains("more_queries"),
        bound="accuracy does not rise from 50 to 200 queries of Square: p >= 0.01; else suspect",
        meaning="the search keeps worse points than it has found",
        remedy="see the check “deterministic”; keep a point only if it is better",
    ),
    Rule(
        never_gains("one_step"),
        bound="20 steps of PGD leave no more right than one of FGSM: p >= 0.01; else suspect",
        meaning="the iterated attack is not at work: its step or its gradient is wrong",
        remedy="check the step size against epsilon; " + _ATTACK_MORE,
    ),
    Rule(
        never_gains("black_box"),
        bound="PGD with CW leaves no more right than 200 queries of Square (no gradients): p >= 0.01; else suspect",
        meaning=_MASKED,
        remedy="see the check “zero gradients”; " + _ATTACK_MORE,
    ),
    Rule(
        never_gains("transfer"),
        bound="its own attack leaves no more right than images crafted on any other model: p >= 0.01; else suspect",
        meaning=_MASKED,
        remedy=_ATTACK_MORE + "; count the transferred images in the worst case",
        required=False,
    ),
    Rule(
        findings.budget_used,
        bound="the largest perturbation is 0.9 to 1 of the claimed epsilon; below suspect, above broken",
        meaning="below: the attack stopped short of its boundary, as when step size and epsilon are swapped; "
        "above: it left the threat model",
        remedy="check epsilon, the step size and steps times step size of the attack",
    ),
    Rule(
        findings.claim,
        bound="of the images that the worst case counts as right, the probe's attacks fool at most 1 in 100 probed "
        "ones; else suspect",
        meaning="the reported attacks are too weak: short ones of the verdict's own refute the number",
        remedy="evaluate with a named cascade (quick or autoattack)",
    ),
    Rule(
        findings.reach,
        bound="steps times step size is 2ε from a random start, ε from the image (0.95 of it at least), for every "
        "attack that counts; else suspect",
        meaning="the attack cannot cross the ball, so its number is too high",
        remedy="more steps, or a larger step size",
    ),
    Rule(
        findings.standard_attack,
        bound="APGD-CE or APGD-T ran with at least 100 steps, with ρ and as many targets as the standard attack; else "
        "suspect",
        meaning="no attack that chooses its own step sizes has looked at the model",
        remedy="evaluate with a named cascade (quick or autoattack), or list apgd with 100 steps",
    ),
    Rule(
        findings.label_leak,
        bound="accuracy under FGSM is not above clean (p >= 0.01), nor within 1 point of it where PGD takes 5 more; "
        "else suspect",
        meaning="trained on one-step images of the true label, the model reads the label from the perturbation",
        remedy="train with several steps, or with step l.l. or the predicted label; believe only iterated attacks",
    ),
    Rule(
        findings.mask_gap_labels,
        bound="FGSM leaves at most 5 points more right than with the predicted label, step l.l. or R+FGSM (p < 0.01), "
        "where it leaves half of clean; else suspect",
        meaning="the model knows the one perturbation it was trained on",
        remedy="as for the check “label leak”",
    ),
    Rule(
        findings.mask_gap_steps,
        bound="FGSM leaves at most 15 points more right than PGD, where it leaves half of clean and more than PGD "
        "at ε/2; else suspect",
        meaning="catastrophic overfitting to one step: robust to FGSM alone",
        remedy="train with PGD, or watch PGD accuracy while training and go back when it collapses",
    ),
    Rule(
        findings.rescored,
        bound="saved adversarial images fool as many as claimed, but for ties of float rounding; else broken. "
        "Saved in 8 bits: at most 2 points fewer; else suspect",
        meaning="the claimed number cannot be had from the images that are said to prove it",
        remedy="check device, precision and eval mode of the run; attack again",
    ),
    Rule(
        findings.square_helps,
        bound="after the gradient attacks Square takes at most 0.2 points, or 2 images; else suspect",
        meaning=_MASKED,
        remedy="more queries and restarts of Square, and an attack made for this defence",
        required=False,
    ),
    Rule(
        findings.parity,
        bound="the fast search network disagrees on, and loses, at most 2 % of held-out images; else suspect",
        meaning="attacks searched on a network that is not quite the model",
        remedy="set the search to float32",
        required=False,
    ),
)
"""Every rule, in the order of a report: what is measured first, then attacks, then what the evaluation adds."""
