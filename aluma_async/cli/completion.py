"""``completion``: prints the script with which a shell completes commands and options; adds PowerShell to click."""

import os
from typing import ClassVar

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from aluma_async.cli.exit_codes import OK

SHELLS = ("bash", "zsh", "fish", "powershell")
PROGRAM, VARIABLE = "aluma-async", "_ALUMA_ASYNC_COMPLETE"

_POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $env:COMP_WORDS = $commandAst.ToString()
    $env:COMP_INCOMPLETE = $wordToComplete
    $env:%(complete_var)s = 'powershell_complete'
    %(prog_name)s | Where-Object { $_ } | ForEach-Object {
        $value, $help = $_ -split "`t", 2
        if (-not $help) { $help = $value }
        [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $help)
    }
    $env:COMP_WORDS = $env:COMP_INCOMPLETE = $env:%(complete_var)s = $null
}
"""


class PowerShellComplete(ShellComplete):
    """Completion for PowerShell.

    The script passes the line so far and the incomplete word. The answer has one proposal per line: the value, a tab,
    and its help.
    """

    name = "powershell"
    source_template: ClassVar[str] = _POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words, and the incomplete one."""
        words = split_arg_string(os.environ["COMP_WORDS"])
        incomplete = os.environ["COMP_INCOMPLETE"]
        return words[1:-1] if incomplete and words[-1:] == [incomplete] else words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Format a proposal as a line."""
        return f"{item.value}\t{' '.join(item.help.split())}" if item.help else str(item.value)


add_completion_class(PowerShellComplete)


_EXAMPLES = """\b
bash:
  aluma-async completion bash \\
    > ~/.local/share/bash-completion/completions/aluma-async
zsh:
  aluma-async completion zsh > "${fpath[1]}/_aluma-async"
fish:
  aluma-async completion fish > ~/.config/fish/completions/aluma-async.fish
powershell:
  aluma-async completion powershell >> $PROFILE
"""


@click.command(epilog=_EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print a shell completion script."""
    shell_class = get_completion_class(shell)
    assert shell_class  # noqa: S101 - SHELLS contains only known shells
    command = context.find_root().command
    # The base class's method skips click's version check: the script may be for the shell of another machine.
    click.echo(ShellComplete.source(shell_class(command, {}, PROGRAM, VARIABLE)))
    return OK
