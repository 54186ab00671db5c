"""The router: each file goes to the destinations of its route, and a task to all of its destinations or to none."""

from contextlib import asynccontextmanager

import pytest

from aluma_async.destinations.router import DestinationRouter
from aluma_async.exceptions import ClaimConflict, DestinationError
from aluma_async.models import Claim, ExportSpec
from aluma_async.policy.routing import Route, Routing
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time
from tests.support.folders import Download
from tests.support.tasks import TASK, chunks, make_file


async def deliver(destinations, routing, *files, data=b"data"):
    async with DestinationRouter(destinations, routing).open(Claim(TASK, ExportSpec(files), 0.0)) as delivery:
        for file in files:
            await delivery.save(file, chunks(data))


@virtual_time
async def test_router_delivers_each_file_to_the_destinations_of_its_route():
    destinations = {name: MemoryDestination() for name in ("tables", "archive", "unused")}
    routing = Routing((Route(("tables", "archive"), filename="*.csv"),), "archive")
    await deliver(destinations, routing, make_file(0), make_file(1, filename="b.pdf", source="url"))
    assert set(destinations["tables"].tasks["t1"]) == {("out", "a.csv", 0)}
    assert set(destinations["archive"].tasks["t1"]) == {("out", "a.csv", 0), ("out", "b.pdf", 1)}
    assert not destinations["unused"].tasks


@virtual_time
async def test_router_stages_nothing_when_one_destination_fails():
    """Its error is raised as it is."""

    class BrokenDestination(MemoryDestination):
        @asynccontextmanager
        async def open(self, claim):
            async with super().open(claim) as delivery:

                async def save(file, chunks):
                    async for _ in chunks:
                        raise DestinationError("no room for this one")

                delivery.save = save
                yield delivery

    destinations = {"good": MemoryDestination(), "broken": BrokenDestination()}
    with pytest.raises(DestinationError, match="no room"):
        await deliver(destinations, Routing((Route(("good", "broken")),)), make_file(), data=b"x" * 100)
    assert not destinations["good"].tasks
    assert not destinations["good"].open_deliveries


@virtual_time
async def test_router_commits_in_the_order_of_the_configuration():
    """Also if the route names them in another order; those behind one that fails store nothing."""
    committed = []

    class Recorded(MemoryDestination):
        @asynccontextmanager
        async def open(self, claim):
            async with super().open(claim) as delivery:
                yield delivery
                committed.append(self)
                if self is destinations["fails"]:
                    raise DestinationError("full")

    destinations = {name: Recorded() for name in ("files", "fails", "rows")}
    with pytest.raises(DestinationError, match="full"):
        await deliver(destinations, Routing((Route(("rows", "fails", "files")),)), make_file())
    assert committed == [destinations["files"], destinations["fails"]]
    assert [bool(destination.tasks) for destination in destinations.values()] == [True, False, False]


@virtual_time
async def test_router_raises_the_error_of_a_download_as_it_is():
    destinations = {"a": MemoryDestination(), "b": MemoryDestination()}
    router = DestinationRouter(destinations, Routing((Route(("a", "b")),)))
    async with router.open(Claim(TASK, ExportSpec((make_file(),)), 0.0)) as delivery:
        with pytest.raises(ClaimConflict, match="interrupted"):
            await delivery.save(make_file(), chunks(b"half", ClaimConflict("interrupted")))
        await delivery.save(make_file(), chunks(b"complete"))
    assert destinations["a"].contents("t1") == destinations["b"].contents("t1") == [b"complete"]


TWO = Routing((Route(("one",), filename="a.csv"), Route(("two",), filename="b.csv")), "one")


async def receipt_of(destinations, routing, *names):
    """Deliver a file of each name and return the receipt."""
    files = [make_file(number, filename=name) for number, name in enumerate(names)]
    async with DestinationRouter(destinations, routing).open(Claim(TASK, ExportSpec(tuple(files)), 0.0)) as delivery:
        for file in files:
            await delivery.save(file, chunks(b"data"))
        assert delivery.receipt == ""
    return delivery.receipt


@virtual_time
async def test_router_verifies_the_receipts_of_all_destinations_of_a_task():
    destinations = {"one": MemoryDestination(), "two": MemoryDestination(), "unused": MemoryDestination()}
    router = DestinationRouter(destinations, TWO)
    both = await receipt_of(destinations, TWO, "a.csv", "b.csv")
    assert await router.verify(both)
    destinations["two"].tasks.clear()
    assert not await router.verify(both)
    assert await router.verify(await receipt_of(destinations, TWO, "a.csv"))


@virtual_time
async def test_router_does_not_verify_the_receipt_of_a_destination_that_was_renamed_or_removed():
    destinations = {"one": MemoryDestination(), "two": MemoryDestination()}
    receipt = await receipt_of(destinations, TWO, "a.csv", "b.csv")
    renamed = {"one": destinations["one"], "other": destinations["two"]}
    assert await DestinationRouter(destinations, TWO).verify(receipt)
    assert not await DestinationRouter(renamed, TWO).verify(receipt)
    assert not await DestinationRouter({"one": destinations["one"]}, Routing((), "one")).verify(receipt)


@pytest.mark.parametrize("routing", [Routing((), "one"), Routing((Route(("one", "two")),))])
@pytest.mark.parametrize("receipt", ["", None, 3, b"bytes", "with \x1f in it"])
@virtual_time
async def test_router_issues_no_receipt_without_a_usable_one_of_each_destination(routing, receipt):
    class OtherReceipts(MemoryDestination):
        @asynccontextmanager
        async def open(self, claim):
            async with super().open(claim) as delivery:
                yield delivery
            delivery.receipt = receipt

    destinations = {"one": OtherReceipts()} | ({} if routing.default else {"two": MemoryDestination()})
    assert await receipt_of(destinations, routing, "a.csv") == ""


@pytest.mark.parametrize("receipt", ["", "one", "one\x1f", "\x1f", "one\x1fx\x1ftwo"])
@virtual_time
async def test_router_does_not_verify_a_text_that_is_no_receipt(receipt):
    router = DestinationRouter({"one": MemoryDestination()}, Routing((), "one"))
    assert not await router.verify(receipt)


class Resuming(MemoryDestination):
    """A destination that kept an earlier version of each file."""

    def __init__(self, version):
        super().__init__()
        self.version = version
        self.received = []

    @asynccontextmanager
    async def open(self, claim):
        async with super().open(claim) as delivery:
            save = delivery.save

            async def record_version(file, chunks):
                self.received.append(getattr(chunks, "version", ""))
                await save(file, chunks)

            delivery.save = record_version
            delivery.resumable_size = lambda _: 4
            if self.version:
                delivery.resumable_version = lambda _: self.version
            yield delivery


@pytest.mark.parametrize(
    ("versions", "version"), [(["1"], "1"), ([""], ""), (["1", "1"], "1"), (["1", "2"], ""), (["1", ""], "")]
)
@virtual_time
async def test_router_resumes_only_if_all_destinations_have_one_version(versions, version):
    destinations = {str(number): Resuming(version) for number, version in enumerate(versions)}
    router = DestinationRouter(destinations, Routing((Route(tuple(destinations)),), "0"))
    async with router.open(Claim(TASK, ExportSpec((make_file(),)), 0.0)) as delivery:
        assert delivery.resumable_size(make_file()) == 4
        assert delivery.resumable_version(make_file()) == version
        await delivery.save(make_file(), Download(b"data", version="3"))
    assert all(destination.received == ["3"] for destination in destinations.values())
