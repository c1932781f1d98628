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
from onnxloc.cli.conventions import quiet_option, verbose_option
from onnxloc.cli.invocation import Colour, Invocation, colour_of, invocation
from onnxloc.cli.lazy import LazyGroup
from onnxloc.errors import OnnxlocError

__all__ = ["main"]

SECTIONS = {
    "Models": {
        "fetch": "Fetch a model by name and turn it into a bundle.",
        "export": "Turn a model of another framework into a bundle.",
        "inspect": "List the sites of a model.",
        "check": "Check that reading, editing and batching a model do what they say.",
        "untrain": "Write a copy of a model with its weights re-initialised.",
    },
    "Localise": {
        "localize": "Find the units that respond more to one condition than to another.",
        "localizers": "List the localizers, or describe one.",
        "contrast": "Compare the stimuli of a run in another way, without running the model.",
        "reliability": "Say how well a network holds from one half of the stimuli to the other.",
    },
    "Intervene": {
        "ablate": "Score tasks without a network, and without random units instead.",
        "generate": "Continue prompts with a model, and with a network of it ablated.",
        "bake": "Write a model with an edit of a network built in.",
        "lm-eval": "Run lm-evaluation-harness on a model, with or without a network ablated.",
    },
    "Compare and report": {
        "where": "Say which operations, parts and blocks hold a network beyond their share.",
        "profile": "Measure a network's response to conditions that did not find it.",
        "compare": "Compare what two or more runs found: units, depth, representations.",
        "robustness": "Find a network again, under choices that ought not to matter.",
        "report": "Write the HTML page of a run.",
        "view": "Show runs in a browser: a list, a page for each, some side by side.",
    },
    "Start and set up": {
        "demo": "Fetch a model, find its language network, ablate it, report.",
        "reproduce": "Repeat the paper's procedure with every control, and write a page of it.",
        "providers": "Say what this machine can run models with.",
        "completion": "Print what makes a shell complete onnxloc's commands.",
    },
}
"""The commands and what each does, by the headings of the help."""

# As shells have them: 128 and the number of the signal.
BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143

COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"onnxloc {version('onnxloc')}")
        ctx.exit()


def _colour(ctx: click.Context, _: click.Parameter, value: Colour) -> None:
    ctx.color = invocation(ctx).colour = colour_of(value)


@click.group(
    cls=LazyGroup,
    described=SECTIONS,
    modules="onnxloc.cli.{}_",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 98},
    params=[quiet_option(), verbose_option()],
)
@click.option(
    "--color", "colour", type=click.Choice(["auto", "always", "never"]), default="auto",
    show_default=True, expose_value=False, is_eager=True, callback=_colour,
    help="Colours: on a terminal unless NO_COLOR is set, always, or never.",
)  # fmt: skip
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

    onnxloc COMMAND --help tells all of a command, with examples.

    \b
    Exit status:
      0    all went well
      1    a check failed
      2    the input cannot be used; one line on standard error says why
      130  interrupted by Ctrl-C, 143 by SIGTERM
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
    call = Invocation(words, colour=colour_of("auto"))
    try:
        with _sigterm_interrupts():
            status: Any = cli.main(words, prog_name="onnxloc", standalone_mode=False, obj=call)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return BAD_INPUT
    except click.ClickException as error:
        return _fail(error.format_message(), call, error if debug else None)
    except OnnxlocError as error:
        return _fail("; ".join([str(error), *_notes(error)]), call, error if debug else None)
    except (KeyboardInterrupt, click.Abort) as error:
        # Of what is raised within a command, click makes its own.
        came = error.__cause__ or error
        then = "; ".join(_notes(came)) or "nothing was left half-written"
        click.echo(f"onnxloc: interrupted; {then}", err=True)
        return TERMINATED if isinstance(came, _Terminated) else INTERRUPTED
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


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which cleans up as Ctrl-C does and has another exit status."""


def _notes(error: BaseException) -> list[str]:
    """What was added to an error, such as how to resume a run."""
    return list(getattr(error, "__notes__", ()))


def _interrupt(_: int, __: FrameType | None) -> None:
    raise _Terminated


def _fail(message: str, call: Invocation, error: Exception | None) -> int:
    if error is not None:
        import traceback

        traceback.print_exception(error)
    said = printable(" ".join(message.split()))
    click.echo(f"{click.style('onnxloc: error:', fg='red')} {said}", err=True, color=call.colour)
    return BAD_INPUT
