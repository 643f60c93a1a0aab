"""How names, numbers and conditions are written wherever a person reads them."""

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from components.evaluation.document import Cascade, ThreatModel
from components.statistics.number_text import points

WIDTH = 100
ABSENT = "\u2013"

# Names that are written in a way of their own. AutoAttack is not listed: only the cascade bears that name.
_TITLES = {
    "w_robust": "W-Robust",
    "r_fgsm": "R+FGSM",
    "step_ll": "step l.l.",
    "step_rnd": "step rnd.",
    "iter_ll": "iter l.l.",
    "mi_fgsm": "MI-FGSM",
    "apgd_ce": "APGD-CE",
    "apgd_t": "APGD-T",
    "fab": "FAB",
    "fab_t": "FAB-T",
    "square": "Square",
}
# Words in the other names: `pgd_50` -> `PGD 50`.
_WORDS = {"pgd": "PGD", "fgsm": "FGSM", "apgd": "APGD", "cw": "CW", "bim": "BIM", "eot": "EOT", "trades": "TRADES"}
_CASCADES = {"autoattack": "AutoAttack", "quick": "APGD-CE + APGD-T"}
# What the words about a pair of conditions say already.
_PAIR = ("first", "then", "n", "right_first", "right_then", "gained", "lost", "change")


def title(name: str) -> str:
    """A name of the parameters as a heading: `clean_teacher` -> `clean teacher`, `fgsm` -> `FGSM`."""
    return _TITLES.get(name) or " ".join(_WORDS.get(word, word) for word in name.split("_"))


def sentence(words: str) -> str:
    """Words with their first letter large, for the start of a sentence; `str.capitalize` would shrink all others."""
    return words[:1].upper() + words[1:]


def unbroken(words: str) -> str:
    """Words in which no line ends between a number and its sign or unit: `10.0 %`, `n = 359`, `p < 0.001`."""
    return re.sub(r"(?<=\d) (?=%)|(?<=\b[np]) (?=[=<])|(?<=[=<]) (?=\d)|(?<=ε) (?==)", "\u00a0", words)


def cascade_title(cascade: Cascade) -> str:
    """The cascade's name: AutoAttack only where it is that, else the attacks it consists of, or how many."""
    attacks = [title(attack) for attack in cascade.attacks]
    own = " + ".join(attacks) if len(attacks) < 4 else f"cascade of {len(attacks)} attacks"
    return _CASCADES.get(cascade.name, own)


def task_title(task: str, epsilon: str) -> str:
    """A task of an evaluation: `cascade/apgd_t` -> `APGD-T`, `grid/fgsm/0` -> `FGSM at ε = 6/255`."""
    kind, _, rest = task.partition("/")
    if kind == "curve":
        return f"curve at ε = {grey_text(epsilon)}"
    name = (rest or kind).partition("/")[0].partition("@")[0]
    elsewhere = f" at ε = {grey_text(epsilon)}" if kind == "grid" or "@" in task else ""
    return title(name) + elsewhere


def condition_title(condition: str, cascade: Cascade) -> str:
    """A condition as a heading: an attack, the worst case, or the cascade by its name."""
    return cascade_title(cascade) if condition == "cascade" else title(condition)


def setting_text(dataset: str, num_images: int, threat: ThreatModel) -> str:
    """What was attacked, and how far: `digits, 359 test images, L∞ ε = 1/5 (51/255)`."""
    return f"{dataset}, {num_images} test images, {NORM_WORDS[threat.norm].title} ε = {epsilon_text(threat.epsilon)}"


def magnitude(count: int) -> str:
    """A count to three digits: `23456` -> `23.5k`."""
    for unit, text in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{text}"
    return str(count)


def epsilon_text(epsilon: str) -> str:
    """Epsilon as written, and in grey levels where that is a whole number: `1/5 (51/255)`."""
    grey = grey_text(epsilon)
    return epsilon if grey == epsilon else f"{epsilon} ({grey})"


def grey_text(epsilon: str) -> str:
    """Epsilon in grey levels where that is a whole number of at most 255, else as written: `1/5` -> `51/255`."""
    levels = Fraction(epsilon) * 255
    return f"{levels}/255" if levels.denominator == 1 and 0 < levels <= 255 else epsilon


class NormWords(NamedTuple):
    """How a norm is written, what its ε means, and whether that is a number of grey levels of a pixel."""

    title: str
    meaning: str
    in_grey_levels: bool


NORM_WORDS = {
    "linf": NormWords("L∞", "every pixel may change by that share of the range from black to white", True),
    "l2": NormWords("L2", "the whole change of an image may have that length (pixels from 0 to 1)", False),
    "l1": NormWords("L1", "the changes of all pixels may add up to that much (pixels from 0 to 1)", False),
}
"""For every norm that a document can name: one without words here is an error, not another norm's words."""


def measured_text(value: Any) -> str:
    """A measured value or bound of a check: numbers to four digits, what is missing as a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict) and {"first", "then", "right_first", "right_then", "n"} <= value.keys():
        return _pair_text(value)
    if isinstance(value, dict):
        return ", ".join(f"{rule_title(key)} {_named_text(key, inner)}" for key, inner in value.items()) or ABSENT
    if isinstance(value, list):
        return ", ".join(map(measured_text, value)) or ABSENT
    if value is None:
        return ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _named_text(key: str, value: Any) -> str:
    """A value of a check as its key says it is: an attack by its title."""
    if key == "attack" and isinstance(value, str) and not {" ", "("} & set(value):
        return title(value.rpartition("/")[2])
    return measured_text(value)


def exact_text(value: Any) -> str:
    """A fact in words, numbers with all their digits: `True` -> `yes`, what is missing as a dash."""
    if isinstance(value, list):
        return ", ".join(map(exact_text, value)) or ABSENT
    return str(value) if isinstance(value, float) else measured_text(value)


def parameter_text(value: Any) -> str:
    """A value as params.yaml writes it: `True` -> `true`, `None` -> `null`, texts without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pair_text(pair: Mapping[str, Any]) -> str:
    """Two conditions on the same images: `clean 290 → FGSM 240 of 300 right (−16.7 points)`."""
    first, then = (f"{title(pair[key])} {pair[f'right_{key}']}" for key in ("first", "then"))
    change = (pair["right_then"] - pair["right_first"]) / pair["n"]
    more = {key: value for key, value in pair.items() if key not in _PAIR}
    rest = f"; {measured_text(more)}" if more else ""
    return f"{first} → {then} of {pair['n']} right ({points(change)} points){rest}"


def rule_title(rule: str) -> str:
    """The name of a rule in words: `eps_zero_is_clean` -> `eps zero is clean`."""
    return re.sub(r"[_-]+", " ", rule)
