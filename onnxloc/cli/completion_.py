"""``onnxloc completion``."""

import click

WHERE = {
    "bash": """\
# For good: write this to a file that bash-completion reads by itself,
#   onnxloc completion bash > ~/.local/share/bash-completion/completions/onnxloc
# or put this line into ~/.bashrc:
#   eval "$(onnxloc completion bash)"
""",
    "zsh": """\
# For good: write this to a file _onnxloc in a folder of $fpath,
#   mkdir -p ~/.zfunc && onnxloc completion zsh > ~/.zfunc/_onnxloc
# with these lines in ~/.zshrc:
#   fpath+=(~/.zfunc)
#   autoload -Uz compinit && compinit
""",
    "fish": """\
# For good: write this to a file that fish reads by itself,
#   onnxloc completion fish > ~/.config/fish/completions/onnxloc.fish
""",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(WHERE)), metavar="bash|zsh|fish")
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete onnxloc's commands, options, localizers, tasks and sites.

    Its first lines say where to put it.

    \b
    Examples:
      onnxloc completion bash > ~/.local/share/bash-completion/completions/onnxloc
      onnxloc completion zsh > ~/.zfunc/_onnxloc
      onnxloc completion fish > ~/.config/fish/completions/onnxloc.fish
    """  # noqa: D301
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  the three are click's own
    made = found(ctx.find_root().command, {}, "onnxloc", "_ONNXLOC_COMPLETE")
    # Not source(), which starts bash to see its version.
    lines = (made.source_template % made.source_vars()).strip().splitlines()
    # Where zsh loads the file, "#compdef" has to be its first line.
    head = [lines.pop(0)] if lines[0].startswith("#compdef") else []
    body = "\n".join(lines).strip()
    click.echo("\n".join([*head, WHERE[shell], body]))
