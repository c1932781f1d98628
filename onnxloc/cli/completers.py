"""What a shell is offered for the values of options that are names."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = [
    "localizer_names",
    "localizers",
    "models",
    "providers",
    "recipe_names",
    "sites",
    "tasks",
]

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[str]]"]

SITES = {
    "embed": "the embedding",
    "block.*.in": "what goes into each block",
    "block.*.attn.q": "queries",
    "block.*.attn.k": "keys",
    "block.*.attn.v": "values",
    "block.*.attn.probs": "attention probabilities",
    "block.*.attn.heads": "what each head gives",
    "block.*.attn.out": "what attention adds",
    "block.*.mid": "between attention and MLP",
    "block.*.mlp.pre": "before the nonlinearity",
    "block.*.mlp.hidden": "hidden units of the MLPs",
    "block.*.mlp.out": "what each MLP adds",
    "block.*.out": "each block's output",
    "final_norm": "the last norm",
    "logits": "the logits",
    "op:*": "every operation",
}


def _offer(names: Callable[[], Iterable[tuple[str, str]]], *, files: bool = False) -> Completer:
    """Offer names with what they mean and, where one stands for a path too, files."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        del ctx, param
        from click.shell_completion import CompletionItem

        # Shells forget what comes before the mark for files.
        found = [CompletionItem(incomplete, type="file")] if files else []
        return found + [
            CompletionItem(name, help=about)
            for name, about in names()
            if name.startswith(incomplete)
        ]

    return complete


def _localizers() -> Iterable[tuple[str, str]]:
    from onnxloc.stimuli.localizers import LOCALIZERS

    return [(name, "") for name in LOCALIZERS]


def _tasks() -> Iterable[tuple[str, str]]:
    from onnxloc.tasks import list_tasks

    return [(name.removesuffix("PATH"), about) for name, about in list_tasks() if name != "PATH"]


def _recipes() -> Iterable[tuple[str, str]]:
    from onnxloc.recipes import recipes as known

    return [(name, "") for name in known()]


def _providers() -> Iterable[tuple[str, str]]:
    from onnxloc.runtime.providers import PROVIDERS

    return [(name, "") for name in PROVIDERS]


localizers = _offer(_localizers, files=True)
localizer_names = _offer(_localizers)
tasks = _offer(_tasks, files=True)
recipe_names = _offer(_recipes, files=True)
models = recipe_names
providers = _offer(_providers)
sites = _offer(SITES.items)
