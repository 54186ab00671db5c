"""``Plan``: the exporters, the simulated Aluma and the faults of a schedule; ``plan`` derives one from a seed."""

import random
from collections.abc import Mapping
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from aluma_async.testing.behaviour import Behaviour
from aluma_async.testing.faults import Fault
from aluma_async.testing.simulation.misbehaviour import (
    Misbehaviour,
    Sickness,
    add_contradictions,
    add_quirks,
    is_project_unexportable,
    misbehave,
    sick_places,
    stalled_tasks,
    unexportable_project,
)
from aluma_async.testing.simulation.stalls import Stall

CLAIM_TIMEOUT = 1800.0
"""Duration of a claim's lease, in seconds."""
HEALTHY_SECONDS = 240.0
"""Seconds within which healthy tasks must be completed: a worker needs 2 for a task, and a pause takes 60 at most."""
SILENT_SECONDS = 100.0
"""Seconds for which a place that never returns may hold the only worker; the destination's time-out is 60."""
STALL_SECONDS = 20.0
"""Seconds for which a task that stalls may hold the only worker."""


class Plan(Struct, frozen=True):
    """The parameters of a schedule. Times are seconds from its start."""

    seed: int
    tasks: int
    """Number of tasks."""
    instances: int
    """Number of exporters."""
    workers: int
    """Number of workers of each exporter."""
    faulty_seconds: float
    """Time after which no faults occur any more."""
    behaviour: Behaviour
    rates: Mapping[Fault, float] = {}
    """Probability of each fault of a request."""
    burst: float = 0.0
    """Probability that a fault is followed by the same fault."""
    broken: float = 0.0
    """Probability that a step of a destination fails."""
    slow: float = 0.0
    """Probability that a step of a destination takes longer."""
    away: tuple[tuple[float, float], ...] = ()
    """Start and end of the times at which the destinations are unavailable."""
    kills: tuple[tuple[int, int, float], ...] = ()
    """Number of the exporter, number of the crash point since its start (0: kill by time), time; in order."""
    kill_step: int = 0
    """Step of the loop at which exporter 0 is killed; 0: none."""
    sleeps: tuple[tuple[float, float], ...] = ()
    """Time and duration of each sleep of the machine. During a sleep, Aluma's clock runs and the loop's does not."""
    journal_broken: tuple[tuple[int, float, float], ...] = ()
    """Number of the exporter, start and end of the times at which its journal cannot be written."""
    misbehaviour: Misbehaviour = Misbehaviour()
    """What goes wrong besides the network."""
    attempts: int = 5
    """Maximum number of attempts of a request."""
    cooldown: float = 60.0
    """First cool-down of a task."""
    park_after: int = 10
    """Number of failures in a row after which a task is parked, and a copy of it is stored."""


def plan(seed: int) -> Plan:
    """Return a random plan; the same seed gives the same plan."""
    chosen = _network_plan(seed)
    chosen = replace(
        chosen,
        park_after=random.Random(f"park/{seed}").choice((1, 2, 10)),
        behaviour=add_contradictions(seed, chosen.tasks, add_quirks(seed, chosen.tasks, chosen.behaviour)),
        misbehaviour=misbehave(seed, chosen.tasks, chosen.instances, chosen.faulty_seconds),
    )
    if is_project_unexportable(seed):
        tasks, impossible = 2 * chosen.tasks + 14, unexportable_project(2 * chosen.tasks + 14)
        # Without a limit of listings, because parked tasks at their beginning would hide the others.
        behaviour = replace(
            chosen.behaviour, impossible_tasks=impossible, quirks={}, contradictory_tasks=(), max_listed=0
        )
        chosen = replace(chosen, tasks=tasks, workers=4, behaviour=behaviour)
    elif sick := sick_places(seed):
        chosen = _add_sick_places(chosen, *sick)
    elif stalled := stalled_tasks(seed):
        chosen = _with_stalled_tasks(chosen, *stalled)
    return chosen


def _with_stalled_tasks(chosen: Plan, rng: random.Random, stalled: Mapping[int, Stall]) -> Plan:
    """Return a plan with tasks that stall and healthy ones after them; nothing else goes wrong."""
    healthy_by = HEALTHY_SECONDS + STALL_SECONDS * len(stalled)
    return Plan(
        seed=chosen.seed,
        tasks=len(stalled) + rng.choice((3, 10)),
        instances=chosen.instances,
        workers=chosen.workers,
        faulty_seconds=healthy_by + 300.0,
        behaviour=replace(chosen.behaviour, impossible_tasks=(), quirks={}, contradictory_tasks=(), max_listed=0),
        misbehaviour=Misbehaviour(stalled=stalled, healthy_by=healthy_by),
        cooldown=chosen.cooldown,
        park_after=chosen.park_after,
    )


def _add_sick_places(chosen: Plan, rng: random.Random, sick: Mapping[int, Sickness]) -> Plan:
    """Return a plan with sick tasks and healthy ones after them; often nothing else goes wrong."""
    misbehaviour = replace(chosen.misbehaviour, sick=sick, probe_raises=rng.random() < 0.5)
    tasks = max(chosen.tasks, len(sick) + rng.choice((3, 10)))
    # Without a limit of listings, because tasks on hold at their beginning would hide the others.
    behaviour = replace(chosen.behaviour, max_listed=0)
    if rng.random() < 0.3:
        return replace(chosen, tasks=tasks, behaviour=behaviour, misbehaviour=misbehaviour)
    away = _windows(rng, 100.0)[:1] if rng.random() < 0.3 else ()
    # A healthy task that meets the outage cools down, too.
    healthy_by = HEALTHY_SECONDS + (away[0][1] + 2 * chosen.cooldown if away else 0.0)
    # A silent place may be tried twice before the last healthy task.
    healthy_by += 2 * SILENT_SECONDS * list(sick.values()).count(Sickness.SILENT)
    return Plan(
        seed=chosen.seed,
        tasks=tasks,
        instances=chosen.instances,
        workers=chosen.workers,
        faulty_seconds=healthy_by + 300.0,
        behaviour=replace(behaviour, impossible_tasks=(), quirks={}),
        away=away,
        misbehaviour=Misbehaviour(sick=sick, probe_raises=misbehaviour.probe_raises, healthy_by=healthy_by),
        cooldown=chosen.cooldown,
        park_after=chosen.park_after,
    )


def _network_plan(seed: int) -> Plan:
    """Return a random plan without misbehaviour."""
    rng = random.Random(f"schedule/{seed}")
    instances = rng.choice((1, 1, 1, 2, 3))
    tasks = rng.choice((1, 2, 3, 5, 8))
    faulty = rng.choice((60.0, 60.0, 400.0, 1500.0))
    max_rate = rng.choice((0.0, 0.02, 0.1, 0.3))
    kinds = [fault for fault in Fault if rng.random() < 0.5]
    kills = sorted(
        (rng.uniform(0, faulty), rng.randrange(instances), rng.choice((0, rng.randrange(1, 60))))
        for _ in range(rng.choice((0, 0, 1, 2, 5)))
    )
    return Plan(
        seed=seed,
        tasks=tasks,
        instances=instances,
        workers=rng.choice((1, 2, 4)),
        faulty_seconds=faulty,
        behaviour=Behaviour(
            conflict_status=409,
            repeated_complete_accepted=rng.random() < 0.3,
            list_stale_seconds=rng.choice((0, 0, 5)),
            max_listed=rng.choice((0, 0, 3)),
            claim_timeout_seconds=CLAIM_TIMEOUT,
            latency_seconds=rng.choice((0.0, 0.05, 0.5)),
            impossible_tasks=tuple(n for n in range(tasks) if rng.random() < 0.06)[:2],
            malformed_row=rng.random() < 0.3,
            resumable=seed % 2 == 0,
        ),
        rates={fault: max_rate * rng.random() for fault in kinds} if max_rate else {},
        burst=rng.random() * 0.7,
        broken=rng.choice((0, 0, 0.05, 0.3)),
        slow=rng.choice((0, 0, 0.1)),
        away=_windows(rng, faulty) if rng.random() < 0.2 else (),
        kills=tuple((instance, point, at) for at, instance, point in kills),
        sleeps=_windows(rng, faulty) if rng.random() < 0.05 else (),
        journal_broken=tuple((i, start, end) for i in range(instances) for start, end in _windows(rng, faulty))
        if rng.random() < 0.1
        else (),
        attempts=rng.choice((1, 3, 5)),
        cooldown=rng.choice((60.0, 200.0)),
    )


def _windows(rng: random.Random, until: float) -> tuple[tuple[float, float], ...]:
    marks = sorted(rng.uniform(0, until) for _ in range(4))
    return tuple(pairwise(marks))[::2]
