"""``publish_task``: all files before the manifest, and nothing after a failure."""

import asyncio
import json

import anyio
import pytest

from aluma_async.destinations.common.publishing import publish_task
from aluma_async.destinations.common.spool import Spool
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from tests.support.clock import virtual_time
from tests.support.tasks import chunks, make_claim

CLAIM = make_claim("t1", "a.txt", "b.txt")
FILES, MANIFEST = ["in/a.txt", "in/b.txt"], "manifests/t1.json"


class Server:
    """Records the steps; ``errors`` are raised by path."""

    def __init__(self, errors=None):
        self.steps = []
        self.objects = {}
        self.rolled_back = False
        self._errors = errors or {}

    async def stage(self, files):
        self.steps.append(("stage", [file.filename for file, _ in files]))

    async def publish(self, file, path, data):
        name = "/".join(path)
        await anyio.sleep(1)
        if name in self._errors:
            raise self._errors[name]
        self.objects[name] = await data.read_all()
        self.steps.append(("publish", name))
        return name

    async def roll_back(self):
        await anyio.sleep(1)
        self.rolled_back = True

    async def receive(self, now=None):
        """Save and publish the files of ``CLAIM``."""
        with Spool() as spool:
            for file in CLAIM.spec.files:
                await spool.save(file, chunks(file.filename.encode()))
            await publish_task(CLAIM, spool, stage=self.stage, publish=self.publish, roll_back=self.roll_back, now=now)


@virtual_time
async def test_files_are_staged_then_published_and_the_manifest_is_last():
    server = Server()
    await server.receive(now=lambda: 0.0)
    assert server.steps[0] == ("stage", ["a.txt", "b.txt"])
    assert sorted(server.steps[1:3]) == [("publish", name) for name in FILES]
    assert server.steps[3:] == [("stage", ["t1.json"]), ("publish", MANIFEST)]
    assert [entry["path"] for entry in json.loads(server.objects[MANIFEST])["files"]] == FILES
    assert not server.rolled_back


@virtual_time
async def test_no_manifest_is_published_without_a_clock():
    server = Server()
    await server.receive()
    assert sorted(server.objects) == FILES


@pytest.mark.parametrize("failing", [*FILES, MANIFEST])
@virtual_time
async def test_failure_of_any_file_rolls_back_and_is_raised_unwrapped(failing):
    error = DestinationError("no")
    server = Server({failing: error})
    with pytest.raises(DestinationError) as caught:
        await server.receive(now=lambda: 0.0)
    assert caught.value is error
    assert server.rolled_back
    assert MANIFEST not in server.objects


@virtual_time
async def test_error_of_one_file_is_raised_when_several_fail():
    server = Server({"in/a.txt": DestinationUnavailable("a"), "in/b.txt": DestinationUnavailable("b")})
    with pytest.raises(DestinationUnavailable, match=r"[ab]"):
        await server.receive()
    assert server.rolled_back


@virtual_time
async def test_cancellation_rolls_back_completely():
    server = Server()
    with anyio.move_on_after(0.5) as scope:
        await server.receive()
    assert scope.cancelled_caught
    assert server.rolled_back
    assert not server.objects


@virtual_time
async def test_thousands_of_files_are_published_in_few_tasks():
    """The event loop starts a bounded number of tasks, whatever the number of files is."""
    claim = make_claim("t1", *["a.pdf"] * 2_000)
    paths, most = [], 0

    async def publish(file, path, data):
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        await anyio.sleep(1)
        paths.append(path)

    with Spool() as spool:
        for file in claim.spec.files:
            await spool.save(file, chunks(b"x"))
        await publish_task(claim, spool, publish=publish, roll_back=anyio.sleep_forever)
    assert len(set(paths)) == 2_000
    assert 8 < most < 50
    assert anyio.current_time() < 2_000 / 8
