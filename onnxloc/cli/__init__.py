"""The command line: one module a command, none with logic of its own."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from onnxloc.cli.common import printable
from onnxloc.cli.lazy import LazyGroup
from onnxloc.errors import OnnxlocError

__all__ = ["main"]

COMMANDS = {
    "ablate": "Score tasks without a network, and without random units instead.",
    "bake": "Write a model with an edit of a network built in.",
    "check": "Check that reading, editing and batching a model do what they say.",
    "compare": "Compare what two or more runs found: units, depth, representations.",
    "contrast": "Compare the stimuli of a run in another way, without running the model.",
    "demo": "Fetch a model, find its language network, ablate it, report.",
    "export": "Turn a model of another framework into a bundle.",
    "fetch": "Fetch a model by name and turn it into a bundle.",
    "generate": "Continue prompts with a model, and with a network of it ablated.",
    "inspect": "List the sites of a model.",
    "lm-eval": "Run lm-evaluation-harness on a model, with or without a network ablated.",
    "localize": "Find the units that respond more to one condition than to another.",
    "localizers": "List the localizers, or describe one.",
    "providers": "Say what this machine can run models with.",
    "reliability": "Say how well a network holds from one half of the stimuli to the other.",
    "report": "Write the HTML page of a run.",
    "untrain": "Write a copy of a model with its weights re-initialised.",
}


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"onnxloc {version('onnxloc')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    described=COMMANDS,
    modules="onnxloc.cli.{}_",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
              help="Show the version and exit.")  # fmt: skip
@click.option("--debug", is_flag=True, expose_value=False,
              help="Show the whole traceback of an error.")  # fmt: skip
def cli() -> None:
    """Find and ablate functional networks in any ONNX model.

    \b
    Examples:
      onnxloc demo                      the whole way, on a 135M language model
      onnxloc fetch smollm2-135m        get a model
      onnxloc localize smollm2-135m -o runs/language
      onnxloc ablate smollm2-135m --network runs/language -o runs/ablation
      onnxloc report runs/ablation

    Exit status: 0 if all went well, 2 if the input cannot be used (one line on standard error says
    why), 130 if interrupted.
    """  # noqa: D301


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status is returned.

    Parameters
    ----------
    argv : sequence of str, optional
        The words behind ``onnxloc``; those of the process if not given.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with _sigterm_interrupts():
            status: Any = cli.main(words, prog_name="onnxloc", standalone_mode=False, obj=words)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), error if debug else None)
    except OnnxlocError as error:
        return _fail(str(error), error if debug else None)
    except (KeyboardInterrupt, click.Abort):
        click.echo("onnxloc: interrupted; nothing was left half-written", err=True)
        return 130
    return status if isinstance(status, int) else 0


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM clean up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        # Python allows handlers to be set in the main thread only.
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(message: str, error: Exception | None) -> int:
    if error is not None:
        import traceback

        traceback.print_exception(error)
    click.echo(f"onnxloc: error: {printable(' '.join(message.split()))}", err=True)
    return 2
