"""Formats of dates and times, as for ``strptime``."""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

_SAMPLE = datetime(2026, 12, 31, 23, 59, 58, tzinfo=UTC)
_DIRECTIVE = re.compile(r"%(.)", re.DOTALL)
_DATE = ("year", "month", "day", "day of the week")
_CLOCK = ("hour", "minute", "second")
_PARTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys("yYG", ("year",)),
    **dict.fromkeys("mbB", ("month",)),
    "d": ("day",),
    **dict.fromkeys("jUWV", ("month", "day")),
    **dict.fromkeys("aAuw", ("day of the week",)),
    **dict.fromkeys("HI", ("hour",)),
    "M": ("minute",),
    "S": ("second",),
    "x": _DATE[:3],
    "X": _CLOCK,
    "c": _DATE + _CLOCK,
}
"""The parts of a date or time that a directive contains."""


def date_format_parts(date_format: str) -> tuple[bool, bool]:
    """Return whether a format contains a whole date, and whether it contains the hour and no part of a date.

    Raises ``ValueError`` if it is not valid.
    """
    parsed = datetime.strptime(_SAMPLE.strftime(date_format), date_format)  # noqa: DTZ007 - only its parts count
    has_date = any(part in _DATE for part in _parts(date_format))
    return parsed.date() == _SAMPLE.date(), parsed.hour == _SAMPLE.hour and not has_date


def has_day_of_week(date_format: str) -> bool:
    """Return whether a format contains the day of the week."""
    return _DATE[3] in _parts(date_format)


def date_format_problem(date_format: str) -> str:
    """Return why a format does not determine a date or a time, or drops a part of it; empty if it is suitable."""
    directives = _DIRECTIVE.findall(date_format)
    if "Z" in directives:
        return "%Z reads the name of a time zone and drops it"
    if ("p" in directives) != ("I" in directives):
        return "an hour from 1 to 12 needs both %I and %p"
    for part, count in _parts(date_format).items():
        if count > 1:
            return f"it contains the {part} twice"
    try:
        has_parts = any(date_format_parts(date_format))
    except (ValueError, re.error):
        has_parts = False
    return "" if has_parts else "neither a whole date nor a time"


def _parts(date_format: str) -> Mapping[str, int]:
    """Return how often a format contains each part."""
    return Counter(part for name in _DIRECTIVE.findall(date_format) for part in _PARTS.get(name, ()))
