"""The line of progress, and the summary at the end of a run."""

from aluma_async import events
from aluma_async.exceptions import Unavailable
from aluma_async.models import ExportTask, Summary
from aluma_async.service.summary import progress_line, summary_lines
from tests.support.clock import ManualClock
from tests.support.events import sample_event
from tests.support.stats import stats_after

LISTED = events.TasksListed(10, 8, 2, None)


def test_progress_line_counts_down_a_pause_of_requests():
    clock = ManualClock()
    stats = stats_after(sample_event(events.RequestsPaused, seconds=30), clock=clock)
    clock.now = 10
    assert stats.requests_paused_seconds == 20
    assert "requests paused for 20 s" in progress_line(stats, stats.rates())
    clock.now = 40
    assert "requests paused" not in progress_line(stats, stats.rates())


def test_progress_line_has_the_reason_while_claiming_is_paused():
    stats = stats_after(sample_event(events.ClaimingPaused))
    assert "claiming paused: it is away" in progress_line(stats, stats.rates())
    stats(sample_event(events.ClaimingResumed))
    assert "claiming paused" not in progress_line(stats, stats.rates())


def test_summary_has_totals_rates_destinations_and_other_outcomes():
    summary = Summary(exported=200, files=540, bytes=81_000_000, seconds=8.0, held_back=3, failed=1)
    exported, others, files, *_ = summary_lines(summary, "out")
    for part in ("200 tasks", "540 files", "81.0 MB", "8.0 s", "25.0 tasks/s", "10.1 MB/s"):
        assert part in exported
    assert "3 cooling down" in others
    assert "1 failed" in others
    assert files.endswith("out")
    assert len(summary_lines(Summary(exported=1), "out")) == 2


def test_summary_has_a_table_of_unexported_tasks_by_reason():
    """One row for each reason, however many tasks; a task that was exported later is not in it."""
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
