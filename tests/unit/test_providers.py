"""Which onnxruntime there is."""

import subprocess
import sys
import types

import onnxruntime
import pytest

from onnxloc.errors import OptionError, RuntimeMissingError
from onnxloc.runtime.providers import RuntimeOptions, import_onnxruntime, provider_name

pytestmark = pytest.mark.unit


def test_a_missing_onnxruntime_names_the_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissingError) as caught:
        import_onnxruntime()
    message = str(caught.value)
    assert "pip install 'onnxloc[cpu]'" in message
    assert "onnxloc[gpu]" in message
    assert "\n" not in message


def test_a_broken_onnxruntime_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(
        "raise ImportError('libcudart.so.12: cannot open\\nshared object file')"
    )
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeMissingError, match=r"libcudart.so.12: cannot open shared object"):
        import_onnxruntime()
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(RuntimeMissingError, match="is incomplete; reinstall"):
        import_onnxruntime()


def test_a_provider_that_is_not_there_names_the_extra(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert provider_name(RuntimeOptions()) == "CPUExecutionProvider"
    with pytest.raises(
        RuntimeMissingError, match=r"no cuda provider; run pip install 'onnxloc\[gpu\]'"
    ):
        provider_name(RuntimeOptions(provider="cuda"))


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(OptionError, match="no provider 'cpuu'; did you mean 'cpu'"):
        RuntimeOptions(provider="cpuu")
    with pytest.raises(OptionError, match="number of threads"):
        RuntimeOptions(threads=-1)


def test_onnxruntime_is_imported_only_when_it_is_used():
    code = "import sys, onnxloc.runtime.model; print('onnxruntime' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
