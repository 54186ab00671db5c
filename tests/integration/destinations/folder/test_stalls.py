"""A process that was suspended, or whose event loop was busy: the operations on its folder do not count as hanging."""

import asyncio
import threading
import time
from functools import partial

import pytest

from aluma_async.concurrency.daemon_threads import DaemonThreads
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.permissions import Permissions
from aluma_async.destinations.folder.root import RootFolder
from aluma_async.destinations.folder.threads import FileThreads
from aluma_async.exceptions import DestinationUnavailable
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files, open_folder, wait_for

LARGE = (bytes(1024 * 1024), b"x")
LIMIT = 0.3


@pytest.mark.parametrize(
    ("step", "seconds"),
    [("create", 1.5), ("create", 2.5), ("write_all", 1.5), ("write_all", 2.5), ("move", 1.5), ("move", 2.5)],
)
@real_time
async def test_delivery_succeeds_after_a_stall_of_the_event_loop(step, seconds, tmp_path, monkeypatch):
    """The event loop stands still for twice the limit; the operation ends during that time, or soon afterwards."""
    function, has_begun = getattr(fs, step), threading.Event()

    def run_slowly(*arguments, **options):
        if not has_begun.is_set():
            has_begun.set()
            time.sleep(seconds * LIMIT)
        return function(*arguments, **options)

    with DaemonThreads(4, "test") as threads:
        async with open_folder(tmp_path, executor=threads, hang_seconds=LIMIT) as destination:
            monkeypatch.setattr(fs, step, run_slowly)
            delivery = asyncio.ensure_future(deliver(destination, claim_of("t", "a"), LARGE))
            await wait_for(has_begun.is_set)
            time.sleep(2 * LIMIT)  # noqa: ASYNC251
            await delivery
            assert exported_files(tmp_path) == {"a": b"".join(LARGE)}


@real_time
async def test_operation_after_an_abandoned_one_runs_when_that_has_returned(tmp_path):
    """Whether it is registered before or after the return."""
    may_return, calls = threading.Event(), []
    with DaemonThreads(4, "test") as executor:
        threads = FileThreads(RootFolder(tmp_path, None, Permissions(None, None)), executor, LIMIT)
        step = threads.start(partial(may_return.wait, 20))
        with pytest.raises(DestinationUnavailable):
            await threads.wait(step)
        threads.after(step, partial(calls.append, "before"))
        assert not calls
        may_return.set()
        await wait_for(lambda: not threads.is_hanging)
        threads.after(step, partial(calls.append, "after"))
        await wait_for(lambda: sorted(calls) == ["after", "before"])
