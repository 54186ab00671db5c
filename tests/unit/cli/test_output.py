"""Lines that fit into a terminal."""

import pytest

from aluma_async.cli.output import wrap_parts


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (None, ["  one  two  three"]),
        (17, ["  one  two  three"]),
        (16, ["  one  two", "    three"]),
        (3, ["  one", "    two", "    three"]),
    ],
)
def test_wrap_parts_breaks_only_between_parts(columns, lines):
    assert list(wrap_parts("  ", ["one", "", "two", "three"], columns)) == lines


def test_wrap_parts_yields_nothing_for_no_parts():
    assert list(wrap_parts("  ", [], 80)) == []
