"""``FileTransfer``: which deliveries of a destination count."""

import random
from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import RetryPolicy
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.transfer import FileTransfer
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time
from tests.support.quarantine import Files


class Careless(MemoryDestination):
    """A destination that does not read the files."""

    @asynccontextmanager
    async def open(self, claim):
        async with super().open(claim) as delivery:

            async def save(file, chunks):
                pass

            delivery.save = save
            yield delivery


def transfer_of(source):
    """A transfer, and the claim of a task with one file."""
    retrying = RetryingSource(
        Files({"/f": b"data"}), RetryPolicy(1), uniform=random.Random(0).uniform, on_event=lambda event: None
    )
    file = ExportFile(3, 0, "", "a.txt", source, content="x", url="/f")
    return FileTransfer(retrying, on_event=lambda event: None), Claim(ExportTask("t"), ExportSpec((file,)), 0.0)


@pytest.mark.parametrize("source", ["content", "url"])
@virtual_time
async def test_file_that_the_destination_has_not_read_is_not_delivered(source):
    transfer, claim = transfer_of(source)
    with pytest.raises(DestinationError, match="file 3: the destination has not read it to its end"):
        await transfer.deliver(claim, Careless())


class SilentAtCommit(MemoryDestination):
    """A destination that never ends a delivery."""

    @asynccontextmanager
    async def open(self, claim):
        async with super().open(claim) as delivery:
            yield delivery
            await anyio.sleep_forever()


@pytest.mark.parametrize("source", ["content", "url"])
@virtual_time
async def test_delivery_that_the_destination_never_ends_is_cancelled(source):
    """After the limit of its steps, as if a file had not been saved."""
    transfer, claim = transfer_of(source)
    with anyio.fail_after(400), pytest.raises(DestinationUnavailable, match="did not respond"):
        await transfer.deliver(claim, SilentAtCommit())
