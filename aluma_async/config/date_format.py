"""Formats of dates and times, as for ``strptime``."""

from datetime import UTC, datetime

_SAMPLE = datetime(2026, 12, 31, 23, 59, 58, tzinfo=UTC)


def date_format_parts(date_format: str) -> tuple[bool, bool]:
    """Return whether a format contains a whole date, and whether it contains the hour.

    Raises ``ValueError`` if it is not valid.
    """
    parsed = datetime.strptime(_SAMPLE.strftime(date_format), date_format)  # noqa: DTZ007 - only its parts count
    return parsed.date() == _SAMPLE.date(), parsed.hour == _SAMPLE.hour
