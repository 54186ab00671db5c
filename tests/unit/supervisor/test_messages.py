"""Messages between the parent and its processes can be encoded, whatever the texts in them."""

import msgspec
import pytest

from aluma_async.models import Summary
from aluma_async.service.health import Check
from aluma_async.service.stats import RunStats, UnexportedTask
from aluma_async.supervisor.messages import decode, encode, end_of, report_of

TEXT = "name \udcff.pdf"
"""A text with a part of a file name that is not UTF-8."""


class _Health:
    def stuck_reason(self):
        return TEXT

    def readiness(self):
        return {"token": Check(ok=False, reason=TEXT)}


def test_report_replaces_what_is_not_unicode():
    """An error while encoding would end the process."""
    stats = RunStats()
    stats.paused = stats.listing_error = ValueError(TEXT)
    report = decode(encode(report_of(stats, _Health(), 0)))
    assert {report.paused, report.error, report.stuck, report.checks["token"].reason} == {"name ?.pdf"}


def test_end_replaces_what_is_not_unicode():
    stats = RunStats()
    stats.unexported["a\udcff"] = UnexportedTask("failed", "E", TEXT)
    end = decode(encode(end_of(stats)))
    assert end.unexported == {"a?": UnexportedTask("failed", "E", "name ?.pdf")}


@pytest.mark.parametrize("text", ["", "Rechnung äöü 漢字 😀", "two\nlines"])
def test_end_keeps_other_texts(text):
    stats = RunStats()
    stats.unexported["a"] = UnexportedTask("failed", "E", text)
    stats.summary = Summary(exported=2)
    assert msgspec.to_builtins(decode(encode(end_of(stats)))) == msgspec.to_builtins(end_of(stats))
    assert end_of(stats).unexported["a"].message == text
