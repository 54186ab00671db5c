"""Runs many schedules on all cores."""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from msgspec import Struct

from aluma_async.testing.simulation.full_stack import FullSchedule
from aluma_async.testing.simulation.plans import Plan, plan
from aluma_async.testing.simulation.schedule import Schedule
from aluma_async.testing.virtual_time import run_virtual

_CHUNK_SIZE = 50


class Result(Struct, frozen=True):
    """Result of some schedules."""

    schedules: int
    broken: list[tuple[Plan | int, list[str]]]
    """Plans or seeds with violations, and the violations."""
    kills: int
    """Number of processes that were killed."""


def run_many(plans: Sequence[Plan | int], *, full: bool = False, jobs: int | None = None) -> Iterator[Result]:
    """Run the schedules of these plans or seeds. Yields a result for each chunk of them, in order."""
    chunks = [plans[start : start + _CHUNK_SIZE] for start in range(0, len(plans), _CHUNK_SIZE)]
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=get_context("spawn"), initializer=_prepare) as pool:
        yield from pool.map(_run_chunk, chunks, [full] * len(chunks))


def _prepare() -> None:
    """Prepare a worker process."""
    sys.unraisablehook = lambda _: None  # ignores errors of killed tasks when they are closed
    gc.disable()  # because frequent collections would take a sixth of the time; see _run_chunk
    gc.freeze()  # excludes imported modules from the collections


def _run_chunk(plans: Sequence[Plan | int], full: bool) -> Result:
    violations, kills = [], 0
    for number, plan_or_seed in enumerate(plans):
        if not number % 25:
            gc.collect()
        try:
            chosen = plan(plan_or_seed) if isinstance(plan_or_seed, int) else plan_or_seed
            outcome = run_virtual((FullSchedule if full else Schedule)(chosen).run)
        except Exception as error:  # noqa: BLE001 - a deadlock or a livelock is a violation, too
            violations.append((plan_or_seed, [f"{type(error).__name__}: {error}"]))
            continue
        kills += outcome.counts.get("kills", 0)
        if outcome.violations:
            violations.append((plan_or_seed, outcome.violations))
    return Result(len(plans), violations, kills)
