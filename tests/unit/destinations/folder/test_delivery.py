"""Delivery to a folder: a final name appears only with complete content, and a failed task leaves no trace."""

import asyncio
import contextlib
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import anyio
import pytest

from aluma_async import FolderDestination
from aluma_async.destinations.folder import fs
from aluma_async.exceptions import DestinationError
from aluma_async.testing import run_virtual
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files, open_folder, staged_files, yielding_chunks
from tests.support.tasks import chunks

LARGE = random.Random(1).randbytes(2_000_000)


@real_time
async def test_files_of_any_size_arrive_byte_for_byte(destination):
    large = random.Random(0).randbytes(3 * 1024 * 1024 + 17)
    chunks = tuple(large[i : i + 70_000] for i in range(0, len(large), 70_000))
    await deliver(destination, claim_of("t", "a/b/large.pdf", "small.csv", "empty.txt"), chunks, b"x,y", b"")
    assert exported_files(destination.root) == {"a/b/large.pdf": large, "small.csv": b"x,y", "empty.txt": b""}


@real_time
async def test_newline_crlf_converts_texts_but_not_downloads(tmp_path):
    async with open_folder(tmp_path, newline="crlf") as destination:
        text, binary = claim_of("t", "a.csv", source="content"), claim_of("b", "a.pdf")
        await deliver(destination, text, (b"a\nb\r", b"\nc\r\n", b"\n\r"))
        await deliver(destination, binary, b"a\nb")
        assert exported_files(tmp_path) == {"a.csv": b"a\r\nb\r\nc\r\n\r\n\r", "a.pdf": b"a\nb"}


@pytest.mark.parametrize(("natively", "chunks"), [(False, 3), (False, 1), (True, 1)])
def test_cancelled_delivery_is_complete_or_leaves_no_trace(tmp_path, natively, chunks):
    """At whichever step of the event loop it is cancelled."""
    outcomes = []

    async def cancel_after(steps):
        destination = FolderDestination(tmp_path / str(steps))
        await destination.probe()
        scope = anyio.CancelScope()

        async def deliver_in_scope():
            with scope:
                await deliver(destination, claim_of("t", "a", "b/c"), b"1", (b"2" * 700_000,) * chunks)

        delivery = asyncio.ensure_future(deliver_in_scope())
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        if natively:
            delivery.cancel()
        else:
            scope.cancel()
        await asyncio.wait([delivery])
        destination.close()
        exported = exported_files(destination.root)
        assert exported in ({}, {"a": b"1", "b/c": b"2" * 700_000 * chunks})
        assert not staged_files(destination.root)
        outcomes.append(len(exported))

    for steps in range(40):
        run_virtual(cancel_after, steps)
        if outcomes[-3:] == [2, 2, 2]:
            break  # it is complete before it is cancelled
    assert set(outcomes) == {0, 2}


@real_time
async def test_natively_cancelled_delivery_waits_for_its_publishing_thread(tmp_path):
    submitted, may_run = threading.Event(), threading.Event()

    class HoldingExecutor(ThreadPoolExecutor):
        def submit(self, step, *args):
            submitted.set()
            return super().submit(lambda: may_run.wait(10) and step(*args))

    with HoldingExecutor() as executor:
        destination = FolderDestination(tmp_path, executor=executor)
        may_run.set()
        await destination.probe()
        may_run.clear()
        submitted.clear()
        deliveries = [asyncio.ensure_future(deliver(destination, claim_of(name, name), b"1")) for name in "ab"]
        while not submitted.is_set():
            await anyio.lowlevel.checkpoint()
        for delivery in deliveries:
            delivery.cancel()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert not delivery.done()
        may_run.set()
        await asyncio.wait(deliveries)
        assert all(delivery.cancelled() for delivery in deliveries)
        assert exported_files(tmp_path) == {"a": b"1", "b": b"1"}
        assert not staged_files(tmp_path)
        destination.close()


@real_time
async def test_batch_that_never_ran_fails_for_all_its_callers(tmp_path):
    """Also for those who only wait for it: a task whose files are not confirmed must not be completed."""

    class DroppingExecutor(ThreadPoolExecutor):
        until_drop = -1

        def submit(self, step, *args):
            self.until_drop -= 1
            if self.until_drop:
                return super().submit(step, *args)
            dropped = Future()
            dropped.cancel()
            dropped.set_running_or_notify_cancel()
            return dropped

    with DroppingExecutor() as executor:
        async with open_folder(tmp_path, executor=executor, durability="rename") as destination:
            executor.until_drop = 2  # the second of two batches: "b" leads it, and "c" shares it
            deliveries = [asyncio.ensure_future(deliver(destination, claim_of(name, name), b"1")) for name in "abc"]
            await asyncio.wait(deliveries)
            completed, leading, sharing = deliveries
            assert completed.exception() is None
            assert leading.cancelled()
            with pytest.raises(DestinationError, match="publishing was interrupted"):
                sharing.result()
            assert exported_files(tmp_path) == {"a": b"1"}


@real_time
async def test_task_is_rolled_back_when_a_file_cannot_be_renamed(destination, before_disk_step):
    """A file that existed before stays, with its new content."""
    await deliver(destination, claim_of("t", "a", "old", "blocked"), b"1", b"2", b"3")

    def block():
        (destination.root / "blocked").unlink()
        (destination.root / "blocked").mkdir()

    before_disk_step("os.rename", 3, block)
    with pytest.raises(DestinationError, match="directory"):
        await deliver(destination, claim_of("t", "new", "old", "blocked"), b"3", b"4", b"5")
    assert exported_files(destination.root) == {"a": b"1", "old": b"4"}


@real_time
async def test_error_of_one_task_does_not_fail_the_others_of_its_batch(tmp_path):
    async with open_folder(tmp_path, durability="rename") as destination:
        (tmp_path / "link").symlink_to(tmp_path)
        failed = set()

        async def deliver_one(number):
            name = "link/a" if number % 5 == 0 else f"{number}"
            try:
                await deliver(destination, claim_of(f"t{number}", name), b"x")
            except DestinationError:
                failed.add(number)

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(deliver_one, number)
        assert failed == set(range(0, 40, 5))
        assert set(exported_files(tmp_path)) == {str(number) for number in range(40) if number % 5}


@real_time
async def test_many_concurrent_tasks_with_hostile_names_lose_no_file(destination):
    rng = random.Random(5)
    names = ["a.pdf", "A.PDF", "x/a.pdf", "../a.pdf", "con", "x" * 300, "é.txt", "e\u0301.txt", "", "..", "x", "x/y/z"]
    tasks = {f"task{n}": [rng.choice(names) for _ in range(rng.randint(1, 5))] for n in range(60)}
    contents = {task_id: [f"{task_id}/{i}".encode() for i in range(len(files))] for task_id, files in tasks.items()}

    async def deliver_with_retry(claim, data):
        try:
            await deliver(destination, claim, *data)
        except DestinationError as error:  # another task has created a folder with the name of a file, or a file
            assert "Is a directory" in str(error) or "is a file" in str(error)
            await deliver(destination, claim, *data)

    for _ in range(2):
        async with anyio.create_task_group() as group:
            for task_id, files in tasks.items():
                group.start_soon(deliver_with_retry, claim_of(task_id, *files), contents[task_id])
    expected = Counter(content for data in contents.values() for content in data)
    assert Counter(exported_files(destination.root).values()) == expected


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@real_time
async def test_no_link_below_the_root_is_followed(destination, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (destination.root / "link").symlink_to(outside)
    with pytest.raises(DestinationError):
        await deliver(destination, claim_of("t", "link/a"), b"1")
    (destination.root / "file").symlink_to(outside / "x")
    await deliver(destination, claim_of("u", "file"), b"1")
    assert not list(outside.iterdir())


@real_time
async def test_folder_that_is_replaced_by_a_link_leads_nowhere_else(destination, tmp_path, before_disk_step):
    """At whichever step on the disk it is replaced while a task is published."""
    outside = tmp_path / "outside"
    outside.mkdir()
    folder, aside = destination.root / "in", tmp_path / "aside"
    await deliver(destination, claim_of("first", "in/deep/a"), b"1")

    def replace_by_link():
        folder.rename(aside)
        folder.symlink_to(outside)

    replaced = 0
    for step in range(1, 30):
        clear = before_disk_step("open os.rename os.mkdir", step, replace_by_link)
        try:
            await deliver(destination, claim_of(f"t{step}", "in/deep/b", "in/c"), b"2", b"3")
        except DestinationError as error:
            assert "link" in str(error) or "No such file" in str(error), error
        clear()
        if folder.is_symlink():
            folder.unlink()
            aside.rename(folder)
            replaced += 1
        assert not list(outside.iterdir())
    assert replaced > 5


@real_time
async def test_large_file_that_cannot_be_restarted_leaves_nothing(destination):
    """The fixture checks that nothing is left in the staging folder."""

    async def broken_chunks(*data):
        for chunk in data:
            yield chunk
        raise ZeroDivisionError

    async def deliver_twice(claim):
        async with destination.open(claim) as delivery:
            with contextlib.suppress(ZeroDivisionError):
                await delivery.save(claim.spec.files[0], broken_chunks(LARGE))
            await delivery.save(claim.spec.files[0], broken_chunks())

    with pytest.raises(ZeroDivisionError):
        await deliver_twice(claim_of("t", "a"))


@real_time
async def test_file_that_is_saved_again_starts_from_nothing(destination):
    claim = claim_of("t", "a", "b")
    async with destination.open(claim) as delivery:
        for first, second in ((LARGE, b"small"), (b"small", LARGE)):
            file = claim.spec.files[first is not LARGE]
            await delivery.save(file, yielding_chunks(first))
            await delivery.save(file, yielding_chunks(second))
    assert exported_files(destination.root) == {"a": b"small", "b": LARGE}


@real_time
async def test_probe_removes_staged_files_of_dead_processes_only(destination):
    claim = claim_of("t", "a")
    async with destination.open(claim) as delivery:
        await delivery.save(claim.spec.files[0], yielding_chunks(LARGE))
        (staged,) = staged_files(destination.root)
        orphan = staged.with_name(staged.name.replace(f"-{os.getpid()}-", "-4194999-"))
        orphan.write_bytes(b"half")
        await destination.probe()
        assert staged_files(destination.root) == [staged]


@real_time
async def test_probes_at_the_same_time_do_not_disturb_each_other(destination, monkeypatch):
    """Workers that park tasks at the same time all probe the quarantine."""
    create, check = fs.create, fs.fsync_checked

    def create_slowly(*arguments):
        fd = create(*arguments)
        time.sleep(0.1)
        return fd

    def check_late(*arguments, **options):
        time.sleep(0.1)
        return check(*arguments, **options)

    monkeypatch.setattr(fs, "create", create_slowly)
    monkeypatch.setattr(fs, "fsync_checked", check_late)
    async with anyio.create_task_group() as group:
        group.start_soon(destination.probe)
        await anyio.sleep(0.15)  # the first one has written its file, and not checked it yet
        group.start_soon(destination.probe)


@real_time
async def test_omitted_file_leaves_no_trace(destination):
    """Whatever was saved of it: nothing, a part on disk, all of it in memory or on disk."""
    claim = claim_of("t", "a.txt", "large.pdf", "broken.pdf", "never.pdf", "small.pdf")
    kept, large, broken, never, small = claim.spec.files
    async with destination.open(claim) as delivery:
        await delivery.save(kept, yielding_chunks(b"kept"))
        await delivery.save(large, yielding_chunks(LARGE))
        await delivery.save(small, yielding_chunks(b"small"))
        with pytest.raises(DestinationError, match="broken"):
            await delivery.save(broken, chunks(LARGE, DestinationError("broken")))
        for file in (large, broken, never, small):
            await delivery.omit(file)
    assert exported_files(destination.root) == {"a.txt": b"kept"}
    assert not staged_files(destination.root)
