"""A task is exported to an object store only if the store has its objects, whatever it answers."""

import anyio
import pytest

from aluma_async.destinations.object_store.client import MULTIPART_BYTES
from aluma_async.destinations.object_store.destination import ObjectStoreDestination
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from tests.support.buckets import simulated_s3
from tests.support.clock import real_time
from tests.support.tasks import deliver, make_claim

FATAL_LIES = ("stores nothing", "page for all", "page for reads", "page for puts", "truncates", "empties")
"""The lies that lose an object."""
CLAIM = make_claim("t", ("", "a.txt"), ("deep", "b.bin"))
CONTENTS = (b"hello world", b"B" * 2_000_000)


def open_bucket(server, **arguments):
    return ObjectStoreDestination("s3://bucket/x", options=server.options, **arguments)


@pytest.mark.parametrize("lie", FATAL_LIES)
@real_time
async def test_probe_notices_that_no_object_would_be_stored(lie):
    """The probe reads back what it wrote."""
    async with simulated_s3(lie) as server:
        with pytest.raises(DestinationUnavailable) as caught, anyio.fail_after(60):
            await open_bucket(server).probe()
        assert caught.value.hint
        assert "log in" not in caught.value.text


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize("earlier", ["no upload", "an upload"])
@pytest.mark.parametrize("lie", FATAL_LIES)
@real_time
async def test_delivery_fails_when_the_store_lies_after_the_probe(lie, earlier, manifest):
    """Also if the object exists from an earlier export with other content of the same size."""
    async with simulated_s3() as server:
        destination = open_bucket(server, manifest=manifest)
        await destination.probe()
        if earlier == "an upload":
            await deliver(destination, CLAIM, *(content[::-1] for content in CONTENTS[:1]), b"C" * 2_000_000)
        server.lie = lie
        with pytest.raises(DestinationError), anyio.fail_after(60):
            await deliver(destination, CLAIM, *CONTENTS)
        server.lie = ""
        await deliver(destination, CLAIM, *CONTENTS)
        assert [server.exported[f"x/{name}"] for name in ("a.txt", "deep/b.bin")] == list(CONTENTS)


@pytest.mark.parametrize("lie", ["", "stores nothing", "truncates"])
@real_time
async def test_upload_in_parts_is_verified(lie):
    content = b"x" * (MULTIPART_BYTES + 1)
    async with simulated_s3() as server:
        destination = open_bucket(server)
        await destination.probe()
        server.lie = lie
        if lie:
            with pytest.raises(DestinationUnavailable, match="the put was confirmed, but the object"):
                await deliver(destination, make_claim("t", ("", "big")), content)
        else:
            await deliver(destination, make_claim("t", ("", "big")), content)
        assert server.exported == ({} if lie else {"x/big": content})


@pytest.mark.parametrize(
    ("lie", "warning"),
    [
        ("", ""),
        ("loses metadata", ""),
        ("ignores conditions", "conditional"),
        ("conditions: 400", "conditional"),
        ("conditions: 403", "conditional"),
        ("conditions: 405", "conditional"),
        ("conditions: 501", "conditional"),
        ("updates: 400", ""),
        ("updates: 403", ""),
        ("updates: 501", ""),
        ("no ETags", ""),
    ],
)
@real_time
async def test_store_with_a_limitation_is_used(lie, warning):
    """Also when the same task, or another one, has exported objects of these names before."""
    async with simulated_s3(lie) as server:
        destination = open_bucket(server)
        await destination.probe()
        await deliver(destination, CLAIM, *CONTENTS)
        assert server.exported == {"x/a.txt": CONTENTS[0], "x/deep/b.bin": CONTENTS[1]}
        if lie != "loses metadata":
            await deliver(destination, CLAIM, b"new", b"too")
            assert server.exported == {"x/a.txt": b"new", "x/deep/b.bin": b"too"}
        await deliver(destination, make_claim("other", ("", "a.txt")), b"other")
        assert {b"other"} < set(server.exported.values())
        assert warning in destination.warning
        assert bool(destination.warning) is bool(warning)
        assert not [key for key in server.objects if "/probe-" in key]


@real_time
async def test_conditional_put_can_be_switched_off():
    async with simulated_s3() as server:
        server.options["conditional_put"] = "disabled"
        destination = open_bucket(server)
        await destination.probe()
        await deliver(destination, CLAIM, *CONTENTS)
        assert destination.conditional is False
        assert len(server.exported) == 2


@real_time
async def test_store_without_sizes_is_refused():
    """Exported objects could not be verified, and the owner of an existing object could not be read."""
    async with simulated_s3("no sizes") as server:
        with pytest.raises(DestinationUnavailable, match="does not report the size") as caught:
            await open_bucket(server).probe()
        assert "Content-Length" in caught.value.hint


@real_time
async def test_plain_http_without_allow_http_is_reported():
    async with simulated_s3() as server:
        server.options["allow_http"] = False
        with pytest.raises(DestinationUnavailable, match="plain http is not allowed") as caught:
            await open_bucket(server).probe()
        assert "allow_http" in caught.value.hint


@pytest.mark.parametrize(("lie", "per_file"), [("", 2), ("ignores conditions", 3)])
@real_time
async def test_delivery_costs_one_request_per_object_for_the_verification(lie, per_file):
    """A put, before it a HEAD if the store ignores conditions, and one HEAD that verifies."""
    async with simulated_s3(lie) as server:
        destination = open_bucket(server)
        await destination.probe()
        server.requests.clear()
        await deliver(destination, make_claim("t", *(("", f"{number}.txt") for number in range(20))), *["x"] * 20)
        assert len(server.requests) == 20 * per_file


@real_time
async def test_search_for_a_free_key_ends():
    """A store that reports each key as taken ends the search after a bounded number of keys."""
    async with simulated_s3("ignores conditions") as server:
        destination = open_bucket(server)
        await destination.probe()
        server.lie = "page for reads"
        with pytest.raises(DestinationError, match="no free name"), anyio.fail_after(60):
            await deliver(destination, make_claim("t", ("", "a.txt")), b"x")


@real_time
async def test_object_that_overwrite_replaced_belongs_to_the_new_task():
    """A later export of the earlier task with another ``on_conflict`` does not replace it."""
    one, two = make_claim("one", ("", "a.txt")), make_claim("two", ("", "a.txt"))
    async with simulated_s3() as server:
        await deliver(open_bucket(server), one, b"one")
        await deliver(open_bucket(server, on_conflict="overwrite"), two, b"two")
        await deliver(open_bucket(server), one, b"one")
        await deliver(open_bucket(server), two, b"two again")
        assert server.exported["x/a.txt"] == b"two again"
        assert sorted(server.exported.values()) == [b"one", b"two again"]
