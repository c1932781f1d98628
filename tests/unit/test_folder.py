"""Whole folders or none."""

import hashlib
import os
import sys

import pytest

from onnxloc import folder as folder_module
from onnxloc.claim import hidden_name, partial_folder
from onnxloc.errors import RunError
from onnxloc.folder import check_free, new_folder, sha256_file

pytestmark = pytest.mark.unit

RECORD = '{"format": 1, "onnxloc": "0.1.0"}'


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def make(path, text="new", **options):
    with new_folder(path, **options) as staging:
        (staging / "manifest.json").write_text(RECORD)
        (staging / "data").write_text(text)


def test_a_folder_appears_whole_and_with_its_parents(tmp_path):
    target = tmp_path / "a" / "b" / "run"
    with new_folder(target) as staging:
        assert not target.exists()
        assert staging.parent == partial_folder(target)
        (staging / "data").write_text("x")
    assert tree(tmp_path) == ["a", "a/b", "a/b/run", "a/b/run/data"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_nothing_is_left_behind(tmp_path, error):
    def fail():
        with new_folder(tmp_path / "a" / "b" / "run") as staging:
            (staging / "inner").mkdir()
            (staging / "inner" / "data").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert tree(tmp_path) == []


def test_checking_makes_nothing(tmp_path):
    check_free(tmp_path / "a" / "b" / "run")
    assert tree(tmp_path) == []


def test_an_old_folder_is_kept_without_force_and_when_the_new_one_fails(tmp_path):
    target = tmp_path / "run"
    make(target, "old")
    with pytest.raises(RunError, match="run exists; choose another output path, or --force"):
        make(target)

    def fail():
        with new_folder(target, force=True) as staging:
            (staging / "data").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (target / "data").read_text() == "old"
    make(target, "new", force=True)
    assert (target / "data").read_text() == "new"
    assert tree(tmp_path) == ["run", "run/data", "run/manifest.json"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", [1, 2])
def test_the_old_folder_survives_a_failed_replacement(tmp_path, monkeypatch, error, moment):
    # As on a system that cannot exchange two names at once.
    monkeypatch.setattr(folder_module, "_exchange", lambda *_: False)
    target = tmp_path / "run"
    make(target, "old")
    real = type(target).rename
    calls = []

    def rename(self, other):
        calls.append(self)
        if len(calls) == moment:
            raise error
        return real(self, other)

    monkeypatch.setattr(type(target), "rename", rename)
    with pytest.raises((RunError, KeyboardInterrupt)):
        make(target, "new", force=True)
    assert (target / "data").read_text() == "old"
    assert tree(tmp_path) == ["run", "run/data", "run/manifest.json"]


@pytest.mark.parametrize("name", ["run", "x" * 220])
def test_a_folder_held_by_a_killed_process_is_put_back(tmp_path, monkeypatch, name):
    monkeypatch.setattr(folder_module, "_exchange", lambda *_: False)
    target = tmp_path / name
    make(target, "old")
    # What a kill between the two renames leaves.
    hold = tmp_path / f"{hidden_name(target, 'old')}-abc_1234"
    hold.mkdir()
    target.rename(hold / "old")
    check_free(tmp_path / "other")
    assert not target.exists()
    with pytest.raises(RunError, match="exists"):
        check_free(target)
    assert (target / "data").read_text() == "old"
    assert tree(tmp_path) == [name, f"{name}/data", f"{name}/manifest.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="no other system exchanges names at once")
def test_a_folder_is_replaced_at_once(tmp_path, monkeypatch):
    target = tmp_path / "run"
    make(target, "old")

    def rename(self, other):
        raise AssertionError("there is a moment without a folder")

    monkeypatch.setattr(type(target), "rename", rename)
    make(target, "new", force=True)
    assert (target / "data").read_text() == "new"
    assert tree(tmp_path) == ["run", "run/data", "run/manifest.json"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "run"

    def race():
        with new_folder(target):
            target.mkdir()
            (target / "data").write_text("other")

    with pytest.raises(RunError, match="exists"):
        race()
    assert (target / "data").read_text() == "other"
    assert tree(tmp_path) == ["run", "run/data"]


def test_one_process_at_a_time_makes_a_folder(tmp_path):
    target = tmp_path / "run"
    with new_folder(target) as staging:
        with pytest.raises(RunError, match=r"another process is writing .*run; wait for it"):
            make(target, "second")
        (staging / "data").write_text("first")
    assert (target / "data").read_text() == "first"
    assert tree(tmp_path) == ["run", "run/data"]


def test_what_a_killed_process_left_goes_and_what_is_not_ours_stays(tmp_path):
    target = tmp_path / "run"
    hidden = partial_folder(target)
    left = hidden / "new-abc_12"
    left.mkdir(parents=True)
    (left / "manifest.json").write_text(RECORD)
    (hidden / "000.half").write_text("half a state")
    (hidden / "lock").touch()
    make(target)
    assert tree(tmp_path) == ["run", "run/data", "run/manifest.json"]
    (tmp_path / "mine").write_text("mine")
    for strange in ("notes.txt", "new-link"):
        hidden.mkdir()
        (hidden / strange).symlink_to(tmp_path / "mine")
        with pytest.raises(RunError, match=f"in the way: '{strange}' is nothing"):
            make(target, force=True)
        (hidden / strange).unlink()
        (hidden / "lock").unlink()
        hidden.rmdir()
    hidden.write_text("a file")
    with pytest.raises(RunError, match="in the way"):
        make(target, force=True)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "files",
    [
        {"precious.txt": "x"},
        {"manifest.json": '{"name": "a web application"}'},
        {"manifest.json": "not JSON"},
        {"manifest.json": "[" * 100_000},
        {"manifest.json": '["format", "onnxloc"]'},
    ],
)
def test_force_replaces_only_what_onnxloc_wrote(tmp_path, files):
    target = tmp_path / "mine"
    target.mkdir()
    for name, text in files.items():
        (target / name).write_text(text)
    with pytest.raises(RunError, match="was not written by onnxloc"):
        make(target, force=True)
    assert tree(target) == sorted(files)


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run")
    assert (tmp_path / "run" / "data").exists()


def test_files_links_and_places_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "link"):
        with pytest.raises(RunError, match="is not a folder"):
            make(tmp_path / name, force=True)
    with pytest.raises(RunError, match=r"cannot make a folder in .*file"):
        check_free(tmp_path / "file" / "run")
    with pytest.raises(RunError, match=r"cannot write .*: File name too long"):
        make(tmp_path / ("x" * 300))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RunError, match="cannot make a folder in"):
        check_free(tmp_path / "run")


def test_a_failed_write_is_a_run_error_and_another_files_error_is_not(tmp_path):
    def fail(error):
        with new_folder(tmp_path / "run"):
            raise error

    with pytest.raises(RunError, match=r"cannot write .*run: No space left"):
        fail(OSError(28, "No space left on device"))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        fail(FileNotFoundError(2, "No such file", "/elsewhere/file"))
    assert tree(tmp_path) == []


def test_paths_with_dots_and_links_above_end_where_they_point(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make(tmp_path / "link" / "x" / ".." / "run")
    assert "real/run/data" in tree(tmp_path)
    monkeypatch.chdir(tmp_path / "real")
    make(folder_module.Path("here"))
    assert (tmp_path / "real" / "here" / "data").exists()


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()
