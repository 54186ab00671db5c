"""Numbers and durations for people, and text that is safe for a terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async.exceptions import DestinationUnavailable
from aluma_async.service.formatting import (
    escape_json,
    format_bytes,
    format_duration,
    sanitize,
    without_subject,
    without_task,
)


@given(st.text(), st.integers(1, 50))
def test_sanitized_text_is_printable_and_has_limited_length(text, limit):
    sanitized = sanitize(text, limit)
    assert sanitized.isprintable()
    assert len(sanitized) == min(len(text), limit)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (42.4, "42 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_duration_is_formatted_with_at_most_two_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (81_234_567, "81.2 MB"), (5e15, "5000.0 TB")]
)
def test_bytes_are_formatted_with_a_decimal_unit(count, text):
    assert format_bytes(count) == text


def test_error_is_formatted_with_its_hint():
    assert DestinationUnavailable("disk full").text == "disk full"
    assert DestinationUnavailable("disk full", hint="Make room.").text == "disk full. Make room."


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("task a1, file 0: no column", "file 0: no column"),
        ("task a1: lease expired", "lease expired"),
        ("start task a1: conflict", "start: conflict"),
        ("task a12: lease expired", "task a12: lease expired"),
        ("disk full", "disk full"),
        ("no space for task a1", "no space for task a1"),
    ],
)
def test_without_task_removes_the_id_at_the_beginning(message, expected):
    assert without_task(message, "a1") == expected


@pytest.mark.parametrize(
    ("prefix", "message", "expected"),
    [
        ("config: bad.toml", "bad.toml: [aluma] x = 3: wrong", "[aluma] x = 3: wrong"),
        ("environment: a: table t of sqlite:///b", "sqlite:///b: connecting: no table", "connecting: no table"),
        ("environment: state folder /x", "state folder /x: not writable", "not writable"),
        ("config: a.toml", "a: wrong", "a: wrong"),
        ("wiring: routes", "no destination", "no destination"),
    ],
)
def test_without_subject_removes_what_the_text_before_ends_with(prefix, message, expected):
    assert without_subject(message, prefix) == expected


@pytest.mark.parametrize("text", ["a\u202eb", "\x7f", "\x9b31m", "\u2028", "\u2066x\u2069", "é", "\U000e0001", "\x1b["])
def test_escape_json_leaves_nothing_that_controls_a_terminal(text):
    """The value is unchanged for a program that decodes it."""
    escaped = escape_json(json.dumps({"name": text}, ensure_ascii=False, indent=1))
    assert json.loads(escaped) == {"name": text}
    assert escaped.replace("\n", "").isprintable()
    assert "é" not in text or "é" in escaped
