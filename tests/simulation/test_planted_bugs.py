"""The simulation detects bugs that are planted in the pipeline; otherwise its success would prove nothing."""

import asyncio
import gc
import sys
from contextlib import suppress
from contextvars import ContextVar

import anyio
import msgspec
import pytest
from aiohttp.client_proto import ResponseHandler

from aluma_async import connections
from aluma_async.aluma import download_responses, error_answers, file_ends, responses, wire
from aluma_async.aluma.content import ContentCheck
from aluma_async.aluma.digests import Digests
from aluma_async.aluma.image_ends import ImageWalk
from aluma_async.aluma.pauses import PauseVerifier
from aluma_async.aluma.started_tasks import StartedTasks
from aluma_async.exceptions import Ambiguous, FileMissing, RequestRejected, SchemaMismatch, SourceError
from aluma_async.journal.memory import MemoryJournal
from aluma_async.models import ClaimRecord, ClaimState, ExportSpec, TaskState
from aluma_async.pipeline import defect, destination_probe, exporter, failure, worker
from aluma_async.pipeline.breaker import FailBreaker
from aluma_async.pipeline.claim_source import ClaimTrackingSource
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.destination_watch import DestinationWatch
from aluma_async.pipeline.failure import FailureHandler
from aluma_async.pipeline.lease_deadline import LeaseDeadline
from aluma_async.pipeline.listed_projects import ListedProjects
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.pipeline.recovery import Recovery
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.pipeline.throttle import Throttle
from aluma_async.pipeline.transfer import FileTransfer
from aluma_async.pipeline.worker import Worker
from aluma_async.policy.error_policy import Action, decide
from aluma_async.testing import Behaviour, run_virtual
from aluma_async.testing.faults import WRONG_FILES, Fault, WrongReply
from aluma_async.testing.simulation import plan
from aluma_async.testing.simulation.full_stack import FullSchedule
from aluma_async.testing.simulation.invariants import DEFECT
from aluma_async.testing.simulation.misbehaviour import Loss, Misbehaviour, Outage, Sickness
from aluma_async.testing.simulation.plans import CLAIM_TIMEOUT, HEALTHY_SECONDS
from aluma_async.testing.simulation.schedule import Schedule
from aluma_async.testing.virtual_loop import DeadlockError, LivelockError


async def do_nothing(*_, **__):
    pass


def need_no_second_start(patch):
    """Fail tasks at their first attempt, because the hold before the second one is longer than most schedules."""

    async def was_unexportable(self, task_id, specification):
        return True

    patch.setattr(Cooldown, "was_unexportable", was_unexportable)


def fail_at_the_first_start(patch):
    """Another Start may bring a specification without the damage."""
    need_no_second_start(patch)


def repeat_an_ambiguous_start(patch):
    async def start(self, task):
        for _ in range(3):
            try:
                return await self._source.start(task)
            except Ambiguous as error:
                last = error
        raise last

    patch.setattr(RetryingSource, "start", start)


def ignore_cool_downs(patch):
    get = Cooldown.get

    async def get_inactive(self, task_id):
        return msgspec.structs.replace(await get(self, task_id), is_active=False)

    patch.setattr(Cooldown, "get", get_inactive)


def forget_cool_downs_after_a_crash(patch):
    async def load(self, holds):
        list(holds)

    patch.setattr(Cooldown, "load", load)


def ignore_retry_after(patch):
    patch.setattr(Throttle, "_record_error", lambda self, error, sent_at: None)


def ignore_the_request_limit(patch):
    init = Throttle.__init__
    patch.setattr(Throttle, "__init__", lambda self, max_at_once, **options: init(self, 10_000, **options))


def continue_after_the_lease(patch):
    patch.setattr(LeaseDeadline, "run", lambda self, step, claim, *args: step(claim, *args))


def take_a_conflict_after_an_unconfirmed_settlement_for_a_lost_claim(patch):
    """A repeated Complete whose first reply was lost is refused; the task is exported all the same."""

    def forget(self, task_id):
        pass

    patch.setattr(ClaimTracker, "mark_settlement_unconfirmed", forget)


def queue_tasks_that_are_in_progress(patch):
    patch.setattr(TaskTracker, "blocks", lambda self, task_id: False)
    patch.setattr(TaskTracker, "__contains__", lambda self, task_id: False)


def never_list_a_done_task_again(patch):
    patch.setattr(TaskTracker, "blocks", lambda self, task_id: task_id in self._tracked or task_id in self._done_until)


def claim_a_task_that_recovery_settles(patch):
    def mark_started(self, task_id):
        self._started.add(task_id)
        return True

    patch.setattr(TaskTracker, "mark_started", mark_started)


def settle_a_claim_that_a_worker_uses(patch):
    def mark_settling(self, task_id):
        self._settling.add(task_id)
        return True

    patch.setattr(TaskTracker, "mark_settling", mark_settling)


def ignore_the_journal_at_start(patch):
    async def load(self):
        return []

    patch.setattr(MemoryJournal, "load", load)


def send_start_before_its_record_is_durable(patch):
    async def record_intent(self, task_id):
        earlier = self._claims.get(task_id)
        self._claims[task_id] = ClaimRecord(
            task_id, ClaimState.STARTING, self._clock(), start_unconfirmed_at=earlier and earlier.start_unconfirmed_at
        )
        self._journal.put(self._claims[task_id])

    patch.setattr(ClaimTracker, "record_intent", record_intent)


def forget_late_starts(patch):
    patch.setattr("aluma_async.pipeline.claim_tracker.LATE_START_SECONDS", 0.0)


def never_settle_orphaned_claims(patch):
    patch.setattr(Recovery, "schedule", lambda self, task_id, tries=0: None)


def believe_a_stale_listing(patch):
    patch.setattr(ClaimTracker, "may_hold_claim", lambda self, task_id: False)


def complete_before_the_files_are_durable(patch):
    transfer_files = Worker._transfer_files

    async def complete_first(self, claim):
        await self._source.complete(claim.task)
        return await transfer_files(self, claim)

    patch.setattr(Worker, "_transfer_files", complete_first)


def cancel_an_unconfirmed_complete(patch):
    def decide_wrongly(error, *, state):
        return decide(error, state=ClaimState.CLAIMED if state is ClaimState.COMMITTED else state)

    patch.setattr(failure, "decide", decide_wrongly)
    patch.setattr(ClaimTracker, "record_committed", do_nothing)


def settle_claims_of_an_earlier_process_without_proof(patch):
    patch.setattr(Recovery, "verify", do_nothing)


def fail_without_a_copy_in_the_quarantine(patch):
    async def store_nothing(self, claim, error, state=None):
        return {}

    patch.setattr(Quarantine, "store", store_nothing)


def fail_tasks_after_transient_errors(patch):
    need_no_second_start(patch)

    def decide_wrongly(error, *, state):
        action = decide(error, state=state)
        return Action.FAIL if action is Action.CANCEL and state is ClaimState.CLAIMED else action

    patch.setattr(failure, "decide", decide_wrongly)


def settle_expired_claims(patch):
    async def settle(self, request, task, *extra, final):
        await request(task, *extra)
        self._claims.close(task.id, deleted=bool(final))

    patch.setattr(ClaimTrackingSource, "_settle", settle)


def omit_a_file(patch):
    deliver = FileTransfer.deliver

    def deliver_less(self, claim, destination):
        spec = ExportSpec(claim.spec.files[:-1] or claim.spec.files, claim.spec.received)
        return deliver(self, msgspec.structs.replace(claim, spec=spec), destination)

    patch.setattr(FileTransfer, "deliver", deliver_less)


def accept_any_content(patch):
    patch.setattr(ContentCheck, "feed", lambda self, chunk: "")
    patch.setattr(ContentCheck, "close", lambda self: "")
    ignore_digests(patch)


def ignore_digests(patch):
    patch.setattr(Digests, "of", lambda headers: None)


def accept_a_cut_file(patch):
    patch.setattr(file_ends, "missing_end", lambda *_: "")


def accept_a_cut_file_unless_it_is_a_pdf(patch):
    missing_end = file_ends.missing_end
    patch.setattr(file_ends, "missing_end", lambda name, *rest: missing_end(name, *rest) if name == "pdf" else "")


def accept_a_cut_image(patch):
    patch.setattr(ImageWalk, "has_ended", lambda self: True)


def accept_an_error_under_an_unknown_extension(patch):
    patch.setattr(error_answers, "kind_of_error", lambda text, content_type: "")


def accept_the_specification_of_another_task(patch):
    patch.setattr(StartedTasks, "is_of_another_task", lambda self, task, spec: False)


def join_two_versions_of_a_file(patch):
    validate = download_responses.validate_range

    def validate_without_etag(operation, response, start, size, etag):
        return validate(operation, response, start, size, response.headers.get("ETag"))

    patch.setattr(download_responses, "validate_range", validate_without_etag)


def pause_for_every_unavailable_place(patch):
    async def is_shared(self, error):
        return True

    patch.setattr(FailureHandler, "_is_shared", is_shared)


def pause_after_every_error_of_a_destination(patch):
    cool_down = FailureHandler._cool_down

    async def pause(self, task, error, claim=None, **options):
        self._admission.blocking_error = error
        await cool_down(self, task, error, claim, **options)

    patch.setattr(FailureHandler, "_cool_down", pause)


def wait_for_the_cool_down_in_the_worker(patch):
    cool_down = FailureHandler._cool_down

    async def wait(self, task, error, claim=None, **options):
        await cool_down(self, task, error, claim, **options)
        await anyio.sleep(60)

    patch.setattr(FailureHandler, "_cool_down", wait)


def end_the_run_after_an_exception_of_a_plugin(patch):
    find = worker.plugin_defect
    patch.setattr(worker, "plugin_defect", lambda error: None if isinstance(error, Exception) else find(error))


def take_a_cancellation_by_a_plugin_for_a_stop(patch):
    find = worker.plugin_defect
    patch.setattr(
        worker, "plugin_defect", lambda error: None if isinstance(error, asyncio.CancelledError) else find(error)
    )
    patch.setattr(exporter, "run_again_if_cancelled", lambda step: step())


def let_a_plugin_cancel_a_worker(patch):
    patch.setattr(defect, "_IN_WORKER", ContextVar("in_worker", default=False))
    patch.setattr(exporter, "run_again_if_cancelled", lambda step: step())


def end_the_run_after_an_exception_of_a_probe(patch):
    patch.setattr(destination_probe, "plugin_defect", lambda _: None)


def use_a_response_without_a_request(patch):
    patch.setattr(connections._GuardedProtocol, "is_connected", ResponseHandler.is_connected)


def take_another_success_of_start_for_not_executed(patch):
    raise_for_status = responses.raise_for_status

    async def raise_wrongly(operation, response, kind):
        if response.status == 201:
            raise SourceError(f"{operation}: unexpected status")
        await raise_for_status(operation, response, kind)

    patch.setattr(responses, "raise_for_status", raise_wrongly)


def take_a_rejected_settlement_for_a_confirmed_one(patch):
    complete = RetryingSource.complete

    async def complete_anyway(self, task):
        with suppress(RequestRejected):
            await complete(self, task)

    patch.setattr(RetryingSource, "complete", complete_anyway)


def complete_after_a_restart_without_verifying(patch):
    patch.setattr(Recovery, "verify", do_nothing)


def fail_with_an_incomplete_copy(patch):
    store = Quarantine.store

    async def store_anything(self, *args):
        await store(self, *args)
        return {}

    patch.setattr(Quarantine, "store", store_anything)


def fail_on_a_missing_file(patch):
    need_no_second_start(patch)
    handle = FailureHandler.handle

    async def handle_wrongly(self, task, claim, error):
        if claim and isinstance(error, FileMissing):
            return await self._fail(task, claim, error)
        return await handle(self, task, claim, error)

    patch.setattr(FailureHandler, "handle", handle_wrongly)


def count_attempts_over_all_kinds_of_errors(patch):
    need_no_second_start(patch)
    handle = FailureHandler.handle

    async def handle_counting(self, task, claim, error):
        failures = (await self._cooldown.get(task.id)).failures
        if claim and failures >= 2 and isinstance(error, FileMissing | SchemaMismatch):
            return await self._fail(task, claim, error)
        return await handle(self, task, claim, error)

    patch.setattr(FailureHandler, "handle", handle_counting)


def count_failed_tasks_after_an_await(patch):
    reserve, record = FailBreaker.reserve, FailBreaker.record

    def reserve_nothing(self, claim, error):
        is_free = reserve(self, claim, error)
        vars(self).setdefault("later", {})[claim.task.id] = self._places.pop(claim.task.id, None)
        return is_free

    async def reserve_now(self, task_id):
        self._places[task_id] = self.later[task_id]
        await record(self, task_id)

    patch.setattr(FailBreaker, "reserve", reserve_nothing)
    patch.setattr(FailBreaker, "record", reserve_now)


def forget_failed_tasks_after_a_restart(patch):
    need_no_second_start(patch)
    patch.setattr(FailBreaker, "load", lambda self, records: None)


def allow_failed_tasks_again_after_any_export(patch):
    clear = FailureHandler.clear

    async def clear_all(self, claim):
        self._breaker._places.clear()
        await clear(self, claim)

    patch.setattr(FailureHandler, "clear", clear_all)


def check_the_lease_only_once(patch):
    check_of = LeaseDeadline.check_of

    def check_once(self, claim):
        checks = iter([check_of(self, claim)])
        return lambda: next(checks, bool)()

    patch.setattr(LeaseDeadline, "check_of", check_once)


def follow_the_first_row_of_a_task(patch):
    patch.setattr(ListedProjects, "certain", lambda self, task: task)


def believe_an_undocumented_state(patch):
    async def known_state(self, task):
        state = await self.state(task)
        return state if state is None or state in frozenset(TaskState) else TaskState.RUNNING

    patch.setattr(ClaimTrackingSource, "_known_state", known_state)


def repeat_fail_without_its_copy(patch):
    need_no_second_start(patch)

    async def fail(self, task, message):
        await self._source.fail(task, message)

    patch.setattr(ClaimTrackingSource, "_fail", fail)


def delay_settlements_as_long_as_asked(patch):
    init = Throttle.__init__
    patch.setattr(
        Throttle, "__init__", lambda self, *args, **options: init(self, *args, max_urgent_pause=1e9, **options)
    )


def end_a_pause_of_all_requests(patch):
    async def is_answered(self):
        return True

    patch.setattr(PauseVerifier, "_is_answered", is_answered)


def wait_for_each_request_of_a_task(patch):
    patch.setattr("aluma_async.aluma.stall_watch.LAG_SECONDS", float("inf"))


def complete_a_partial_specification(patch):
    patch.setattr(wire, "sign_of_missing", lambda name, value: "")
    patch.setattr(wire, "announced_total", lambda name, value, **_: 0)


def settle_claims_of_another_client(patch):
    init = ClaimTracker.__init__
    patch.setattr(ClaimTracker, "__init__", lambda self, *args: init(self, *args[:3]))


def wait_for_a_silent_place(patch):
    patch.setattr(DestinationWatch, "_look", lambda self: None)


def with_replies(*replies):
    return {"misbehaviour": Misbehaviour(dict.fromkeys(replies, 0.2))}


BUGS = {
    Schedule: (
        repeat_an_ambiguous_start,
        ignore_cool_downs,
        forget_cool_downs_after_a_crash,
        continue_after_the_lease,
        take_a_conflict_after_an_unconfirmed_settlement_for_a_lost_claim,
        queue_tasks_that_are_in_progress,
        never_list_a_done_task_again,
        claim_a_task_that_recovery_settles,
        settle_a_claim_that_a_worker_uses,
        ignore_the_journal_at_start,
        send_start_before_its_record_is_durable,
        forget_late_starts,
        never_settle_orphaned_claims,
        believe_a_stale_listing,
        complete_before_the_files_are_durable,
        cancel_an_unconfirmed_complete,
        settle_claims_of_an_earlier_process_without_proof,
        fail_without_a_copy_in_the_quarantine,
        fail_tasks_after_transient_errors,
        settle_expired_claims,
        omit_a_file,
        complete_after_a_restart_without_verifying,
        fail_with_an_incomplete_copy,
        fail_at_the_first_start,
        fail_on_a_missing_file,
        count_attempts_over_all_kinds_of_errors,
        take_a_rejected_settlement_for_a_confirmed_one,
        count_failed_tasks_after_an_await,
        forget_failed_tasks_after_a_restart,
        allow_failed_tasks_again_after_any_export,
        pause_for_every_unavailable_place,
        pause_after_every_error_of_a_destination,
        wait_for_the_cool_down_in_the_worker,
        end_the_run_after_an_exception_of_a_plugin,
        take_a_cancellation_by_a_plugin_for_a_stop,
        let_a_plugin_cancel_a_worker,
        end_the_run_after_an_exception_of_a_probe,
        follow_the_first_row_of_a_task,
        believe_an_undocumented_state,
        repeat_fail_without_its_copy,
        complete_a_partial_specification,
        settle_claims_of_another_client,
        wait_for_a_silent_place,
    ),
    FullSchedule: (
        ignore_retry_after,
        delay_settlements_as_long_as_asked,
        end_a_pause_of_all_requests,
        wait_for_each_request_of_a_task,
        ignore_the_request_limit,
        accept_any_content,
        accept_a_cut_file,
        accept_a_cut_file_unless_it_is_a_pdf,
        accept_a_cut_image,
        accept_an_error_under_an_unknown_extension,
        ignore_digests,
        accept_the_specification_of_another_task,
        join_two_versions_of_a_file,
        use_a_response_without_a_request,
        take_another_success_of_start_for_not_executed,
        check_the_lease_only_once,
    ),
}


OUTDATED = ("TypeError", "AttributeError", "NameError")
"""Exceptions of a planted bug whose signature or names are outdated. A ``KeyError`` can be the effect of a bug."""
SEEDS = 1000
"""Number of schedules within which each bug must be detected."""
CALM = {
    "instances": 1,
    "workers": 1,
    "rates": {},
    "broken": 0.0,
    "slow": 0.0,
    "away": (),
    "kills": (),
    "sleeps": (),
    "journal_broken": (),
    "faulty_seconds": 540.0,
    "behaviour": Behaviour(conflict_status=409, claim_timeout_seconds=CLAIM_TIMEOUT, latency_seconds=0.05),
}
"""A plan in which nothing goes wrong."""


def with_sick_places(kind, sick=30):
    """Return a calm plan whose first tasks have a defective place; the three others must be exported in time."""
    misbehaviour = Misbehaviour(sick=dict.fromkeys(range(sick), kind), healthy_by=HEALTHY_SECONDS)
    return {**CALM, "tasks": sick + 3, "misbehaviour": misbehaviour}


HARSHER = {
    pause_for_every_unavailable_place: with_sick_places(Sickness.UNAVAILABLE),
    pause_after_every_error_of_a_destination: with_sick_places(Sickness.ERROR),
    wait_for_the_cool_down_in_the_worker: with_sick_places(Sickness.ERROR),
    complete_a_partial_specification: with_replies(WrongReply.PARTIAL_SPECIFICATION),
    settle_claims_of_another_client: {"misbehaviour": Misbehaviour(other_client=True)},
    wait_for_a_silent_place: with_sick_places(Sickness.SILENT, 1),
    let_a_plugin_cancel_a_worker: with_sick_places(Sickness.LEAK, 5),
    end_the_run_after_an_exception_of_a_probe: {
        **CALM,
        "tasks": 5,
        "away": ((0.5, 100.0),),
        "misbehaviour": Misbehaviour(sick={0: Sickness.UNAVAILABLE}, probe_raises=True),
    },
    complete_after_a_restart_without_verifying: {
        "instances": 1,
        "journal_broken": (),
        "kills": tuple((0, point, 0.0) for point in range(8, 24, 3)),
        "misbehaviour": Misbehaviour(losses=(Loss.DISK,)),
    },
    fail_with_an_incomplete_copy: with_replies(WrongReply.NOT_FOUND),
    fail_at_the_first_start: with_replies(WrongReply.DAMAGED_TEXT),
    fail_on_a_missing_file: with_replies(WrongReply.NOT_FOUND),
    count_attempts_over_all_kinds_of_errors: {
        "tasks": 3,
        "behaviour": CALM["behaviour"],
        "misbehaviour": Misbehaviour(refused=(0, 1)),
    },
    end_a_pause_of_all_requests: with_replies(WrongReply.LONG_PAUSE),
    accept_any_content: with_replies(*WRONG_FILES),
    accept_a_cut_file: with_replies(WrongReply.CUT),
    accept_a_cut_file_unless_it_is_a_pdf: with_replies(WrongReply.CUT),
    accept_a_cut_image: with_replies(WrongReply.CUT),
    accept_an_error_under_an_unknown_extension: with_replies(WrongReply.JSON_ERROR, WrongReply.LOG_IN_PAGE),
    ignore_digests: with_replies(WrongReply.ALTERED),
    accept_the_specification_of_another_task: with_replies(WrongReply.OTHER_SPECIFICATION),
    join_two_versions_of_a_file: with_replies(WrongReply.OTHER_VERSION),
    use_a_response_without_a_request: with_replies(WrongReply.SURPLUS),
    take_another_success_of_start_for_not_executed: with_replies(WrongReply.OTHER_SUCCESS),
    take_a_rejected_settlement_for_a_confirmed_one: with_replies(WrongReply.FORBIDDEN),
    follow_the_first_row_of_a_task: {"behaviour": Behaviour(contradictory_tasks=(0, 1))},
    believe_an_undocumented_state: {
        "rates": {Fault.DROP_BEFORE: 0.2},
        **with_replies(WrongReply.NOT_FOUND, WrongReply.MAINTENANCE),
    },
    repeat_fail_without_its_copy: {
        "behaviour": Behaviour(impossible_tasks=(0,)),
        "misbehaviour": Misbehaviour(
            outages=(Outage(0.0, 200.0, WrongReply.FORBIDDEN, ("fail",)),), deletions=(100.0, 150.0)
        ),
    },
    delay_settlements_as_long_as_asked: {
        "instances": 1,
        "journal_broken": (),
        "kills": (),
        "sleeps": (),
        "faulty_seconds": 400.0,
        **with_replies(WrongReply.LONG_PAUSE),
    },
    check_the_lease_only_once: {"misbehaviour": Misbehaviour(suspended=0.5)},
    continue_after_the_lease: {"slow": 0.7, "faulty_seconds": 4000.0},
    never_list_a_done_task_again: {
        "rates": {Fault.LATE: 0.3, Fault.DROP_AFTER: 0.2},
        "sleeps": ((50.0, 1900.0),),
    },
}
"""Changes of the plan that make the effect of a bug more frequent."""


@pytest.mark.parametrize(
    ("schedule", "plant"),
    [(schedule, plant) for schedule, bugs in BUGS.items() for plant in bugs],
    ids=[plant.__name__ for bugs in BUGS.values() for plant in bugs],
)
def test_simulation_detects_a_planted_bug(schedule, plant, monkeypatch):
    """A planted bug changes decisions. One that does not fit the code any more raises an error and proves nothing."""
    plant(monkeypatch)
    gc.disable()  # because collections after each schedule would scan the large heap of the test process
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    try:
        for seed in range(SEEDS):
            try:
                chosen = msgspec.structs.replace(plan(seed), **HARSHER.get(plant, {}))
                violations = run_virtual(schedule(chosen).run).violations
            except (DeadlockError, LivelockError):
                return
            assert not [v for v in violations if DEFECT in v and v.endswith(OUTDATED)]
            if violations:
                return
    finally:
        gc.collect()
        gc.enable()
    pytest.fail(f"{plant.__name__} was not detected in {SEEDS} schedules")
