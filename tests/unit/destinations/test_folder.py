"""The folder destination: a final name appears only with complete, durable content, and nobody else's is touched."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import sqlite3
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from aluma_async import FolderDestination
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.testing import check_destination, check_memory, run_virtual


def claim(task_id, *names, source="url"):
    files = [ExportFile(i, 0, *os.path.split(name), source, url="/f") for i, name in enumerate(names)]
    return Claim(ExportTask(task_id), ExportSpec(tuple(files)), 0.0)


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != ".aluma-async"
    }


def staged(root: Path) -> list[Path]:
    return list((root / ".aluma-async" / "staging").iterdir())


async def chunks(*data):
    for piece in data:
        await anyio.lowlevel.checkpoint()
        yield piece


async def deliver(destination, what, *data):
    async with destination.open(what) as delivery:
        for file, body in zip(what.spec.files, data, strict=True):
            await delivery.save(file, chunks(*(body if isinstance(body, tuple) else (body,))))


@pytest.fixture
def run(tmp_path):
    """Run a test against a probed folder, in threads as users do."""

    def run_it(main, **options):
        async def with_destination():
            destination = FolderDestination(tmp_path / "out", **options)
            await destination.probe()
            try:
                await main(destination)
            finally:
                destination.close()
            assert not staged(destination.root)

        asyncio.run(with_destination())

    return run_it


@pytest.mark.parametrize("durability", ["full", "rename"])
def test_it_keeps_the_contract_of_a_destination(tmp_path, durability):
    made = []

    def make():
        made.append(FolderDestination(tmp_path, durability=durability))
        return made[-1]

    asyncio.run(check_destination(make, lambda: tree(tmp_path).values()))
    for destination in made:
        destination.close()
    assert not staged(tmp_path)


def test_a_big_file_takes_little_memory(run):
    run(check_memory)


def test_files_big_and_small_arrive_byte_for_byte_under_their_names(run):
    big = random.Random(0).randbytes(3 * 1024 * 1024 + 17)

    async def main(destination):
        pieces = tuple(big[i : i + 70_000] for i in range(0, len(big), 70_000))
        await deliver(destination, claim("t", "a/b/big.pdf", "small.csv", "empty.txt"), pieces, b"x,y", b"")
        assert tree(destination.root) == {"a/b/big.pdf": big, "small.csv": b"x,y", "empty.txt": b""}

    run(main)


def test_two_tasks_that_want_one_name_are_both_kept_and_again_gives_the_same_tree(run):
    async def main(destination):
        one, other = claim("one", "x/a.pdf"), claim("other", "x/a.pdf")
        for _ in range(3):
            await deliver(destination, one, b"1")
            await deliver(destination, other, b"2")
        assert sorted(tree(destination.root).values()) == [b"1", b"2"]
        await deliver(destination, one, b"changed")
        assert sorted(tree(destination.root).values()) == [b"2", b"changed"]
        await deliver(destination, claim("third", "x/a.pdf"), b"2")
        assert sorted(tree(destination.root).values()) == [b"2", b"2", b"changed"], "the same bytes, but another task"

    run(main)


def test_overwrite_and_fail_are_other_ways_to_settle_a_conflict(run):
    async def overwrite(destination):
        await deliver(destination, claim("one", "a"), b"1")
        await deliver(destination, claim("other", "a"), b"2")
        assert tree(destination.root) == {"a": b"2"}

    run(overwrite, on_conflict="overwrite")

    async def fail(destination):
        await deliver(destination, claim("one", "b"), b"1")
        await deliver(destination, claim("one", "b"), b"1")
        with pytest.raises(DestinationError, match="name"):
            await deliver(destination, claim("other", "b"), b"2")
        assert tree(destination.root)["b"] == b"1"

    run(fail, on_conflict="fail")


def test_a_file_that_somebody_else_put_there_is_not_touched_unless_it_is_the_same(run):
    async def main(destination):
        (destination.root / "mine.txt").write_bytes(b"a user's")
        (destination.root / "same.txt").write_bytes(b"same")
        (destination.root / "folder.txt").mkdir()
        await deliver(destination, claim("t", "mine.txt", "same.txt", "folder.txt"), b"ours", b"same", b"file")
        found = tree(destination.root)
        assert found["mine.txt"] == b"a user's"
        assert Counter(found.values()) == Counter([b"a user's", b"ours", b"same", b"file"])

    run(main)


def test_a_pipe_or_a_socket_under_the_name_is_left_alone_and_holds_nothing_up(run):
    async def main(destination):
        os.mkfifo(destination.root / "a")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(destination.root / "b"))
            await deliver(destination, claim("t", "a", "b"), b"1", b"2")
            assert sorted(tree(destination.root).values()) == [b"1", b"2"]
            assert (destination.root / "a").is_fifo()

    run(main)


def test_a_lost_or_damaged_record_of_owners_loses_no_file(run):
    async def main(destination):
        one, other = claim("one", "a"), claim("other", "a")
        await deliver(destination, one, b"1")
        await deliver(destination, other, b"2")
        before = tree(destination.root)
        record = destination.root / ".aluma-async" / "owners.sqlite3"
        destination.close()
        record.write_bytes(b"not a database, " * 1000)
        await deliver(destination, one, b"1")
        await deliver(destination, other, b"2")
        assert tree(destination.root) == before
        await deliver(destination, one, b"new")
        assert tree(destination.root)["a"] == b"new"
        with sqlite3.connect(record) as database:
            assert database.execute("SELECT count(*) FROM owner").fetchone()[0] == 2
        database.close()

    run(main)


def test_line_ends_of_texts_are_turned_on_request_and_only_those(run):
    async def main(destination):
        text, binary = claim("t", "a.csv", source="content"), claim("b", "a.pdf")
        await deliver(destination, text, (b"a\nb\r", b"\nc\r\n", b"\n\r"))
        await deliver(destination, binary, b"a\nb")
        assert tree(destination.root) == {"a.csv": b"a\r\nb\r\nc\r\n\r\n\r", "a.pdf": b"a\nb"}

    run(main, newline="crlf")


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_no_link_below_the_root_is_followed(run, tmp_path):
    async def main(destination):
        outside = tmp_path / "outside"
        outside.mkdir()
        (destination.root / "link").symlink_to(outside)
        with pytest.raises(DestinationError):
            await deliver(destination, claim("t", "link/a"), b"1")
        (destination.root / "file").symlink_to(outside / "x")
        await deliver(destination, claim("u", "file"), b"1")
        assert not list(outside.iterdir())

    run(main)


def test_a_root_that_cannot_be_used_is_said_plainly(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DestinationUnavailable, match="file"):
        asyncio.run(FolderDestination(tmp_path / "file" / "out").probe())


def test_a_root_that_goes_away_is_not_silently_made_again(run):
    """An unmounted share must not fill the empty folder below it."""

    async def main(destination):
        root = destination.root
        root.rename(root.with_name("gone"))
        root.mkdir()
        with pytest.raises(DestinationUnavailable):
            await deliver(destination, claim("t", "a"), b"1")
        assert not list(root.iterdir())
        root.rmdir()
        root.with_name("gone").rename(root)

    run(main)


def test_what_a_crashed_run_left_in_staging_is_swept_and_what_a_living_one_holds_is_not(run):
    async def main(destination):
        left = destination.place.staging / (destination._prefix.replace(str(os.getpid()), "4194999") + "-1-1-0.part")
        left.write_bytes(b"half")
        held = destination.place.staging / f"{destination._prefix}-1-1-0.part"
        held.write_bytes(b"of a living one")
        await destination.probe()
        assert staged(destination.root) == [held]
        held.unlink()

    run(main)


@pytest.mark.parametrize(("natively", "pieces"), [(False, 3), (False, 1), (True, 1)])
def test_whenever_a_delivery_is_cancelled_it_leaves_no_trace_or_is_whole(tmp_path, natively, pieces):
    """Cancelled at each step of the loop in turn."""
    outcomes = set()

    async def main(steps):
        destination = FolderDestination(tmp_path / str(steps))
        await destination.probe()
        scope = anyio.CancelScope()

        async def delivered():
            with scope:
                await deliver(destination, claim("t", "a", "b/c"), b"1", (b"2" * 700_000,) * pieces)

        delivery = asyncio.ensure_future(delivered())
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        if natively:
            delivery.cancel()
        else:
            scope.cancel()
        await asyncio.wait([delivery])
        destination.close()
        found = tree(destination.root)
        assert found in ({}, {"a": b"1", "b/c": b"2" * 700_000 * pieces})
        assert not staged(destination.root)
        outcomes.add(len(found))

    for steps in range(40):
        run_virtual(main, steps)
    assert outcomes == {0, 2}


def test_a_delivery_that_is_cancelled_without_a_scope_waits_for_the_thread_that_publishes_it(tmp_path):
    asked, may_go = threading.Event(), threading.Event()

    class Held(ThreadPoolExecutor):
        def submit(self, step, *args):
            asked.set()
            return super().submit(lambda: may_go.wait(10) and step(*args))

    async def main():
        with Held() as executor:
            destination = FolderDestination(tmp_path, executor=executor)
            may_go.set()
            await destination.probe()
            may_go.clear()
            asked.clear()
            deliveries = [asyncio.ensure_future(deliver(destination, claim(name, name), b"1")) for name in "ab"]
            while not asked.is_set():
                await anyio.lowlevel.checkpoint()
            for delivery in deliveries:
                delivery.cancel()
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
                assert not delivery.done()
            may_go.set()
            await asyncio.wait(deliveries)
            assert all(delivery.cancelled() for delivery in deliveries)
            assert tree(tmp_path) == {"a": b"1", "b": b"1"}
            assert not staged(tmp_path)
            destination.close()

    asyncio.run(main())


def test_many_tasks_at_once_with_hostile_names_lose_nothing(run):
    chance = random.Random(5)
    names = ["a.pdf", "A.PDF", "x/a.pdf", "../a.pdf", "con", "x" * 300, "é.txt", "e\u0301.txt", "", "..", "x", "x/y/z"]
    tasks = {f"task{n}": [chance.choice(names) for _ in range(chance.randint(1, 5))] for n in range(200)}

    async def main(destination):
        bodies = {t: [f"{t}/{i}".encode() for i in range(len(files))] for t, files in tasks.items()}
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for task_id, files in tasks.items():
                    group.start_soon(deliver_safely, destination, claim(task_id, *files), bodies[task_id])
        assert Counter(tree(destination.root).values()) == Counter(body for data in bodies.values() for body in data)

    async def deliver_safely(destination, what, data):
        try:
            await deliver(destination, what, *data)
        except DestinationError as error:  # two at once: a name became a folder before its file came
            assert "Is a directory" in str(error) or "is a file" in str(error)
            await deliver(destination, what, *data)

    run(main)


@pytest.mark.parametrize("on_conflict", ["keep-both", "overwrite"])
def test_a_file_and_a_folder_of_one_name_are_both_kept_whoever_comes_first(run, on_conflict):
    async def main(destination):
        for _ in range(2):
            await deliver(destination, claim("file", "x"), b"1")
            await deliver(destination, claim("folder", "x/a.pdf", "x/b.pdf"), b"2", b"3")
        await deliver(destination, claim("late", "x", "y/z"), b"4", b"5")
        await deliver(destination, claim("later", "y"), b"6")
        found = tree(destination.root)
        assert sorted(found.values()) == [b"1", b"2", b"3", b"4", b"5", b"6"][on_conflict == "overwrite" :]
        assert len({name.partition("/")[0] for name in found if name.endswith(".pdf")}) == 1, "one folder, as asked"

    run(main, on_conflict=on_conflict)


def test_a_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere_else(run, tmp_path):
    """At each step on the disk in turn, while a task is published."""
    outside = tmp_path / "outside"
    outside.mkdir()

    async def main(destination):
        folder, aside = destination.root / "in", tmp_path / "aside"
        await deliver(destination, claim("first", "in/deep/a"), b"1")

        def swap():
            folder.rename(aside)
            folder.symlink_to(outside)

        for step in range(1, 30):
            ACTING.append(At("open os.rename os.mkdir", step, swap))
            try:
                await deliver(destination, claim(f"t{step}", "in/deep/b", "in/c"), b"2", b"3")
            except DestinationError as error:
                assert "link" in str(error) or "No such file" in str(error), error
            ACTING.clear()
            if folder.is_symlink():
                folder.unlink()
                aside.rename(folder)
                swapped.append(step)
            assert not list(outside.iterdir())
        assert len(swapped) > 5

    swapped = []
    run(main)


def test_what_could_not_all_be_renamed_is_taken_back(run):
    async def main(destination):
        await deliver(destination, claim("t", "a", "old"), b"1", b"2")
        again = claim("t", "new", "old", "blocked")

        ACTING.append(At("os.rename", 1, (destination.root / "blocked").mkdir))
        with pytest.raises(DestinationError, match="directory"):
            await deliver(destination, again, b"3", b"4", b"5")
        assert tree(destination.root) == {"a": b"1", "old": b"4"}, "one that was there before stays, whole"

    run(main)


def test_an_error_of_one_task_does_not_touch_those_published_with_it(run):
    async def main(destination):
        (destination.root / "link").symlink_to(destination.root)
        results = {}

        async def one(number):
            try:
                await deliver(destination, claim(f"t{number}", "link/a" if number % 5 == 0 else f"{number}"), b"x")
            except DestinationError:
                results[number] = "refused"

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(one, number)
        assert set(results) == set(range(0, 40, 5))
        assert set(tree(destination.root)) == {str(number) for number in range(40) if number % 5}

    run(main, durability="rename")


def test_a_share_that_is_not_mounted_is_not_taken_for_a_new_folder(tmp_path):
    """Also by the next process, which finds only the empty mount point."""
    share, mounts = tmp_path / "share", tmp_path / "state"

    async def probe():
        await FolderDestination(share / "out", mounts=mounts).probe()

    asyncio.run(probe())
    shutil.rmtree(share / "out")
    asyncio.run(probe())  # deleted on purpose: what it is mounted on is the same
    next(mounts.iterdir()).write_text(str(share))
    shutil.rmtree(share)
    share.mkdir()
    with pytest.raises(DestinationUnavailable, match=f"was on what is mounted at {share}"):
        asyncio.run(probe())
    assert not list(share.iterdir())
    next(mounts.iterdir()).unlink()
    asyncio.run(probe())


def test_a_folder_in_whose_place_another_one_appears_is_not_used_until_it_is_back(run):
    async def main(destination):
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
        await deliver(destination, claim("t", "a"), b"1")
        shutil.rmtree(root)
        await destination.probe()  # deleted on purpose: it is made again

    run(main)


BIG = random.Random(1).randbytes(2_000_000)


async def twice(destination, what, first, second):
    async with destination.open(what) as delivery:
        with contextlib.suppress(ZeroDivisionError):
            await delivery.save(what.spec.files[0], first)
        await delivery.save(what.spec.files[0], second)


async def both(destination, what, *streams):
    async with destination.open(what) as delivery:
        for file, stream in zip(what.spec.files, streams, strict=True):
            await delivery.save(file, stream)


async def too_long(destination, what, *data):
    """Save all files, and run out of time before they are published."""
    with anyio.CancelScope() as scope:
        async with destination.open(what) as delivery:
            for file, body in zip(what.spec.files, data, strict=True):
                await delivery.save(file, chunks(body))
            scope.cancel()
            await anyio.sleep(1)


def test_what_a_task_that_ran_out_of_time_had_finished_is_kept_for_its_next_attempt(run):
    async def main(destination):
        what, root = claim("t", "a", "b", "small"), destination.root
        await too_long(destination, what, BIG, BIG[1:], b"small")
        assert not tree(root)
        assert not staged(root)
        async with destination.open(what) as delivery:
            assert [delivery.resumable_size(file) for file in what.spec.files] == [len(BIG), len(BIG) - 1, None]
            await delivery.save(what.spec.files[2], chunks(b"small"))
        assert tree(root) == {"a": BIG, "b": BIG[1:], "small": b"small"}
        assert not list((root / ".aluma-async" / "kept").iterdir())

    run(main)


def test_what_was_kept_serves_the_very_same_specification_only_and_can_be_saved_anew(run):
    async def main(destination):
        what = claim("t", "a", "b")
        await too_long(destination, what, BIG, BIG)
        changed = Claim(what.task, ExportSpec(what.spec.files, b"another"), 0.0)
        async with destination.open(changed) as delivery:
            assert delivery.resumable_size(what.spec.files[0]) is None
            for file in what.spec.files:
                await delivery.save(file, chunks(b"new"))
        assert tree(destination.root) == {"a": b"new", "b": b"new"}
        async with destination.open(what) as delivery:
            assert delivery.resumable_size(what.spec.files[0]) == len(BIG)
            await delivery.save(what.spec.files[0], chunks(b"once more"))
            assert delivery.resumable_size(what.spec.files[0]) is None
        assert tree(destination.root) == {"a": b"once more", "b": BIG}

    run(main)


def test_what_is_kept_survives_the_process_but_not_for_ever(tmp_path):
    async def main():
        first = FolderDestination(tmp_path)
        await first.probe()
        await too_long(first, claim("t", "a", "b"), BIG, BIG)
        second = FolderDestination(tmp_path)
        await second.probe()
        assert len(second.place.kept) == 2
        for path in (tmp_path / ".aluma-async" / "kept").iterdir():
            os.utime(path, (0, 0))
        await second.probe()
        assert not second.place.kept
        assert not list((tmp_path / ".aluma-async" / "kept").iterdir())

    asyncio.run(main())


def test_after_an_error_nothing_is_kept(run):
    async def main(destination):
        async def breaks_off():
            yield BIG
            raise ZeroDivisionError

        what = claim("t", "a", "b")
        with pytest.raises(ZeroDivisionError):
            await both(destination, what, chunks(BIG), breaks_off())
        assert not destination.place.kept
        assert not staged(destination.root)

    run(main)


def test_a_big_file_that_broke_off_and_could_not_be_begun_anew_leaves_nothing(run):
    """The check of every test here: nothing is left in the staging folder."""

    async def main(destination):
        async def breaks_off(*data):
            for piece in data:
                yield piece
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await twice(destination, claim("t", "a"), breaks_off(BIG), breaks_off())

    run(main)


class At:
    """Does something just before the n-th step of a kind on the disk, from now on."""

    def __init__(self, kinds, number, act):
        self.kinds, self.number, self.act = kinds.split(), number, act

    def step(self, kind):
        self.number -= kind in self.kinds
        if not self.number:
            ACTING.clear()
            self.act()


ACTING: list[At] = []


def _audited(event, _):
    if ACTING:
        ACTING[0].step(event)


sys.addaudithook(_audited)  # there is no way to remove one


def test_what_is_missing_below_the_mark_is_made_again(run):
    async def main(destination):
        shutil.rmtree(destination.place.staging)
        await destination.probe()
        await deliver(destination, claim("t", "a"), b"1")
        assert tree(destination.root) == {"a": b"1"}

    run(main)


def test_a_folder_that_is_deleted_while_it_is_in_use_is_made_again_and_used(run):
    """The open record of owners went with it."""

    async def main(destination):
        await deliver(destination, claim("t", "a"), b"1")
        shutil.rmtree(destination.root)
        with pytest.raises(DestinationUnavailable):
            await deliver(destination, claim("u", "b"), b"2")
        await destination.probe()
        for _ in range(2):
            await deliver(destination, claim("v", "a"), b"3")
        assert tree(destination.root) == {"a": b"3"}
        assert (destination.place.internal / "owners.sqlite3").exists()

    run(main)
