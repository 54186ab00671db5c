"""A folder that is not there: an unmounted share must not be mistaken for a new, empty folder."""

import asyncio
import shutil

import pytest

from aluma_async import FolderDestination
from aluma_async.exceptions import DestinationUnavailable
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files


@real_time
async def test_probe_names_a_root_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DestinationUnavailable, match="file"):
        await FolderDestination(tmp_path / "file" / "out").probe()


@real_time
async def test_delivery_does_not_recreate_a_root_that_went_away(destination):
    """An unmounted share must not fill the empty folder below it."""
    root = destination.root
    root.rename(root.with_name("gone"))
    root.mkdir()
    with pytest.raises(DestinationUnavailable):
        await deliver(destination, claim_of("t", "a"), b"1")
    assert not list(root.iterdir())
    root.rmdir()
    root.with_name("gone").rename(root)


@real_time
async def test_probe_refuses_another_folder_until_the_root_is_back(destination):
    root = destination.root
    root.rename(root.with_name("gone"))
    root.mkdir()
    for _ in range(2):
        with pytest.raises(DestinationUnavailable, match="another folder is in its place"):
            await destination.probe()
    assert not list(root.iterdir())
    root.rmdir()
    root.with_name("gone").rename(root)
    await destination.probe()
    await deliver(destination, claim_of("t", "a"), b"1")
    shutil.rmtree(root)
    await destination.probe()  # a folder that was deleted is created again


def test_probe_of_a_new_process_detects_an_unmounted_share(tmp_path):
    """It finds only the empty mount point, and the record of the file system that the folder was on."""
    share, mounts = tmp_path / "share", tmp_path / "state"

    async def probe():
        await FolderDestination(share / "out", mounts=mounts).probe()

    asyncio.run(probe())
    shutil.rmtree(share / "out")
    asyncio.run(probe())  # deleted on purpose, because it is on the same file system as before
    next(mounts.iterdir()).write_text(str(share))
    shutil.rmtree(share)
    share.mkdir()
    with pytest.raises(DestinationUnavailable, match=f"was on the one mounted at {share}$"):
        asyncio.run(probe())
    assert not list(share.iterdir())
    next(mounts.iterdir()).unlink()
    asyncio.run(probe())


@real_time
async def test_probe_recreates_a_missing_staging_folder(destination):
    shutil.rmtree(destination.root / ".aluma-async" / "staging")
    await destination.probe()
    await deliver(destination, claim_of("t", "a"), b"1")
    assert exported_files(destination.root) == {"a": b"1"}


@real_time
async def test_probe_recreates_a_root_that_was_deleted_while_in_use(destination):
    """The open index of owners was deleted with it."""
    root = destination.root
    await deliver(destination, claim_of("t", "a"), b"1")
    shutil.rmtree(root)
    with pytest.raises(DestinationUnavailable):
        await deliver(destination, claim_of("u", "b"), b"2")
    await destination.probe()
    for _ in range(2):
        await deliver(destination, claim_of("v", "a"), b"3")
    assert exported_files(root) == {"a": b"3"}
    assert (root / ".aluma-async" / "owners.sqlite3").exists()
