"""A disk without space: the probe decides, with about the size of the refused task, whether it concerns all tasks."""

import errno
import os
from pathlib import Path

import pytest

from aluma_async import FolderDestination
from aluma_async.destinations.folder import fs
from aluma_async.exceptions import DestinationUnavailable
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files

FULL = pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])


class Disk:
    """A disk without space for files above ``max_bytes``."""

    max_bytes = 1_000_000_000

    def __init__(self, monkeypatch, code):
        self.sizes = []
        self._code = code
        self._write, self._writev = os.write, os.writev
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "writev", self.writev)

    def write(self, fd, data):
        self._check(fd, len(data))
        return self._write(fd, data)

    def writev(self, fd, chunks):
        self._check(fd, sum(map(len, chunks)))
        return self._writev(fd, chunks)

    def _check(self, fd, count):
        size = os.fstat(fd).st_size + count
        self.sizes.append(size)
        if size > self.max_bytes:
            raise OSError(self._code, os.strerror(self._code))


@FULL
@pytest.mark.parametrize("sizes", [[5_000], [800] * 5, [3_000_000], [400_000, 400_000, 400_000, 3_000_000]])
@real_time
async def test_probe_notices_that_the_disk_is_full(code, sizes, destination, monkeypatch):
    """It has room for the few bytes of the probe, but not for a task. Afterwards the probe is small again."""
    disk = Disk(monkeypatch, code)
    disk.max_bytes = 500
    claim = claim_of("t", *[str(number) for number in range(len(sizes))])
    contents = [(b"x" * 100_000,) * (size // 100_000) if size > 100_000 else b"x" * size for size in sizes]
    with pytest.raises(DestinationUnavailable, match=r"space|uota") as caught:
        await deliver(destination, claim, *contents)
    assert not caught.value.for_all
    disk.sizes.clear()
    for _ in range(2):
        with pytest.raises(DestinationUnavailable):
            await destination.probe()
    assert max(disk.sizes) == min(sum(sizes), 1024 * 1024)
    disk.max_bytes = 10_000_000
    await destination.probe()
    disk.max_bytes = 500
    await destination.probe()
    assert disk.sizes[-1] < 500


@FULL
@real_time
async def test_quota_of_one_folder_is_the_error_of_the_task(code, destination, monkeypatch):
    """The probe succeeds in another folder."""
    move = fs.move

    def move_checked(source, name, folder, final, **options):
        if final == "sick":
            raise OSError(code, os.strerror(code))
        move(source, name, folder, final, **options)

    monkeypatch.setattr(fs, "move", move_checked)
    with pytest.raises(DestinationUnavailable) as caught:
        await deliver(destination, claim_of("t", "a", "in/sick"), b"1", b"x" * 5_000)
    assert not caught.value.for_all
    await destination.probe()
    await deliver(destination, claim_of("healthy", "b"), b"x" * 5_000)
    assert list(exported_files(destination.root)) == ["b"]


@FULL
@real_time
async def test_file_whose_last_blocks_are_refused_is_not_published(code, tmp_path, monkeypatch):
    """NFS and SMB may write them only when the file is closed; without fsync, nothing else reports it."""
    destination = FolderDestination(tmp_path, durability="rename")
    await destination.probe()
    close = os.close

    def close_late(fd):
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        close(fd)
        if name.endswith(".part"):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "close", close_late)
    with pytest.raises(DestinationUnavailable, match=r"space|uota"):
        await deliver(destination, claim_of("t", "large"), (b"x" * 1_000_000,) * 3)
    monkeypatch.undo()
    await deliver(destination, claim_of("u", "other"), b"1")
    assert exported_files(tmp_path) == {"other": b"1"}
    destination.close()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
@real_time
async def test_lack_of_descriptors_concerns_all_tasks(code, destination, monkeypatch):
    """The probe would succeed, because the failed task has closed its files."""

    def create(*_):
        raise OSError(code, "too many open files")

    monkeypatch.setattr(fs, "create", create)
    with pytest.raises(DestinationUnavailable) as caught:
        await deliver(destination, claim_of("t", "a"), b"1")
    assert caught.value.for_all
