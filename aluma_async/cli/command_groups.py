"""``GroupedCommands``: a command whose help lists its sub-commands by purpose, each with its whole summary."""

from collections.abc import Mapping

import click
from click.core import ParameterSource

_EVERYWHERE = frozenset({"verbose", "log_format"})
"""Options that apply to the errors of every command."""
_REQUESTS = frozenset({"max_at_once", "max_per_second"})
_EFFECTIVE: Mapping[str, frozenset[str]] = {
    "list": _REQUESTS,
    "cancel": _REQUESTS,
    "fail": _REQUESTS | {"workers", "claim_timeout", "drain_timeout"},
    "redeliver": frozenset({"drain_timeout"}),
    "systemd": frozenset({"output", "state", "drain_timeout"}),
}
"""Command -> options of a run that have an effect on it, although they are rarely needed and not in its help."""
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
    """Refuse options before the name of a command on which they have no effect: whoever writes one relies on it."""
    name = context.invoked_subcommand or ""
    assert isinstance(context.command, click.Group)  # noqa: S101 - only groups have sub-commands
    effective = _EVERYWHERE | _parameters(context.command.commands[name]) | _EFFECTIVE.get(name, frozenset())
    for given in context.params:
        if context.get_parameter_source(given) is not ParameterSource.COMMANDLINE:
            continue
        if name in _STANDALONE and given != "verbose":
            raise click.UsageError(f"put the options of {name} after its name", context)
        if given not in effective:
            raise click.UsageError(f"--{given.replace('_', '-')} has no effect on {name}", context)


def _parameters(command: click.Command) -> frozenset[str]:
    """Return the names of the options of a command and of its sub-commands."""
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    own = {option.name or "" for option in command.params if isinstance(option, click.Option)}
    return frozenset(own).union(*map(_parameters, inner))
