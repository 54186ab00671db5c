"""Intervals in files: text to months, days and microseconds, of which the column keeps every part. Pure.

The database would read a bare number as seconds, round parts of months, and read signs as its settings say. Therefore
it gets a form with all signs and units.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction

from aluma_async.destinations.sql.layout import ColumnType
from aluma_async.destinations.sql.temporal import MAX_FRACTION

_PART = re.compile(
    r"\s*(?:([+-]?)([0-9]{1,9}):([0-5]?[0-9])(?::([0-5]?[0-9](?:\.[0-9]{0,30})?))?(?![0-9:.])"
    r"|([+-]?(?:[0-9]{1,18}(?:\.[0-9]{0,30})?|\.[0-9]{1,30}))\s*([A-Za-z]+))\s*"
)
"""A part of an interval: a time of day, or a number with a unit."""
_ISO_PART = re.compile(r"([+-]?[0-9]{1,18}(?:[.,][0-9]{0,30})?)([A-Z])")
_ISO_UNITS: tuple[Mapping[str, str], ...] = (
    {"Y": "year", "M": "month", "W": "week", "D": "day"},
    {"H": "hour", "M": "minute", "S": "second"},
)
"""Units before and after the letter T."""
_AGO = re.compile(r"\sago\Z", re.IGNORECASE)
_UNITS: Mapping[str, str] = {
    **dict.fromkeys(("us", "usec", "usecond", "microsecond"), "microsecond"),
    **dict.fromkeys(("ms", "msec", "msecond", "millisecond"), "millisecond"),
    **dict.fromkeys(("s", "sec", "second"), "second"),
    **dict.fromkeys(("m", "min", "minute"), "minute"),
    **dict.fromkeys(("h", "hr", "hour"), "hour"),
    **dict.fromkeys(("d", "day"), "day"),
    **dict.fromkeys(("w", "week"), "week"),
    **dict.fromkeys(("mon", "month"), "month"),
    **dict.fromkeys(("y", "yr", "year"), "year"),
    **dict.fromkeys(("dec", "decade"), "decade"),
    **dict.fromkeys(("c", "cent", "century", "centurie"), "century"),
    **dict.fromkeys(("mil", "millennium", "millennia"), "millennium"),
}
"""PostgreSQL's units of intervals, without the s of the plural."""
_MONTHS = {"month": 1, "year": 12, "decade": 120, "century": 1200, "millennium": 12000}
_DAYS = {"day": 1, "week": 7}
_SECOND = 10**6
_MICROSECONDS = {
    "microsecond": 1,
    "millisecond": 1000,
    "second": _SECOND,
    "minute": 60 * _SECOND,
    "hour": 3600 * _SECOND,
}
_DAY = 24 * 3600 * _SECOND
_MAX_COUNT, _MAX_MICROSECONDS = 2**31, 2**63


def read_interval(text: str, column: ColumnType) -> str:
    """Return an interval in the form for the database. Raises ``ValueError`` unless the column keeps all of it."""
    try:
        months, days, microseconds = _measure(text.strip())
    except (ValueError, KeyError):
        raise ValueError("is not an interval with units, such as 3 days or 01:30:00") from None
    if months % 1 or microseconds % 10 ** (MAX_FRACTION - column.fraction):
        raise ValueError("has a fraction that the column does not keep")
    if column.unit in _MONTHS:
        is_kept = not months % _MONTHS[column.unit] and not days and not microseconds
    elif column.unit in _DAYS:
        is_kept = not microseconds
    else:
        is_kept = column.unit == "second" or not microseconds % _MICROSECONDS[column.unit]
    if not is_kept:
        raise ValueError("has parts that the column does not keep")
    if max(abs(months), abs(days)) >= _MAX_COUNT or abs(microseconds) >= _MAX_MICROSECONDS:
        raise ValueError("is too big for the column")
    minutes, rest = divmod(abs(int(microseconds)), 60 * _SECOND)
    clock = f"{minutes // 60:02}:{minutes % 60:02}:{rest // _SECOND:02}.{rest % _SECOND:06}"
    return f"{int(months):+} months {int(days):+} days {'-' if microseconds < 0 else '+'}{clock}"


def _measure(text: str) -> tuple[Fraction, Fraction, Fraction]:
    """Return months, whole days and microseconds. Raises ``ValueError`` or ``KeyError`` for an unknown form."""
    ago = _AGO.search(text)
    parts = list(_iso_parts(text) if text.startswith("P") else _parts(text[: ago.start()] if ago else text))
    if not parts or max(Counter(unit for _, unit in parts).values()) > 1:
        raise ValueError
    months, days, microseconds = Fraction(), Fraction(), Fraction()
    for number, unit in parts:
        if unit in _MONTHS:
            months += number * _MONTHS[unit]
        elif unit in _DAYS:
            whole = int(number * _DAYS[unit])
            days += whole
            microseconds += (number * _DAYS[unit] - whole) * _DAY
        else:
            microseconds += number * _MICROSECONDS[unit]
    return (-months, -days, -microseconds) if ago else (months, days, microseconds)


def _parts(text: str) -> Iterator[tuple[Fraction, str]]:
    position = len(text) - len(text.lstrip("@"))
    while position < len(text):
        part = _PART.match(text, position)
        if not part:
            raise ValueError
        position = part.end()
        sign, hours, minutes, seconds, number, name = part.groups()
        if number:
            yield Fraction(number), _UNITS.get(name.lower()) or _UNITS[name.lower().removesuffix("s")]
        else:
            for value, unit in ((hours, "hour"), (minutes, "minute"), (seconds or "0", "second")):
                yield Fraction(f"{sign}{value}"), unit


def _iso_parts(text: str) -> Iterator[tuple[Fraction, str]]:
    for part, units in zip(text[1:].split("T", 1), _ISO_UNITS, strict=False):
        position = 0
        while position < len(part):
            match = _ISO_PART.match(part, position)
            if not match:
                raise ValueError
            position = match.end()
            yield Fraction(match[1].replace(",", ".")), units[match[2]]
