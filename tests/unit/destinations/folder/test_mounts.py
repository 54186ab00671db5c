"""A folder that is not there: an unmounted share must not be mistaken for a new, empty folder."""

import asyncio
import shutil
from contextlib import closing

import pytest

from aluma_async import FolderDestination
from aluma_async.exceptions import DestinationUnavailable
from tests.support.clock import real_time
from tests.support.folders import Download, claim_of, deliver, exported_files


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


async def probe_new(root, mounts):
    """Probe the folder as the next process does, and deliver a task."""
    with closing(FolderDestination(root, mounts=mounts)) as destination:
        await destination.probe()
        await deliver(destination, claim_of("t", "a"), b"1")


@pytest.mark.parametrize("identifier", ["0" * 32, ""])
@real_time
async def test_probe_of_a_new_process_detects_another_folder_with_a_marker(identifier, tmp_path):
    """The folder below the mount point of a share has a marker of its own if it was ever used."""
    share, mounts = tmp_path / "share", tmp_path / "state"
    await probe_new(share, mounts)
    share.rename(tmp_path / "on the server")
    (share / ".aluma-async").mkdir(parents=True)
    (share / ".aluma-async" / "root").write_text(identifier)
    for _ in range(2):
        with pytest.raises(DestinationUnavailable, match="has another identifier") as caught:
            await probe_new(share, mounts)
        assert caught.value.for_all
    assert [path.name for path in share.rglob("*")] == [".aluma-async", "root"]
    shutil.rmtree(share)
    (tmp_path / "on the server").rename(share)
    await probe_new(share, mounts)
    (share / ".aluma-async" / "root").write_text("0" * 32)
    (record,) = mounts.iterdir()
    assert str(record) in caught.value.hint
    record.unlink()
    await probe_new(share, mounts)


@real_time
async def test_folder_that_was_deleted_between_two_processes_is_created_again(tmp_path):
    for _ in range(3):
        await probe_new(tmp_path / "out", tmp_path / "state")
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("data", [b"1", b"1" * 2_000_000])
@real_time
async def test_delivery_fails_when_the_root_is_replaced_before_its_commit(data, destination):
    """The share went away, and the folder below its mount point also has a marker."""
    root, claim = destination.root, claim_of("t", "a", "b")
    elsewhere = root.with_name("elsewhere")
    await FolderDestination(elsewhere).probe()

    async def deliver_and_replace():
        async with destination.open(claim) as delivery:
            await delivery.save(claim.spec.files[0], Download(data))
            root.rename(root.with_name("gone"))
            elsewhere.rename(root)
            await delivery.save(claim.spec.files[1], Download(data))

    with pytest.raises(DestinationUnavailable, match="has another identifier") as caught:
        await deliver_and_replace()
    assert caught.value.for_all
    with pytest.raises(DestinationUnavailable):
        await destination.probe()
    assert not exported_files(root)
    shutil.rmtree(root)
    root.with_name("gone").rename(root)
    await destination.probe()
    await deliver(destination, claim, b"1", b"2")
    for path in (root / ".aluma-async" / "staging").iterdir():
        path.unlink()  # of the delivery that could not remove it


@pytest.mark.parametrize("leaves_folder", [False, True])
@real_time
async def test_delivery_fails_when_the_root_is_moved_during_its_commit(leaves_folder, destination, before_disk_step):
    root = destination.root

    def move():
        root.rename(root.with_name("moved"))
        if leaves_folder:
            shutil.copytree(root.with_name("moved"), root)

    before_disk_step("os.rename", 1, move)
    with pytest.raises(DestinationUnavailable, match="was moved or replaced") as caught:
        await deliver(destination, claim_of("t", "a"), b"1")
    assert caught.value.for_all
    assert not exported_files(root)
    await destination.probe()
    await deliver(destination, claim_of("t", "a"), b"1")
    assert exported_files(root) == {"a": b"1"}
    for path in (root / ".aluma-async" / "staging").iterdir():
        path.unlink()  # part of the copy


@real_time
async def test_index_of_a_replaced_folder_is_opened_again(destination):
    """A copy of the folder has the same marker, and its own index of owners."""
    root = destination.root
    await deliver(destination, claim_of("t", "a"), b"1")
    shutil.copytree(root, root.with_name("copy"))
    await deliver(destination, claim_of("u", "b"), b"2")
    shutil.rmtree(root)
    root.with_name("copy").rename(root)
    await deliver(destination, claim_of("v", "b"), b"3")
    assert exported_files(root) == {"a": b"1", "b": b"3"}
