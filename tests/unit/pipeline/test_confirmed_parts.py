"""``ConfirmedJournal`` and ``ConfirmedDestination``, without a run."""

import pytest

from aluma_async import MemoryJournal
from aluma_async.exceptions import DestinationError, DestinationUnavailable, FailConfirmed
from aluma_async.models import BreakerRecord, HoldRecord
from aluma_async.pipeline.confirmed import ConfirmedDestination, ConfirmedJournal, ConfirmedTask
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time
from tests.support.tasks import make_claim
from tests.support.world import claim_record, system_time


class Named(MemoryDestination):
    """A destination with a name."""

    def destinations_for(self, claim):
        if claim.task.id == "unrouted":
            raise DestinationError("no route")
        return ["here"]


class Plain:
    """A destination that can neither name nor verify files."""

    async def probe(self):
        """Accept files."""


@virtual_time
async def test_confirmed_journal_ends_only_the_holds_of_its_tasks():
    """Other records are returned as they are, and writes reach the journal."""
    inner = MemoryJournal()
    held = [HoldRecord(task_id, system_time(), 99.0, parked=True, failures=3) for task_id in "ab"]
    claim = claim_record("a")
    await inner.write(*held, claim)
    inner.release("b")
    journal = ConfirmedJournal(inner, ["a"], system_time)
    loaded = await journal.load()
    assert [record.seconds for record in loaded if isinstance(record, HoldRecord)] == [0.0, 99.0]
    assert all(record.parked for record in loaded if isinstance(record, HoldRecord))
    assert claim in loaded
    assert list(await journal.pop_released()) == []
    assert await inner.pop_released() == ["b"]
    await journal.write(HoldRecord("c", system_time(), 1.0))
    assert {record.task_id for record in await inner.load()} == {"a", "b", "c"}


@virtual_time
async def test_confirmed_journal_frees_only_the_places_of_a_kind():
    inner = MemoryJournal()
    places = [
        BreakerRecord("a", "E", "p", ("here",)),
        BreakerRecord("b", "F", "p", ("here",)),
        BreakerRecord("c", "E", "q", ("here",)),
        BreakerRecord("d", "E", "p", ()),
    ]
    await inner.write(*places)
    journal = ConfirmedJournal(inner, [], system_time)
    await journal.load()
    journal.reset_breaker("E", "p", ("here",))
    await inner.flush()
    assert list(await inner.load()) == places[1:]


@virtual_time
async def test_confirmed_destination_refuses_its_tasks_and_names_their_destinations():
    claim = make_claim("a")
    tasks = {"a": ConfirmedTask(None, "SchemaMismatch", "too long")}
    destination = ConfirmedDestination(Named(), tasks)
    await destination.probe()
    with pytest.raises(FailConfirmed, match="SchemaMismatch: too long"):
        destination.open(claim)
    assert destination.destinations_for(claim) == ("here",)
    assert destination.destinations_for(make_claim("unrouted")) == ()
    assert ConfirmedDestination(Plain(), tasks).destinations_for(claim) == ()


@virtual_time
async def test_confirmed_destination_verifies_the_files_of_an_earlier_run():
    """Only if the real destination is available and can."""
    inner = MemoryDestination()
    async with inner.open(make_claim("a")) as delivery:
        pass
    destination = ConfirmedDestination(inner, {})
    assert await destination.verify(delivery.receipt) is True
    assert await destination.verify("another") is False
    assert await ConfirmedDestination(Plain(), {}).verify(delivery.receipt) is False
    inner.unavailable = True
    with pytest.raises(DestinationUnavailable):
        await destination.verify(delivery.receipt)
