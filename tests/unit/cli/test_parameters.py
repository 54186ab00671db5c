import click
import pytest

from aluma_async.cli.parameters import duration, moment
from aluma_async.clock import system_clock


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30min", 1800), ("30 min", 1800), ("1.5h", 5400), ("3d", 259_200)],
)
def test_duration_is_a_number_with_a_unit(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1h", "1w", "1h 30min", "h"])
def test_duration_refuses_other_texts(text):
    with pytest.raises(click.BadParameter, match="is not a duration such as"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1970-01-02", 86400), ("1970-01-01T01:00", 3600), ("1970-01-01T01:00+01:00", 0)],
)
def test_moment_is_a_date_in_utc_by_default(text, seconds):
    assert moment(text) == seconds


def test_moment_is_a_duration_before_now():
    assert moment("2h") == pytest.approx(system_clock().wall - 7200, abs=5)
    with pytest.raises(click.BadParameter):
        moment("tomorrow")
