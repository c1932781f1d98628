"""What is not float32 on the CPU says how far it agrees with it."""

import json

import numpy as np
import pytest
from helpers.tiny_bundle import write_stimuli, write_tiny_bundle

from onnxloc.choose import Selection
from onnxloc.cli import main
from onnxloc.graph.sites import Axis, Site
from onnxloc.network import network_from_flat
from onnxloc.runtime import engine
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import Session
from onnxloc.runtime.start import Started
from onnxloc.stimuli import load_stimuli
from onnxloc.studies.agreement import agree
from onnxloc.studies.localize import LocalizeOptions, localize

pytestmark = pytest.mark.unit

NAN, INF = np.nan, np.inf
CPU = "CPUExecutionProvider"
OTHER = RuntimeOptions(provider="openvino", precision="bf16")


def site(name, units):
    return Site(name, (name,), "Add", "float32", (Axis.BATCH, Axis.FEATURE), (None, units))


SITES = (site("a", 3), site("b", 4))


def network(*flat):
    return network_from_flat(np.array(flat), {"a": 3, "b": 4}, "0" * 64, {})


def test_the_largest_difference_and_where_it_is():
    t = np.array([1.0, 2.0, NAN, 5.0, -3.0, INF, NAN])
    reference = np.array([1.5, 2.0, 4.0, 4.0, -1.0, INF, NAN])
    found = agree(t, reference, SITES, (network(0, 3), network(0, 1)), 20)
    assert (found.n_stimuli, found.n_units, found.n_undefined_in_one) == (20, 5, 1)
    assert (found.largest_t_difference, found.site, found.unit) == (2.0, "b", 1)
    assert found.largest_t_difference_chosen == 1.0
    assert found.largest_t == INF
    assert (found.n_chosen, found.n_chosen_reference, found.dice) == (2, 2, 0.5)


def test_nothing_to_compare():
    found = agree(np.full(7, NAN), np.arange(7.0), SITES, None, 3)
    assert found.largest_t_difference is found.site is found.unit is found.dice is None
    assert found.n_undefined_in_one == 7
    same = agree(np.arange(7.0), np.arange(7.0), SITES, (network(2), network(2)), 3)
    assert (same.largest_t_difference, same.dice) == (0.0, 1.0)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    write_tiny_bundle(folder / "tiny")
    write_stimuli(folder / "stimuli.csv")
    return folder


@pytest.fixture
def coarse(monkeypatch):
    """Another provider, which keeps eight bits of each activation, as bfloat16 does."""
    real_start, real_taps = engine.start, Session.taps

    def start(options):
        return real_start(options) if options.is_reference else Started(CPU, [CPU])

    def taps(self, *args, **settings):
        found = real_taps(self, *args, **settings)
        if self.options.is_reference:
            return found
        return {tap: _eight_bits(value) for tap, value in found.items()}

    monkeypatch.setattr(engine, "start", start)
    monkeypatch.setattr(Session, "taps", taps)


def _eight_bits(values):
    return (values.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("test", ["welch", "student"])
def test_a_run_reports_it(work, coarse, test):
    model, stimuli = Model.open(work / "tiny"), load_stimuli(work / "stimuli.csv")
    options = LocalizeOptions(selection=Selection(how="units", value=20), test=test, batch_size=4)
    reference = localize(model, stimuli, options)
    found = localize(model, stimuli, options, OTHER)
    said = found.summary["localize"]["agreement"]
    gap = np.abs(found.contrast.t - reference.contrast.t)
    assert said["largest_t_difference"] == pytest.approx(gap.max(), rel=1e-12)
    assert said["largest_t_difference"] > 1e-4
    assert said["dice"] == found.network.dice(reference.network)
    starts = dict(zip((s.name for s in found.sites), found.offsets, strict=False))
    assert starts[said["site"]] + said["unit"] == gap.argmax()
    assert said["n_stimuli"] == 12
    assert found.step.parameters["precision"] == "bf16"
    assert found.step.seconds["agreement"] > 0
    assert "agreement" not in reference.summary["localize"]


def test_a_run_can_go_without(work, coarse):
    options = LocalizeOptions(selection=Selection(how="units", value=20), agreement=False)
    found = localize(Model.open(work / "tiny"), load_stimuli(work / "stimuli.csv"), options, OTHER)
    assert "agreement" not in found.summary["localize"]
    assert "agreement" not in found.step.seconds


def test_the_command_line_says_it(work, coarse, tmp_path, capsys):
    words = ["localize", str(work / "tiny"), "--localizer", str(work / "stimuli.csv"), "--top", "5"]
    words += ["--provider", "openvino", "--precision", "bf16"]
    assert main([*words, "-o", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "beside fp32 on the CPU, over 12 stimuli: t differs by " in out
    assert "Dice of the network " in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["localize"]["agreement"]["n_stimuli"] == 12
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "in float32 on the CPU" in page
    capsys.readouterr()
    assert main([*words, "--no-agreement", "-o", str(tmp_path / "other")]) == 0
    assert "beside fp32" not in capsys.readouterr().out
