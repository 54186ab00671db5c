"""A multipart upload that does not finish leaves neither an object nor a part."""

from io import BytesIO

import anyio
import pytest

from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.object_store.client import MULTIPART_BYTES, open_store, put_multipart
from tests.support import buckets
from tests.support.clock import real_time


def big_file(size, on_read=lambda: None):
    """Return a file of this size that calls ``on_read`` before each read."""

    class WatchedFile(BytesIO):
        def read(self, count=-1):
            on_read()
            return super().read(count)

    return SpooledFile(WatchedFile(b"x" * size), size, "0" * 64)


async def upload(options, prefix, data, precondition):
    return await put_multipart(open_store(f"s3://bucket/{prefix}", options), "big", data, {}, precondition)


async def holds():
    return True


async def is_violated():
    return False


def expect_nothing_stored(options, prefix):
    assert not buckets.read_objects(options, prefix)
    assert not buckets.s3_client(options).list_multipart_uploads(Bucket="bucket").get("Uploads")


@pytest.mark.parametrize("cancelled_read", [1, 2, 3])
@real_time
async def test_cancelled_multipart_upload_leaves_no_part(moto, prefix, cancelled_read):
    reads = 0

    def on_read():
        nonlocal reads
        reads += 1
        if reads == cancelled_read:
            anyio.from_thread.run_sync(scope.cancel)

    with anyio.CancelScope() as scope:
        await upload(moto, prefix, big_file(2 * MULTIPART_BYTES + 1, on_read), holds)
    assert scope.cancelled_caught
    assert reads <= cancelled_read + 1, "the upload stops after at most one more part"
    expect_nothing_stored(moto, prefix)


@real_time
async def test_multipart_upload_is_aborted_when_the_key_was_taken_meanwhile(moto, prefix):
    assert not await upload(moto, prefix, big_file(MULTIPART_BYTES + 1), is_violated)
    expect_nothing_stored(moto, prefix)


@real_time
async def test_multipart_upload_of_an_unreadable_file_leaves_no_part(moto, prefix):
    def on_read():
        raise OSError("bad sector")

    with pytest.raises(OSError, match="bad sector"):
        await upload(moto, prefix, big_file(MULTIPART_BYTES + 1, on_read), holds)
    expect_nothing_stored(moto, prefix)
