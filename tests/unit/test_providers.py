"""Which onnxruntime there is, what it can use, and that nothing runs elsewhere in silence."""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from helpers import tiny_graphs as tiny

from onnxloc.cli import main
from onnxloc.errors import OptionError, RuntimeMissingError
from onnxloc.graph.plan import Plan
from onnxloc.runtime import available as available_module
from onnxloc.runtime import start as start_module
from onnxloc.runtime.available import available_providers
from onnxloc.runtime.engine import make_session
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions, import_onnxruntime
from onnxloc.runtime.start import cuda_failure, preload_cuda, start

pytestmark = pytest.mark.unit

CPU = "CPUExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"


def device(**metadata):
    found = {"ov_device": "CPU", "OPTIMIZATION_CAPABILITIES": "BF16 FP32 INT8", **metadata}
    return types.SimpleNamespace(ep_name=OPENVINO, ep_metadata=found)


class FakeRuntime:
    """An onnxruntime with a plugin for OpenVINO, as far as `start` looks at it."""

    __version__ = "1.31.1"

    def __init__(self, devices=(), error=None):
        self.registered = []
        self._devices = list(devices)
        self._error = error

    def register_execution_provider_library(self, name, path):
        self.registered.append((name, path))
        if self._error:
            raise RuntimeError(self._error)

    def get_ep_devices(self):
        cpu = types.SimpleNamespace(ep_name=CPU, ep_metadata={})
        return [cpu, *(self._devices if self.registered and not self._error else [])]


@pytest.fixture
def openvino(monkeypatch):
    """Install a plugin and an onnxruntime that are made up."""

    def install(devices=(), error=None):
        plugin = types.ModuleType("onnxruntime_ep_openvino")
        plugin.get_library_path = lambda: "/plugin.so"
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", plugin)
        fake = FakeRuntime(devices, error)
        monkeypatch.setattr(start_module, "import_onnxruntime", lambda: fake)
        return fake

    return install


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
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    assert start(RuntimeOptions()).name == CPU
    with pytest.raises(
        RuntimeMissingError, match=r"no cuda provider; run pip install 'onnxloc\[gpu\]'"
    ):
        start(RuntimeOptions(provider="cuda"))


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("tf32", "1")])
def test_cuda_is_told_its_precision(monkeypatch, precision, tf32):
    # By itself onnxruntime computes in tf32, whose products have ten bits.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    found = start(RuntimeOptions(provider="cuda", precision=precision))
    assert found.providers == [("CUDAExecutionProvider", {"use_tf32": tf32}), CPU]


def test_missing_cuda_libraries_are_told_in_one_line(monkeypatch, capsys):
    def preload():
        print("Failed to load libcublasLt.so.13: cannot open shared object file")
        print("Failed to load libcurand.so.10: cannot open shared object file")
        print("Please follow https://example.org to install CUDA.")

    runtime = types.SimpleNamespace(preload_dlls=preload)
    assert preload_cuda(runtime) == ["libcublasLt.so.13", "libcurand.so.10"]
    monkeypatch.setattr(start_module, "CUDA_DRIVER", "libno-such-driver.so.1")
    assert "there is no NVIDIA driver here" in cuda_failure(runtime)
    monkeypatch.setattr(start_module.ctypes, "CDLL", lambda _: object())
    assert cuda_failure(runtime) == (
        "the CUDA libraries libcublasLt.so.13, libcurand.so.10 are missing; run "
        "pip install 'onnxloc[gpu]'"
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "cpuu"}, "no provider 'cpuu'; did you mean 'cpu'"),
        ({"threads": -1}, "number of threads"),
        ({"precision": "bf16"}, "the provider cpu computes in fp32, not 'bf16'"),
        ({"provider": "cuda", "precision": "bf16"}, "cuda computes in fp32 or tf32, not 'bf16'"),
        ({"provider": "openvino", "precision": "tf32"}, "in fp32 or bf16 or fp16, not 'tf32'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        RuntimeOptions(**options)


def test_only_the_cpu_in_float32_is_the_reference():
    assert RuntimeOptions(threads=3).is_reference
    assert not RuntimeOptions(provider="openvino").is_reference
    assert [RuntimeOptions(provider=p).binds for p in ("cpu", "cuda", "openvino")] == [
        False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16")])
def test_openvino_is_always_told_its_precision(openvino, precision, hint):
    cpu = device()
    fake = openvino([device(ov_device="GPU"), cpu])
    options = RuntimeOptions(provider="openvino", precision=precision, threads=2)
    found = [start(options) for _ in range(3)][-1]
    assert found.devices == [cpu]
    assert found.providers is None
    assert json.loads(found.options["load_config"]) == {
        "CPU": {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": "2"}
    }
    assert fake.registered == [("onnxloc.openvino", "/plugin.so")]


def test_openvino_gives_no_precision_that_the_cpu_lacks(openvino):
    openvino([device(FULL_DEVICE_NAME="a CPU")])
    with pytest.raises(
        RuntimeMissingError, match=r"cannot compute in fp16 on this CPU \(a CPU\), only in fp32 or"
    ):
        start(RuntimeOptions(provider="openvino", precision="fp16"))


def test_openvino_without_a_device(openvino):
    openvino([device(ov_device="NPU")])
    with pytest.raises(RuntimeMissingError, match="finds no CPU here that it takes"):
        start(RuntimeOptions(provider="openvino"))
    openvino(error="EP library is already registered under onnxloc.openvino")
    with pytest.raises(RuntimeMissingError, match="finds no CPU here that it takes"):
        start(RuntimeOptions(provider="openvino"))


def test_openvino_of_a_wrong_version(openvino, monkeypatch):
    openvino(error="API version 99 is not\navailable")
    with pytest.raises(
        RuntimeMissingError,
        match=r"1\.31\.1 cannot load OpenVINO's plugin .*: API version 99 is not available; run "
        "pip install --upgrade onnxruntime onnxruntime-ep-openvino",
    ):
        start(RuntimeOptions(provider="openvino"))
    old = types.SimpleNamespace(__version__="1.20.0")
    monkeypatch.setattr(start_module, "import_onnxruntime", lambda: old)
    with pytest.raises(RuntimeMissingError, match=r"onnxruntime 1\.20\.0 is too old for plugins"):
        start(RuntimeOptions(provider="openvino"))


def test_openvino_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    with pytest.raises(RuntimeMissingError, match=r"run pip install 'onnxloc\[openvino\]'"):
        start(RuntimeOptions(provider="openvino"))


def test_a_provider_that_takes_no_operation_is_an_error(tmp_path, monkeypatch):
    """The session names the provider, but every operation went to the CPU."""
    node = types.SimpleNamespace(op_type="Add")
    part = types.SimpleNamespace(ep_name=CPU, get_nodes=lambda: [node, node])
    session = types.SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider", CPU],
        get_session_options=lambda: types.SimpleNamespace(get_session_config_entry=lambda _: "1"),
        get_provider_graph_assignment_info=lambda: [part],
    )
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    with pytest.raises(RuntimeMissingError, match="takes none of the graph's 2 operations"):
        make_session(tiny.plain(), tmp_path, RuntimeOptions(provider="cuda"))


def test_the_cpu_is_tried_and_the_rest_explained(monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    cpu, cuda, openvino = available_providers()
    assert (cpu.provider, cpu.usable, cpu.version) == ("cpu", True, onnxruntime.__version__)
    assert cpu.precisions == ("fp32",)
    assert len(cpu.devices) == 1
    assert (cuda.usable, openvino.usable) == (False, False)
    assert "pip install 'onnxloc[gpu]'" in cuda.missing
    assert "pip install 'onnxloc[openvino]'" in openvino.missing
    assert main(["providers"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("provider")
    assert "pip install 'onnxloc[openvino]'" in text
    assert main(["providers", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["provider"] for entry in listed] == ["cpu", "cuda", "openvino"]
    assert listed[0]["usable"] is True


def test_providers_without_onnxruntime(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(available_module, "_version", lambda _: "")
    assert main(["providers", "--json"]) == 0
    for entry in json.loads(capsys.readouterr().out):
        assert entry["usable"] is False
        assert "onnxruntime is not installed" in entry["missing"]
        assert entry["install"].startswith("pip install 'onnxloc[")


def test_devices_of_the_providers(openvino, monkeypatch):
    fake = openvino([device(FULL_DEVICE_NAME="a CPU")])
    assert available_module._openvino_names(fake) == ("a CPU",)
    assert available_module._precisions("openvino", fake) == ("fp32", "bf16")

    class Driver:
        def cuInit(self, flags):  # noqa: N802
            return flags

        def cuDeviceGetCount(self, count):  # noqa: N802
            count._obj.value = 2
            return 0

        def cuDeviceGet(self, place, ordinal):  # noqa: N802
            place._obj.value = ordinal

        def cuDeviceGetName(self, text, size, place):  # noqa: N802
            text.value = f"GPU {place.value}".encode()[:size]

    monkeypatch.setattr(available_module.ctypes, "CDLL", lambda _: Driver())
    assert available_module._cuda_devices(fake) == ("GPU 0", "GPU 1")


def test_bad_options_at_the_command_line(tmp_path, capsys):
    path = tiny.write(tmp_path, tiny.decoder())
    for words in (["--precision", "bf16"], ["--provider", "opnvino"]):
        assert main(["check", str(path), *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("onnxloc: error: ")
        assert error.count("\n") == 1


def test_the_default_logger_speaks_again_after_a_session(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", seen.append)
    make_session(tiny.plain(), tmp_path, RuntimeOptions())
    assert seen == [4, 2]


def test_onnxruntime_is_imported_only_when_it_is_used():
    code = "import sys, onnxloc.runtime.model; print('onnxruntime' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_real_plugin_runs_or_says_why_not(tmp_path):
    """The plugin takes Intel's CPUs alone: elsewhere, and without it, an error says so."""
    path = tiny.write(tmp_path, tiny.picture())
    images = np.random.default_rng(0).standard_normal((3, 3, 6, 6)).astype(np.float32)
    code = f"""
import json, sys
import numpy as np
from onnxloc.errors import RuntimeMissingError
from onnxloc.graph.plan import Plan
from onnxloc.runtime.available import available_providers
from onnxloc.runtime.batches import ArrayBatch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

usable = {{one.provider: one.usable for one in available_providers()}}["openvino"]
model = Model.open({str(path)!r})
try:
    session = model.compile(Plan(outputs=("classes",)), RuntimeOptions(provider="openvino"))
except RuntimeMissingError as error:
    print(json.dumps([usable, str(error)]))
else:
    images = np.load({str(tmp_path / "images.npy")!r})
    found = session.outputs(ArrayBatch(np.arange(3), {{"image": images}}))["classes"]
    print(json.dumps([usable, found.tolist()]))
"""
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    usable, found = json.loads(done.stdout)
    if usable:
        (expected,) = tiny.run(tiny.picture(), {"image": images}, ["classes"])
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        assert "finds no CPU here" in found or "pip install 'onnxloc[openvino]'" in found


def test_placement_is_recorded_for_other_providers_only(tmp_path):
    model = Model.open(tiny.write(Path(tmp_path), tiny.plain()))
    assert model.compile(Plan(outputs=("logits",)), RuntimeOptions()).placement == {}
