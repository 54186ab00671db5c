"""Deliveries to a folder, and the files that are visible, staged or kept in it."""

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from aluma_async import FolderDestination
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask


def claim_of(task_id, *names, source="url"):
    """Return a claim with a file for each name, which may contain folders."""
    files = [ExportFile(i, 0, *os.path.split(name), source, url="/f") for i, name in enumerate(names)]
    return Claim(ExportTask(task_id), ExportSpec(tuple(files)), 0.0)


async def yielding_chunks(*data):
    """Yield the chunks, with a checkpoint before each."""
    for chunk in data:
        await anyio.lowlevel.checkpoint()
        yield chunk


class Download:
    """The chunks of a download, with a checkpoint before each, and the version of the file at the server."""

    def __init__(self, *data, version="1"):
        self.version = version
        self._chunks = yielding_chunks(*data)

    def __aiter__(self):
        return self._chunks

    def __anext__(self):
        return anext(self._chunks)


async def deliver(destination, claim, *data):
    """Deliver a claim; ``data`` has the content of each file, or a tuple of its chunks."""
    async with destination.open(claim) as delivery:
        for file, content in zip(claim.spec.files, data, strict=True):
            chunks = content if isinstance(content, tuple) else (content,)
            await delivery.save(file, yielding_chunks(*chunks))


def exported_files(root: Path) -> dict[str, bytes]:
    """Return the content of each visible file by its path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != ".aluma-async"
    }


def staged_files(root: Path) -> list[Path]:
    return list((root / ".aluma-async" / "staging").iterdir())


def kept_files(root: Path) -> list[Path]:
    """Return the files that are kept for the next attempt of a task."""
    kept = root / ".aluma-async" / "kept"
    return list(kept.iterdir()) if kept.exists() else []


async def wait_for(condition):
    """Wait until the condition is true, for at most 10 s."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


@asynccontextmanager
async def open_folder(root: Path, **options):
    """Open a probed folder destination; afterwards no file may be left in its staging folder."""
    destination = FolderDestination(root, **options)
    await destination.probe()
    try:
        yield destination
    finally:
        destination.close()
    assert not staged_files(root)


@pytest.fixture
def destination(tmp_path):
    """Return a probed folder destination ``out``; afterwards no file may be left in its staging folder."""
    folder = FolderDestination(tmp_path / "out")
    asyncio.run(folder.probe())
    yield folder
    folder.close()
    assert not staged_files(folder.root)
