"""``onnxloc lm-eval``."""

import sys

import click


@click.command(
    "lm-eval",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="ARGUMENTS...")
def command(arguments: tuple[str, ...]) -> None:
    """Run lm-evaluation-harness, with the model type onnxloc known to it.

    All arguments go to its command lm_eval; onnxloc lm-eval -- --help shows its own help.

    \b
    Examples:
      onnxloc lm-eval run --model onnxloc --model_args path=BUNDLE --tasks TASKS
      onnxloc lm-eval run --model onnxloc --model_args path=BUNDLE,network=RUN --tasks TASKS
    """  # noqa: D301
    from onnxloc.errors import OptionError

    try:
        from lm_eval.__main__ import cli_evaluate

        import onnxloc.adapters.lm_eval  # noqa: F401 (registers the model type)
    except ImportError as error:
        raise OptionError(
            f"lm-evaluation-harness cannot be imported ({error}); pip install 'onnxloc[lm-eval]'"
        ) from error
    before = sys.argv
    sys.argv = ["onnxloc lm-eval", *arguments]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
