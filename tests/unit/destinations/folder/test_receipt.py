"""Receipts of the folder: they prove that the files of a delivery are still there, and nothing else proves it."""

import shutil

import msgspec
import pytest

from aluma_async import FolderDestination
from aluma_async.exceptions import DestinationError
from tests.support.clock import real_time
from tests.support.folders import claim_of, yielding_chunks

MARKER = ".aluma-async/root"
CLAIM = claim_of("t1", "in/a.pdf", "in/b.csv", "c.txt")


async def deliver(destination, claim=CLAIM, *, size=3):
    """Deliver files of this size and return the receipt."""
    async with destination.open(claim) as delivery:
        for file in claim.spec.files:
            await delivery.save(file, yielding_chunks(b"x" * size))
        assert not delivery.receipt
    return delivery.receipt


async def verify(root, receipt, **options):
    """Verify a receipt as the next process does: after a probe."""
    destination = FolderDestination(root, **options)
    await destination.probe()
    try:
        return await destination.verify(receipt)
    finally:
        destination.close()


@pytest.mark.parametrize("options", [{}, {"durability": "rename"}, {"manifest": True}])
@pytest.mark.parametrize("size", [3, 3_000_000])
@real_time
async def test_receipt_is_valid_for_the_next_process(options, size, tmp_path):
    destination = FolderDestination(tmp_path / "out", **options)
    await destination.probe()
    receipt = await deliver(destination, size=size)
    destination.close()
    assert await verify(tmp_path / "out", receipt, **options)
    (tmp_path / "out").rename(tmp_path / "moved")  # the marker is the folder's, and not the path's
    assert await verify(tmp_path / "moved", receipt, **options)


def remove(out):
    (out / "in/b.csv").unlink()


def truncate(out):
    (out / "in/b.csv").write_bytes(b"")


def remove_folder(out):
    shutil.rmtree(out / "in")


def replace_folder_by_file(out):
    shutil.rmtree(out / "in")
    (out / "in").touch()


def replace_by_link(out):
    (out / "in/b.csv").rename(out / "other")
    (out / "in/b.csv").symlink_to(out / "other")


def remove_manifest(out):
    (out / "manifests/t1.json").unlink()


def replace_disk(out):
    shutil.rmtree(out / ".aluma-async")


def empty_marker(out):
    (out / MARKER).write_bytes(b"")


def copy_to_new_disk(out):
    """The files are there, but nothing proves that everything that was synced to the old disk is on the new one."""
    out.rename(out.with_name("old"))
    shutil.copytree(out.with_name("old"), out, ignore=shutil.ignore_patterns(".aluma-async"))


CHANGES = [
    remove,
    truncate,
    remove_folder,
    replace_folder_by_file,
    replace_by_link,
    remove_manifest,
    replace_disk,
    empty_marker,
    copy_to_new_disk,
]


@pytest.mark.parametrize("change", CHANGES)
@real_time
async def test_receipt_is_not_valid_after_a_change(change, tmp_path):
    out = tmp_path / "out"
    destination = FolderDestination(out, manifest=True)
    await destination.probe()
    receipt = await deliver(destination)
    destination.close()
    assert await verify(out, receipt)
    change(out)
    assert not await verify(out, receipt)


@real_time
async def test_receipt_of_unsynced_files_is_valid_in_the_same_boot_only(tmp_path):
    """After a power loss, their names and sizes may be there, and their content may not."""
    for durability in ("rename", "full"):
        destination = FolderDestination(tmp_path, durability=durability, boot="boot 1")
        await destination.probe()
        receipt = await deliver(destination)
        destination.close()
        assert await verify(tmp_path, receipt, boot="boot 1")
        assert await verify(tmp_path, receipt, boot="boot 2") == (durability == "full")


@real_time
async def test_folder_without_its_marker_raises_and_nothing_is_created(tmp_path):
    """So a share that is not mounted proves nothing."""
    destination = FolderDestination(tmp_path / "out")
    await destination.probe()
    receipt = await deliver(destination)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DestinationError):
        await destination.verify(receipt)
    (tmp_path / "out").mkdir()
    with pytest.raises(DestinationError):
        await destination.verify(receipt)
    assert not list((tmp_path / "out").iterdir())
    destination.close()


@real_time
async def test_marker_of_an_earlier_version_gets_an_identifier_and_keeps_it(tmp_path):
    (tmp_path / ".aluma-async").mkdir()
    (tmp_path / MARKER).touch()
    identifiers = set()
    for _ in range(2):
        destination = FolderDestination(tmp_path)
        await destination.probe()
        assert await destination.verify(await deliver(destination))
        destination.close()
        identifiers.add((tmp_path / MARKER).read_text())
    assert len(identifiers) == 1
    assert len(identifiers.pop()) == 32


@real_time
async def test_receipt_contains_no_names(tmp_path):
    """It is stored in the journal, where no names from documents belong. The same files never look the same."""
    destination = FolderDestination(tmp_path)
    await destination.probe()
    receipts = [await deliver(destination, size=size) for size in (3, 3)]
    destination.close()
    for receipt in receipts:
        assert not any(word in receipt for word in ("a.pdf", "b.csv", "c.txt", "in/", (tmp_path / MARKER).read_text()))
    assert len({msgspec.json.decode(receipt)["files"] for receipt in receipts}) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda receipt: {**receipt, "files": receipt["files"][:-8]},
        lambda receipt: {**receipt, "files": "AAAA" + receipt["files"][4:]},
        lambda receipt: {**receipt, "nonce": "0"},
        lambda receipt: {**receipt, "folder": "0"},
        lambda receipt: {**receipt, "boot": 3},
        lambda receipt: {"folder": receipt["folder"]},
        lambda _: [],
    ],
)
@real_time
async def test_damaged_receipt_is_not_valid(change, tmp_path):
    destination = FolderDestination(tmp_path)
    await destination.probe()
    receipt = msgspec.json.decode(await deliver(destination))
    assert not await destination.verify(msgspec.json.encode(change(receipt)).decode())
    destination.close()


@real_time
async def test_failed_delivery_has_no_receipt(tmp_path):
    destination = FolderDestination(tmp_path, on_conflict="fail")
    await destination.probe()
    await deliver(destination)
    other = claim_of("t2", "c.txt")
    with pytest.raises(DestinationError, match="already has this name"):
        async with destination.open(other) as delivery:
            await delivery.save(other.spec.files[0], yielding_chunks(b"other"))
    assert not delivery.receipt
    destination.close()
