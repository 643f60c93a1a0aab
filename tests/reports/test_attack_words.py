"""Attacks in words: every member of the table reads as a sentence, wherever a person meets it."""

import re
from typing import Any

import pytest

from components.attacks import ATTACKS
from components.reports.attack_words import attack_text, kind, with_attacks
from components.reports.robustness.page import measured_text, page
from tests.parts.evaluation_files import document

PGD: dict[str, Any] = {"steps": 20, "step_size": "1/51", "start": "uniform", "loss": "cross_entropy", "restarts": 1}
FIELDS: dict[str, dict[str, Any]] = {
    "apgd": {"steps": 100, "restarts": 1, "loss": "targeted_dlr", "rho": 0.75, "targets": 9},
    "bim": {"aim": "predicted"},
    "cw": {"steps": 30, "step_size": "13/255", "confidence": 50},
    "eot": {"samples": 8, "attack": {"name": "pgd", **PGD}},
    "fab": {"steps": 100, "targets": 9, "restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9},
    "fgsm": {},
    "iter_ll": {},
    "mi_fgsm": {"steps": 10, "step_size": "1/255", "decay": 1},
    "pgd": PGD,
    "r_fgsm": {"aim": "least_likely"},
    "square": {"queries": 5000, "p_init": 0.8, "restarts": 1, "loss": "margin"},
    "step_ll": {},
    "step_rnd": {},
}
# A call, a field, a quoted text, a key, a value of Python's: what nobody should have to read.
CODE = re.compile(r"\w\(|\w=|'\w+'|\w_\w|\b(True|False|None)\b")


def described() -> dict[str, str]:
    """Every attack of the table as documents hold it."""
    assert set(FIELDS) == set(ATTACKS), "an attack is missing here"
    return {name: repr(attack(**FIELDS[name])) for name, attack in ATTACKS.items()}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_reads_as_a_sentence(name: str) -> None:
    text = attack_text(described()[name])
    assert kind(described()[name]) == name
    assert not CODE.search(text) and ATTACKS[name].__name__ not in re.split(r"\W", text.partition(": ")[2])
    assert len(text.partition(": ")[2].split()) > 2, "more than its name"
    for value in (value for value in FIELDS[name].values() if isinstance(value, int) and value > 1):
        assert f" {value}" in text


def test_a_sentence_says_every_setting() -> None:
    assert attack_text(repr(ATTACKS["pgd"](**PGD))) == (
        "PGD: 20 steps of 5/255 from a uniform start, up the cross-entropy, away from the true class, 1 restart"
    )
    assert attack_text("Mine(speed=3, wild=True, shape=(1, 2), how='very_fast')") == (
        "Mine: speed 3, wild yes, shape 1 and 2, how very fast"
    )


@pytest.mark.parametrize("text", ["trusted", "no attack", "<function f at 0x7f>", "f(x)", "a: b", "", "0.5"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert attack_text(text) == text
    assert with_attacks({"a": [text, 1, None]}) == {"a": [text, 1, None]}


def test_no_page_shows_an_attack_as_code() -> None:
    table = described()
    made = document(grid={"epsilons": ["1/20"], "attacks": table}, transfer={"attacks": {"pgd_sat": table["pgd"]}})
    made = made.model_copy(update={"attacks": table})
    html = page(made, {}, {}, {}, 0).split("</style>")[-1]
    text = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    for name in ATTACKS:
        assert attack_text(table[name]).replace("'", "&#39;") in text
    assert not [kind for kind in ATTACKS.values() if f"{kind.__name__}(" in text] and "steps=" not in text


def test_a_check_says_all_of_the_attack_that_it_measured():
    """A step of 1/255 has a slash, as the name of a task does."""
    pgd = "Pgd(steps=20, step_size=1/255, start='uniform', loss='cross_entropy', restarts=1, aim='true')"
    assert measured_text({"attack": pgd, "share": 1.0}) == (
        "attack PGD: 20 steps of 1/255 from a uniform start, up the cross-entropy, away from the true class, "
        "1 restart, share 1"
    )
    assert measured_text({"attack": "cascade/apgd_t", "share": 0.5}) == "attack APGD-T, share 0.5"
