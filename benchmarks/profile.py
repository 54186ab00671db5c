"""Where a task's CPU goes: time in each room of the house and in each library, with the event loop's thread apart."""

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
    """Export small tasks under the profiler; microseconds a task by room. The profiler itself doubles the time."""
    stats = _profiled(name, tasks)
    components: Counter[str] = Counter()
    for (file, _, function), (_, _, own, _, _) in stats.items():
        components[_component(file, function)] += own
    total = sum(components.values())
    lines = [f"{'room':34}{'us/task':>9}{'share':>8}   ({name}; the loop's thread, under the profiler)"]
    for component, seconds in components.most_common(16):
        lines.append(f"{component:34}{1e6 * seconds / tasks:9.1f}{seconds / total:8.1%}")
    return "\n".join(lines)


def calls_per_task(name: str, tasks: int) -> float:
    """How many functions are called for a small task: what it costs, whatever else the machine does meanwhile."""
    return sum(count for _, count, *_ in _profiled(name, tasks).values()) / tasks


def _profiled(name: str, tasks: int) -> dict[tuple[str, int, str], tuple[Any, ...]]:
    _run(name, 1, lambda run, *args: run(*args))  # what is done only once, as importing is, does not count
    profiler = cProfile.Profile(time.thread_time)
    _run(name, tasks, profiler.runcall)
    found: dict[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    return found


def _run(name: str, tasks: int, call: Callable[..., None]) -> None:
    with (
        tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder,
        serving(Load(tasks=tasks, folder=folder)) as url,
    ):
        into = Path(folder) / "here"
        into.mkdir()
        call(CONTENDERS[name].run, url, into, 16)


def _component(file: str, function: str) -> str:
    if file == "~":
        for word in ("send", "recv", "poll"):
            if f"'{word}' of" in function:
                return f"the system: {word}"
        return "Python's built-in functions"
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    if "aluma_async" in parts:
        return "/".join(parts[parts.index("aluma_async") :][:2]).removesuffix(".py")
    return "the standard library: " + Path(file).parent.name if "asyncio" in parts else "the standard library"
