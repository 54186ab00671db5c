"""``GroupedCommands``: a command whose help lists its sub-commands by purpose, each with its whole summary."""

import click
from click.core import ParameterSource

from aluma_async.cli.options import SELECTION

_RELIED_ON = (*SELECTION, "processes")
"""Options that restrict or divide what is exported. Any other one may stand before each command: scripts share them."""
_STANDALONE = ("demo", "simulate")
"""Commands that use no option of a run."""


class GroupedCommands(click.Group):
    """A group of commands; ``add`` assigns each to a heading of the help."""

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)  # type: ignore[arg-type]
        self._headings: dict[str, str] = {}

    def add(self, heading: str, *commands: click.Command) -> None:
        """Add commands below a heading."""
        for command in commands:
            self.add_command(command)
            self._headings[command.name or ""] = heading

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the sub-commands, in the order in which they were added."""
        width = max(map(len, self.commands), default=0)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            heading = self._headings.get(name, "Other commands")
            sections.setdefault(heading, []).append((name.ljust(width), command.get_short_help_str(formatter.width)))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


def reject_misplaced_options(context: click.Context) -> None:
    """Refuse options before the name of a command on which they have no effect, if whoever writes one relies on it."""
    name = context.invoked_subcommand or ""
    assert isinstance(context.command, click.Group)  # noqa: S101 - only groups have sub-commands
    own = _parameters(context.command.commands[name])
    for given in context.params:
        if context.get_parameter_source(given) is not ParameterSource.COMMANDLINE:
            continue
        if name in _STANDALONE and given != "verbose":
            raise click.UsageError(f"put the options of {name} after its name", context)
        if given in _RELIED_ON and given not in own:
            raise click.UsageError(f"--{given.replace('_', '-')} has no effect on {name}", context)


def _parameters(command: click.Command) -> frozenset[str]:
    """Return the names of the options of a command and of its sub-commands."""
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    own = {option.name or "" for option in command.params if isinstance(option, click.Option)}
    return frozenset(own).union(*map(_parameters, inner))
