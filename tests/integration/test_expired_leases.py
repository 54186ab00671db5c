"""Deliveries to servers whose lease ends while they are published: another exporter may have delivered since."""

import asyncio
import threading
from contextlib import contextmanager, suppress
from itertools import count

import pytest

from aluma_async.destinations.object_store.client import MULTIPART_BYTES
from aluma_async.destinations.object_store.destination import ObjectStoreDestination
from aluma_async.exceptions import DestinationError
from aluma_async.ports import CHECK_LEASE
from tests.support import buckets
from tests.support.clock import real_time
from tests.support.databases import open_sql
from tests.support.servers import open_other, open_server
from tests.support.tasks import deliver, make_claim

CLAIM = make_claim("t", ("", "a.csv"), ("", "b.csv"))


class Lease:
    """A lease that ends after a number of checks, when ``action`` runs."""

    def __init__(self, checks=0, action=lambda: None):
        self.is_valid = True
        self._checks, self._action = checks, action

    def check(self):
        if not self.is_valid:
            raise DestinationError("the lease may have expired")
        self._checks -= 1
        if not self._checks:
            self.is_valid = False
            self._action()


@contextmanager
def checking(lease):
    token = CHECK_LEASE.set(lease.check)
    try:
        yield
    finally:
        CHECK_LEASE.reset(token)


def in_a_thread(function):
    """Run an async function in another event loop, while the present one stands still as in a suspension."""
    thread = threading.Thread(target=lambda: asyncio.run(function()))
    thread.start()
    thread.join()


@pytest.mark.parametrize("existing", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("kind", ["webdav", "object store"])
@real_time
async def test_newer_files_stay_whenever_the_exporter_was_suspended(kind, existing):
    """Before each look at the server, after which its files would be replaced."""
    for number in count(1):
        async with open_server(kind) as (server, destination), open_other(kind, server) as other:
            await destination.probe()
            await other.probe()
            if existing:
                await deliver(destination, CLAIM, b"earlier a", b"earlier b")
            lease, looks = Lease(), 0

            async def hook(request, _, server=server, other=other, lease=lease, number=number):
                nonlocal looks
                looks += request.method in ("HEAD", "GET", "PROPFIND")
                if looks == number:
                    server.hook = None
                    await deliver(other, CLAIM, b"newer a", b"newer b")
                    lease.is_valid = False

            server.hook = hook
            with checking(lease), suppress(DestinationError):
                await deliver(destination, CLAIM, b"older a", b"older b")
            if looks < number:
                break
            assert server.exported == {"a.csv": b"newer a", "b.csv": b"newer b"}, f"look {number}"
    assert number > len(CLAIM.spec.files)


@pytest.mark.parametrize("is_delivered", [False, True], ids=["nothing", "newer"])
@real_time
async def test_big_object_is_not_put_when_the_lease_ends_meanwhile(moto, prefix, is_delivered):
    """No part remains. The condition of a put does not apply to several parts."""
    claim = make_claim("t", ("", "big"))
    older, newer = (ObjectStoreDestination(f"s3://bucket/{prefix}", options=moto) for _ in range(2))

    async def deliver_newer():
        if is_delivered:
            await deliver(newer, claim, b"newer")

    with checking(Lease(1, lambda: in_a_thread(deliver_newer))), pytest.raises(DestinationError, match="lease"):
        await deliver(older, claim, b"x" * (MULTIPART_BYTES + 1))
    assert list(buckets.read_objects(moto, prefix).values()) == [b"newer"] * is_delivered
    assert not buckets.s3_client(moto).list_multipart_uploads(Bucket="bucket").get("Uploads")


@pytest.mark.parametrize("mode", ["rows", "files"])
@real_time
async def test_expired_delivery_commits_no_rows(database, mode):
    column = "n" if mode == "rows" else "sha256"
    async with open_sql(database, create=True, mode=mode) as destination:
        await deliver(destination, CLAIM, "n\n1\n", "n\n2\n")
        before = database.ask(f"SELECT {column} FROM t ORDER BY 1")
        lease = Lease()
        lease.is_valid = False
        with checking(lease), pytest.raises(DestinationError, match="the lease may have expired"):
            await deliver(destination, CLAIM, "n\n3\n", "n\n4\n")
        assert database.ask(f"SELECT {column} FROM t ORDER BY 1") == before
        await deliver(destination, CLAIM, "n\n3\n", "n\n4\n")
        assert database.ask(f"SELECT {column} FROM t ORDER BY 1") != before


@real_time
async def test_postgres_ends_the_transaction_of_a_suspended_exporter(postgres_database):
    """It would block the table for others, and be committed after the last check of the lease."""
    postgres_database.ask("CREATE TABLE s (text TEXT)")
    postgres_database.ask(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO s SELECT current_setting('idle_in_transaction_session_timeout'); RETURN NEW; END $$"
    )
    postgres_database.ask("CREATE TABLE t (n TEXT PRIMARY KEY)")
    postgres_database.ask("CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
    claim = make_claim("t", "a.csv")
    async with open_sql(postgres_database, key=["n"]) as destination:
        await deliver(destination, claim, "n\n1\n")
    postgres_database.ask(f"ALTER DATABASE {postgres_database.name} SET idle_in_transaction_session_timeout = '9s'")
    async with open_sql(postgres_database, key=["n"]) as destination:
        await deliver(destination, claim, "n\n2\n")
    assert postgres_database.ask("SELECT text FROM s") == [("5min",), ("9s",)]
