"""``Color``: whether colours and styles are used on a terminal."""

from typing import Any, Literal, TypeAlias

Color: TypeAlias = Literal["auto", "always", "never"]
"""``auto``: on a terminal that has colours, unless the environment variable ``NO_COLOR`` is set."""


def rich_options(color: Color) -> dict[str, Any]:
    """Return the arguments of ``rich.console.Console`` for a choice."""
    match color:
        case "always":
            return {"color_system": "256", "no_color": False}
        case "never":
            return {"color_system": None}
    return {}
