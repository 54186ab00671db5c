"""Profiles where the CPU time of a task goes: time per package and library, in the thread of the event loop."""

import cProfile
import pstats
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.scenarios import SHM, serving
from benchmarks.server import Load


def profile(name: str = "aluma-async, rename", tasks: int = 2000) -> str:
    """Export small tasks under the profiler; return microseconds per task by component."""
    stats = _profiled(name, tasks)
    components: Counter[str] = Counter()
    for (file, _, function), (_, _, own_time, _, _) in stats.items():
        components[_component(file, function)] += own_time
    total = sum(components.values())
    lines = [f"{'component':34}{'us/task':>9}{'share':>8}   ({name}; thread of the event loop, under the profiler)"]
    for component, seconds in components.most_common(16):
        lines.append(f"{component:34}{1e6 * seconds / tasks:9.1f}{seconds / total:8.1%}")
    return "\n".join(lines)


def calls_per_task(name: str, tasks: int) -> float:
    """Return the function calls per small task: a cost that does not depend on the load of the machine."""
    return sum(count for _, count, *_ in _profiled(name, tasks).values()) / tasks


def _profiled(name: str, tasks: int) -> dict[tuple[str, int, str], tuple[Any, ...]]:
    _run(name, 1, lambda run, *args: run(*args))  # warm up: work that is done once, such as imports, must not count
    profiler = cProfile.Profile(time.thread_time)
    _run(name, tasks, profiler.runcall)
    stats: dict[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    return stats


def _run(name: str, tasks: int, call: Callable[..., None]) -> None:
    with (
        tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder,
        serving(Load(tasks=tasks, folder=folder)) as url,
    ):
        output = Path(folder) / "output"
        output.mkdir()
        call(CONTENDERS[name].run, url, output, 16)


def _component(file: str, function: str) -> str:
    if file == "~":
        for word in ("send", "recv", "poll"):
            if f"'{word}' of" in function:
                return f"system calls: {word}"
        return "built-in functions of Python"
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    if "aluma_async" in parts:
        return "/".join(parts[parts.index("aluma_async") :][:2]).removesuffix(".py")
    return "the standard library: " + Path(file).parent.name if "asyncio" in parts else "the standard library"
