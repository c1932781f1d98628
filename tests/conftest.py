"""The real model for the integration tests: fetched once, opened once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from onnxloc.runtime.model import Model

RECIPE = "smollm2-135m"
FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def bundle_path() -> Path:
    from onnxloc.recipes import fetch

    return fetch(RECIPE)


@pytest.fixture(scope="session")
def gguf_path() -> Path:
    from onnxloc.download import Digest, Source, get_file
    from onnxloc.recipes import home, load_recipe

    recipe = load_recipe(RECIPE)
    return get_file(
        Source.parse(recipe.source),
        home() / "downloads",
        file=Digest(recipe.sha256, recipe.size),
        archive=Digest(recipe.archive_sha256, recipe.archive_size),
        report=lambda *_: None,
    )


@pytest.fixture(scope="session")
def model(bundle_path: Path) -> "Model":
    from onnxloc.runtime.model import Model

    return Model.open(bundle_path)


@pytest.fixture(scope="session")
def torch_model(gguf_path: Path) -> "LlamaForCausalLM":
    import torch

    # Single rows gain little from a second thread, and on a busy machine it costs thirty times.
    torch.set_num_threads(1)
    # transformers looks on the hub for a chat template that it does not need.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        gguf_path.parent,
        gguf_file=gguf_path.name,
        attn_implementation="eager",
        dtype=torch.float32,
    ).eval()


@pytest.fixture(scope="session")
def figure(pytestconfig: pytest.Config) -> Callable[[str, float], None]:
    """Note a figure that was seen; all are listed at the end of the run."""
    figures = pytestconfig.stash.setdefault(FIGURES, [])

    def note(what: str, value: float) -> None:
        figures.append(f"{what}: {value:.3g}")

    return note


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    figures = config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("figures seen")
    for line in figures:
        terminalreporter.write_line(line)
