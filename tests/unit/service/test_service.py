"""What an operator sees: logs, counts, the panel; made of events, and never of content."""

import io
import json
import os
import threading

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from rich.console import Console as RichConsole

from aluma_async import events
from aluma_async.config import ServiceConfig
from aluma_async.exceptions import Unavailable
from aluma_async.models import ExportTask, Summary
from aluma_async.service import journald
from aluma_async.service.console import Console, choose_mode
from aluma_async.service.formatting import format_bytes, format_duration, sanitize
from aluma_async.service.live_display import LiveDisplay, PanelRenderer
from aluma_async.service.log_suppression import BURST, RepeatFilter
from aluma_async.service.logs import LEVELS, MESSAGES, Log
from aluma_async.service.stats import MAX_UNEXPORTED_TASKS, RunStats
from aluma_async.service.summary import progress_line, summary_lines, time_left
from aluma_async.testing import run_virtual
from tests.support.clock import ManualClock
from tests.support.events import CONTENT, FILE, NAME, TASK, event_types, sample_event


def logged(*happened, log_format="text", level="info"):
    out = io.StringIO()
    log = Log(out.write, format=log_format, level=level, now=lambda: 0.0)
    for event in happened:
        log(event)
    return out.getvalue()


# -- logs


@pytest.mark.parametrize("kind", event_types())
def test_every_event_has_its_line_but_those_that_come_with_each_mib(kind):
    text = logged(sample_event(kind), level="debug")
    assert text.count("\n") == (kind is not events.BytesReceived)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_content_is_ever_logged_and_names_only_at_debug(form):
    everything = [sample_event(kind) for kind in event_types()]
    for level in LEVELS:
        text = logged(*everything, log_format=form, level=level)
        assert CONTENT not in text
        assert (NAME in text) == (level == "debug")


def test_a_level_leaves_out_what_is_less_grave():
    everything = [sample_event(kind) for kind in event_types()]
    for level in LEVELS:
        said = {json.loads(line)["level"] for line in logged(*everything, log_format="json", level=level).splitlines()}
        assert said == set(LEVELS[LEVELS.index(level) :])


def test_a_line_of_json_holds_the_fields_of_its_event():
    line = json.loads(logged(sample_event(events.TaskCancelled, retry_in=2.5), log_format="json"))
    assert line == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "warning",
        "event": "TaskCancelled",
        "message": "task task-1 released, next attempt in 2.5 s: it is away",
        "task": "task-1",
        "error": "it is away",
        "error_type": "Unavailable",
        "failures": 1,
        "retry_in_seconds": 2.5,
    }


def test_the_type_of_an_error_is_always_one_of_ours():
    """Whoever counts by it must not have to expect what a plug-in thought of."""

    class Sudden(Unavailable):
        pass

    line = json.loads(logged(sample_event(events.ListingFailed, error=Sudden("away")), log_format="json"))
    assert line["error_type"] == "Unavailable"
    odd = structs.replace(sample_event(events.TaskParked).hold, error="Sudden")
    assert json.loads(logged(events.TaskParked(TASK, odd), log_format="json"))["error_type"] == "AlumaAsyncError"


def test_what_repeats_itself_is_folded_and_counted():
    """The first few of a kind are told, then how many more; another kind is told meanwhile."""
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
    assert len(out.getvalue().splitlines()) == lines, "what was told needs no count"


def test_folding_loses_none_of_any_course_of_lines_and_remembers_few_kinds():
    clock = ManualClock()
    repeat_filter = RepeatFilter(clock)
    told = sum(repeat_filter.allow(number % 1000, number) for number in range(50_000))
    folded = sum(one.lines for one in repeat_filter.expired(all_windows=True))
    assert told + folded == 50_000
    assert folded > 0
    assert not repeat_filter.expired(all_windows=True)
    repeat_filter.allow("kind", 1)
    clock.now -= 1000  # somebody set the clock
    assert repeat_filter.expired() == []
    assert repeat_filter.allow("kind", 1)


def test_at_debug_nothing_is_folded():
    assert len(logged(*[sample_event(events.TaskCancelled)] * 40, level="debug").splitlines()) == 40


def test_the_journal_is_told_priorities_and_no_time(tmp_path):
    """It is known by device and inode, as systemd tells them, and not by the variable alone."""
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        there = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert journald.is_journal(stream.fileno(), there)
        assert not journald.is_journal(stream.fileno(), {})
        assert not journald.is_journal(stream.fileno(), {"JOURNAL_STREAM": "1:1"})
    out = io.StringIO()
    for form in ("text", "json"):
        log = Log(out.write, format=form, level="debug", journald=True, now=lambda: 0.0)
        for kind in (events.TaskStarted, events.ClaimingResumed, events.TaskParked):
            log(sample_event(kind))
    assert [line[:3] for line in out.getvalue().splitlines()] == ["<7>", "<4>", "<3>"] * 2
    assert out.getvalue().startswith("<7>task task-1 claimed")


@given(st.text())
def test_no_text_from_outside_forges_a_line_or_steers_the_terminal(text):
    said = logged(sample_event(events.ListingFailed, error=Unavailable(text)))
    assert said.endswith("\n")
    assert said[:-1].isprintable()


def test_messages_use_only_levels_that_there_are():
    assert {level for level, _ in MESSAGES.values()} == set(LEVELS)


# -- words


@given(st.text(), st.integers(1, 50))
def test_printable_text_is_printable_and_short(text, limit):
    shown = sanitize(text, limit)
    assert shown.isprintable()
    assert len(shown) == min(len(text), limit)


@pytest.mark.parametrize(
    ("seconds", "shown"),
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
def test_durations_have_at_most_two_units(seconds, shown):
    assert format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (81_234_567, "81.2 MB"), (5e15, "5000.0 TB")]
)
def test_sizes_have_decimal_units(count, shown):
    assert format_bytes(count) == shown


# -- counts


def stats_after(*happened, clock=None):
    stats = RunStats(clock or ManualClock())
    for event in happened:
        stats(event)
    return stats


LISTED = events.TasksListed(10, 8, 2, None)


def test_a_task_counts_from_its_listing_to_its_end():
    stats = stats_after(LISTED, sample_event(events.TaskStarted), events.BytesReceived(TASK, FILE, 500))
    assert (stats.total, stats.pending, stats.exported, stats.cooling) == (8, 8, 0, 2)
    assert [(task.task.name, task.bytes, stats.age(task)) for task in stats.active.values()] == [(NAME, 500, 0.0)]
    stats(events.TaskCompleted(TASK, 3, 700, 1.0))
    assert (stats.total, stats.pending, stats.exported, stats.files, stats.bytes) == (8, 7, 1, 3, 700)
    assert (stats.received, stats.active) == (500, {})


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        (events.TaskCancelled, {"cooling": 3}),
        (events.TaskFailed, {"failed": 1}),
        (events.ClaimLost, {"lost": 1}),
        (events.ClaimRefused, {"lost": 1}),
    ],
)
def test_a_task_that_ends_otherwise_waits_no_more(kind, counts):
    stats = stats_after(LISTED, sample_event(events.TaskStarted), sample_event(kind))
    assert (stats.pending, stats.active, stats.exported) == (7, {}, 0)
    assert {name: getattr(stats, name) for name in counts} == counts


def test_a_task_that_is_given_back_since_the_run_ends_waits_all_the_same():
    stats = stats_after(
        LISTED, sample_event(events.TaskStarted), sample_event(events.DrainStarted), sample_event(events.TaskReleased)
    )
    assert (stats.pending, stats.active, stats.draining) == (8, {}, True)


@given(st.lists(st.sampled_from(event_types())))
def test_no_course_of_events_brings_the_counts_below_nothing(course):
    stats = stats_after(*map(sample_event, course))
    assert min(stats.pending, stats.total, stats.cooling) >= 0
    assert stats.total >= stats.exported == course.count(events.TaskCompleted)
    assert progress_line(stats, stats.rates())


def test_a_listing_that_finds_nothing_new_ends_the_waiting():
    """A listing may name a task twice, and then fewer are settled than were listed."""
    stats = stats_after(LISTED, events.TasksListed(0, 0, 0, None))
    assert stats.pending == 0


def test_rates_are_those_of_the_last_seconds_and_tell_the_time_left():
    clock = ManualClock()
    stats = stats_after(events.TasksListed(400, 400, 0, None), clock=clock)
    for _ in range(30):
        clock.now += 1
        for _ in range(5):
            stats(sample_event(events.TaskCompleted))
            stats(sample_event(events.BytesReceived, count=100))
        rates = stats.rates()
    assert (round(rates.tasks, 6), round(rates.bytes, 6)) == (5, 500)
    assert time_left(stats, rates) == pytest.approx(50)
    clock.now += 20
    stats.rates()
    clock.now += 20
    assert stats.rates() == (0, 0)
    assert time_left(stats, stats.rates()) is None


def test_a_pause_counts_down():
    clock = ManualClock()
    stats = stats_after(sample_event(events.RequestsPaused, seconds=30), clock=clock)
    clock.now = 10
    assert stats.requests_paused_seconds == 20
    assert "requests paused for 20 s" in progress_line(stats, stats.rates())
    clock.now = 40
    assert "requests paused" not in progress_line(stats, stats.rates())


def test_a_pause_is_told_with_its_reason_until_it_is_over():
    stats = stats_after(sample_event(events.ClaimingPaused))
    assert "claiming paused: it is away" in progress_line(stats, stats.rates())
    assert "claiming paused" in rendered(stats)
    stats(sample_event(events.ClaimingResumed))
    assert "claiming paused" not in progress_line(stats, stats.rates())


# -- the panel, the lines and the end


@pytest.mark.parametrize(
    ("level", "form", "progress", "terminal", "mode"),
    [
        ("info", "text", None, True, "live"),
        ("info", "text", None, False, "lines"),
        ("info", "json", None, True, "lines"),
        ("debug", "text", None, True, "live"),
        ("warning", "text", None, True, "none"),
        ("warning", "text", True, True, "live"),
        ("info", "text", False, True, "none"),
    ],
)
def test_how_progress_is_shown(level, form, progress, terminal, mode):
    service = ServiceConfig(log_level=level, log_format=form)
    assert choose_mode(service, progress=progress, terminal=terminal) == mode


def rendered(stats, width=80, height=30, renderer=None, **options):
    console = RichConsole(file=io.StringIO(), width=width, height=height, force_terminal=True, **options)
    console.print((renderer or PanelRenderer(stats, lambda: 0.0)).render(width, height))
    return console.file.getvalue()


def busy(tasks=12, **task):
    """A tally with everything in it."""
    stats = stats_after(events.TasksListed(50, 50, 2, -90_000.0))
    for number in range(tasks):
        hands = ExportTask(f"busy-{number}", **{"name": f"{number}.pdf", **task})
        stats(events.TaskStarted(hands, 3))
        stats(events.BytesReceived(hands, FILE, 5_000_000))
        stats(events.FileStaged(hands, FILE, 5_000_000))
    for kind in (events.TaskFailed, events.TaskParked):
        stats(sample_event(events.TaskStarted))
        stats(sample_event(kind))
    stats(sample_event(events.RequestRetried))
    stats(sample_event(events.ConcurrencyLimitChanged))
    return stats


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_panel_tells_what_goes_on_in_the_width_there_is(width):
    text = rendered(busy(), width, color_system=None)
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "0 of 48 tasks",
        "now 0.0 tasks/s",
        "average",
        "36 queued, 12 in progress, oldest pending for 1 d 1 h",
        "0.pdf",
        "1 of 3 files",
        "5.0 MB",
        "2 cooling down, 1 parked, 1 failed",
        "1 Unavailable",
        "up to 1 request at once",
    ):
        assert part in text, text


@pytest.mark.parametrize("height", [1, 10, 24])
def test_the_panel_has_as_many_rows_as_fit(height):
    text = rendered(busy(), height=height, color_system=None)
    assert len(text.splitlines()) <= max(height, 9)
    assert text.count("of 3 files") == max(0, min(8, height - 11))


def test_a_task_keeps_its_row_as_long_as_it_is_in_hand():
    """What stands still can be read: who comes takes the row of who went, and the panel keeps its height."""
    stats = busy(4)
    renderer = PanelRenderer(stats)
    rendered(stats, renderer=renderer)
    stats(events.TaskCompleted(ExportTask("busy-1"), 1, 1, 1.0))
    stats(events.TaskStarted(ExportTask("busy-9", name="9.pdf"), 3))
    before = rendered(stats, renderer=renderer, color_system=None).splitlines()
    rows = [line.split()[1] for line in before if "of 3 files" in line]
    assert rows == ["0.pdf", "9.pdf", "2.pdf", "3.pdf"]
    stats(events.TaskCompleted(ExportTask("busy-0"), 1, 1, 1.0))
    assert len(rendered(stats, renderer=renderer, color_system=None).splitlines()) == len(before)


def test_no_name_from_outside_steers_the_terminal():
    hostile = "\x1b[2J\nevil" + "x" * 300
    text = rendered(busy(name=hostile), color_system=None)
    assert "?[2J?evil" in text
    assert "\x1b" not in text


def test_no_color_is_honoured(monkeypatch):
    coloured = rendered(busy())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[33m" in coloured
    assert "\x1b[33m" not in rendered(busy())


def test_the_live_display_starts_no_thread_and_leaves_the_terminal_as_it_was():
    console = RichConsole(file=io.StringIO(), force_terminal=True)
    before = threading.active_count()
    with LiveDisplay(stats_after(LISTED), console) as display:
        display.draw()
        assert threading.active_count() == before
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    text = console.file.getvalue()
    assert text.count(hidden) == text.count(shown) == 1


def test_the_live_display_writes_only_what_has_changed():
    """A panel that is drawn anew while nothing happens flickers on a slow terminal, and costs something."""
    console = RichConsole(file=io.StringIO(), force_terminal=True, width=80)
    stats = stats_after(LISTED)
    with LiveDisplay(stats, console, now=lambda: 0.0) as display:
        display.draw()
        written = len(console.file.getvalue())
        display.draw()
        assert len(console.file.getvalue()) == written
        stats(sample_event(events.TaskCompleted))
        display.draw()
        assert len(console.file.getvalue()) > written


def test_a_plain_line_comes_now_and_then_and_none_while_nothing_happens(capsys):
    async def main():
        console = Console(ServiceConfig(), "lines", RunStats(anyio.current_time))
        with anyio.move_on_after(95):
            async with anyio.create_task_group() as group:
                group.start_soon(console.watch)
                await anyio.sleep(25)
                console.on_event(LISTED)

    run_virtual(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert "0 of 8 tasks exported" in line
    assert "2 cooling down" in line


def test_the_end_tells_what_was_done_where_it_is_and_what_is_left():
    summary = Summary(exported=200, files=540, bytes=81_000_000, seconds=8.0, held_back=3, failed=1)
    done, left, where, *_ = summary_lines(summary, "out")
    for part in ("200 tasks", "540 files", "81.0 MB", "8.0 s", "25.0 tasks/s", "10.1 MB/s"):
        assert part in done
    assert "3 cooling down" in left
    assert "1 failed" in left
    assert where.endswith("out")
    assert len(summary_lines(Summary(exported=1), "out")) == 2


def test_the_end_tells_in_a_table_what_is_not_exported_and_why():
    """One line for each reason, however many tasks; a task that was exported after all is no more in it."""
    stats = stats_after(LISTED)
    for number in range(30):
        stats(sample_event(events.TaskCancelled, task=ExportTask(f"task-{number}")))
    stats(events.TaskFailed(ExportTask("other"), Unavailable("gone" + "x" * 300)))
    for number in range(3):
        stats(events.TaskCompleted(ExportTask(f"task-{number}"), 1, 1, 1.0))
    lines = summary_lines(Summary(held_back=32, failed=1), "out", stats.unexported, pending=7, width=80)
    assert max(map(len, lines[lines.index("Not exported") :])) <= 80
    text = "\n".join(lines)
    assert "27  cooling down  Unavailable: it is away" in text
    assert "task-3, task-4 and 25 more" in text
    assert " 1  failed        Unavailable: gone" in text
    assert " 5  on hold       since an earlier run" in text
    assert " 7  pending       the run was stopped" in text


def test_of_what_is_left_a_bounded_number_is_remembered():
    stats = stats_after(
        *(
            sample_event(events.TaskCancelled, task=ExportTask(str(number)))
            for number in range(MAX_UNEXPORTED_TASKS + 5)
        )
    )
    assert len(stats.unexported) == MAX_UNEXPORTED_TASKS


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_said_comes_out_whatever_the_level(capsys, form):
    console = Console(ServiceConfig(log_level="error", log_format=form), "none", RunStats(ManualClock()))
    console.print_message("warning", "Draining", "draining")
    console.finish(Summary(exported=2), "out")
    said = capsys.readouterr()
    assert said.out == ""
    assert "draining" in said.err
    assert "2 tasks" in said.err
    if form == "json":
        assert [json.loads(line)["event"] for line in said.err.splitlines()] == ["Draining", "RunSummary"]
