"""Environment variables that look like settings of this program, and have no effect."""

import difflib
from collections.abc import Iterator, Mapping

import click

_PREFIX = "ALUMA_ASYNC_"
PROCESS = "ALUMA_ASYNC_PROCESS"
"""Variable that describes one of several processes to itself."""
_OTHER = frozenset({"ALUMA_ASYNC_EVENT", "ALUMA_ASYNC_TEXT", PROCESS})
"""Variables that a notification command, which may call this program, or one of several processes receives."""


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable with the prefix of the options that no option of any command has."""
    context = click.get_current_context(silent=True)
    if context is None:
        return
    known = set(_OTHER)
    commands = [(context.find_root().command, _PREFIX)]
    for command, prefix in commands:
        known |= {f"{prefix}{(parameter.name or '').upper()}" for parameter in command.params}
        if isinstance(command, click.Group):
            commands += [(sub, f"{prefix}{name.upper().replace('-', '_')}_") for name, sub in command.commands.items()]
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            yield f"environment variable {name} has no effect" + (f"; the nearest is {nearest[0]}" if nearest else "")
