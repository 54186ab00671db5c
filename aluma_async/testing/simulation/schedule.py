"""``Schedule``: runs the exporters of a plan in virtual time and checks the invariants.

The exporters are the real pipeline; Aluma, destination and journal are in memory. After the time of faults and crashes,
every task must be completed or failed within ``LIVENESS_SECONDS``.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import anyio
from msgspec import Struct
from msgspec.structs import replace

from aluma_async.clock import loop_time
from aluma_async.models import Timestamp
from aluma_async.pipeline.exporter import Exporter
from aluma_async.policy.backoff import Backoff, RetryPolicy
from aluma_async.testing.destination import MemoryDestination
from aluma_async.testing.sample_data import Profile
from aluma_async.testing.simulation.invariants import DEFECT, RECOVERY_SECONDS, Instance, InvariantChecker
from aluma_async.testing.simulation.misbehaviour import Loss, MisbehavingFaults, Sickness
from aluma_async.testing.simulation.other_client import run_as_other_client
from aluma_async.testing.simulation.plans import CLAIM_TIMEOUT, Plan, plan
from aluma_async.testing.simulation.watched import (
    WatchedAluma,
    WatchedJournal,
    WatchedSource,
)
from aluma_async.testing.simulation.watched_destination import DestinationFaults, WatchedDestination
from aluma_async.testing.source import SimulatedSource
from aluma_async.testing.virtual_loop import Process, VirtualTimeLoop
from aluma_async.testing.virtual_time import run_virtual

LIVENESS_SECONDS = 4 * 3600.0
"""Seconds after the last fault within which every task must end: a few of the longest delays."""
_EPOCH = 1.7e9


class Outcome(Struct, frozen=True):
    """Result of a schedule."""

    seed: int
    violations: list[str]
    digest: str
    """Equal for runs with the same events in the same order at the same times."""
    seconds: float
    """Duration in virtual time."""
    steps: int
    """Number of loop steps."""
    counts: dict[str, int]
    """Number of events by class; ``kills`` counts killed processes."""
    trace: list[str] = []
    """One line per event, if requested."""


def run_schedule(plan_or_seed: Plan | int, *, trace: bool = False) -> Outcome:
    """Run a schedule. ``trace``: return a line per event."""
    chosen = plan(plan_or_seed) if isinstance(plan_or_seed, int) else plan_or_seed
    return run_virtual(Schedule(chosen, trace=trace).run)


class Schedule:
    """A run of a plan. Subclasses override ``_prepare`` and ``_exporter`` to use other components."""

    profile: Profile = "tiny"
    is_full_stack = False

    def __init__(self, chosen: Plan, *, trace: bool = False) -> None:
        self._plan = chosen
        self._checker = InvariantChecker()
        self._checker.trace = [] if trace else None
        self._slept = 0.0
        self._finished = asyncio.Event()
        self._exporters: dict[int, Exporter] = {}

    async def run(self) -> Outcome:
        """Run the exporters, then check the final state."""
        chosen, checker = self._plan, self._checker
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        self._loop = loop
        self._prepare()
        self._faults = MisbehavingFaults(
            chosen.misbehaviour, chosen.rates, seed=chosen.seed, burst=chosen.burst, full=self.is_full_stack
        )
        self._losing = random.Random(f"losses/{chosen.seed}")
        self._destination_faults = DestinationFaults(
            random.Random(f"troubles/{chosen.seed}"),
            chosen.broken,
            chosen.slow,
            chosen.away,
            {self._aluma.ids()[number] for number in chosen.misbehaviour.refused},
            {self._aluma.ids()[number]: kind for number, kind in chosen.misbehaviour.sick.items()},
            probe_raises=chosen.misbehaviour.probe_raises,
        )
        instances = [Instance(n, checker, self.clock, CLAIM_TIMEOUT) for n in range(chosen.instances)]
        for instance in instances:
            instance.journal = WatchedJournal(instance)
            instance.is_sick = self._destination_faults.is_sick
            instance.project_of = self._aluma.project
            instance.is_deleted = self._aluma.is_deleted
        for number, start, end in chosen.journal_broken:
            loop.call_at(start, setattr, instances[number], "journal_broken_until", end)
        for at, seconds in chosen.sleeps:
            loop.call_at(at, self._sleep_machine, seconds)
        for at in chosen.misbehaviour.deletions:
            loop.call_at(at, self._delete_copies)
        if chosen.kill_step:
            loop.at_step(chosen.kill_step, lambda: instances[0].process.kill())
        if chosen.misbehaviour.healthy_by:
            loop.call_at(chosen.misbehaviour.healthy_by, self._check_healthy_tasks)
        async with anyio.create_task_group() as group:
            for instance in instances:
                group.start_soon(self._run_instance, instance)
            await self._wait_until_all_ended(chosen.faulty_seconds)
        self._check_final_state()
        await self._clean_up()
        return Outcome(
            chosen.seed,
            list(checker.violations),
            checker.digest,
            loop.time(),
            loop.steps,
            dict(checker.counts),
            list(checker.trace or ()),
        )

    def clock(self) -> Timestamp:
        """Return the time of the machine, including its sleeps."""
        now = self._loop.now + self._slept
        return Timestamp("simulated", now, _EPOCH + now)

    def _now(self) -> float:
        return self._loop.now + self._slept

    def _sleep_machine(self, seconds: float) -> None:
        self._slept += seconds

    async def _wait_until_all_ended(self, faulty_seconds: float) -> None:
        """Remove all faults after some time, then wait until every task has ended or the time limit is reached."""
        await anyio.sleep(faulty_seconds)
        self._faults.end()
        self._aluma.repair_specs()
        self._destination_faults.end()
        deadline = loop_time() + LIVENESS_SECONDS
        while not self._all_ended() and loop_time() < deadline:  # noqa: ASYNC110 - SimulatedAluma has no event to wait for
            await anyio.sleep(20)
        self._checker.require(self._all_ended(), f"tasks that have not ended: {self._aluma.count_by_state()}")
        self._finished.set()

    def _check_healthy_tasks(self) -> None:
        """Require that all tasks are completed but the sick ones."""
        aluma = self._aluma
        late = [task_id for task_id in aluma.ids() if aluma.is_unsettled(task_id)]
        stalled = {aluma.ids()[number] for number in self._plan.misbehaviour.stalled}
        late = [t for t in late if t not in stalled and not self._destination_faults.is_sick(t)]
        self._checker.require(not late, f"healthy tasks that are not exported because of sick ones: {late}")

    def _all_ended(self) -> bool:
        """Return whether each task is completed or failed, but for those that must not be failed automatically."""
        remaining = set(self._aluma.ids()) - set(self._aluma.ids("completed")) - set(self._aluma.ids("failed"))
        return not remaining or all(self._aluma.is_limited(task_id) for task_id in remaining)

    async def _run_instance(self, instance: Instance) -> None:
        """Run an exporter until the end of the schedule; restart it with the same state each time it is killed."""
        loop = asyncio.get_running_loop()
        kills = iter([(point, time) for number, point, time in self._plan.kills if number == instance.number])
        while not self._finished.is_set():
            instance.process, instance.points_passed, instance.kill_at_point = Process(), 0, 0
            instance.on_start()
            process = instance.process
            process.start(self._run(instance))
            loop.call_later(RECOVERY_SECONDS + 0.1, instance.check_overdue)
            if kill := next(kills, None):
                instance.kill_at_point = kill[0]
                if not kill[0] and kill[1] > loop.time():  # otherwise the exporter was not running at that time
                    loop.call_at(kill[1], process.kill)
            await self._wait_for_end(process.ended)
            if self._finished.is_set() and not process.ended.is_set():
                instance.kill_at_point = 0
                self._exporters[instance.number].stop()
                await process.ended.wait()
            if process.killed:
                instance.on_kill()
                self._on_kill(instance)
                self._checker.counts["kills"] += 1
                self._lose_files()
                if self._plan.misbehaviour.configured_anew and self._losing.random() < 0.5:
                    self._change_destination()
                if self._plan.misbehaviour.other_client and not self.is_full_stack and self._losing.random() < 0.5:
                    await run_as_other_client(instance, self._settings(instance))
                await anyio.sleep(
                    random.Random(f"{self._plan.seed}/{instance.points_passed}").choice((0.0, 3.0, 100.0))
                )

    async def _wait_for_end(self, process_ended: asyncio.Event) -> None:
        """Wait until the process or the schedule has ended."""
        waits = [asyncio.ensure_future(event.wait()) for event in (process_ended, self._finished)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _run(self, instance: Instance) -> None:
        """Run an exporter once. If it fails, wait as a service manager does before a restart."""
        try:
            async with self._exporter(instance) as exporter:
                self._exporters[instance.number] = exporter
                await exporter.run()
                self._checker.require(not exporter.tasks_in_progress, "a task is in progress after the end")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - only errors of this package are expected
            self._checker.record(f"{instance.number} ended: {type(error).__name__}: {error}")
            is_expected = type(error).__module__.startswith("aluma_async")
            self._checker.require(is_expected, f"{DEFECT} raised by run(): {type(error).__name__}: {error}")
            await anyio.sleep(5)

    # -- components; FullSchedule has others

    def _prepare(self) -> None:
        self._stores = [MemoryDestination()]
        self._quarantines = [MemoryDestination() for _ in range(self._plan.instances)]  # as each has a state folder
        self._aluma = WatchedAluma(
            self._plan.tasks, seed=self._plan.seed, profile=self.profile, behaviour=self._plan.behaviour, now=self._now
        )
        self._aluma.watch(self._checker, self._plan)
        self._aluma.saved = lambda task_id: [data for store in self._stores for data in store.contents(task_id)]
        self._aluma.quarantined = lambda task_id: chain.from_iterable(
            quarantine.contents(task_id) for quarantine in self._quarantines
        )

    @asynccontextmanager
    async def _exporter(self, instance: Instance) -> AsyncIterator[Exporter]:
        yield Exporter(
            WatchedSource(SimulatedSource(self._aluma, self._faults), instance, self._aluma),
            WatchedDestination(self._stores[-1], instance, self._destination_faults, may_refuse=True),
            quarantine=WatchedDestination(self._quarantines[instance.number], instance, self._destination_faults),
            journal=instance.journal,
            **self._settings(instance),
        )

    def _settings(self, instance: Instance) -> dict[str, Any]:
        chosen = self._plan
        rng = random.Random(f"{chosen.seed}/{instance.number}/{loop_time()}")
        if chosen.misbehaviour.configured_anew:
            change = random.Random(f"configuration/{chosen.seed}/{loop_time()}").choice
            chosen = replace(
                chosen, workers=change((1, 2, 4)), attempts=change((1, 3, 5)), cooldown=change((60.0, 200.0))
            )
        return {
            "workers": chosen.workers,
            "retry": RetryPolicy(chosen.attempts),
            "cooldown": Backoff(chosen.cooldown, 600),
            "polling": Backoff(2, 60),
            "park_seconds": 600,
            "park_after": chosen.park_after,
            "claim_timeout": CLAIM_TIMEOUT,
            "source_id": "client",
            "destination_timeout": 60.0 if Sickness.SILENT in chosen.misbehaviour.sick.values() else 300.0,
            "on_event": instance.on_event,
            "clock": self.clock,
            "uniform": rng.uniform,
        }

    def _lose_files(self) -> None:
        """Lose files between a crash and the next run."""
        for loss in self._plan.misbehaviour.losses:
            if not self._finished.is_set() and self._losing.random() < 0.5:
                self._aluma.losses += 1
                self._checker.counts["losses"] += 1
                self._checker.record(f"lost: {loss}")
                self._lose(loss)

    def _lose(self, loss: Loss) -> None:
        if loss is Loss.FILE:
            tasks = self._stores[-1].tasks
            for task_id in [key for key, files in tasks.items() if files and self._aluma.is_unsettled(key)][:1]:
                tasks[task_id].popitem()
        else:
            for store in self._quarantines if loss is Loss.QUARANTINE else self._stores[-1:]:
                store.tasks.clear()

    def _delete_copies(self) -> None:
        """Delete all copies in the quarantines, as an administrator can at any time."""
        self._aluma.losses += 1
        self._checker.record("the copies were deleted")
        self._empty_quarantines()

    def _empty_quarantines(self) -> None:
        for quarantine in self._quarantines:
            quarantine.tasks.clear()

    def _change_destination(self) -> None:
        """Let the next runs use another destination. The old one stays."""
        self._stores.append(MemoryDestination())

    def _on_kill(self, instance: Instance) -> None:
        """Release what the system releases when a process ends."""

    async def _clean_up(self) -> None:
        """Release the resources of the schedule."""

    def _check_final_state(self) -> None:
        aluma, require = self._aluma, self._checker.require
        unexportable = [aluma.ids()[number] for number in self._plan.behaviour.impossible_tasks]
        failed = {*aluma.ids("failed"), *filter(aluma.is_limited, unexportable)}
        require(failed == set(unexportable), f"failed tasks are {failed}, expected {unexportable}")
        aluma.check_deleted_tasks()
        if self._plan.misbehaviour.may_lose_claims:
            return  # because the claims that the exporter gave up expire
        if self._plan.instances == 1 and not (self._plan.sleeps or self._plan.misbehaviour.suspended):
            require(not aluma.counts["requeued"], f"{aluma.counts['requeued']} claims expired at Aluma")
            if not self._plan.kills and not self._plan.kill_step:
                reported, completed = self._checker.counts["TaskCompleted"], len(aluma.ids("completed"))
                # More may be reported, because a late Cancel makes a lost Complete look like a successful one.
                require(reported >= completed, f"{reported} tasks were reported as exported, {completed} are completed")
