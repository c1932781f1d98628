"""``onnxloc generate``."""

from pathlib import Path

import click

from onnxloc.cli.common import (
    force_model_option,
    json_option,
    model_argument,
    network_option,
    open_model,
    print_json,
    printable,
    runtime_options,
)
from onnxloc.cli.edit_options import edit_of, patch_options, tokens_option, with_option
from onnxloc.errors import OptionError
from onnxloc.progress import Working


@click.command("generate")
@model_argument
@click.option("--prompt", "given", multiple=True, metavar="TEXT",
              help="What is continued; may be given again.")  # fmt: skip
@click.option(
    "--prompts",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A UTF-8 file with a prompt a line.",
)
@network_option(
    "A run of onnxloc localize, or a network file: continue with it ablated, too.", required=False
)
@with_option("What becomes of an ablated unit; means and deviations are over the prompts' tokens")
@tokens_option(
    "At which tokens: all, prompt, generated, last (of the prompt), or positions in the prompt "
    "such as 0,3,-1."
)
@patch_options
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Tokens to write behind each prompt, at most.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0: take the likeliest token. Else draw from the softmax of the logits divided by it.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draw from so many likeliest tokens; 0: all.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw from the fewest likeliest tokens with at least this probability together.",
)
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Put a BOS token in front. Default: what the model's metadata says.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Rows run at a time; both conditions of a prompt are rows.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the draws and noise.",
)
@json_option
@force_model_option
@runtime_options
def command(
    model: str,
    given: tuple[str, ...],
    file: Path | None,
    network: Path | None,
    replacement: str,
    tokens: str,
    patch_from: str | None,
    patch_tokens: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    bos: bool | None,
    batch_size: int,
    seed: int,
    as_json: bool,
    force_model: bool,
    provider: str,
    threads: int,
    precision: str,
) -> None:
    """Continue prompts with MODEL and, given a network, with the network ablated.

    A model that was exported with its KV cache (onnxloc export gguf --with-past, or optimum) is
    several times faster here.

    \b
    Examples:
      onnxloc generate smollm2-135m --prompt 'The capital of France is' --max-new-tokens 8
      onnxloc generate smollm2-135m --prompts lines.txt --network runs/language --with zero
      onnxloc generate smollm2-135m --prompt 'He said' --network runs/language --with scale=2
      onnxloc generate bundles/past --prompt 'Once upon a time' --temperature 0.8 --top-p 0.95
    """  # noqa: D301
    from onnxloc.network import Network
    from onnxloc.runtime.providers import RuntimeOptions
    from onnxloc.runtime.sampling import Sampling
    from onnxloc.studies.continuations import ContinueOptions, continue_prompts
    from onnxloc.tasks.readers import text_file_task

    if network is None and (replacement, tokens) != ("zero", "all"):
        raise OptionError("--with and --tokens say what is done to a network; give --network")
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    options = ContinueOptions(
        sampling=sampling,
        replacement=edit_of(
            replacement, network, seed=seed, patch_from=patch_from, patch_tokens=patch_tokens
        ),
        tokens=tokens,
        bos=bos,
        batch_size=batch_size,
    )
    runtime = RuntimeOptions(provider=provider, threads=threads, precision=precision)
    lines = [item.texts[0] for item in text_file_task(file).items] if file else []
    with Working("generating"):
        found = continue_prompts(
            open_model(model),
            [*given, *lines],
            options,
            runtime,
            network=Network.load(network) if network else None,
            force_model=force_model,
            show_progress=True,
        )
    if as_json:
        print_json(found.record)
        return
    for number, item in enumerate(found.items):
        if item.condition == "intact":
            click.echo(f"{chr(10) if number else ''}{printable(item.prompt)}")
        click.echo(f"  {item.condition:<8}{printable(item.text)}")
