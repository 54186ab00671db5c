"""Repeated log lines: the first ones are written, the others are counted."""

import io

from aluma_async import events
from aluma_async.service.log_suppression import BURST, RepeatFilter
from aluma_async.service.logs import Log
from tests.support.clock import ManualClock
from tests.support.events import sample_event


def test_log_suppresses_and_counts_repeated_lines():
    """The first lines of a kind are written, then their number; lines of another kind are written meanwhile."""
    out, clock = io.StringIO(), ManualClock()
    log = Log(out.write, now=clock)
    for _ in range(40):
        clock.now += 1
        log(sample_event(events.TaskCancelled))
    log(sample_event(events.TaskParked))
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["warning"] * BURST + ["error"]
    clock.now += 30
    log.flush_suppressed()
    assert "… 37 more like this in 69 s: task task-1 released" in out.getvalue().splitlines()[-1]
    log(sample_event(events.TaskCancelled))
    assert out.getvalue().splitlines()[-1].endswith("it is away")
    lines = len(out.getvalue().splitlines())
    log.flush_suppressed(all_windows=True)
    assert len(out.getvalue().splitlines()) == lines, "lines that were written are not counted"


def test_log_suppresses_nothing_at_level_debug():
    out = io.StringIO()
    log = Log(out.write, level="debug")
    for _ in range(40):
        log(sample_event(events.TaskCancelled))
    assert len(out.getvalue().splitlines()) == 40


def test_repeat_filter_counts_every_line_of_a_bounded_number_of_kinds():
    repeat_filter = RepeatFilter(ManualClock())
    written = sum(repeat_filter.allow(number % 1000, number) for number in range(50_000))
    suppressed = sum(lines.lines for lines in repeat_filter.expired(all_windows=True))
    assert written + suppressed == 50_000
    assert suppressed > 0
    assert not repeat_filter.expired(all_windows=True)


def test_repeat_filter_ends_a_window_when_the_clock_is_set_back():
    clock = ManualClock()
    repeat_filter = RepeatFilter(clock)
    for _ in range(BURST):
        assert repeat_filter.allow("kind", 1)
    clock.now -= 1000
    assert repeat_filter.expired() == []
    assert repeat_filter.allow("kind", 1)
