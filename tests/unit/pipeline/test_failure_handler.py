"""``FailureHandler``: which requests and events follow from an error, without a run."""

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import (
    Ambiguous,
    BadSpecification,
    ClaimConflict,
    DestinationError,
    DestinationUnavailable,
    FileMissing,
    JournalError,
    RequestRejected,
    SourceError,
    Unavailable,
    UnexportableTask,
    Unreachable,
)
from aluma_async.models import ExportTask
from tests.support.clock import virtual_time
from tests.support.failures import FATAL, TASK, Parts


@virtual_time
async def test_conflict_sends_nothing_and_the_task_is_not_offered_again():
    assert await Parts().handle(ClaimConflict("409")) == (True, [], [events.ClaimLost])
    assert await Parts().handle(ClaimConflict("409"), claimed=False) == (True, [], [events.ClaimRefused])


@virtual_time
async def test_refused_start_ends_the_rejection_of_its_project():
    """The refusal is due to the task's state, so that Start itself was accepted."""
    parts = Parts()
    parts.admission.rejections.record("p", 0.0, lambda low, high: low)
    parts.admission.rejections.record("q", 0.0, lambda low, high: low)
    await parts.handle(ClaimConflict("409"), claimed=False)
    assert list(parts.admission.rejections.held) == ["q"]
    assert not parts.admission.rejections.record("q", 9e9, lambda low, high: low).pause, "not all are rejected"


@pytest.mark.parametrize("error", [Unavailable("503"), JournalError("disk full")])
@virtual_time
async def test_outage_before_a_claim_concerns_all_tasks(error):
    parts = Parts()
    with pytest.raises(type(error)):
        await parts.handle(error, claimed=False)
    assert not (await parts.cooldown.get("t")).is_active


@virtual_time
async def test_rejected_start_pauses_all_and_only_the_first_blames_its_task():
    parts = Parts()
    for number, task in enumerate((TASK, ExportTask("u", project_id="q"))):
        with pytest.raises(RequestRejected):
            await parts.handle(RequestRejected("403"), claimed=False, task=task)
        assert [type(event) for event in parts.events] == [events.TaskCancelled]
        assert (await parts.cooldown.get(task.id)).is_active
        assert not parts.requests.sent, number
    parts.admission.rejections.record_accepted("other")
    assert await parts.handle(RequestRejected("403"), claimed=False) == (False, [], [events.TaskCancelled])
    await parts.cooldown.close()


@virtual_time
async def test_temporary_error_cancels_the_claim_and_holds_the_task():
    """The time of the hold begins after the Cancel."""
    parts = Parts()
    result, sent, emitted = await parts.handle(DestinationError("no"))
    assert (result, sent, emitted) == (False, ["cancel"], [events.TaskCancelled])
    (cancelled,) = parts.events
    assert (cancelled.failures, cancelled.retry_in) == (1, 60)
    (hold,) = await parts.journal.load()
    assert (hold.task_id, hold.parked, hold.created_at) == ("t", False, 7.0)
    assert parts.stored is None
    await parts.cooldown.close()


@virtual_time
async def test_unavailable_destination_pauses_all_only_if_its_probe_fails():
    parts = Parts()
    await parts.handle(DestinationUnavailable("the folder is read-only"))
    assert parts.admission.blocking_error is None
    assert (await parts.cooldown.get("t")).failures == 1
    for error in (DestinationUnavailable("no"), DestinationUnavailable("no", for_all=True)):
        parts = Parts()
        parts.destination.unavailable = not error.for_all
        await anyio.sleep(3600)
        await parts.handle(error)
        assert parts.admission.blocking_error is error
        assert parts.requests.sent == [("cancel",)]


@virtual_time
async def test_unconfirmed_cancel_is_left_to_recovery():
    for error, blocks in ((Unavailable("503"), False), (RequestRejected("403"), True)):
        parts = Parts()
        parts.requests.errors["cancel"] = error
        result, sent, emitted = await parts.handle(DestinationError("no"))
        assert (result, emitted) == (False, [events.SettlementDeferred, events.TaskCancelled])
        assert "cancel" in sent
        assert (parts.admission.blocking_error is not None) is blocks
        assert parts.claims.get("t")
        await parts.cooldown.close()


@virtual_time
async def test_unconfirmed_complete_is_left_to_recovery():
    parts = Parts()
    claim = await parts.source.start(TASK)
    await parts.claims.record_committed("t", 1, 1)
    assert not await parts.handler.handle(TASK, claim, Ambiguous("lost"))
    assert [type(event) for event in parts.events] == [events.SettlementUnconfirmed]
    assert parts.requests.sent == [("start",)]
    assert not (await parts.cooldown.get("t")).is_active


@virtual_time
async def test_task_that_can_never_be_exported_is_copied_and_failed():
    parts = Parts()
    result, sent, emitted = await parts.handle(FATAL)
    assert (result, sent) == (True, ["fail"])
    assert emitted[-1] is events.TaskFailed
    assert events.CopyStored in emitted
    assert parts.requests.sent == [("fail", "not valid Unicode")]
    assert parts.stored is not None
    assert parts.claims.get("t") is None
    assert not (await parts.cooldown.get("t")).is_active


@virtual_time
async def test_first_unexportable_specification_parks_with_a_copy():
    """One reply to Start may have been changed by a proxy, and Fail deletes the task."""
    parts = Parts()
    result, sent, emitted = await parts.handle(FATAL, repeated=False)
    assert (result, sent, emitted[-1]) == (False, ["cancel"], events.TaskParked)
    assert parts.stored is not None
    assert events.FailureBreakerOpened not in emitted
    await parts.cooldown.close()


@virtual_time
async def test_task_is_not_failed_before_its_hold_has_ended():
    parts = Parts()
    for _ in range(2):
        result, sent, _ = await parts.handle(FATAL, repeated=False)
        assert (result, sent) == (False, ["cancel"])
    await anyio.sleep(9999)
    result, sent, _ = await parts.handle(FATAL, repeated=False)
    assert (result, sent) == (True, ["fail"])
    await parts.cooldown.close()


@virtual_time
async def test_another_error_in_between_makes_a_repetition_uncertain():
    parts = Parts()
    await parts.handle(FATAL, repeated=False)
    await anyio.sleep(9999)
    await parts.handle(FileMissing("404"))
    await anyio.sleep(9999)
    result, sent, _ = await parts.handle(FATAL, repeated=False)
    assert (result, sent) == (False, ["cancel"])
    await parts.cooldown.close()


@virtual_time
async def test_message_of_fail_has_at_most_1000_characters():
    parts = Parts()
    await parts.handle(UnexportableTask("x" * 1001))
    assert parts.requests.sent == [("fail", "x" * 1000)]


@virtual_time
async def test_unconfirmed_fail_is_left_to_recovery_and_keeps_its_place():
    parts = Parts()
    parts.requests.errors["fail"] = Ambiguous("lost")
    result, sent, emitted = await parts.handle(FATAL)
    assert (result, sent, emitted[-1]) == (False, ["fail"], events.SettlementUnconfirmed)
    assert events.TaskFailed not in emitted
    assert parts.claims.get("t").message == "not valid Unicode"
    assert not (await parts.cooldown.get("t")).is_active


@virtual_time
async def test_refused_fail_loses_the_claim():
    parts = Parts()
    parts.requests.errors["fail"] = ClaimConflict("409")
    result, _, emitted = await parts.handle(FATAL)
    assert (result, emitted[-1]) == (True, events.ClaimLost)


@pytest.mark.parametrize("error", [DestinationError("disk full"), ZeroDivisionError()])
@virtual_time
async def test_task_without_a_copy_is_parked_and_never_failed(error):
    """A defect of a plug-in counts as its error. Its place among the failed tasks is free again."""
    parts = Parts()

    def refuse(claim):
        raise error

    parts.copies.open = refuse
    for _ in range(4):
        result, sent, emitted = await parts.handle(FATAL)
        assert (result, sent) == (False, ["cancel"])
        assert emitted == [events.QuarantineFailed, events.CopyFailed, events.TaskParked]
    (hold,) = [record for record in await parts.journal.load() if hasattr(record, "parked")]
    assert (hold.parked, hold.seconds) == (True, 9999)
    await parts.cooldown.close()


@virtual_time
async def test_task_is_parked_when_no_quarantine_is_kept():
    result, sent, emitted = await Parts(quarantine=False).handle(FATAL)
    assert (result, sent, emitted) == (False, ["cancel"], [events.TaskParked])


@virtual_time
async def test_fourth_fatal_error_of_a_kind_parks_and_reports_once():
    parts = Parts()
    for number in range(6):
        result, sent, emitted = await parts.handle(FATAL, task=ExportTask(f"t{number}", project_id="p"))
        assert (result, sent) == ((True, ["fail"]) if number < 3 else (False, ["cancel"]))
        assert emitted.count(events.FailureBreakerOpened) == (number == 3)
        assert (events.TaskParked in emitted) is (number >= 3)
    await parts.cooldown.close()


@virtual_time
async def test_copy_of_a_parked_task_lacks_nothing_that_was_received():
    parts = Parts()
    for _ in range(5):
        _, sent, emitted = await parts.handle(FileMissing("404"))
    assert (sent, emitted) == (["cancel"], [events.CopyStored, events.QuarantineUsed, events.TaskParked])
    assert parts.stored is not None
    await parts.cooldown.close()


@virtual_time
async def test_unreadable_specification_is_copied_if_it_was_received():
    for received in (b"<html>", b""):
        parts = Parts()
        await parts.source.start(TASK)
        error = BadSpecification("not JSON", received=received)
        await parts.handler.handle(TASK, None, error)
        while not (await parts.cooldown.get("t")).parked:
            await parts.source.start(TASK)
            parts.events.clear()
            await parts.handler.handle(TASK, None, error)
        kinds = [type(event) for event in parts.events]
        assert (events.CopyStored in kinds) is bool(received)
        assert (events.CopyFailed in kinds) is not bool(received)
        assert kinds[-1] is events.TaskParked
        await parts.cooldown.close()


@virtual_time
async def test_exported_task_has_no_hold_and_frees_no_place():
    """That one task is exportable proves nothing about those that are not."""
    parts = Parts()
    claim = await parts.source.start(TASK)
    await parts.cooldown.start("t", DestinationError("no"))
    parts.quarantine.task_ids.add("t")
    for number in range(3):
        await parts.handle(FATAL, task=ExportTask(f"f{number}", project_id="p"))
    await parts.handler.clear(claim)
    assert not (await parts.cooldown.get("t")).is_active
    await parts.quarantine.discard_exported()
    assert parts.quarantine.task_ids.isdisjoint({"t"})
    result, *_ = await parts.handle(FATAL, task=ExportTask("f3", project_id="p"))
    assert not result
    await parts.cooldown.close()


@virtual_time
async def test_release_on_stop_reports_the_outcome_of_the_claim():
    parts = Parts()
    await parts.source.start(TASK)
    await parts.handler.release_on_stop(TASK)
    assert [type(event) for event in parts.events] == [events.TaskReleased]
    parts.events.clear()
    await parts.handler.release_on_stop(TASK)
    assert not parts.events, "the claim had ended"


@virtual_time
async def test_settlement_without_a_reply_ends_after_30_seconds():
    parts = Parts()
    await parts.source.start(TASK)

    async def hang(task):
        await anyio.sleep_forever()

    parts.requests.cancel = hang
    await parts.handler.release_on_stop(TASK)
    assert anyio.current_time() == 30
    (deferred,) = parts.events
    assert isinstance(deferred, events.SettlementDeferred)
    assert str(deferred.error) == "task t: no response in 30 s"
    assert isinstance(deferred.error, SourceError)


@pytest.mark.parametrize("quarantine", [True, False])
@virtual_time
async def test_task_parked_for_crashes_is_not_copied_in_vain(quarantine):
    """It has a copy, or there is no quarantine: claiming it again could crash the process once more."""
    parts = Parts(quarantine=quarantine)
    if parts.quarantine:
        parts.quarantine.task_ids.add("t")
    await parts.handler.copy_crashed(TASK)
    assert not parts.requests.sent
    await parts.cooldown.close()


@pytest.mark.parametrize("error", [FATAL, FileMissing("404")])
@virtual_time
async def test_claim_is_released_when_its_copy_is_interrupted(error):
    """The run stops. It is settled at once, and not left to recovery, which may have no time for it."""
    parts = Parts()
    for _ in range(4):
        await parts.cooldown.start("t", FileMissing("404"))

    async def hang():
        await anyio.sleep_forever()

    parts.copies.probe = hang
    with anyio.move_on_after(1) as scope:
        await parts.handle(error)
    assert scope.cancelled_caught
    assert parts.requests.sent == [("cancel",)]
    assert [type(event) for event in parts.events] == [events.TaskReleased]
    assert parts.claims.get("t") is None
    await parts.cooldown.close()


@virtual_time
async def test_machine_without_descriptors_blames_no_task():
    """No task can be downloaded until other files or connections are closed, so that claiming pauses."""
    parts = Parts()
    error = Unreachable("no connection (too many open files)")
    error.of_machine = True
    await parts.handle(error)
    assert parts.admission.blocking_error is error
    assert (await parts.cooldown.get("t")).failures == 1
    await parts.handle(error)
    assert (await parts.cooldown.get("t")).failures == 1
