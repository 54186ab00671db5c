"""``demo``: exports without an account, from a simulated Aluma in the same process, over real HTTP."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles.os
import anyio
import click

from aluma_async.cli.exit_codes import INCOMPLETE
from aluma_async.cli.options import add_options
from aluma_async.config import AlumaConfig, Config, Credentials, ExporterConfig, FolderConfig, ServiceConfig
from aluma_async.service.color import Color

# The simulated Aluma imports aiohttp, which takes long, and --help does not need it.
if TYPE_CHECKING:
    from aluma_async.testing import SimulatedAluma

_LATENCY_SECONDS = 0.1  # slow enough to watch the progress


@click.command()
@click.option(
    "--tasks", type=click.IntRange(1), default=200, show_default=True, metavar="N", help="Number of pending tasks."
)
@click.option(
    "-o",
    "--output",
    default="aluma-export",
    show_default=True,
    metavar="DIR",
    help="Folder for the exported files.",
)
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    metavar="N",
    help="Number of tasks exported at once.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the tasks: the same seed gives the same tasks.",
)
@click.option("--progress/--no-progress", default=True, help="Progress on stderr.  [default: on]")
@add_options("color")
def demo(tasks: int, output: str, workers: int, seed: int, *, progress: bool, color: Color | None) -> int:
    """Export from a built-in simulated Aluma.

    Needs no account. Uses real HTTP on this machine, writes real files, and compares them with the originals.
    """
    return anyio.run(_demo, tasks, Path(output).absolute(), workers, seed, progress, color or "auto")


async def _demo(tasks: int, output: Path, workers: int, seed: int, progress: bool, color: Color) -> int:
    from aluma_async.cli.run import run
    from aluma_async.testing import Behaviour, SimulatedAluma, serve

    behaviour = Behaviour(latency_seconds=_LATENCY_SECONDS, malformed_row=False)
    aluma = SimulatedAluma(tasks, seed=seed, behaviour=behaviour, now=anyio.current_time)
    with tempfile.TemporaryDirectory(prefix="aluma-async-demo-") as state:
        async with serve(aluma) as base_url:
            click.echo(f"Exporting {tasks} tasks from a simulated Aluma at {base_url} into {output}", err=True)
            config = Config(
                aluma=AlumaConfig(base_url=base_url),
                exporter=ExporterConfig(workers=workers, state=Path(state)),
                destinations={"default": FolderConfig(path=output)},
                service=ServiceConfig(log_level="warning"),
            )
            credentials = Credentials(aluma.client_id, aluma.client_secret)
            code = await run(config, credentials, once=True, progress=progress, color=color)
    missing = await _missing(aluma, output)
    files = sum(len(aluma.expected(task)) for task in aluma.ids("completed"))
    result = f"{missing} are missing or differ" if missing else "all are identical to the originals"
    click.echo(f"Verified  {files:,} files: {result}", err=True)
    return INCOMPLETE if missing else code


async def _missing(aluma: "SimulatedAluma", output: Path) -> int:
    """Count the files of completed tasks that are not in the folder; compares the multisets of sha256 digests."""
    expected: Counter[str] = Counter()
    sizes = set()
    for task in aluma.ids("completed"):
        for _, _, content in aluma.expected(task):
            sizes.add(len(content))
            expected[hashlib.sha256(content).hexdigest()] += 1
    exported = await aiofiles.os.wrap(_hashes)(output, sizes)
    return (expected - exported).total()


def _hashes(root: Path, sizes: AbstractSet[int]) -> Counter[str]:
    """Count the sha256 digests of all files below ``root`` that have one of these sizes."""
    digests: Counter[str] = Counter()
    for path in root.rglob("*"):
        if path.is_file() and path.stat().st_size in sizes:
            with path.open("rb") as file:
                digests[hashlib.file_digest(file, "sha256").hexdigest()] += 1
    return digests
