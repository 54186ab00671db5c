"""Errors in one or two lines."""

from aluma_async.cli.exit_codes import error_lines
from aluma_async.exceptions import ConfigError, DestinationError


def test_error_lines_omit_a_hint_to_run_the_present_command():
    """A hint that leads to the same error is useless."""
    error = DestinationError("disk full")
    assert list(error_lines(error)) == ["disk full", "Run 'aluma-async check' to check each destination."]
    assert list(error_lines(error, "check")) == ["disk full"]


def test_error_lines_suggest_no_command_that_has_the_same_error():
    _, hint = error_lines(ConfigError("x"))
    assert "config show" not in hint
    assert "check" not in hint
