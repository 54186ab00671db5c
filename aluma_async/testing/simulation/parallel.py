"""Many schedules, on all cores."""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from msgspec import Struct

from aluma_async.testing.simulation.full_stack import FullSchedule
from aluma_async.testing.simulation.schedule import Plan, Schedule, plan
from aluma_async.testing.virtual_time import run_virtual

_CHUNK_SIZE = 50


class Result(Struct, frozen=True):
    """What some schedules showed."""

    schedules: int
    broken: list[tuple[Plan | int, list[str]]]
    """Plans or seeds that broke rules, and which."""
    kills: int


def run_many(plans: Sequence[Plan | int], *, full: bool = False, jobs: int | None = None) -> Iterator[Result]:
    """Run the schedules of these plans or seeds; results come a portion at a time, in their order."""
    chunks = [plans[start : start + _CHUNK_SIZE] for start in range(0, len(plans), _CHUNK_SIZE)]
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=get_context("spawn"), initializer=_prepare) as pool:
        yield from pool.map(_run_chunk, chunks, [full] * len(chunks))


def _prepare() -> None:
    """Make ready a process that is for nothing else."""
    sys.unraisablehook = lambda _: None  # what the dead raise when they are taken apart
    gc.disable()  # each schedule leaves circles behind, and looking for them after every few steps costs a sixth
    gc.freeze()  # what is imported is no rubbish


def _run_chunk(plans: Sequence[Plan | int], full: bool) -> Result:
    broken, kills = [], 0
    for number, each in enumerate(plans):
        if not number % 25:
            gc.collect()
        try:
            chosen = plan(each) if isinstance(each, int) else each
            outcome = run_virtual((FullSchedule if full else Schedule)(chosen).run)
        except Exception as error:  # noqa: BLE001 - a deadlock or a livelock is a broken rule, too
            broken.append((each, [f"{type(error).__name__}: {error}"]))
            continue
        kills += outcome.counts.get("kills", 0)
        if outcome.violations:
            broken.append((each, outcome.violations))
    return Result(len(plans), broken, kills)
