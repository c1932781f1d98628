"""``onnxloc view``."""

from pathlib import Path

import click

from onnxloc.cli.common import printable


@click.command("view")
@click.argument(
    "runs", metavar="[RUN|FOLDER]...", nargs=-1, type=click.Path(path_type=Path, exists=False)
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port to listen on; 0: any that is free.",
)
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser.")
def command(runs: tuple[Path, ...], port: int, browser: bool) -> None:
    """Show runs in a browser: a list, a page for each, some side by side.

    RUN is a run folder, FOLDER one that holds some; the folder "runs" if none is given. Pages are
    served on 127.0.0.1 only, until Ctrl-C. Nothing is written.

    \b
    Examples:
      onnxloc view
      onnxloc view runs/language runs/ablation
      onnxloc view experiments --port 8000 --no-browser
    """  # noqa: D301
    from onnxloc.view import serve

    def ready(url: str) -> None:
        click.echo(f"showing {printable(', '.join(map(str, folders)))} at {url} (Ctrl-C stops)")
        if browser:
            import threading
            import webbrowser

            # A browser of the terminal returns only when it is left.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    folders = runs or (Path("runs"),)
    try:
        serve(folders, port, ready=ready)
    except KeyboardInterrupt:
        # This is how one stops looking: nothing was broken off.
        click.echo("stopped")
