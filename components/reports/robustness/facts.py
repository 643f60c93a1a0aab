"""Where the numbers come from, for people: groups of facts with plain titles, and tables where facts repeat."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from components.foundation.params import flat
from components.reports.robustness.contents import Report
from components.reports.wording import exact_text, parameter_text, sentence, title
from components.statistics.documents import as_json

# Names of facts that say more in other words.
_TITLES = {
    "agree": "same answer",
    "dataset": "data set",
    "extra": "second source",
    "n": "images",
    "only_exact": "fooled by float32 alone",
    "only_search": "fooled by the fast search alone",
    "passed": "fast search used",
    "per_class": "images of each class",
    "sha256": "SHA-256",
}
HEX = re.compile(r"[0-9a-f]{32,}")


@dataclass(frozen=True)
class Table:
    """Things of which the same is known: a row for each, a column for each fact."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Group:
    """Facts about one subject: single ones as pairs of name and text, those that repeat as tables."""

    title: str
    pairs: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def facts(document: Report) -> list[Group]:
    """What was evaluated, from which files, how exactly, on which data, with which code."""
    exact = as_json(document.precision)
    models = {
        title(name): {"checkpoint": model.checkpoint, "epoch": model.epoch, **model.pick("file", "sha256")}
        for name, model in document.models.items()
    }
    curves = {title(name): run.pick("file", "epochs", "sha256") for name, run in document.training.items()}
    trees = {
        "Evaluation": {
            "data set": document.dataset,
            "seed of the attacks": document.seed,
            "attacks search in": exact["search"],
            "answers decided in": exact["decision"],
            "search compiled": exact["compiled"],
            "format": document.schema_,
        },
        "Model files": models,
        "Fast search, checked against float32 on held-out images": exact["parity"] or {},
        "Adversarial images": {"pixels kept as": document.adversarial.dtype, **document.adversarial.files},
        "Training curves": curves,
        "Data": document.data,
        "Code and software": document.provenance,
    }
    return [_group(heading, tree) for heading, tree in trees.items() if tree]


def parameters(params: Mapping[str, Any]) -> list[Group]:
    """Every parameter as params.yaml names and writes it: a group per section, single values first."""
    single = {key: value for key, value in params.items() if not isinstance(value, Mapping)}
    sections = {"": single} | {key: value for key, value in params.items() if key not in single}
    rows = {
        key: [(name, parameter_text(value)) for name, value in flat(part).items()] for key, part in sections.items()
    }
    return [Group(key, pairs) for key, pairs in rows.items() if pairs]


def breakable(text: str) -> str:
    """The text as HTML that breaks behind `/`, `_` and `.`, and a hash behind every eight digits."""
    parted = HEX.sub(
        lambda found: re.sub("(.{8})(?=.)", "\\1\u200b", found[0]), re.sub("([/_.])(?=.)", "\\1\u200b", text)
    )
    return escape(parted).replace("\u200b", "<wbr>")


def fact_title(key: str) -> str:
    """The name of a fact in words: `test.sha256` -> `test SHA-256`, `duplicates_dropped` -> `duplicates dropped`."""
    return " ".join(_TITLES.get(part) or title(part) for part in key.split("."))


def _group(heading: str, tree: Mapping[str, Any]) -> Group:
    """The tree as a group: what stands in it alone as pairs, mappings of the same keys together as a table."""
    alike: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for name, inner in tree.items():
        if isinstance(inner, Mapping) and not any(isinstance(value, Mapping) for value in inner.values()):
            alike.setdefault(tuple(sorted(inner)), {})[name] = inner
    tables = [members for keys, members in alike.items() if len(members) > 1 and keys]
    tabled = {name for members in tables for name in members}
    pairs = flat({name: inner for name, inner in tree.items() if name not in tabled})
    texts = [(fact_title(name), exact_text(value)) for name, value in pairs.items() if value != {}]
    return Group(sentence(heading), texts, [_table(members) for members in tables])


def _table(members: Mapping[str, Mapping[str, Any]]) -> Table:
    keys = list(next(iter(members.values())))
    rows = [[fact_title(name), *(exact_text(member[key]) for key in keys)] for name, member in members.items()]
    return Table(["", *map(fact_title, keys)], rows)
