"""Many schedules, on all cores."""

import gc
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from msgspec import Struct

from aluma_async.testing.simulation.schedule import run_schedule

_PORTION = 50


class Result(Struct, frozen=True):
    """What some schedules showed."""

    schedules: int
    broken: list[tuple[int, list[str]]]
    """Seeds that broke rules, and which."""
    seconds: float
    """Virtual."""


def run_many(seeds: Sequence[int], *, full: bool = False, jobs: int | None = None) -> Iterator[Result]:
    """Run the schedules of these seeds; results come a portion at a time, in the order of the seeds."""
    portions = [seeds[start : start + _PORTION] for start in range(0, len(seeds), _PORTION)]
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_portion, portions, [full] * len(portions))


def _portion(seeds: Sequence[int], full: bool) -> Result:
    broken, virtual = [], 0.0
    gc.disable()  # each schedule leaves circles behind, and looking for them after every few steps costs a sixth
    for number, seed in enumerate(seeds):
        if not number % 25:
            gc.collect()
        try:
            outcome = run_schedule(seed)
        except Exception as error:  # noqa: BLE001 - a deadlock or a livelock is a broken rule, too
            broken.append((seed, [f"{type(error).__name__}: {error}"]))
            continue
        virtual += outcome.seconds
        if outcome.violations:
            broken.append((seed, outcome.violations))
    return Result(len(seeds), broken, virtual)
