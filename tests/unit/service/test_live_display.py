"""The panel with the progress of a run."""

import io
import re
import threading

import pytest
from rich.console import Console

from aluma_async import events
from aluma_async.models import ExportTask
from aluma_async.service.live_display import LiveDisplay, PanelRenderer
from tests.support.events import FILE, sample_event
from tests.support.stats import stats_after

LISTED = events.TasksListed(10, 8, 2, None)


def render(stats, width=80, height=30, renderer=None, **options):
    """Return the text of the panel on a terminal of this size."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, **options)
    console.print((renderer or PanelRenderer(stats, lambda: 0.0)).render(width, height))
    return console.file.getvalue()


def busy_stats(tasks=12, **fields):
    """Return statistics with active tasks, errors, retries and a limit."""
    stats = stats_after(events.TasksListed(50, 50, 2, -90_000.0))
    for number in range(tasks):
        task = ExportTask(f"busy-{number}", **{"name": f"{number}.pdf", **fields})
        stats(events.TaskStarted(task, 3))
        stats(events.BytesReceived(task, FILE, 5_000_000))
        stats(events.FileStaged(task, FILE, 5_000_000))
    for kind in (events.TaskFailed, events.TaskParked):
        stats(sample_event(events.TaskStarted))
        stats(sample_event(kind))
    stats(sample_event(events.RequestRetried))
    stats(sample_event(events.ConcurrencyLimitChanged))
    return stats


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_panel_shows_all_figures_within_the_width_of_the_terminal(width):
    text = render(busy_stats(), width, color_system=None)
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


@pytest.mark.parametrize(("height", "rows"), [(1, 0), (10, 0), (12, 1), (20, 9), (23, 12), (60, 12)])
def test_panel_has_as_many_rows_as_fit(height, rows):
    """It has the whole height of the terminal, and the number of the tasks that do not fit."""
    text = render(busy_stats(), height=height, color_system=None)
    assert len(text.splitlines()) < max(height, 10)
    assert text.count("of 3 files") == rows
    assert (f"and {12 - rows} more" in text) == (0 < rows < 12)


@pytest.mark.parametrize("tasks", [2, 11, 12, 30, 60])
def test_panel_keeps_its_height_when_tasks_end(tasks):
    """Also with the line for the others."""
    stats = busy_stats(tasks)
    renderer = PanelRenderer(stats, lambda: 0.0)
    full = render(stats, height=22, renderer=renderer, color_system=None).splitlines()
    assert len(full) <= 21
    for number in range(tasks):
        stats(events.TaskCompleted(ExportTask(f"busy-{number}"), 1, 1, 1.0))
        lines = render(stats, height=22, renderer=renderer, color_system=None).splitlines()
        assert len(lines) == len(full) or not stats.active


@pytest.mark.parametrize("width", [80, 97, 100, 120, 160, 200])
def test_panel_cuts_no_figure_however_large(width):
    """Names may be cut, figures and errors may not."""
    stats = stats_after(events.TasksListed(12_345_678, 12_345_678, 2, -90_000_000.0))
    task = ExportTask("busy", name="n" * 300)
    stats(events.TaskStarted(task, 99_999))
    stats(events.BytesReceived(task, FILE, 999_999_999_999))
    stats.files, stats.bytes, stats.limit = 123_456_789, 123_456_789_000_000, 99_999
    stats.cooling, stats.parked = 100_001, 100_002
    stats.outcomes[events.TaskFailed], stats.outcomes[events.ClaimLost] = 100_003, 100_004
    stats.requests_paused_until = stats.clock() + 86_000.0
    for number, kind in enumerate(("DestinationUnavailable", "AuthenticationFailed", "InvalidResponse", "Unreachable")):
        stats.errors[kind] = 1_000_000 + number
    text = render(stats, width, color_system=None)
    lines = [line.strip(" │") for line in text.splitlines()]
    words = " ".join(" ".join(lines).split())
    for part in (
        "123,456,789 files",
        "up to 99,999 requests at once",
        "12,345,677 queued",
        "0 of 99,999 files",
        "oldest pending for",
        "100,001 cooling down, 100,002 parked",
        "100,004 lost",
        "requests paused for",
        "1,000,000 DestinationUnavailable",
        "1,000,003 Unreachable",
        "average 0.0 tasks/s",
    ):
        assert part in words, text
    assert max(map(len, text.splitlines())) <= width
    assert not [line for line in lines if "…" in line and "nnn" not in line]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_panel_keeps_its_height_while_figures_grow(width):
    """Otherwise its rows would jump."""
    heights = set()
    for files in (1, 9_999, 1_234_567):
        stats = busy_stats()
        stats.files, stats.bytes, stats.limit = files, files * 61_000, 128
        heights.add(len(render(stats, width, color_system=None).splitlines()))
    assert len(heights) == 1


@pytest.mark.parametrize("width", [60, 80, 200])
def test_panel_shows_the_whole_reason_of_a_pause(width):
    event = sample_event(events.ClaimingPaused)
    text = render(stats_after(event), width, color_system=None)
    words = " ".join(line.strip(" │") for line in text.splitlines())
    assert f"claiming paused: {event.error}" in " ".join(words.split())


def test_panel_keeps_the_row_of_a_task_while_it_is_active():
    """A new task takes the row of an ended one, and the panel keeps its height, so that rows can be read."""
    stats = busy_stats(4)
    renderer = PanelRenderer(stats)
    render(stats, renderer=renderer)
    stats(events.TaskCompleted(ExportTask("busy-1"), 1, 1, 1.0))
    stats(events.TaskStarted(ExportTask("busy-9", name="9.pdf"), 3))
    before = render(stats, renderer=renderer, color_system=None).splitlines()
    rows = [line.split()[1] for line in before if "of 3 files" in line]
    assert rows == ["0.pdf", "9.pdf", "2.pdf", "3.pdf"]
    stats(events.TaskCompleted(ExportTask("busy-0"), 1, 1, 1.0))
    assert len(render(stats, renderer=renderer, color_system=None).splitlines()) == len(before)


def test_panel_shows_why_claiming_is_paused():
    assert "claiming paused" in render(stats_after(sample_event(events.ClaimingPaused)))


def test_panel_names_cannot_control_the_terminal():
    hostile = "\x1b[2J\nevil" + "x" * 300
    text = render(busy_stats(name=hostile), color_system=None)
    assert "?[2J?evil" in text
    assert "\x1b" not in text


def test_panel_honours_no_color(monkeypatch):
    coloured = render(busy_stats())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[33m" in coloured
    assert "\x1b[33m" not in render(busy_stats())


@pytest.mark.parametrize(
    ("color", "environ", "has_styles"),
    [
        ("auto", {"TERM": "xterm"}, True),
        ("never", {"TERM": "xterm"}, False),
        ("always", {"TERM": "xterm", "NO_COLOR": "1"}, True),
        ("always", {"TERM": "vt100"}, True),
    ],
)
def test_live_display_has_colours_as_chosen(color, environ, has_styles, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with LiveDisplay(busy_stats(), color=color, now=lambda: 0.0) as display:
        display.draw()
    text = capsys.readouterr().err
    assert "0 of 48 tasks" in text
    assert bool(re.search(r"\x1b\[[\d;]*3[\d;]*m", text)) is has_styles


def test_live_display_starts_no_thread_and_restores_the_terminal():
    console = Console(file=io.StringIO(), force_terminal=True)
    threads = threading.active_count()
    with LiveDisplay(stats_after(LISTED), console) as display:
        display.draw()
        assert threading.active_count() == threads
    hide_cursor, show_cursor = "\x1b[?25l", "\x1b[?25h"
    text = console.file.getvalue()
    assert text.count(hide_cursor) == text.count(show_cursor) == 1


def test_live_display_writes_only_changes():
    """Drawing an unchanged panel would flicker on a slow terminal."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    stats = stats_after(LISTED)
    with LiveDisplay(stats, console, now=lambda: 0.0) as display:
        display.draw()
        written = len(console.file.getvalue())
        display.draw()
        assert len(console.file.getvalue()) == written
        stats(sample_event(events.TaskCompleted))
        display.draw()
        assert len(console.file.getvalue()) > written


@pytest.mark.parametrize("width", [60, 80, 120])
def test_panel_leaves_room_for_the_echo_of_ctrl_c(width):
    """Otherwise the echo goes into the next line, and the top of the panel remains above the next one."""
    text = render(busy_stats(), width, color_system=None)
    assert max(map(len, text.splitlines())) <= width - len("^C")


def test_panel_has_no_empty_rows_when_nothing_is_left_to_do():
    stats = busy_stats()
    renderer = PanelRenderer(stats, lambda: 0.0)
    tall = render(stats, renderer=renderer, color_system=None).splitlines()
    stats.active.clear()
    stats.queued = 0
    low = render(stats, renderer=renderer, color_system=None).splitlines()
    assert len(low) < len(tall)
    assert not [line for line in low if not line.strip(" │")]
