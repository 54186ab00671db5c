"""``completion``: print what makes a shell complete our commands and options; click has none for PowerShell."""

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
    """The script asks with the line so far and the word at its end; a proposal a line comes back, a tab before help."""

    name = "powershell"
    source_template: ClassVar[str] = _POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        """Take the words before the one that is being typed, and that one."""
        words = split_arg_string(os.environ["COMP_WORDS"])
        incomplete = os.environ["COMP_INCOMPLETE"]
        return words[1:-1] if incomplete and words[-1:] == [incomplete] else words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Make a line of a proposal."""
        return f"{item.value}\t{' '.join(item.help.split())}" if item.help else str(item.value)


add_completion_class(PowerShellComplete)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    r"""Print what makes a shell complete this program.

    \b
    bash:       aluma-async completion bash > ~/.local/share/bash-completion/completions/aluma-async
    zsh:        aluma-async completion zsh > "${fpath[1]}/_aluma-async"
    fish:       aluma-async completion fish > ~/.config/fish/completions/aluma-async.fish
    powershell: aluma-async completion powershell >> $PROFILE
    """
    kind = get_completion_class(shell)
    assert kind  # noqa: S101 - of those to choose from
    command = context.find_root().command
    # Without click's look at the version of the shell: it may be another than that of whoever prints this.
    click.echo(ShellComplete.source(kind(command, {}, PROGRAM, VARIABLE)))
    return OK
