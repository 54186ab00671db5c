"""A folder on a file server that does not answer: its operations are abandoned, and change nothing when they return."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from aluma_async import FolderDestination
from aluma_async.concurrency.daemon_threads import DaemonThreads
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.kept import KeptFiles
from aluma_async.destinations.folder.threads import MAX_HANGING
from aluma_async.exceptions import DestinationUnavailable
from tests.support.clock import real_time
from tests.support.folders import Download, claim_of, deliver, exported_files, kept_files, staged_files, wait_for

LARGE = (bytes(1024 * 1024), b"x")
LIMIT = 0.3
STEPS = ["create", "write_all", "fsync_checked", "move", "open_folder"]


class Hanging:
    """Lets a function hang until the end of the test, in the threads that call it from now on."""

    def __init__(self, patch):
        self._patch = patch
        self.may_return = threading.Event()
        self.count = self._returned = 0

    @property
    def have_returned(self):
        """Whether all calls that hung have returned."""
        return self._returned == self.count

    def let_hang(self, name, condition=lambda *_: True, *, owner=fs):
        function = getattr(owner, name)

        def hang(*arguments, **options):
            if self.may_return.is_set() or not condition(*arguments):
                return function(*arguments, **options)
            self.count += 1
            self.may_return.wait(20)
            result = function(*arguments, **options)
            self._returned += 1
            return result

        self._patch.setattr(owner, name, hang)


@pytest.fixture
def hanging(monkeypatch):
    control = Hanging(monkeypatch)
    yield control
    control.may_return.set()


@asynccontextmanager
async def open_folder(root):
    """Open a probed folder destination with a short limit and threads of its own."""
    with DaemonThreads(16, "test") as threads:
        destination = FolderDestination(root, executor=threads, hang_seconds=LIMIT)
        await destination.probe()
        yield destination
        destination.close()


def count_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("step", STEPS)
@real_time
async def test_hanging_operation_is_abandoned_without_a_trace(step, tmp_path, hanging):
    """A later delivery of the task is refused until it has returned; then nothing of it is left."""
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("first", "a"), b"1")
        descriptors = count_descriptors()
        hanging.let_hang(step)
        with anyio.fail_after(10 * LIMIT), pytest.raises(DestinationUnavailable, match=f"{tmp_path}: does not respond"):
            await deliver(destination, claim_of("t", "large", "small"), LARGE, b"1")
        hanging.may_return.set()
        await wait_for(lambda: count_descriptors() == descriptors and not staged_files(tmp_path))
        assert exported_files(tmp_path).keys() <= {"a", "large"}, "only a rename that had begun"
        with anyio.fail_after(10):
            while True:
                try:  # until the loop knows that the operation has returned
                    await deliver(destination, claim_of("t", "large", "small"), LARGE, b"1")
                    break
                except DestinationUnavailable:
                    await anyio.sleep(0.01)
        assert exported_files(tmp_path) == {"a": b"1", "large": b"".join(LARGE), "small": b"1"}


@pytest.mark.parametrize("step", ["fsync_checked", "open_folder", "move"])
@real_time
async def test_abandoned_publication_replaces_no_newer_file(step, tmp_path, hanging):
    """Whatever it was doing, and although its lease is still valid."""
    names = ("a", "folder/b", "c")
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("t", *names), b"1", b"1", b"1")
        hanging.let_hang(step, lambda *_: threading.current_thread().name.startswith("test"))
        with pytest.raises(DestinationUnavailable, match="does not respond"):
            await deliver(destination, claim_of("t", *names), b"2", b"2", b"2")
        with pytest.raises(DestinationUnavailable, match="earlier delivery of task t has not ended"):
            await deliver(destination, claim_of("t", *names), b"3", b"3", b"3")
        other = FolderDestination(tmp_path)
        await deliver(other, claim_of("t", *names), b"3", b"3", b"3")
        hanging.may_return.set()
        await wait_for(lambda: not staged_files(tmp_path))
        assert exported_files(tmp_path) == dict.fromkeys(names, b"3")
        other.close()


@real_time
async def test_number_of_hanging_operations_is_bounded(tmp_path, hanging):
    """With so many, each further delivery and probe fails at once; when they return, deliveries succeed."""
    async with open_folder(tmp_path) as destination:
        hanging.let_hang("create")
        deliveries = [deliver(destination, claim_of(f"t{n}", "a"), LARGE) for n in range(3 * MAX_HANGING)]
        errors = await asyncio.gather(*deliveries, return_exceptions=True)
        assert {type(error) for error in errors} == {DestinationUnavailable}
        assert hanging.count <= 16
        started_at = time.monotonic()
        for number in range(50):
            with pytest.raises(DestinationUnavailable, match="does not respond"):
                await deliver(destination, claim_of(f"u{number}", "a"), b"1")
            with pytest.raises(DestinationUnavailable, match="does not respond"):
                await destination.probe()
        assert time.monotonic() - started_at < LIMIT
        hanging.may_return.set()
        await wait_for(lambda: hanging.have_returned and not staged_files(tmp_path))
        await destination.probe()
        await deliver(destination, claim_of("t", "a"), b"1")
        assert exported_files(tmp_path) == {"a": b"1"}


@real_time
async def test_probe_is_soon_abandoned_while_operations_hang(tmp_path, hanging):
    async with open_folder(tmp_path) as destination:
        hanging.let_hang("create")
        with pytest.raises(DestinationUnavailable):
            await deliver(destination, claim_of("t", "a"), LARGE)
        with pytest.raises(DestinationUnavailable), anyio.fail_after(LIMIT / 2):
            await destination.probe()
        hanging.may_return.set()
        await wait_for(lambda: hanging.have_returned and not staged_files(tmp_path))


@real_time
async def test_hanging_name_stops_no_other_name(tmp_path, hanging):
    async with open_folder(tmp_path) as destination:
        hanging.let_hang("move", lambda _, __, ___, final: final == "sick")
        sick = asyncio.ensure_future(deliver(destination, claim_of("sick", "sick"), b"1"))
        await wait_for(lambda: hanging.count)
        for number in range(20):
            await deliver(destination, claim_of(f"t{number}", f"{number}"), b"1")
        with pytest.raises(DestinationUnavailable):
            await sick
        await destination.probe()
        await deliver(destination, claim_of("last", "last"), b"1")
        hanging.may_return.set()


@real_time
async def test_operation_waits_for_threads_that_make_progress(tmp_path, monkeypatch):
    """More operations than threads, which together take longer than the limit of one."""
    fsync = fs.fsync_checked

    def fsync_slowly(*arguments, **options):
        time.sleep(0.4)
        return fsync(*arguments, **options)

    with DaemonThreads(1, "test") as threads:
        destination = FolderDestination(tmp_path, executor=threads, hang_seconds=1.5)
        await destination.probe()
        monkeypatch.setattr(fs, "fsync_checked", fsync_slowly)
        await asyncio.gather(*(deliver(destination, claim_of(f"t{n}", f"{n}"), LARGE) for n in range(5)))
        assert len(exported_files(tmp_path)) == 5
        destination.close()


@real_time
async def test_limit_of_a_large_file_grows_with_its_size(tmp_path, monkeypatch):
    fsync = fs.fsync_checked

    def fsync_slowly(*arguments, **options):
        time.sleep(2 * LIMIT)
        return fsync(*arguments, **options)

    async with open_folder(tmp_path) as destination:
        monkeypatch.setattr(fs, "fsync_checked", fsync_slowly)
        await deliver(destination, claim_of("t", "a"), LARGE)
        assert exported_files(tmp_path) == {"a": b"".join(LARGE)}


@real_time
async def test_delivery_that_is_cancelled_while_an_operation_hangs_is_abandoned(tmp_path, hanging):
    """The cancellation waits for the operation, but not for ever, and the asyncio task can be used afterwards."""
    async with open_folder(tmp_path) as destination:
        hanging.let_hang("write_all")
        with anyio.fail_after(10 * LIMIT), pytest.raises(DestinationUnavailable), anyio.move_on_after(LIMIT / 3):
            await deliver(destination, claim_of("t", "a"), LARGE)
        assert not asyncio.current_task().cancelling()
        hanging.may_return.set()
        await wait_for(lambda: not staged_files(tmp_path))
        await deliver(destination, claim_of("t", "a"), LARGE)
        assert exported_files(tmp_path) == {"a": b"".join(LARGE)}


@real_time
async def test_kept_file_of_an_abandoned_delivery_is_kept_again(tmp_path, hanging):
    """The file system does not answer when the file is moved to the staging folder; a later delivery can use it."""
    claim = claim_of("t", "a")
    async with open_folder(tmp_path) as destination:
        with anyio.CancelScope() as scope:
            async with destination.open(claim) as delivery:
                await delivery.save(claim.spec.files[0], Download(*LARGE))
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        hanging.let_hang("take", owner=KeptFiles)
        with pytest.raises(DestinationUnavailable):
            await deliver(destination, claim, LARGE)
        await anyio.sleep(LIMIT / 3)
        hanging.may_return.set()
        await wait_for(lambda: hanging.have_returned and kept_files(tmp_path) and not staged_files(tmp_path))
        await anyio.sleep(LIMIT / 3)
        async with destination.open(claim) as delivery:
            assert delivery.resumable_size(claim.spec.files[0]) == sum(map(len, LARGE))
        assert exported_files(tmp_path) == {"a": b"".join(LARGE)}
