"""Opening, describing and refusing bundles."""

import json

import pytest
from helpers import tiny_graphs as tiny

from onnxloc.bundle import Bundle, BundleInfo, FileInfo
from onnxloc.errors import BundleError, ModelError

pytestmark = pytest.mark.unit


def info(folder, **changes):
    """Write ``bundle.json`` with some keys changed; `...` takes a key out."""
    record = json.loads(BundleInfo(name="tiny").to_json()) | changes
    record = {key: value for key, value in record.items() if value is not ...}
    (folder / "bundle.json").write_text(json.dumps(record))


def refused(folder) -> str:
    with pytest.raises(ModelError) as caught:
        Bundle.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bundle_comes_back_as_it_was_written(tmp_path):
    target = tmp_path / "made"
    told = BundleInfo(
        name="tiny",
        framework="gguf",
        versions={"gguf": "0.17"},
        max_tokens=12,
        add_bos=True,
        bos_token_id=0,
    )
    with Bundle.writing(target) as staging:
        tiny.write(staging, tiny.plain(), external=True)
        (staging / "folder").mkdir()
        Bundle.describe(staging, told)
    bundle = Bundle.open(target)
    assert set(bundle.info.files) == {"model.onnx", "model.onnx.data"}
    assert bundle.info.files["model.onnx.data"].size == (target / "model.onnx.data").stat().st_size
    assert bundle.info == BundleInfo(**{**told.__dict__, "files": bundle.info.files})
    assert (bundle.folder, bundle.model_path) == (target, target / "model.onnx")
    assert Bundle.open(target / "model.onnx") == bundle
    assert bundle.tokenizer_path is None
    assert BundleInfo.from_json(bundle.info.to_json(), target) == bundle.info


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "unknown key 'extra'"),
        ({"name": ...}, "name is missing"),
        ({"name": 3}, "name has the wrong type"),
        ({"format": 2}, "format 2 is not 1"),
        ({"format": ...}, "format None is not 1"),
        ({"add_bos": 1}, "add_bos has the wrong type"),
        ({"max_tokens": True}, "max_tokens has the wrong type"),
        ({"max_tokens": 0}, "max_tokens cannot be 0"),
        ({"bos_token_id": -1}, "bos_token_id cannot be -1"),
        ({"opset": "17"}, "opset has the wrong type"),
        ({"versions": {"a": 1}}, "versions has the wrong type"),
        ({"versions": []}, "versions has the wrong type"),
        ({"files": []}, "files has the wrong type"),
        ({"files": {"../x": {}}}, "'../x' is not the name of a file beside it"),
        ({"files": {"..": {}}}, "'..' is not the name of a file beside it"),
        ({"files": {"x": 1}}, "'x' needs size and sha256"),
        ({"files": {"x": {"size": 1}}}, "'x' needs size and sha256"),
        ({"files": {"x": {"size": "1", "sha256": "0" * 64}}}, "'x' needs size and sha256"),
        ({"files": {"x": {"size": 1, "sha256": "abc"}}}, "the sha256 of 'x'"),
    ],
)
def test_a_record_that_is_wrong_is_refused(tmp_path, changes, message):
    tiny.write(tmp_path, tiny.plain())
    info(tmp_path, **changes)
    assert message in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null"])
def test_a_record_that_is_no_json_object_is_refused(tmp_path, content):
    tiny.write(tmp_path, tiny.plain())
    (tmp_path / "bundle.json").write_bytes(content)
    assert "bundle.json" in refused(tmp_path)


def test_a_record_with_files_is_read():
    record = json.dumps({"format": 1, "name": "x", "files": {"a": {"size": 3, "sha256": "0" * 64}}})
    assert BundleInfo.from_json(record, "here").files == {"a": FileInfo(size=3, sha256="0" * 64)}


def test_missing_and_ambiguous_models_are_refused(tmp_path):
    assert "there is no model at" in refused(tmp_path / "nothing")
    assert "holds no .onnx file" in refused(tmp_path)
    assert "cannot read" in refused(tmp_path / ("x" * 300))
    for name in ("encoder.onnx", "decoder.onnx"):
        tiny.write(tmp_path, tiny.plain()).rename(tmp_path / name)
    assert "several models (decoder.onnx, encoder.onnx); name one" in refused(tmp_path)
    assert Bundle.open(tmp_path / "decoder.onnx").info.name == "decoder"
    tiny.write(tmp_path, tiny.plain())
    assert Bundle.open(tmp_path).model_path.name == "model.onnx"


def foreign(folder, config, tokens=None, inner=""):
    tiny.write(folder / inner, tiny.plain())
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    if tokens is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    return Bundle.open(folder)


@pytest.mark.parametrize("inner", ["", "onnx"])
def test_a_folder_of_optimum_tells_what_it_knows(tmp_path, inner):
    config = {
        "model_type": "llama",
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "pad_token_id": None,
    }
    bundle = foreign(tmp_path / "llama", config, {"add_bos_token": True}, inner)
    told = bundle.info
    assert (told.architecture, told.max_tokens, told.add_bos) == ("llama", 2048, True)
    assert (told.bos_token_id, told.eos_token_id, told.pad_token_id) == (1, 2, None)
    assert told.name == (inner or "llama")
    assert bundle.tokenizer_path == tmp_path / "llama" / "tokenizer.json"


@pytest.mark.parametrize(("front", "add_bos"), [("<s> $A", True), ("$A <s>", False), ("$A", False)])
def test_a_template_that_begins_with_bos_asks_for_one(tmp_path, front, add_bos):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "a": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=front, special_tokens=[("<s>", 1)]
    )
    foreign(tmp_path, {"bos_token_id": 1}, {"add_bos_token": False})
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    # What the settings say outright goes before what the template does.
    assert Bundle.open(tmp_path).info.add_bos is False
    (tmp_path / "tokenizer_config.json").unlink()
    bundle = Bundle.open(tmp_path)
    assert bundle.info.add_bos is add_bos
    assert bundle.tokenizer.encode("a", add_special_tokens=False).ids == [2]


def test_nonsense_in_a_foreign_folder_is_ignored_or_refused(tmp_path):
    config = {
        "max_position_embeddings": -1,
        "n_positions": 5,
        "bos_token_id": True,
        "model_type": 3,
    }
    told = foreign(tmp_path, config, {"add_bos_token": "yes"}).info
    assert (told.max_tokens, told.bos_token_id, told.add_bos) == (5, None, False)
    (tmp_path / "config.json").write_text("[]")
    assert "config.json must hold a JSON object" in refused(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert "config.json is not JSON" in refused(tmp_path)


def test_a_tokenizer_that_cannot_be_read_or_is_not_there(tmp_path):
    bundle = foreign(tmp_path, {})
    with pytest.raises(BundleError, match=r"cannot read .*tokenizer.json"):
        _ = bundle.tokenizer
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"has no tokenizer.json; put the model's own beside"):
        _ = Bundle.open(tmp_path).tokenizer


def test_a_failed_bundle_leaves_nothing(tmp_path):
    def fail():
        with Bundle.writing(tmp_path / "made") as staging:
            tiny.write(staging, tiny.plain())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
