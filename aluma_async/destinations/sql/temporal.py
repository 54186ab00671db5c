"""Dates and times in files: text to values of which the column keeps every part and digit. Pure."""

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from time import strptime
from typing import Any

from aluma_async.config.date_format import date_format_parts, has_day_of_week
from aluma_async.destinations.sql.layout import ColumnType, Kind

MAX_FRACTION = 6
"""Digits after the decimal sign of seconds that Python and PostgreSQL keep."""
_TIME = r"([0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?|[0-9]{4}|[0-9]{6})(Z|[+-][0-9]{2}(:?[0-9]{2}){0,2})?"
_ISO_TIME = re.compile(_TIME.replace("|[0-9]{4}|[0-9]{6}", ""))
_ISO_TIMESTAMP = re.compile(rf"[0-9W-]{{8,10}}([T ]{_TIME})?")
"""Python also reads an hour with a fraction, such as 12,5, which is a number."""
_WEEK_WITHOUT_DAY = re.compile(r"[0-9]{4}-?W[0-9]{2}(?![-0-9])")
_TOKEN = re.compile(r"%.|[^%]+", re.DOTALL)
_WIDTHS = {"%Y": 4, "%G": 4, "%j": 3, "%f": 6, "%u": 1, "%w": 1, **{f"%{name}": 2 for name in "dmyHIMSUWV"}}
"""Numbers in a format of dates -> their digits."""
_FRACTION = re.compile(r"[.,]([0-9]+)")
_MIDNIGHT = time()


def temporal(column: ColumnType, date_format: str) -> Callable[[Any], Any]:
    """Return the converter for dates, times, or both; ``date_format`` is used if the column keeps its parts."""
    type_name, parse, pick = _KINDS[column.kind]
    if date_format and not date_format_parts(date_format)[column.kind == "time"]:
        date_format = ""  # such as a time in a file whose format is one of dates
    read = _formatted(column, date_format, pick) if date_format else _iso(column, parse)

    def convert(cell: Any) -> Any:
        text = str(cell).strip()
        try:
            if not text.isascii() and any(char.isdigit() and not char.isascii() for char in text):
                raise ValueError
            return read(text)
        except _WouldChange as error:
            raise ValueError(str(error)) from None
        except ValueError:
            raise ValueError(f"is not a {type_name} ({date_format or 'ISO 8601'})") from None

    return convert


class _WouldChange(ValueError):
    """The column would not keep a part of a value."""


def _formatted(column: ColumnType, date_format: str, pick: Callable[[datetime], Any]) -> Callable[[str], Any]:
    is_date, unit = column.kind == "date", 10 ** (MAX_FRACTION - column.fraction)
    checks_week, has_all_digits = has_day_of_week(date_format), _all_digits(date_format).fullmatch

    def read(text: str) -> Any:
        # Without a time zone, unless the format contains one.
        moment = datetime.strptime(text, date_format)  # noqa: DTZ007
        if not has_all_digits(text):
            raise ValueError
        if checks_week and strptime(text, date_format).tm_wday != moment.weekday():
            raise _WouldChange("has a day of the week that contradicts the date")
        if is_date and moment.time() != _MIDNIGHT:
            raise _WouldChange("has a time of day, which the column does not keep")
        _check(column, moment.tzinfo is not None, column.fraction + bool(moment.microsecond % unit))
        return pick(moment)

    return read


def _all_digits(date_format: str) -> re.Pattern[str]:
    """Return a pattern for texts in which adjacent numbers have all their digits.

    ``strptime`` guesses where 2026111 is divided (``%Y%m%d``): 1 November or 11 January.
    """
    parts = ["", *_TOKEN.findall(date_format), ""]
    pattern = ""
    for before, part, after in zip(parts, parts[1:], parts[2:], strict=False):
        if part not in _WIDTHS and part[0] != "%":
            pattern += re.sub(r"(\\?\s)+", r"\\s+", re.escape(part))
        elif part in _WIDTHS and (before in _WIDTHS or after in _WIDTHS):
            is_fraction = part == "%f" and after not in _WIDTHS
            pattern += f"[0-9]{{{1 if is_fraction else _WIDTHS[part]},{_WIDTHS[part]}}}"
        else:
            pattern += ".*"
    return re.compile(pattern, re.DOTALL | re.IGNORECASE)


def _iso(column: ColumnType, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    if column.kind == "date":
        return lambda text: parse(_with_day(text))

    def read(text: str) -> Any:
        value = parse(_with_day(text))
        fraction = _FRACTION.search(text)
        _check(column, value.tzinfo is not None, len(fraction[1].rstrip("0")) if fraction else 0)
        return value

    return read


def _with_day(text: str) -> str:
    """Return the text. Raises ``ValueError`` if it is a week without a day, for which Python takes the Monday."""
    if _WEEK_WITHOUT_DAY.match(text):
        raise ValueError
    return text


def _check(column: ColumnType, has_zone: bool, digits: int) -> None:
    if has_zone and column.drops_zone:
        raise _WouldChange("has a time zone, which the column does not keep")
    if column.needs_zone and not has_zone:
        raise _WouldChange("has no time zone, which the column needs")
    if digits > column.fraction:
        raise _WouldChange(f"has more than {column.fraction} digits after the decimal separator of the seconds")


def _parse_timestamp(text: str) -> datetime:
    if not _ISO_TIMESTAMP.fullmatch(text):
        raise ValueError
    return datetime.fromisoformat(text)


def _parse_time(text: str) -> time:
    if not _ISO_TIME.fullmatch(text):
        raise ValueError
    return time.fromisoformat(text)


_KINDS: Mapping[Kind, tuple[str, Callable[[str], Any], Callable[[datetime], Any]]] = {
    "date": ("date", date.fromisoformat, datetime.date),
    "timestamp": ("date and time", _parse_timestamp, lambda moment: moment),
    "time": ("time", _parse_time, datetime.timetz),
}
"""By kind: its name in messages, the function that reads ISO 8601, and the part of a moment."""
