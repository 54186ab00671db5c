"""``ObjectStoreDestination`` keeps the contract, also with a server that ignores conditional writes."""

import shutil

import anyio
import obstore
import pytest

from aluma_async.destinations.object_store.client import MULTIPART_BYTES, open_store
from aluma_async.destinations.object_store.destination import ObjectStoreDestination
from aluma_async.testing import check_destination, check_memory
from tests.support import buckets
from tests.support.clock import real_time
from tests.support.tasks import deliver, make_claim

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("server", ["moto", "rclone"])
@real_time
async def test_object_store_keeps_the_contract(s3_servers, server, prefix):
    options = s3_servers[server]
    await check_destination(
        lambda: ObjectStoreDestination(f"s3://bucket/{prefix}", options=options),
        lambda: buckets.read_objects(options, prefix).values(),
    )


@pytest.mark.skipif(not shutil.which("azurite-blob"), reason="needs azurite: npm install -g azurite")
@real_time
async def test_object_store_keeps_the_contract_in_azure(tmp_path):
    with buckets.run_azurite(tmp_path) as options:
        await check_destination(
            lambda: ObjectStoreDestination("az://bucket/x", options=options),
            lambda: buckets.read_objects(options, "x", "az").values(),
        )
        destination = ObjectStoreDestination("az://bucket/x", options=options)
        await destination.probe()
        assert destination.conditional
        await deliver(destination, make_claim("ü", ("a b", "ü.pdf")), b"x" * (MULTIPART_BYTES + 1))
        assert len(buckets.read_objects(options, "x", "az")["x/a b/ü.pdf"]) == MULTIPART_BYTES + 1


@real_time
async def test_object_store_takes_less_than_150_mb_for_a_file_of_200_mb(s3_servers):
    options = s3_servers["rclone"]
    await check_memory(ObjectStoreDestination("s3://bucket/memory", options=options))
    store = open_store("s3://bucket", options)
    assert obstore.head(store, "memory/a folder/big.bin")["size"] > 199_000_000


def test_object_store_keeps_all_or_no_big_files_when_cancelled(moto, prefix):
    """The cancellation comes later each time, until the delivery ends before it."""
    claim = make_claim("t", *(f"{number}.txt" for number in range(3)))

    async def attempt(steps):
        destination = ObjectStoreDestination(f"s3://bucket/{prefix}", options=moto)

        async def cancel():
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            await deliver(destination, claim, *[b"x" * (MULTIPART_BYTES + 1)] * 3)
            group.cancel_scope.cancel()
            return True
        return False

    steps, complete = 1, False
    while not complete:
        complete = anyio.run(attempt, steps)
        assert len(buckets.read_objects(moto, prefix)) == (3 if complete else 0)
        assert not buckets.s3_client(moto).list_multipart_uploads(Bucket="bucket").get("Uploads")
        steps *= 2
