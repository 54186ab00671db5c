"""The proof: exporters under faults and crashes, from seeds, in virtual time. All rules hold after every schedule."""

import gc
import os
import subprocess
import sys

import anyio
import msgspec
import pytest

from aluma_async.journal.memory import MemoryJournal
from aluma_async.models import ClaimState, ExportSpec
from aluma_async.pipeline import recovery
from aluma_async.pipeline.claim_source import ClaimTrackingSource
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.pipeline.throttle import Throttle
from aluma_async.pipeline.worker import Worker
from aluma_async.policy import error_policy
from aluma_async.testing import run_virtual
from aluma_async.testing.faults import Fault
from aluma_async.testing.simulation import Plan, plan, run_schedule
from aluma_async.testing.simulation.full_stack import FullSchedule
from aluma_async.testing.simulation.parallel import run_many
from aluma_async.testing.simulation.schedule import Schedule
from aluma_async.testing.simulator import Behaviour


@pytest.mark.parametrize(("full", "count"), [(False, 10_000), (True, 1_000)], ids=["ports", "full-stack"])
def test_whatever_goes_wrong_no_rule_is_broken(full, count):
    results = list(run_many(range(count), full=full))
    assert sum(result.schedules for result in results) == count
    assert [seed for result in results for seed in result.broken] == []


def digests():
    return [run_schedule(seed).digest for seed in range(50)]


def test_the_same_seed_is_the_same_story_in_another_process_with_other_hashes():
    told = []
    for seed in ("1", "2"):
        code = "from tests.simulation.test_simulation import digests; print(*digests())"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        told.append(done.stdout.split())
    assert told[0] == told[1] == digests()
    assert len(set(told[0])) > 40


SMALL = Plan(
    seed=1,
    tasks=3,
    instances=1,
    workers=2,
    faulty_seconds=20.0,
    behaviour=Behaviour(latency_seconds=0.05, impossible_tasks=(1,)),
)


@pytest.mark.parametrize("full", [False, True], ids=["ports", "full-stack"])
def test_a_crash_at_any_step_of_the_loop_loses_nothing(full):
    steps = run_virtual((FullSchedule if full else Schedule)(SMALL).run).steps
    plans = [msgspec.structs.replace(SMALL, kill_step=step) for step in range(1, steps)]
    results = list(run_many(plans, full=full))
    assert not [broken for result in results for broken in result.broken]
    assert sum(result.kills for result in results) > 0.9 * steps, "nearly every step is in the life of an exporter"


def test_a_crash_at_each_point_of_each_of_two_lives_loses_nothing():
    lives = [((0, first, 0.0), (0, second, 0.0)) for first in range(1, 40) for second in range(1, 30, 2)]
    results = list(run_many([msgspec.structs.replace(SMALL, kills=kills) for kills in lives]))
    assert not [broken for result in results for broken in result.broken]


def test_the_command_prints_commit_seeds_and_speed():
    command = [sys.executable, "-m", "aluma_async.testing.simulation", "--seed", "5", "--count", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "seeds 5 to 24" in done.stdout
    assert "20 schedules, 0 with violations" in done.stdout
    assert "per minute" in done.stdout


# -- mutants: bugs that are planted in the shipped code. A simulation that does not see them proves nothing.


def blind_restart(patch):
    """Start is repeated though nobody knows whether it was carried out."""

    async def start(self, task):
        return await self.repeat("start", lambda: self._source.start(task))

    async def repeat(self, request, step):
        for _ in range(3):
            try:
                return await step()
            except error_policy.Ambiguous as error:
                last = error
        raise last

    patch.setattr(RetryingSource, "start", lambda self, task: repeat(self, "start", lambda: self._source.start(task)))
    del start


def no_cool_down(patch):
    async def never(self, task_id):
        return False

    patch.setattr(Cooldown, "holds", never)


def cool_downs_are_forgotten_in_a_crash(patch):
    async def load(self, holds):
        list(holds)

    patch.setattr(Cooldown, "load", load)


def retry_after_is_ignored(patch):
    patch.setattr(Throttle, "_record_error", lambda self, error: None)


def no_limit_on_requests(patch):
    init = Throttle.__init__
    patch.setattr(Throttle, "__init__", lambda self, limit, **more: init(self, 10_000, **more))


def a_slow_task_goes_on_past_its_time(patch):
    patch.setattr(Worker, "_within_lease", lambda self, claim, step: step())


def a_refused_complete_is_taken_for_a_loss(patch):
    async def settle(self, request, step):
        for _ in range(5):
            try:
                return await step()
            except error_policy.Ambiguous:
                await anyio.sleep(1)
        return None

    patch.setattr(RetryingSource, "_settle", settle)


def nobody_knows_what_is_in_hand(patch):
    patch.setattr(TaskTracker, "blocks", lambda self, task_id: False)
    patch.setattr(TaskTracker, "__contains__", lambda self, task_id: False)


def a_settled_task_is_never_looked_at_again(patch):
    patch.setattr(TaskTracker, "blocks", lambda self, task_id: task_id in self._tracked or task_id in self._done_until)


def no_journal(patch):
    async def load(self):
        return []

    patch.setattr(MemoryJournal, "load", load)


def the_intent_is_written_after_start(patch):
    async def record_intent(self, task_id):
        earlier = self._claims.get(task_id)
        self._claims[task_id] = lease_claim(
            task_id, ClaimState.STARTING, self._clock(), doubted=earlier and earlier.doubted
        )
        self._journal.put(self._claims[task_id])

    from aluma_async.models import ClaimRecord as lease_claim  # noqa: N813

    patch.setattr(ClaimTracker, "record_intent", record_intent)


def no_grace(patch):
    patch.setattr("aluma_async.pipeline.claim_tracker.LATE_START_SECONDS", 0.0)


def nobody_looks_after_loose_ends(patch):
    patch.setattr(recovery.Recovery, "schedule", lambda self, task_id, tries=0: None)


def a_stale_listing_is_believed(patch):
    patch.setattr(ClaimTracker, "may_hold_claim", lambda self, task_id: False)


def complete_before_the_files_are_safe(patch):
    deliver = Worker._transfer_files

    async def hasty(self, claim):
        await self._source.complete(claim.task)
        return await deliver(self, claim)

    patch.setattr(Worker, "_transfer_files", hasty)


def an_unheard_complete_is_cancelled(patch):
    judge = error_policy.decide

    def wrong(error, *, step, attempt):
        return judge(error, step=ClaimState.CLAIMED if step is ClaimState.COMMITTED else step, attempt=attempt)

    patch.setattr("aluma_async.pipeline.worker.decide", wrong)
    patch.setattr(ClaimTracker, "record_committed", Ledger_noop)


async def Ledger_noop(self, *_):  # noqa: N802
    pass


def fail_without_a_quarantine(patch):
    async def save(self, claim, error):
        pass

    patch.setattr(Quarantine, "store", save)


def a_transient_error_is_fatal(patch):
    judge = error_policy.decide

    def wrong(error, *, step, attempt):
        found = judge(error, step=step, attempt=attempt)
        return error_policy.Action.FAIL if found is error_policy.Action.CANCEL and step is ClaimState.CLAIMED else found

    patch.setattr("aluma_async.pipeline.worker.decide", wrong)


def what_is_not_ours_is_cancelled(patch):
    async def say(self, task, request, *, deletes):
        await request()
        self._claims.close(task.id, deleted=deletes)

    patch.setattr(ClaimTrackingSource, "_settle", say)


def a_file_is_forgotten(patch):
    from aluma_async.pipeline.transfer import FileTransfer

    deliver = FileTransfer.deliver

    def less(self, claim, destination):
        spec = ExportSpec(claim.spec.files[:-1] or claim.spec.files, claim.spec.received)
        return deliver(self, msgspec.structs.replace(claim, spec=spec), destination)

    patch.setattr(FileTransfer, "deliver", less)


PLANTED = {
    Schedule: (
        blind_restart,
        no_cool_down,
        cool_downs_are_forgotten_in_a_crash,
        a_slow_task_goes_on_past_its_time,
        a_refused_complete_is_taken_for_a_loss,
        nobody_knows_what_is_in_hand,
        a_settled_task_is_never_looked_at_again,
        no_journal,
        the_intent_is_written_after_start,
        no_grace,
        nobody_looks_after_loose_ends,
        a_stale_listing_is_believed,
        complete_before_the_files_are_safe,
        an_unheard_complete_is_cancelled,
        fail_without_a_quarantine,
        a_transient_error_is_fatal,
        what_is_not_ours_is_cancelled,
        a_file_is_forgotten,
    ),
    FullSchedule: (retry_after_is_ignored, no_limit_on_requests),
}
SEEDS = 1000
"""A planted bug has to be seen within so many schedules."""
HARSHER = {
    a_slow_task_goes_on_past_its_time: {"slow": 0.7, "faulty_seconds": 4000.0},
    a_settled_task_is_never_looked_at_again: {
        "rates": {Fault.LATE: 0.3, Fault.DROP_AFTER: 0.2},
        "sleeps": ((50.0, 1900.0),),
    },
}
"""What makes a rare bug less rare."""


@pytest.mark.parametrize(
    ("kind", "plant"),
    [(kind, plant) for kind, plants in PLANTED.items() for plant in plants],
    ids=[plant.__name__ for plants in PLANTED.values() for plant in plants],
)
def test_a_planted_bug_is_seen(kind, plant, monkeypatch):
    plant(monkeypatch)
    gc.disable()  # else it runs after each schedule, in the big heap of the tests
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    try:
        for seed in range(SEEDS):
            try:
                chosen = msgspec.structs.replace(plan(seed), **HARSHER.get(plant, {}))
                if run_virtual(kind(chosen).run).violations:
                    return
            except RuntimeError:  # a deadlock or a livelock
                return
    finally:
        gc.collect()
        gc.enable()
    pytest.fail(f"{plant.__name__} was not seen in {SEEDS} schedules")
