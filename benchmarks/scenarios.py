"""The scenarios: each runs its contenders in turns, several times, and returns ratios to the first one."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.contenders import CONTENDERS
from benchmarks.nginx import can_serve, nginx
from benchmarks.postgres import postgres
from benchmarks.server import Load

SHM = Path("/dev/shm")
Value = Callable[[dict[str, float], Load], float]


class Scenario(Struct, frozen=True, kw_only=True):
    name: str
    unit: str
    """Unit of the value. More is better, unless the unit begins with a dash."""
    value: Value
    contenders: tuple[str, ...]
    """The first one is the reference for the ratios of the others."""
    load: Load
    concurrency: int = 16
    on_disk: bool = False
    ideal: float = 0.0
    """Reference for the ratios instead of the first contender; 0: none."""


class Result(Struct, frozen=True, kw_only=True):
    scenario: str
    contender: str
    unit: str
    values: list[float]
    ratios: list[float]
    """Ratios to the first contender's median, or to the ideal."""
    cpus: list[float]
    """CPU milliseconds per task."""
    cpu_ratio: float

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def tasks_per_second(measured: dict[str, float], load: Load) -> float:
    return load.tasks / measured["seconds"]


def rows_per_second(measured: dict[str, float], load: Load) -> float:
    return load.tasks * load.rows / measured["seconds"]


def megabytes(measured: dict[str, float], load: Load) -> float:
    return load.tasks * load.size / 1e6 / measured["seconds"]


def peak_memory(measured: dict[str, float], _: Load) -> float:
    return measured["memory"]


def memory_above_idle(measured: dict[str, float], _: Load) -> float:
    return measured["memory"] - measured["idle"]


def elapsed(measured: dict[str, float], _: Load) -> float:
    return measured["seconds"]


def scenarios(*, quick: bool, tiny: bool) -> Iterator[Scenario]:
    """Yield all scenarios; ``quick`` takes less than two minutes, ``tiny`` only checks that they run."""
    few = 20 if tiny else 250 if quick else 1500
    small_task_contenders = (
        "floor",
        "aluma-async, rename",
        "aiohttp + aiofiles",
        "requests",
        "requests, threads",
        "httpx",
    )
    load = Load(tasks=few, folder="")
    yield Scenario(
        name="small, tmpfs", unit="tasks/s", value=tasks_per_second, contenders=small_task_contenders, load=load
    )
    yield Scenario(
        name="small, disk",
        unit="tasks/s",
        value=tasks_per_second,
        contenders=("floor", "aluma-async", "aluma-async, rename"),
        load=load,
        on_disk=True,
    )
    bulk = Load(tasks=2 if tiny else 16, size=(2 if tiny else 64) << 20, folder="")
    downloaders = ("curl -Z", "aluma-async, rename", "aluma-async, sha256", "aria2c", "rclone")
    yield Scenario(
        name="bulk, 8 at once", unit="MB/s", value=megabytes, contenders=downloaders, load=bulk, concurrency=8
    )
    for latency in (0.05,) if quick or tiny else (0.02, 0.05, 0.1):
        for concurrency in (16,) if tiny else (16, 256) if quick else (16, 64, 256, 1024):
            count = concurrency * (2 if tiny else 6 if quick else 12 if concurrency > 100 else 40)
            yield Scenario(
                name=f"{latency * 1000:.0f} ms, {concurrency} workers",
                unit="tasks/s",
                value=tasks_per_second,
                contenders=("aluma-async, rename", "floor"),
                load=Load(tasks=count, latency=latency, folder=""),
                concurrency=concurrency,
                ideal=concurrency / (3 * latency),
            )
    if not quick or tiny:
        heavy = Load(tasks=10 if tiny else 200, heavy_tail=1, latency=0.02, folder="")
        yield Scenario(
            name="stragglers",
            unit="-s",
            value=elapsed,
            contenders=("aluma-async, rename",),
            load=heavy,
            ideal=ideal_makespan(heavy, 16),
        )
    yield Scenario(
        name="rows into PostgreSQL",
        unit="rows/s",
        value=rows_per_second,
        contenders=("PostgreSQL",),
        load=Load(tasks=2 if tiny else 100 if quick else 400, rows=50 if tiny else 1000, size=0, folder=""),
        ideal=20_000,
        on_disk=True,
    )
    for count in (1000,) if tiny else (100_000,) if quick else (10_000, 100_000, 1_000_000):
        yield Scenario(
            name=f"memory, {count:,} listed",
            unit="-MB",
            value=memory_above_idle,
            contenders=("listing",),
            load=Load(tasks=count, folder=""),
        )
    yield Scenario(
        name="memory, 16 files at once",
        unit="-MB",
        value=peak_memory,
        contenders=("aluma-async, rename",),
        load=bulk,
    )


def ideal_makespan(load: Load, workers: int) -> float:
    """Return the seconds of an ideal queue: each worker begins the next task as soon as it has finished one."""
    free = [load.latency] * workers  # after the listing
    for delay in load.delays():
        now = min(free)
        free[free.index(now)] = now + 3 * load.latency + delay
    return max(free)


def run(scenario: Scenario, folder: Path, repeat: int, report: Callable[[str], None]) -> list[Result]:
    """Measure all contenders in turns, so that drifts of the machine affect all of them alike."""
    installed = [name for name in scenario.contenders if CONTENDERS[name].is_installed()]
    for name in set(scenario.contenders) - set(installed):
        report(f"{scenario.name}: {name} skipped, because it is not installed")
    measurements: dict[str, list[dict[str, float]]] = {name: [] for name in installed}
    for turn in range(repeat):
        for name in installed:
            report(f"{scenario.name}: {name}, {turn + 1} of {repeat}")
            # Nothing is deleted between the runs, because ext4 steps over every recently freed inode.
            output = folder / f"{len(list(folder.iterdir()))}"
            output.mkdir()
            measurements[name].append(measure(name, scenario, output))
    return list(_results(scenario, measurements))


def measure(name: str, scenario: Scenario, folder: Path) -> dict[str, float]:
    """Run one contender once, in a process of its own, against a server of its own."""
    with (
        serving(msgspec.structs.replace(scenario.load, folder=str(folder))) as url,
        postgres() if name == "PostgreSQL" else nullcontext("") as database,
    ):
        environment = {
            **os.environ,
            "BENCHMARK_TASKS": str(scenario.load.tasks),
            "BENCHMARK_DATABASE": database,
        }
        output = folder / "output"
        output.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.contenders", name, url, str(output), str(scenario.concurrency)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{scenario.name}: {name} ended with {done.returncode}\n{done.stderr[-2000:]}")
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 1 << 20:
            path.unlink()  # tmpfs occupies memory
    return dict(json.loads(done.stdout.splitlines()[-1]))


def serving(load: Load) -> AbstractContextManager[str]:
    """Run the cheapest possible server in a process of its own; yield its base URL."""
    return nginx(load) if can_serve(load) else served(load)


@contextmanager
def served(load: Load) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.server", msgspec.json.encode(load).decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def _results(scenario: Scenario, measurements: dict[str, list[dict[str, float]]]) -> Iterator[Result]:
    base = base_cpu = 0.0
    for name, runs in measurements.items():
        values = [scenario.value(run, scenario.load) for run in runs]
        cpus = [1000 * run["cpu"] / scenario.load.tasks for run in runs]
        if not base:
            base, base_cpu = scenario.ideal or statistics.median(values), statistics.median(cpus)
        yield Result(
            scenario=scenario.name,
            contender=name,
            unit=scenario.unit,
            values=values,
            ratios=[value / base if base else 1.0 for value in values],
            cpus=cpus,
            cpu_ratio=statistics.median(cpus) / base_cpu if base_cpu else 0.0,
        )


def spread(values: Sequence[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}"
