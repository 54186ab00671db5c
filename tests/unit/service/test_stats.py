"""``RunStats``: the state of a run, derived from its events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async import events
from aluma_async.models import ExportTask
from aluma_async.service.stats import MAX_UNEXPORTED_TASKS
from aluma_async.service.summary import progress_line, time_left
from tests.support.clock import ManualClock
from tests.support.events import FILE, NAME, TASK, event_types, sample_event
from tests.support.stats import stats_after

LISTED = events.TasksListed(10, 8, 2, None)
STARTED = sample_event(events.TaskStarted)


def test_stats_follow_a_task_from_its_listing_to_its_end():
    stats = stats_after(LISTED, STARTED, events.BytesReceived(TASK, FILE, 500))
    assert (stats.total, stats.pending, stats.queued, stats.exported, stats.cooling) == (8, 8, 7, 0, 2)
    assert [(task.task.name, task.bytes, stats.age(task)) for task in stats.active.values()] == [(NAME, 500, 0.0)]
    stats(events.TaskCompleted(TASK, 3, 700, 1.0))
    assert (stats.total, stats.pending, stats.exported, stats.files, stats.bytes) == (8, 7, 1, 3, 700)
    assert (stats.received, stats.active) == (500, {})


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        (events.TaskCancelled, {"cooling": 3}),
        (events.TaskParked, {"cooling": 2, "parked": 1}),
        (events.TaskFailed, {"failed": 1}),
        (events.ClaimLost, {"lost": 1}),
        (events.ClaimRefused, {"lost": 1}),
    ],
)
def test_stats_count_a_task_that_was_not_exported_as_not_pending(kind, counts):
    stats = stats_after(LISTED, STARTED, sample_event(kind))
    assert (stats.pending, stats.active, stats.exported) == (7, {}, 0)
    assert {name: getattr(stats, name) for name in counts} == counts


@pytest.mark.parametrize("kind", [events.TaskReleased, events.SettlementUnconfirmed, events.SettlementDeferred])
def test_stats_count_a_released_or_unsettled_task_as_pending(kind):
    stats = stats_after(LISTED, STARTED, sample_event(events.DrainStarted), sample_event(kind))
    assert (stats.pending, stats.active, stats.draining) == (8, {}, True)


def test_stats_discard_the_queue_when_claiming_is_paused():
    """Its tasks are listed again later."""
    stats = stats_after(LISTED, sample_event(events.ClaimingPaused))
    assert (stats.queued, stats.pending) == (0, 8)


@given(st.lists(st.sampled_from(event_types())))
def test_stats_are_never_negative(kinds):
    stats = stats_after(*map(sample_event, kinds))
    assert min(stats.pending, stats.total, stats.cooling, stats.queued, stats.parked) >= 0
    assert stats.total >= stats.exported == kinds.count(events.TaskCompleted)
    assert progress_line(stats, stats.rates())


def test_stats_have_no_pending_tasks_after_an_empty_listing():
    """A listing may contain a task twice, and then fewer tasks end than were listed."""
    stats = stats_after(LISTED, events.TasksListed(0, 0, 0, None))
    assert (stats.pending, stats.queued) == (0, 0)


def test_stats_rates_are_those_of_the_last_seconds():
    """The remaining time is estimated from them, and unknown while nothing is exported."""
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


def test_stats_remember_a_bounded_number_of_unexported_tasks():
    tasks = [ExportTask(str(number)) for number in range(MAX_UNEXPORTED_TASKS + 5)]
    stats = stats_after(*(sample_event(events.TaskCancelled, task=task) for task in tasks))
    assert len(stats.unexported) == MAX_UNEXPORTED_TASKS


def test_pause_does_not_add_up_the_tasks_of_several_listings():
    """A pause discards the queue, and each listing during the pause contains the same tasks again."""
    stats = stats_after(LISTED, STARTED)
    for _ in range(3):
        stats(sample_event(events.ClaimingPaused))
        stats(events.TasksListed(9, 7, 2, None))
    assert (stats.total, stats.pending, stats.queued) == (8, 8, 7)


def test_staged_files_do_not_exceed_the_files_of_the_task():
    """Files are staged a second time when the task is quarantined."""
    stats = stats_after(LISTED, STARTED)
    active = stats.active[TASK.id]
    for _ in range(active.files + 2):
        stats(sample_event(events.FileStaged))
    assert active.staged == active.files
