"""Where the numbers come from: plain titles, like things in a table, texts that break where a reader would."""

import re

from components.reports.robustness.contents import Report
from components.reports.robustness.facts import breakable, facts, parameters


def test_titles_are_words_and_values_are_no_python(made_up: Report) -> None:
    for group in facts(made_up):
        titles = [group.title, *(name for name, _ in group.pairs)]
        titles += [text for table in group.tables for text in (*table.head, *(row[0] for row in table.rows))]
        values = [value for _, value in group.pairs] + [
            cell for table in group.tables for row in table.rows for cell in row
        ]
        assert not [text for text in titles if re.search(r"[a-z][_.][a-z]", text)]
        assert not {"None", "True", "False", "{}", "[]"} & set(values)


def test_every_file_and_hash_is_there(made_up: Report) -> None:
    cells = [cell for group in facts(made_up) for table in group.tables for row in table.rows for cell in row]
    for model in made_up.models.values():
        assert model.file in cells and model.sha256 in cells


def test_what_is_alike_is_a_table_and_the_rest_are_pairs(made_up: Report) -> None:
    parts = {"train": {"n": 9, "duplicates_dropped": 1}, "test": {"n": 3, "duplicates_dropped": 0}}
    data = {"dataset": "shapes", **parts, "normalization": {"offset": 0.30579250961}}
    (group,) = (one for one in facts(made_up.model_copy(update={"data": data})) if one.title == "Data")
    assert group.pairs == [("data set", "shapes"), ("normalization offset", "0.30579250961")]
    assert [table.head for table in group.tables] == [["", "images", "duplicates dropped"]]
    assert group.tables[0].rows == [["train", "9", "1"], ["test", "3", "0"]]


def test_parameters_are_named_and_written_as_in_their_file() -> None:
    single, section = parameters({"seed": 0, "stage": {"on": True, "none": None, "deep": {"list": [1, "a"]}}})
    assert (single.title, single.pairs) == ("", [("seed", "0")])
    assert (section.title, section.pairs) == ("stage", [("on", "true"), ("none", "null"), ("deep.list", '[1, "a"]')])


def test_long_texts_break_behind_their_parts_and_lose_nothing() -> None:
    digest = "0123456789abcdef" * 4
    assert breakable(digest).split("<wbr>") == [digest[place : place + 8] for place in range(0, 64, 8)]
    assert breakable("models/clean_teacher.last") == "models/<wbr>clean_<wbr>teacher.<wbr>last"
    assert breakable("<b>&") == "&lt;b&gt;&amp;"
