"""Unfinished states: saved, resumed, refused, and never in the way of what is finished."""

import os
import signal
import threading
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxloc import checkpoint as checkpoint_module
from onnxloc import state_file
from onnxloc.checkpoint import Checkpoint
from onnxloc.claim import partial_folder
from onnxloc.errors import ModelError, OptionError, RunError
from onnxloc.signals import HeldSignals
from onnxloc.state_file import UNREADABLE, read_state, write_state

pytestmark = pytest.mark.unit

KEY = {"model": "abc", "sites": ("block.*.out",), "seed": 0}
NOTE = "to go on, run the same command with --resume"


@pytest.fixture(autouse=True)
def every_batch(monkeypatch):
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_module, "MAX_SHARE", 1e9)


class Stop(BaseException):
    """Stands for SIGKILL: nothing answers it."""


def study(path, *, key=None, after=lambda number: None, **settings):
    """Sum the numbers below 6 in two parts, one a batch; what was run is returned."""
    ran = []
    with Checkpoint(path, **settings) as checkpoint:
        sums = []
        for name in ("odd", "even"):
            total = np.zeros(2)
            part = checkpoint.begin(name, key or KEY, {"sum": total}, total=6, unit="numbers")
            if part.saved is not None:
                total[:] = part.saved["sum"]
            for number in range(part.batches, 6):
                ran.append((name, number))
                with part.batch(1, lambda total=total: {"sum": total}):
                    total += number
                after(len(ran))
            part.finish()
            sums.append(total)
        with checkpoint.writing() as staging:
            after("writing")
            (staging / "manifest.json").write_text('{"format": 1, "onnxloc": "0"}')
            (staging / "sums").write_text(str([total.tolist() for total in sums]))
    return ran, checkpoint


def at(moment, error):
    def after(number):
        if number == moment:
            raise error

    return after


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WHOLE = ["run", "run/manifest.json", "run/sums"]


def check(folder):
    assert tree(folder) == WHOLE
    assert (folder / "run" / "sums").read_text() == "[[15.0, 15.0], [15.0, 15.0]]"


def test_an_undisturbed_run_leaves_the_run_alone(tmp_path):
    ran, checkpoint = study(tmp_path / "run")
    assert len(ran) == 12
    assert checkpoint.earlier == {}
    check(tmp_path)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RunError("disk full"), OSError(28, "No space"), MemoryError()]
)
@pytest.mark.parametrize("moment", [1, 5, 6, 7, 12, "writing"])
def test_a_stopped_run_goes_on_behind_the_last_batch(tmp_path, error, moment):
    path = tmp_path / "run"
    error = type(error)(*error.args)
    with pytest.raises(type(error) if moment != "writing" else BaseException) as caught:
        study(path, after=at(moment, error))
    assert caught.value.__notes__ == [NOTE]
    assert not path.exists()
    said = []
    ran, checkpoint = study(path, resume=True, report=said.append)
    done = 12 if moment == "writing" else moment
    assert len(ran) == 12 - done
    assert checkpoint.earlier["earlier"] > 0
    parts = [f"odd: {min(done, 6)} of 6 numbers were done before"]
    parts += [f"even: {done - 6} of 6 numbers were done before"] if done > 6 else []
    assert said == parts
    check(tmp_path)


def test_what_was_saved_outlives_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "__exit__", lambda self, *_: self._stack.close())
    with pytest.raises(Stop):
        study(tmp_path / "run", after=at(4, Stop()))
    monkeypatch.undo()
    ran, _ = study(tmp_path / "run", resume=True)
    assert len(ran) == 8
    check(tmp_path)


def test_states_are_saved_now_and_then(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        checkpoint_module, "write_state", lambda file, *_: written.append(file.name)
    )
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 3600.0)
    study(tmp_path / "run")
    # The end of each part, and nothing in between.
    assert written == ["000.npz", "001.npz"]
    written.clear()
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    study(tmp_path / "run", force=True)
    assert written == ["000.npz"] * 6 + ["001.npz"] * 6


@pytest.mark.parametrize("error", [OptionError("bad"), ModelError("bad")])
def test_bad_input_leaves_nothing_but_what_was_saved(tmp_path, monkeypatch, error):
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 3600.0)
    with pytest.raises(type(error)) as caught:
        study(tmp_path / "above" / "run", after=at(3, type(error)("bad")))
    assert not hasattr(caught.value, "__notes__")
    assert tree(tmp_path) == []
    with pytest.raises(type(error)) as caught:
        study(tmp_path / "above" / "run", after=at(8, type(error)("bad")))
    assert caught.value.__notes__ == [NOTE]
    assert "above/.run.partial/000.npz" in tree(tmp_path)


def test_an_unfinished_run_is_neither_overwritten_nor_taken_for_another(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        study(path, after=at(4, KeyboardInterrupt()))
    before = tree(tmp_path)
    with pytest.raises(RunError, match=r"an unfinished run lies at .*partial: --resume goes on"):
        study(path)
    with pytest.raises(RunError, match=r"begun otherwise \(odd: model, sites\)") as caught:
        study(path, key={**KEY, "model": "other", "sites": []}, resume=True)
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises(RunError, match=r"begun otherwise \(odd: beside\)"):
        study(path, key={**KEY, "beside": 1}, resume=True)
    assert tree(tmp_path) == before
    ran, _ = study(path, force=True)
    assert len(ran) == 12
    check(tmp_path)


def test_another_version_or_machine_does_not_go_on(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "run", after=at(4, KeyboardInterrupt()))
    monkeypatch.setattr(checkpoint_module, "package_versions", lambda _: {"numpy": "0"})
    monkeypatch.setattr(os, "cpu_count", lambda: -1)
    with pytest.raises(RunError, match="processors, version of"):
        study(tmp_path / "run", resume=True)


def test_nothing_to_resume_starts_afresh_and_a_finished_run_stays(tmp_path):
    said = []
    ran, _ = study(tmp_path / "run", resume=True, report=said.append)
    assert said == ["there is nothing to resume; starting afresh"]
    assert len(ran) == 12
    with pytest.raises(RunError, match="run exists"):
        study(tmp_path / "run", resume=True)
    # A stopped replacement leaves the old run, and can be resumed.
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "run", force=True, after=at("writing", KeyboardInterrupt()))
    assert (tmp_path / "run" / "sums").exists()
    ran, _ = study(tmp_path / "run", force=True, resume=True)
    assert ran == []
    check(tmp_path)


def test_a_second_process_is_refused(tmp_path):
    def second(number):
        with pytest.raises(RunError, match="another process is writing"):
            study(tmp_path / "run", resume=True)

    ran, _ = study(tmp_path / "run", after=second)
    assert len(ran) == 12
    check(tmp_path)


# Full disks


def test_a_full_disk_keeps_the_last_state(tmp_path, monkeypatch):
    path, real = tmp_path / "run", np.savez

    def full(stream, **arrays):
        real(stream, **arrays)
        raise OSError(28, "No space left on device")

    def fill(number):
        if number == 3:
            monkeypatch.setattr(state_file.np, "savez", full)

    with pytest.raises(RunError, match=r"cannot write .*000.npz: No space left") as caught:
        study(path, after=fill)
    assert caught.value.__notes__ == [NOTE]
    assert tree(tmp_path) == [".run.partial", ".run.partial/000.npz"]
    monkeypatch.setattr(state_file.np, "savez", real)
    ran, _ = study(path, resume=True)
    assert len(ran) == 9
    check(tmp_path)


# Files of states


def test_damaged_states_are_refused_in_one_line(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        study(path, after=at(4, KeyboardInterrupt()))
    file = partial_folder(path) / "000.npz"
    good = file.read_bytes()
    header, arrays = read_state(file)
    bad = {
        "text": b"not a state",
        "nothing": b"",
        "half": good[: len(good) // 2],
    }
    variants = [
        ({**header, "format": 2}, arrays),
        ({**header, "key": []}, arrays),
        ({**header, "done": -1}, arrays),
        ({**header, "done": 7, "batches": 7}, arrays),
        ({**header, "batches": True}, arrays),
        ({k: v for k, v in header.items() if k != "seconds"}, arrays),
        (header, {}),
        (header, {"sum": np.zeros(3)}),
        (header, {"sum": np.zeros(2, np.float32)}),
        (header, {**arrays, "more": np.zeros(2)}),
    ]
    for number, (other, values) in enumerate(variants):
        write_state(file, other, values)
        bad[f"variant {number}"] = file.read_bytes()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", b"\0" * 100_000)
    bad["compressed"] = file.read_bytes()
    file.unlink()
    with file.open("wb") as stream:
        np.savez(stream, header=np.array([{}], dtype=object), sum=np.zeros(2))
    bad["pickled"] = file.read_bytes()
    for name, content in bad.items():
        file.write_bytes(content)
        with pytest.raises(RunError, match=r"000.npz is damaged .*--force starts") as caught:
            study(path, resume=True)
        assert "\n" not in str(caught.value), name
        assert file.read_bytes() == content
    file.write_bytes(good)
    study(path, resume=True)
    check(tmp_path)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_found_or_does_no_harm(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "000.npz"
    header, arrays = {"key": {"a": 1}}, {"x": np.arange(6.0), "n": np.array(3)}
    write_state(file, header, arrays)
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    try:
        found, values = read_state(file)
    except UNREADABLE:
        return
    assert found == header
    # The name of a member has no checksum; a state with other names is refused later.
    for name in arrays.keys() & values.keys():
        np.testing.assert_array_equal(values[name], arrays[name])


# Signals


class Terminated(KeyboardInterrupt):
    pass


def terminate(*_):
    raise Terminated


@pytest.fixture
def handled():
    """Both signals raise an exception."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, terminate) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def disturbed(path, *numbers):
    """A batch, in the middle of which signals come."""
    with Checkpoint(path) as checkpoint:
        total = np.zeros(1)
        part = checkpoint.begin("sum", KEY, {"sum": total}, total=2, unit="numbers")
        with part.batch(1, lambda: {"sum": total}):
            total += 1
            for number in numbers:
                signal.raise_signal(number)
            total += 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_batch(tmp_path, handled, number):
    path = tmp_path / "run"
    with pytest.raises(Terminated) as caught:
        disturbed(path, number)
    assert caught.value.__notes__ == [NOTE]
    _, arrays = read_state(partial_folder(path) / "000.npz")
    assert arrays["sum"].tolist() == [2.0]
    assert signal.getsignal(number) is terminate


def test_a_second_signal_does_not_wait_and_no_half_batch_is_saved(tmp_path, handled):
    with pytest.raises(Terminated) as caught:
        disturbed(tmp_path / "run", signal.SIGTERM, signal.SIGINT)
    assert not hasattr(caught.value, "__notes__")
    assert tree(tmp_path) == []


def test_a_second_signal_while_the_state_is_saved_does_no_harm(tmp_path, monkeypatch):
    real = checkpoint_module.write_state

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        real(*args)

    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 3600.0)

    def after(number):
        if number == 4:
            monkeypatch.setattr(checkpoint_module, "write_state", interrupted)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        study(tmp_path / "run", after=after)
    assert caught.value.__notes__ == [NOTE]
    monkeypatch.setattr(checkpoint_module, "write_state", real)
    ran, _ = study(tmp_path / "run", resume=True)
    assert len(ran) == 8
    check(tmp_path)


def test_an_interrupt_while_the_run_is_written_comes_when_it_is(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        study(
            tmp_path / "run",
            after=lambda number: number == "writing" and signal.raise_signal(signal.SIGINT),
        )
    assert not hasattr(caught.value, "__notes__")
    check(tmp_path)


def test_signals_are_left_alone_outside_the_main_thread_and_where_nothing_handles_them():
    found = []

    def outside():
        with HeldSignals() as signals, signals.held():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=outside)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
    with HeldSignals():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
