"""``Admission``: the decisions whether a task may be queued and claimed, without a run."""

import anyio
import pytest

from aluma_async import MemoryJournal, events
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.models import ExportTask
from aluma_async.pipeline.admission import Admission, Classification
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import SUSPECT_AFTER, CooldownEntry
from aluma_async.pipeline.task_tracker import TaskTracker
from tests.support.clock import virtual_time
from tests.support.world import system_time

TASK, OTHER = ExportTask("a"), ExportTask("b")
CLEAR = CooldownEntry()
ERROR = DestinationUnavailable("the disk is full")


class Parts:
    """An admission with its collaborators; ``events`` are the classes of the events so far."""

    def __init__(self, workers=1, canary_tasks=2):
        self.events = []
        self.tracker = TaskTracker()
        self.claims = ClaimTracker(MemoryJournal(), system_time, 1800.0)
        self.slots = anyio.Semaphore(workers)
        self.admission = Admission(
            self.tracker,
            self.claims,
            self.slots,
            canary_tasks=canary_tasks,
            on_event=lambda event: self.events.append(type(event)),
        )


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (CLEAR, Classification.ADMIT),
        (CooldownEntry(failures=3, parked=True), Classification.ADMIT),
        (CooldownEntry(is_active=True, failures=3), Classification.ON_HOLD),
        (CooldownEntry(is_active=True, parked=True), Classification.PARKED),
        (CooldownEntry(crashes=SUSPECT_AFTER), Classification.CRASH_SUSPECT),
        (CooldownEntry(crashes=SUSPECT_AFTER - 1), Classification.ADMIT),
        (CooldownEntry(is_active=True, crashes=SUSPECT_AFTER), Classification.ON_HOLD),
    ],
)
@virtual_time
async def test_admission_classifies_by_cooldown_entry(entry, expected):
    assert Parts().admission.classify(TASK, entry) is expected


@virtual_time
async def test_admission_skips_a_task_until_a_minute_after_it_is_done():
    parts = Parts()
    parts.tracker.add(TASK.id)
    assert parts.admission.classify(TASK, CooldownEntry(is_active=True)) is Classification.IN_PROGRESS
    parts.tracker.remove(TASK.id, done=True)
    assert parts.admission.classify(TASK, CLEAR) is Classification.IN_PROGRESS
    await anyio.sleep(60)
    assert parts.admission.classify(TASK, CLEAR) is Classification.ADMIT


@virtual_time
async def test_admission_holds_a_task_until_the_lease_of_its_claim_expires():
    parts = Parts()
    await parts.claims.record_intent(TASK.id)
    assert parts.admission.classify(TASK, CLEAR) is Classification.ON_HOLD
    await anyio.sleep(1800)
    assert parts.admission.classify(TASK, CLEAR) is Classification.ADMIT


@virtual_time
async def test_admission_tries_one_crash_suspect_at_a_time():
    """The one with the fewest crashes is first."""
    parts = Parts()
    suspects = [(5, TASK), (3, OTHER)]
    assert not parts.admission.may_try_next_suspect()
    assert parts.admission.pick_suspect(suspects) is OTHER
    parts.tracker.add(OTHER.id)
    assert not parts.admission.may_try_next_suspect()
    assert parts.admission.pick_suspect([(5, TASK)]) is None
    parts.tracker.remove(OTHER.id, done=True)
    assert parts.admission.may_try_next_suspect()
    assert parts.admission.pick_suspect([(5, TASK)]) is TASK
    assert not parts.admission.may_try_next_suspect(), "no other suspect is pending"


@virtual_time
async def test_slot_refuses_a_task_while_the_exporter_stops_or_is_blocked():
    parts = Parts()
    for name, value in (("stopping", True), ("blocking_error", ERROR)):
        before = getattr(parts.admission, name)
        setattr(parts.admission, name, value)
        async with parts.admission.slot(TASK.id) as admitted:
            assert not admitted
        setattr(parts.admission, name, before)
    async with parts.admission.slot(TASK.id) as admitted:
        assert admitted
    assert parts.slots.value == 1


@virtual_time
async def test_slot_and_recovery_exclude_each_other():
    """A claim is never cancelled by recovery and used by a worker at the same time."""
    parts = Parts()
    assert parts.tracker.mark_settling(TASK.id)
    assert not parts.tracker.mark_settling(TASK.id)
    async with parts.admission.slot(TASK.id) as admitted:
        assert not admitted
    parts.tracker.clear_settling(TASK.id)
    async with parts.admission.slot(TASK.id) as admitted:
        assert admitted
        assert not parts.tracker.mark_settling(TASK.id)
    parts.tracker.remove(TASK.id, done=False)
    assert parts.tracker.mark_settling(TASK.id)


@virtual_time
async def test_admission_resumes_after_as_many_completed_canary_tasks():
    parts = Parts(canary_tasks=2)
    parts.admission.pause(ERROR, 2.0)
    parts.admission.on_task_completed()
    parts.admission.pause(ERROR, 4.0)
    assert parts.events == [events.ClaimingPaused, events.ClaimingStillPaused]
    parts.admission.on_task_completed()
    parts.admission.on_task_completed()
    parts.admission.on_task_completed()
    assert parts.events[2:] == [events.ClaimingResumed]
    assert parts.admission.completed == 4


@virtual_time
async def test_admission_holds_the_tasks_of_a_rejected_project():
    parts = Parts()
    parts.admission.rejections.record("p", 0.0, lambda low, high: low)
    of_project = ExportTask("t", project_id="p")
    assert parts.admission.classify(of_project, CLEAR) is Classification.ON_HOLD
    assert parts.admission.classify(OTHER, CLEAR) is Classification.ADMIT
    await anyio.sleep(2)
    assert parts.admission.classify(of_project, CLEAR) is Classification.ADMIT


@virtual_time
async def test_admission_without_a_pause_does_not_report_its_end():
    parts = Parts()
    parts.admission.resume()
    parts.admission.on_task_completed()
    assert parts.events == []
    parts.admission.pause(ERROR, 2.0)
    parts.admission.resume()
    assert parts.events == [events.ClaimingPaused, events.ClaimingResumed]
    assert not parts.admission.canary_tasks_left
