"""Types of click parameters: durations (``90s``) and moments (``2h`` ago, or a date)."""

import re
from datetime import UTC, datetime

import click

from aluma_async.clock import system_clock

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """Return seconds for a number with its unit: ``90s``, ``30min``, ``2h``, ``3d``; without a unit: seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h|d)?", text)
    if not match:
        raise click.BadParameter(f"{text!r} is not a duration such as 90s, 30min, 2h or 3d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def moment(text: str) -> float:
    """Return seconds since the epoch for a duration before now, or for a date with or without a time (default: UTC)."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return system_clock().wall - duration(text)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
