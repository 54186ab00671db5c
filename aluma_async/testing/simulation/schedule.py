"""One schedule: from a seed, exporters, an Aluma of some kind, and what goes wrong and when; run in virtual time.

The exporters are the shipped pipeline; Aluma, destination and journal are in memory. After a time of faults and
crashes nothing goes wrong any more, and then every task has to end in bounded time.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
from msgspec import Struct

from aluma_async.clock import loop_time
from aluma_async.models import Timestamp
from aluma_async.pipeline.exporter import Exporter
from aluma_async.policy.backoff import Backoff, RetryPolicy
from aluma_async.testing.destination import MemoryDestination
from aluma_async.testing.faults import Fault, FaultPlan
from aluma_async.testing.sample_data import Profile
from aluma_async.testing.simulation.invariants import (
    RECOVERY_SECONDS,
    DestinationFaults,
    Instance,
    InvariantChecker,
    WatchedAluma,
    WatchedDestination,
    WatchedSource,
)
from aluma_async.testing.simulator import Behaviour
from aluma_async.testing.source import SimulatedSource
from aluma_async.testing.virtual_loop import Process, VirtualTimeLoop
from aluma_async.testing.virtual_time import run_virtual

CLAIM_TIMEOUT = 1800.0
LIVENESS_SECONDS = 4 * 3600.0
"""After the faults have ended every task has to end within this: a few of the longest waits."""
_EPOCH = 1.7e9


class Outcome(Struct, frozen=True):
    """What a schedule showed."""

    seed: int
    violations: list[str]
    digest: str
    seconds: float
    """Virtual."""
    steps: int
    counts: dict[str, int]
    trace: list[str] = []


class Plan(Struct, frozen=True):
    """What a schedule holds; ``plan`` makes one from a seed."""

    seed: int
    tasks: int
    instances: int
    workers: int
    faulty_seconds: float
    behaviour: Behaviour
    rates: Mapping[Fault, float] = {}
    burst: float = 0.0
    broken: float = 0.0
    slow: float = 0.0
    away: tuple[tuple[float, float], ...] = ()
    kills: tuple[tuple[int, int, float], ...] = ()
    """Exporter, point at which it is killed counted from its start (0: by time), seconds; in order."""
    kill_step: int = 0
    """Step of the loop at which exporter 0 is killed; 0: none."""
    sleeps: tuple[tuple[float, float], ...] = ()
    """When the machine sleeps, and for how long: the loop's clock stands still meanwhile, Aluma's does not."""
    journal_broken: tuple[tuple[int, float, float], ...] = ()
    attempts: int = 5
    cooldown: float = 60.0


def plan(seed: int) -> Plan:
    """Choose what happens."""
    chance = random.Random(f"schedule/{seed}")
    instances = chance.choice((1, 1, 1, 2, 3))
    tasks = chance.choice((1, 2, 3, 5, 8))
    faulty = chance.choice((60.0, 60.0, 400.0, 1500.0))
    harsh = chance.choice((0.0, 0.02, 0.1, 0.3))
    kinds = [fault for fault in Fault if chance.random() < 0.5]
    kills = sorted(
        (chance.uniform(0, faulty), chance.randrange(instances), chance.choice((0, chance.randrange(1, 60))))
        for _ in range(chance.choice((0, 0, 1, 2, 5)))
    )
    return Plan(
        seed=seed,
        tasks=tasks,
        instances=instances,
        workers=chance.choice((1, 2, 4)),
        faulty_seconds=faulty,
        behaviour=Behaviour(
            conflict_status=409,
            repeated_complete_accepted=chance.random() < 0.3,
            list_stale_seconds=chance.choice((0, 0, 5)),
            max_listed=chance.choice((0, 0, 3)),
            claim_timeout_seconds=CLAIM_TIMEOUT,
            latency_seconds=chance.choice((0.0, 0.05, 0.5)),
            impossible_tasks=tuple(n for n in range(tasks) if chance.random() < 0.06)[:2],
            malformed_row=chance.random() < 0.3,
            resumable=seed % 2 == 0,
        ),
        rates={fault: harsh * chance.random() for fault in kinds} if harsh else {},
        burst=chance.random() * 0.7,
        broken=chance.choice((0, 0, 0.05, 0.3)),
        slow=chance.choice((0, 0, 0.1)),
        away=_windows(chance, faulty) if chance.random() < 0.2 else (),
        kills=tuple((instance, point, at) for at, instance, point in kills),
        sleeps=_windows(chance, faulty) if chance.random() < 0.05 else (),
        journal_broken=tuple((i, begin, end) for i in range(instances) for begin, end in _windows(chance, faulty))
        if chance.random() < 0.1
        else (),
        attempts=chance.choice((1, 3, 5)),
        cooldown=chance.choice((60.0, 200.0)),
    )


def run_schedule(plan_or_seed: Plan | int, *, trace: bool = False) -> Outcome:
    """Run one; ``tell`` keeps a line for each thing that happened."""
    return run_virtual(Schedule(plan(plan_or_seed) if isinstance(plan_or_seed, int) else plan_or_seed, trace=trace).run)


class Schedule:
    """A run of a plan. What the exporters are made of is in ``_exporter`` and ``_prepare``."""

    profile: Profile = "tiny"

    def __init__(self, chosen: Plan, *, trace: bool = False) -> None:
        self._plan = chosen
        self._checker = InvariantChecker()
        self._checker.trace = [] if trace else None
        self._slept = 0.0
        self._over = asyncio.Event()
        self._exporters: dict[int, Exporter] = {}

    async def run(self) -> Outcome:
        """Run it."""
        chosen, checker = self._plan, self._checker
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        self._loop = loop
        self._prepare()
        self._faults = FaultPlan(chosen.rates, seed=chosen.seed, burst=chosen.burst)
        self._destination_faults = DestinationFaults(
            random.Random(f"troubles/{chosen.seed}"), chosen.broken, chosen.slow, chosen.away
        )
        instances = [Instance(n, checker, self.clock, CLAIM_TIMEOUT) for n in range(chosen.instances)]
        for number, begin, end in chosen.journal_broken:
            loop.call_at(begin, setattr, instances[number], "journal_broken_until", end)
        for at, seconds in chosen.sleeps:
            loop.call_at(at, self._sleep_machine, seconds)
        if chosen.kill_step:
            loop.at_step(chosen.kill_step, lambda: instances[0].process.kill())
        async with anyio.create_task_group() as group:
            for instance in instances:
                group.start_soon(self._run_instance, instance)
            await self._until_all_is_done(chosen.faulty_seconds)
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
        """The time, with that slept."""
        now = self._loop.now + self._slept
        return Timestamp("simulated", now, _EPOCH + now)

    def _now(self) -> float:
        return self._loop.now + self._slept

    def _sleep_machine(self, seconds: float) -> None:
        self._slept += seconds

    async def _until_all_is_done(self, faulty: float) -> None:
        """Let things go wrong for some time, and then go well until every task has ended, or for far too long."""
        await anyio.sleep(faulty)
        self._faults.end()
        self._destination_faults.end()
        deadline = loop_time() + LIVENESS_SECONDS
        while not self._all_ended() and loop_time() < deadline:  # noqa: ASYNC110 - Aluma tells nobody
            await anyio.sleep(20)
        self._checker.require(self._all_ended(), f"tasks are left: {self._aluma.count_by_state()}")
        self._over.set()

    def _all_ended(self) -> bool:
        return set(self._aluma.count_by_state()) <= {"completed", "failed"}

    async def _run_instance(self, instance: Instance) -> None:
        """Run an exporter; when it is killed, run the next one on what it left."""
        loop = asyncio.get_running_loop()
        kills = iter([(point, at) for number, point, at in self._plan.kills if number == instance.number])
        while not self._over.is_set():
            instance.process, instance.points, instance.kill_at_point = Process(), 0, 0
            instance.on_start()
            process = instance.process
            process.start(self._run(instance))
            loop.call_later(RECOVERY_SECONDS + 0.1, instance.check_overdue)
            if kill := next(kills, None):
                instance.kill_at_point = kill[0]
                if not kill[0] and kill[1] > loop.time():  # or it fell into a time in which nothing ran
                    loop.call_at(kill[1], process.kill)
            await self._any(process.ended)
            if self._over.is_set() and not process.ended.is_set():
                instance.kill_at_point = 0
                self._exporters[instance.number].stop()
                await process.ended.wait()
            if process.killed:
                instance.on_kill()
                self._killed(instance)
                self._checker.counts["kills"] += 1
                await anyio.sleep(random.Random(f"{self._plan.seed}/{instance.points}").choice((0.0, 3.0, 100.0)))

    async def _any(self, ended: asyncio.Event) -> None:
        """Wait until a process has ended, or the schedule is over."""
        waits = [asyncio.ensure_future(event.wait()) for event in (ended, self._over)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _run(self, instance: Instance) -> None:
        """As a service manager would: an exporter that cannot begin is begun again."""
        try:
            async with self._exporter(instance) as exporter:
                self._exporters[instance.number] = exporter
                await exporter.run()
                self._checker.require(not exporter.tasks_in_progress, "something is in hand after the end")
        except Exception as error:  # noqa: BLE001 - an exporter may find Aluma away; a defect shows in the trace
            self._checker.record(f"{instance.number} ended: {type(error).__name__}: {error}")
            self._checker.require(
                type(error).__module__.startswith("aluma_async"), f"{type(error).__name__}: {error} came out of run()"
            )
            await anyio.sleep(5)

    # -- what a kind of schedule is made of

    def _prepare(self) -> None:
        self._store, self._quarantine = MemoryDestination(), MemoryDestination()
        self._aluma = WatchedAluma(
            self._plan.tasks, seed=self._plan.seed, profile=self.profile, behaviour=self._plan.behaviour, now=self._now
        )
        self._aluma.checker = self._checker
        self._aluma.saved, self._aluma.quarantined = self._store.contents, self._quarantine.contents

    @asynccontextmanager
    async def _exporter(self, instance: Instance) -> AsyncIterator[Exporter]:
        yield Exporter(
            WatchedSource(SimulatedSource(self._aluma, self._faults), instance),
            WatchedDestination(self._store, instance, self._destination_faults),
            quarantine=WatchedDestination(self._quarantine, instance, self._destination_faults),
            journal=instance.journal,
            **self._settings(instance),
        )

    def _settings(self, instance: Instance) -> dict[str, Any]:
        chosen = self._plan
        chance = random.Random(f"{chosen.seed}/{instance.number}/{loop_time()}")
        return {
            "workers": chosen.workers,
            "retry": RetryPolicy(chosen.attempts),
            "cooldown": Backoff(chosen.cooldown, 600),
            "polling": Backoff(2, 60),
            "park_seconds": 600,
            "claim_timeout": CLAIM_TIMEOUT,
            "on_event": instance.on_event,
            "clock": self.clock,
            "uniform": chance.uniform,
        }

    def _killed(self, instance: Instance) -> None:
        """What the system does when a process ends."""

    async def _clean_up(self) -> None:
        """Put away what the schedule has used."""

    def _check_final_state(self) -> None:
        aluma, require = self._aluma, self._checker.require
        bad = [aluma.ids()[number] for number in self._plan.behaviour.impossible_tasks]
        failed = aluma.ids("failed")
        require(set(failed) == set(bad), f"failed are {failed}, and should be {bad}")
        if self._plan.instances == 1 and not self._plan.sleeps:
            require(not aluma.counts["requeued"], f"{aluma.counts['requeued']} claims were left to Aluma's time-out")
            if not self._plan.kills and not self._plan.kill_step:
                reported, done = self._checker.counts["TaskCompleted"], len(aluma.ids("completed"))
                # More may be told: a Cancel of ours that comes late makes a lost Complete look like one that was heard.
                require(reported >= done, f"{reported} tasks were told to be exported, and {done} are")


def _windows(chance: random.Random, until: float) -> tuple[tuple[float, float], ...]:
    marks = sorted(chance.uniform(0, until) for _ in range(4))
    return tuple(pairwise(marks))[::2]
