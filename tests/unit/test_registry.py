"""Things that are imported when they are asked for."""

import importlib.metadata
import sys

import pytest

from onnxloc import registry as module
from onnxloc.errors import OptionError
from onnxloc.registry import Registry, did_you_mean, one_line

pytestmark = pytest.mark.unit

TARGETS = {
    "ordered": "collections:OrderedDict",
    "nowhere": "no_such_module_at_all:X",
    "nameless": "collections:NoSuchThing",
    "empty": ":X",
}


def test_builtin_things_load_when_asked_for():
    registry = Registry("exporter", "onnxloc.none", TARGETS)
    assert list(registry) == sorted(TARGETS)
    assert "ordered" in registry
    assert "other" not in registry
    assert registry.load("ordered").__name__ == "OrderedDict"
    assert "no_such_module_at_all" not in sys.modules


@pytest.mark.parametrize("name", ["nowhere", "nameless", "empty"])
def test_what_cannot_be_imported_says_so(name):
    with pytest.raises(OptionError, match=f"the exporter '{name}' cannot be loaded: "):
        Registry("exporter", "onnxloc.none", TARGETS).load(name)


def test_an_unknown_name_gets_a_hint():
    registry = Registry("exporter", "onnxloc.none", {"gguf": "a:b", "torch": "c:d"})
    with pytest.raises(
        OptionError, match=r"no exporter 'ggfu'; did you mean 'gguf'\? \(known: gguf, torch"
    ):
        registry.load("ggfu")
    assert did_you_mean("xyz", ["gguf"]) == ""


def test_entry_points_add_and_do_not_replace(monkeypatch):
    def entry_points(group):
        return [
            importlib.metadata.EntryPoint(name, target, group)
            for name, target in (("more", "collections:deque"), ("ordered", "os:getcwd"))
        ]

    monkeypatch.setattr(module, "entry_points", entry_points)
    registry = Registry("exporter", "onnxloc.some", TARGETS)
    assert registry.load("more").__name__ == "deque"
    assert registry.load("ordered").__name__ == "OrderedDict"


def test_one_line():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(KeyError) == "<class 'KeyError'>"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line("x" * 1000)) == 300
