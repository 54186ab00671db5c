"""Large files that a cancelled delivery has finished are kept for the next attempt of the task."""

import os
import random

import anyio
import pytest

from aluma_async import FolderDestination
from aluma_async.models import Claim, ExportSpec
from tests.support.clock import real_time
from tests.support.folders import Download, claim_of, exported_files, kept_files, staged_files, yielding_chunks

LARGE = random.Random(1).randbytes(2_000_000)


async def deliver_until_cancelled(destination, claim, *data, version="1"):
    """Save all files, and be cancelled before they are published."""
    with anyio.CancelScope() as scope:
        async with destination.open(claim) as delivery:
            for file, content in zip(claim.spec.files, data, strict=True):
                await delivery.save(file, Download(content, version=version))
            scope.cancel()
            await anyio.sleep(1)


@real_time
async def test_next_attempt_resumes_with_the_large_files(destination):
    claim, root = claim_of("t", "a", "b", "small"), destination.root
    await deliver_until_cancelled(destination, claim, LARGE, LARGE[1:], b"small")
    assert not exported_files(root)
    assert not staged_files(root)
    async with destination.open(claim) as delivery:
        sizes = [delivery.resumable_size(file) for file in claim.spec.files]
        assert sizes == [len(LARGE), len(LARGE) - 1, None]
        assert [delivery.resumable_version(file) for file in claim.spec.files[:2]] == ["1", "1"]
        await delivery.save(claim.spec.files[2], yielding_chunks(b"small"))
    assert exported_files(root) == {"a": LARGE, "b": LARGE[1:], "small": b"small"}
    assert not kept_files(root)


@real_time
async def test_only_the_same_specification_is_resumed(destination):
    claim = claim_of("t", "a", "b")
    await deliver_until_cancelled(destination, claim, LARGE, LARGE)
    changed = Claim(claim.task, ExportSpec(claim.spec.files, b"another"), 0.0)
    async with destination.open(changed) as delivery:
        assert delivery.resumable_size(claim.spec.files[0]) is None
        for file in claim.spec.files:
            await delivery.save(file, yielding_chunks(b"new"))
    assert exported_files(destination.root) == {"a": b"new", "b": b"new"}


@real_time
async def test_resumed_file_can_be_saved_again(destination):
    claim = claim_of("t", "a", "b")
    await deliver_until_cancelled(destination, claim, LARGE, LARGE)
    async with destination.open(claim) as delivery:
        assert delivery.resumable_size(claim.spec.files[0]) == len(LARGE)
        await delivery.save(claim.spec.files[0], yielding_chunks(b"once more"))
        assert delivery.resumable_size(claim.spec.files[0]) is None
    assert exported_files(destination.root) == {"a": b"once more", "b": LARGE}


@real_time
async def test_kept_files_survive_the_process_but_not_for_ever(tmp_path):
    claim = claim_of("t", "a", "b")
    first = FolderDestination(tmp_path)
    await first.probe()
    await deliver_until_cancelled(first, claim, LARGE, LARGE)
    second = FolderDestination(tmp_path)
    await second.probe()
    assert len(kept_files(tmp_path)) == 2
    for path in kept_files(tmp_path):
        os.utime(path, (0, 0))
    await second.probe()
    assert not kept_files(tmp_path)
    with anyio.CancelScope() as scope:
        async with second.open(claim) as delivery:
            assert [delivery.resumable_size(file) for file in claim.spec.files] == [None, None]
            scope.cancel()
            await anyio.sleep(1)


@real_time
async def test_nothing_is_kept_after_an_error(destination):
    async def broken_chunks():
        yield LARGE
        raise ZeroDivisionError

    async def deliver_both(claim, *streams):
        async with destination.open(claim) as delivery:
            for file, chunks in zip(claim.spec.files, streams, strict=True):
                await delivery.save(file, chunks)

    with pytest.raises(ZeroDivisionError):
        await deliver_both(claim_of("t", "a", "b"), Download(LARGE), broken_chunks())
    assert not kept_files(destination.root)
    assert not staged_files(destination.root)


async def resumable_size(root, claim, **options):
    """Return what the next process could resume the claim's only file with."""
    destination = FolderDestination(root, **options)
    await destination.probe()
    try:
        async with destination.open(claim) as delivery:
            size = delivery.resumable_size(claim.spec.files[0])
            await delivery.save(claim.spec.files[0], yielding_chunks(b"new"))
    finally:
        destination.close()
    assert exported_files(root) == {"a": b"new"}
    assert not kept_files(root)
    assert not staged_files(root)
    return size


def cut(path):
    os.truncate(path, 4096)


def extend(path):
    path.write_bytes(LARGE + b"x")


def replace_by_link(path):
    path.rename(path.parent.parent / "other")
    path.symlink_to("../other")


def remove_record(path):
    """Earlier versions of the exporter recorded neither the size nor the version."""
    path.rename(path.with_name(path.name.partition(".")[0]))


@pytest.mark.parametrize("change", [cut, extend, replace_by_link, os.unlink, remove_record])
@real_time
async def test_kept_file_is_not_used_unless_it_is_as_it_was_stored(change, tmp_path):
    """A power loss may leave less of a file than was written, although its name is there."""
    claim, root = claim_of("t", "a"), tmp_path / "out"
    first = FolderDestination(root)
    await first.probe()
    await deliver_until_cancelled(first, claim, LARGE)
    first.close()
    (path,) = kept_files(root)
    change(path)
    assert await resumable_size(root, claim) is None


@pytest.mark.parametrize("durability", ["full", "rename"])
@pytest.mark.parametrize("boot", ["boot 1", "boot 2"])
@real_time
async def test_kept_file_that_was_not_synced_is_not_used_after_a_reboot(durability, boot, tmp_path):
    claim = claim_of("t", "a")
    first = FolderDestination(tmp_path, durability=durability, boot="boot 1")
    await first.probe()
    await deliver_until_cancelled(first, claim, LARGE)
    first.close()
    usable = durability == "full" or boot == "boot 1"
    size = await resumable_size(tmp_path, claim, durability="rename", boot=boot)
    assert size == (len(LARGE) if usable else None)


@pytest.mark.parametrize("boot", ["boot 1", "boot 2"])
@real_time
async def test_kept_file_that_was_not_synced_is_not_used_with_full_durability(boot, tmp_path):
    """The setting was changed between the two attempts; a file under its final name must survive a power loss."""
    claim = claim_of("t", "a")
    first = FolderDestination(tmp_path, durability="rename", boot="boot 1")
    await first.probe()
    await deliver_until_cancelled(first, claim, LARGE)
    first.close()
    assert await resumable_size(tmp_path, claim, durability="full", boot=boot) is None


@pytest.mark.parametrize("version", ["", "../x", "a.b", "a" * 65])
@real_time
async def test_file_without_a_usable_version_is_not_kept(version, destination):
    await deliver_until_cancelled(destination, claim_of("t", "a"), LARGE, version=version)
    assert not kept_files(destination.root)


@real_time
async def test_file_of_another_version_replaces_the_kept_one(destination):
    claim = claim_of("t", "a")
    for version in ("1", "2"):
        await deliver_until_cancelled(destination, claim, LARGE, version=version)
    assert len(kept_files(destination.root)) == 1
    async with destination.open(claim) as delivery:
        assert delivery.resumable_version(claim.spec.files[0]) == "2"
