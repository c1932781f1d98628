"""More of the folder of bad things: arrays, files of options, recipes, and models to export."""

import io
import json
import os
import pickle
import zipfile

import numpy as np

__all__ = ["arrays", "configs", "recipes", "weights"]

ROWS, SIDES = np.ones((8, 3), dtype=np.float32), np.array(["positive", "control"] * 4)
DEEP = "[" * 100_000


class Harm:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (exec, ("open('harm-was-done', 'w').close()",))


def _npy(array):
    data = io.BytesIO()
    np.lib.format.write_array(data, array)
    return data.getvalue()


def _zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def arrays(work):
    """Stimuli as arrays, and vectors of units."""
    for name, members in {
        "sideless": {"x": ROWS},
        "alone": {"condition": SIDES},
        "uneven": {"x": ROWS[:5], "condition": SIDES},
        "three": {"x": ROWS, "condition": np.array(["a", "b", "c", "a"] * 2)},
        "named": {"x": ROWS, "condition": np.array(["faces", "places"] * 4)},
        "numbers": {"x": ROWS, "condition": np.arange(8)},
        "words": {"x": np.array([["a"]] * 8), "condition": SIDES},
        "hollow": {"x": ROWS[:, :0], "condition": SIDES},
        "some": {"x": ROWS, "condition": np.array(["positive"] * 7 + ["control"])},
    }.items():
        np.savez(work / f"{name}.npz", **members)
    sides = {"condition.npy": _npy(SIDES)}
    header = _npy(np.zeros((8, 3), dtype=np.float32))
    harm = np.array([Harm()] * 8, dtype=object)
    pickled = io.BytesIO()
    np.lib.format.write_array(pickled, harm, allow_pickle=True)
    _zip(work / "pickled.npz", {"x.npy": pickled.getvalue(), **sides})
    _zip(work / "claims.npz", {"x.npy": header.replace(b"(8, 3)", b"(8, 3000000000)"), **sides})
    _zip(work / "member.npz", {"../x.txt": b"x", **sides})
    _zip(work / "code.npz", {"x.npy": b"\x93NUMPY\1\0" + b"__import__('os')", **sides})
    (work / "text.npz").write_text("no archive")
    bomb = io.BytesIO()
    np.lib.format.write_array(bomb, np.zeros(1, dtype=np.float32))
    shape = bomb.getvalue()[:-4].replace(b"(1,), }", b"(8, 300000000)}")
    _zip(work / "bomb.npz", {"x.npy": shape + bytes(1 << 20), **sides})
    np.save(work / "nan.npy", np.full(192, np.nan))
    np.save(work / "short.npy", np.ones(5))
    np.save(work / "square.npy", np.ones((2, 2)))
    np.save(work / "pickled.npy", harm, allow_pickle=True)
    os.mkfifo(work / "pipe.npy")
    (work / "pickle.npy").write_bytes(pickle.dumps(Harm()))


def configs(work):
    """Files for --config."""
    for name, text in {
        "unclosed": "[localize\n",
        "untabled": "top = 5\n",
        "no-table": "[ablate]\nlimit = 5\n",
        "unknown": "[localize]\ntpo = 5\n",
        "mistyped": "[localize]\nunits = 'five'\n",
        "unknown-command": "[loclize]\ntop = 5\n",
        "no-list": "[localize]\nsites = 'block.*'\n",
        "bad-value": "[localize]\npool = 'median'\n",
        "nested": f"[localize]\ntop = {DEEP}\n",
    }.items():
        (work / f"{name}-config.toml").write_text(text)
    (work / "latin-config.toml").write_bytes("[localize]\nname = 'café'\n".encode("latin-1"))


def recipes(work):
    """Recipes for `onnxloc fetch`; most differ in where the file is said to be."""
    hashed = f'sha256 = "{"0" * 64}"\nsize = 10\nexporter = "gguf"\n'
    zipped = f'{hashed}archive_sha256 = "{"0" * 64}"\narchive_size = 10\n'
    size = (work / "fits.parquet").stat().st_size
    sources = {
        "http": "http://example.org/m.gguf",
        "https": "https://user:secret@example.org/m.gguf",
        "ftp": "ftp://example.org/m.gguf",
        "git": "git+ssh://example.org/m.git#m",
        "option": "pypi:--index-url=http://example.org==1#m.gguf",
        "direct": "pypi:m @ https://example.org/m.whl#m.gguf",
        "upward": "pypi:m==1#../../m.gguf",
        "branchless": "hf:owner/repo#m.gguf",
        "hub-url": "hf:https://example.org/repo@main#m.gguf",
        "nothing": "",
    }
    for name, source in sources.items():
        (work / f"{name}.toml").write_text(f'source = "{source}"\n{zipped}')
    for name, text in {
        "wrong-key": "sourse = 'file:x'\n",
        "wrong-sum": f'source = "file:{work / "fits.parquet"}"\nsha256 = "{"0" * 64}"\n'
        f'size = {size}\nexporter = "gguf"\n',
        "wrong-size": f'source = "file:{work / "fits.parquet"}"\n{hashed}',
        "absent": f'source = "file:{work / "absent.gguf"}"\n{hashed}',
        "system": f'source = "file:/etc/passwd"\n{hashed}prepare = "os:system"\n',
        "module": f'source = "file:x"\n{hashed}[options]\nfunction = "os:system"\n',
        "upper": hashed.replace("0" * 64, "A" * 64) + 'source = "file:x"\n',
        "hashless": 'source = "file:x"\nexporter = "gguf"\n',
        "sizeless": f'source = "file:x"\n{hashed}'.replace("size = 10", "size = -1"),
        "stranger": f'source = "file:{work / "absent.gguf"}"\n{hashed}'.replace("gguf", "pickle"),
        "outward": f'source = "file:w.zip#m"\nexporter = "gguf"\narchive_size = 1\n'
        f'archive_sha256 = "{"0" * 64}"\n[files."../../x"]\nsha256 = "{"0" * 64}"\nsize = 1\n',
        "zipless": f'source = "file:{work / "fits.parquet"}#m.gguf"\n{hashed}',
        "nested": f"source = {DEEP}\n",
    }.items():
        (work / f"{name}.toml").write_text(text)
    (work / "large.toml").write_text("# " + "x" * (1 << 20))
    os.mkfifo(work / "pipe.toml")


def weights(work):
    """Models to export that are no such models."""
    (work / "magic.gguf").write_bytes(b"GGUF" + b"\3\0\0\0" + b"\xff" * 16)
    (work / "short.gguf").write_bytes(b"GGUF\3\0\0")
    folder = work / "pickled-checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    folder = work / "outward-checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    index = {"weight_map": {"a": "../../etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (work / "no-checkpoint").mkdir()
