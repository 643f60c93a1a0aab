"""The hash of the code covers what runs, also the module that `python -m` calls __main__."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from components.foundation.provenance import code_hash, fingerprint


def test_the_module_that_is_run_is_part_of_the_code(tmp_path, monkeypatch):
    without = code_hash()
    main = ModuleType("__main__")
    main.__spec__, main.__file__ = ModuleSpec("components.stages.made_up", None), str(tmp_path / "made_up.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    found = []
    for content in ("a = 1", "a = 2", "a = 1"):
        (tmp_path / "made_up.py").write_text(content)
        found.append((code_hash(), fingerprint(seed=0)))
    assert found[0] == found[2] != found[1] and without not in (found[0][0], found[1][0])


def test_the_code_of_others_is_not(tmp_path, monkeypatch):
    before = code_hash()
    other = ModuleType("componentsish")
    other.__file__ = str(tmp_path / "nowhere.py")
    monkeypatch.setitem(sys.modules, "componentsish", other)
    assert code_hash() == before


def test_a_fingerprint_is_of_values_not_of_their_order():
    assert fingerprint(a={"x": 1, "y": [2]}, b=None) == fingerprint(b=None, a={"y": [2], "x": 1})
    assert fingerprint(a=1) != fingerprint(a=2)
