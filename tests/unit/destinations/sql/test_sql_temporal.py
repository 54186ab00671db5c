"""Dates, times and intervals: the column keeps every part and digit, or the value does not fit."""

from datetime import date, time
from decimal import Decimal

import pytest

from aluma_async.destinations.sql.convert import FileFormat, converter
from aluma_async.destinations.sql.layout import Column, ColumnType


def convert(kind, cell, *, file_format=None, **options):
    """Convert one cell for a column of this kind."""
    column = Column(name="x", declared=kind, type=ColumnType(kind=kind, **options))
    return converter(column, file_format or FileFormat(), required=False, from_json=False)(cell)


@pytest.mark.parametrize("cell", ["2026-12-31T23:59:58+02:00", "2026-12-31T23:59:58Z"])
def test_time_zone_is_not_dropped(cell):
    with pytest.raises(ValueError, match="has a time zone, which the column does not keep"):
        convert("timestamp", cell, drops_zone=True)
    assert convert("timestamp", cell).tzinfo is not None


def test_date_format_applies_to_columns_whose_parts_it_contains():
    """With a format of dates, a date in a column of times does not become midnight."""
    dates, times = FileFormat(date_format="%d.%m.%Y"), FileFormat(date_format="%H.%M")
    assert convert("date", "31.12.2026", file_format=dates) == date(2026, 12, 31)
    assert convert("time", "12:34", file_format=dates) == time(12, 34)
    assert convert("time", "12.34", file_format=times) == time(12, 34)
    assert convert("date", "2026-12-31", file_format=times) == date(2026, 12, 31)
    for kind, cell, file_format in (("time", "31.12.2026", dates), ("timestamp", "12.34", times)):
        with pytest.raises(ValueError, match="is not a"):
            convert(kind, cell, file_format=file_format)


@pytest.mark.parametrize(
    "cell", ["12,5", "12.5", "12", "1234", "2147483648", 12, Decimal("12.5"), "24:00", "12:34:56,", "T12"]
)
def test_number_is_not_a_time(cell):
    """Python reads 12,5 as half a second after twelve."""
    with pytest.raises(ValueError, match="is not a time"):
        convert("time", cell)


@pytest.mark.parametrize(
    "cell", ["2026-12-31T12,5", "2026-12-31 12.5", "2026-12-31T12", "12:34", "20261231235958", "1.5"]
)
def test_date_with_a_number_is_not_a_time(cell):
    with pytest.raises(ValueError, match="is not a date and time"):
        convert("timestamp", cell)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("2026-12-31", "2026-12-31 00:00:00"),
        ("2026-12-31T23:59", "2026-12-31 23:59:00"),
        ("2026-12-31 23:59:58.5", "2026-12-31 23:59:58.500000"),
        ("2026-12-31T23:59:58,1234560Z", "2026-12-31 23:59:58.123456+00:00"),
        ("2026-12-31T23:59:58+0130", "2026-12-31 23:59:58+01:30"),
        ("20261231T235958", "2026-12-31 23:59:58"),
        ("20261231", "2026-12-31 00:00:00"),
        ("2026-W53-4", "2026-12-31 00:00:00"),
    ],
)
def test_iso_time_is_read(cell, text):
    assert str(convert("timestamp", cell)) == text


@pytest.mark.parametrize("cell", ["٣١.12.2026", "\uff131.12.2026"])
def test_digits_of_dates_are_ascii(cell):
    with pytest.raises(ValueError, match="is not a date"):
        convert("date", cell, file_format=FileFormat(date_format="%d.%m.%Y"))


@pytest.mark.parametrize(
    ("kind", "cell", "fraction"),
    [
        ("timestamp", "2026-12-31T23:59:59.7", 0),
        ("timestamp", "2026-12-31T23:59:59.123", 2),
        ("timestamp", "2026-12-31T23:59:59.1234567", 6),
        ("timestamp", "2026-12-31T23:59:59,9999999Z", 6),
        ("time", "12:30:00.6", 0),
        ("time", "12:30:00.123456789", 6),
    ],
)
def test_fraction_of_a_second_is_not_rounded(kind, cell, fraction):
    with pytest.raises(ValueError, match=f"has more than {fraction} digits after the decimal separator of the seconds"):
        convert(kind, cell, fraction=fraction)


def test_fraction_of_a_second_that_ends_with_zeros_is_kept():
    assert convert("time", "12:30:00.500000000", fraction=1) == time(12, 30, 0, 500_000)
    assert str(convert("timestamp", "2026-12-31T23:59:59.000", fraction=0)) == "2026-12-31 23:59:59"


def test_fraction_of_a_second_is_not_rounded_whatever_the_format():
    file_format = FileFormat(date_format="%d.%m.%Y %H:%M:%S.%f")
    assert convert("timestamp", "31.12.2026 23:59:58.5", file_format=file_format, fraction=1).microsecond == 500_000
    with pytest.raises(ValueError, match="has more than 1 digits"):
        convert("timestamp", "31.12.2026 23:59:58.55", file_format=file_format, fraction=1)


@pytest.mark.parametrize(
    ("kind", "cell", "date_format", "message"),
    [
        ("date", "31.12.2026 23:59", "%d.%m.%Y %H:%M", "has a time of day"),
        ("date", "31.12.2026 00:00 -0500", "%d.%m.%Y %H:%M %z", "has a time zone"),
        ("time", "31.12.2026 23:59", "%d.%m.%Y %H:%M", r"is not a time \(ISO 8601\)"),
        ("timestamp", "31.12.2026 23:59 -0500", "%d.%m.%Y %H:%M %z", "has a time zone"),
        ("date", "Mon 31.12.2026", "%a %d.%m.%Y", "has a day of the week that contradicts the date"),
    ],
)
def test_part_of_a_format_is_not_dropped(kind, cell, date_format, message):
    with pytest.raises(ValueError, match=message):
        convert(kind, cell, file_format=FileFormat(date_format=date_format), drops_zone=True)


def test_part_of_a_format_that_says_nothing_new_is_accepted():
    midnight, weekday = FileFormat(date_format="%d.%m.%Y %H:%M"), FileFormat(date_format="%a %d.%m.%Y")
    assert convert("date", "31.12.2026 00:00", file_format=midnight) == date(2026, 12, 31)
    assert convert("date", "Thu 31.12.2026", file_format=weekday) == date(2026, 12, 31)


@pytest.mark.parametrize(
    ("cell", "sent"),
    [
        ("3 days", "+0 months +3 days +00:00:00.000000"),
        ("1 year 2 mons", "+14 months +0 days +00:00:00.000000"),
        ("01:30", "+0 months +0 days +01:30:00.000000"),
        ("-01:30:00.5", "+0 months +0 days -01:30:00.500000"),
        ("P1Y2M3DT4H5M6.5S", "+14 months +3 days +04:05:06.500000"),
        ("P2WT-1,5H", "+0 months +14 days -01:30:00.000000"),
        ("-1 day 02:00", "+0 months -1 days +02:00:00.000000"),
        ("1.5 days", "+0 months +1 days +12:00:00.000000"),
        ("-1.5 days", "+0 months -1 days -12:00:00.000000"),
        ("1.5 years", "+18 months +0 days +00:00:00.000000"),
        ("@ 1 day 2 hours ago", "+0 months -1 days -02:00:00.000000"),
        ("250ms", "+0 months +0 days +00:00:00.250000"),
        ("1day", "+0 months +1 days +00:00:00.000000"),
        ("-5 H", "+0 months +0 days -05:00:00.000000"),
    ],
)
def test_interval_is_sent_with_all_signs_and_units(cell, sent):
    assert convert("interval", cell) == sent


@pytest.mark.parametrize(
    "cell",
    [
        *(5, "5", "1.5", "1,5", "-5", "\\.", "35-,+96", "day", "P", "PT", "ago", "@", "1-2", "1 day 5", "P1H", "P1"),
        *("infinity", "1 parsec", "1 day 2 days", "1 h 01:00", "1:75:00", "1:00:00:00", "1:2.5", "1,5 h", "-P1D"),
        *("1 - 2 days", "\uff11 day"),
    ],
)
def test_interval_in_an_unknown_form_does_not_fit(cell):
    """PostgreSQL reads 1.5 as seconds, whatever the decimal sign, and a backslash with a dot as nothing."""
    with pytest.raises(ValueError, match="is not an interval with units"):
        convert("interval", cell)


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("1.5 months", {}, "has a fraction"),
        ("0.0000001 seconds", {}, "has a fraction"),
        ("PT0.1234567S", {}, "has a fraction"),
        ("00:00:00.1234567", {}, "has a fraction"),
        ("01:30:00.6", {"fraction": 0}, "has a fraction"),
        ("1 year 11 months", {"unit": "year"}, "has parts"),
        ("1 year 1 day", {"unit": "month"}, "has parts"),
        ("3 days 23:00:00", {"unit": "day"}, "has parts"),
        ("01:30", {"unit": "hour"}, "has parts"),
        ("01:30:01", {"unit": "minute"}, "has parts"),
        ("9999999999 days", {}, "is too big"),
        ("999999999999999999 hours", {}, "is too big"),
    ],
)
def test_interval_of_which_the_column_drops_a_part_does_not_fit(cell, options, message):
    with pytest.raises(ValueError, match=message):
        convert("interval", cell, **options)


def test_interval_without_the_parts_that_the_column_drops_is_kept():
    for cell, unit in (("24 months", "year"), ("1 month", "month"), ("3 days", "day"), ("120 min", "hour")):
        assert convert("interval", cell, unit=unit)


@pytest.mark.parametrize(
    ("kind", "date_format", "cell"),
    [
        ("date", "%Y%m%d", "2026111"),
        ("date", "%Y%m%d", "202611"),
        ("timestamp", "%d.%m.%Y %H%M", "31.12.2026 123"),
        ("date", "", "2026-W05"),
        ("date", "", "2026W05"),
        ("timestamp", "", "2026-W05T10:00"),
    ],
)
def test_date_is_not_guessed(kind, date_format, cell):
    """2026111 may be 1 November or 11 January; a week without a day is no date."""
    with pytest.raises(ValueError, match="is not a date"):
        convert(kind, cell, file_format=FileFormat(date_format=date_format))


@pytest.mark.parametrize(
    ("date_format", "cell"),
    [("%Y%m%d", "20261101"), ("%d.%m.%Y", "1.11.2026"), ("%d%b%y", "1Nov26"), ("", "2026-W44-7"), ("", "2026W447")],
)
def test_date_that_is_certain_is_read(date_format, cell):
    assert convert("date", cell, file_format=FileFormat(date_format=date_format)) == date(2026, 11, 1)


@pytest.mark.parametrize(
    ("date_format", "cell"),
    [
        ("%Y%m%dT%H%M%S%z", "20261101T103000Z"),
        ("%Y%m%dT%H%M%S%z", "20261101t103000+01:00"),
        ("%Y%m%dT%H%M%S.%f", "20261101T103000.123"),
        ("%Y%m%d %H:%M", "20261101  9:05"),
        ("%Y%m%d%H%M%S%f", "20261101103000123"),
        ("%%%d.%m.%Y %H%M", "%1.11.2026 1030"),
    ],
)
def test_adjacent_numbers_alone_need_all_digits(date_format, cell):
    moment = convert("timestamp", cell, file_format=FileFormat(date_format=date_format), fraction=6)
    assert moment.date() == date(2026, 11, 1)
