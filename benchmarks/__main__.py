"""Small tasks: the exporter beside the bare floor of its HTTP library, interleaved in one run.

``python -m benchmarks [--tasks N] [--repeat N]``. A task is Start, one download of 20 KB, a text of 0.5 KB and
Complete. The floor makes the same requests with aiohttp and throws the bytes away: no journal, no disk, no checks.
The server is the simulated Aluma in a process of its own; it is a Python program and the slowest part
of most runs, so read the CPU column, and the ratios rather than the rates.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from aluma_async import Config, Credentials, open_exporter
from aluma_async.config import AlumaConfig, ExporterConfig, FolderConfig
from aluma_async.wiring import open_client

WORKERS = 16
CREDENTIALS = Credentials("simulated-client", "simulated-secret")


async def floor(base_url: str, folder: Path) -> None:
    """The requests alone, by workers that share a list."""
    async with open_client(_config(base_url, folder), CREDENTIALS) as client:
        ids = iter([task.id async for tasks in client.list_pending() for task in tasks])
        token = await client._keeper.token()  # noqa: SLF001 - the same token, so that none is measured
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    connector = aiohttp.TCPConnector(limit=2 * WORKERS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:

        async def work() -> None:
            for task_id in ids:
                task = f"{base_url}/tasks/{task_id}"
                async with session.put(f"{task}/start_client_action?action=export") as response:
                    spec = json.loads(await response.read())
                for document in spec["documents"]:
                    for file in document["files"]:
                        if file["url"]:
                            async with session.get(base_url + file["url"]) as response:
                                await response.read()
                async with session.put(f"{task}/complete_client_action?action=export") as response:
                    await response.read()

        await asyncio.gather(*(work() for _ in range(WORKERS)))


def exporter(durability: str) -> Callable[[str, Path], Awaitable[None]]:
    """The whole product."""

    async def run(base_url: str, folder: Path) -> None:
        async with open_exporter(_config(base_url, folder, durability), CREDENTIALS) as exporting:
            await exporting.run_until_drained()

    return run


CONTENDERS: dict[str, Callable[[str, Path], Awaitable[None]]] = {
    "aiohttp, no disk": floor,
    "aluma-async, rename": exporter("rename"),
    "aluma-async, full": exporter("full"),
}


def _config(base_url: str, folder: Path, durability: str = "full") -> Config:
    return Config(
        aluma=AlumaConfig(base_url=base_url),
        exporter=ExporterConfig(workers=WORKERS, state=folder / "state"),
        destinations={"default": FolderConfig(path=folder / "out", durability=durability)},  # type: ignore[arg-type]
    )


def measure(name: str, tasks: int, folder: Path) -> tuple[float, float]:
    """Run one contender against a fresh server; return tasks a second and CPU milliseconds a task."""
    command = [sys.executable, "-m", "aluma_async", "simulate", "--port", "0", "--tasks", str(tasks)]
    with subprocess.Popen([*command, "--profile", "small"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        base_url = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
        before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        asyncio.run(_run(name, base_url, folder))
        after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - begun
        server.kill()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return tasks / seconds, 1000 * cpu / tasks


async def _run(name: str, base_url: str, folder: Path) -> None:
    await CONTENDERS[name](base_url, folder)


def main() -> None:
    """Measure and print a table."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument("--tasks", type=int, default=1500)
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    options = arguments.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        for turn in range(options.repeat):
            for number, name in enumerate(CONTENDERS):
                # Nothing is deleted between runs: ext4 steps over every inode that was freed a moment ago.
                folder = Path(root) / f"{turn}-{number}"
                folder.mkdir()
                found[name].append(measure(name, options.tasks, folder))
    base = [statistics.median(column) for column in zip(*found["aiohttp, no disk"], strict=True)]
    print(f"{'':22}{'tasks/s':>9}{'ratio':>7}  {'(min-max)':14}{'CPU ms/task':>12}{'ratio':>7}")
    for name, runs in found.items():
        rates, cpus = zip(*runs, strict=True)
        rate, cpu = statistics.median(rates), statistics.median(cpus)
        spread = f"({min(rates) / base[0]:.2f}-{max(rates) / base[0]:.2f})"
        print(f"{name:22}{rate:9.0f}{rate / base[0]:7.2f}  {spread:14}{cpu:12.3f}{cpu / base[1]:7.2f}")


if __name__ == "__main__":
    main()
