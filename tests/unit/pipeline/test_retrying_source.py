"""``RetryingSource``: how often each request is sent, and after which delays."""

from collections import Counter

import anyio
import pytest

from aluma_async import RetryPolicy, events
from aluma_async.exceptions import Ambiguous, ClaimConflict, RateLimited, SourceError, Unavailable
from aluma_async.models import ExportTask
from aluma_async.pipeline.retrying_source import RetryingSource
from tests.support.clock import virtual_time

TASK = ExportTask("t")


class Failing:
    """A source whose requests raise ``errors``, in turn, and then succeed."""

    def __init__(self, *errors):
        self.errors, self.sent, self.events = list(errors), Counter(), []
        self.source = RetryingSource(
            self, RetryPolicy(3, 1.0, 30.0), uniform=lambda low, high: high, on_event=self.events.append
        )

    def _count(self, verb):
        self.sent[verb] += 1
        if self.errors:
            raise self.errors.pop(0)

    async def list_pending(self):
        self._count("list")
        yield [TASK]

    async def start(self, task):
        self._count("start")

    async def complete(self, task):
        self._count("complete")

    async def cancel(self, task):
        self._count("cancel")

    async def fail(self, task, message):
        assert message == "m"
        self._count("fail")

    async def state(self, task):
        self._count("state")
        return "queued"

    async def send(self, verb):
        if verb == "list":
            return [tasks async for tasks in self.source.list_pending()]
        return await getattr(self.source, verb)(TASK, *(["m"] if verb == "fail" else []))


VERBS = ["list", "start", "complete", "cancel", "fail", "state"]


@pytest.mark.parametrize("verb", VERBS)
@virtual_time
async def test_request_is_sent_three_times_when_it_was_not_executed(verb):
    """The delay doubles, and each repetition is reported."""
    failing = Failing(*[Unavailable("503")] * 2)
    assert await failing.send(verb) in (None, [[TASK]], "queued")
    assert failing.sent == {verb: 3}
    assert anyio.current_time() == 1 + 2
    assert [event.delay for event in failing.events] == [1, 2]
    failing = Failing(*[Unavailable("503")] * 3)
    with pytest.raises(Unavailable):
        await failing.send(verb)
    assert failing.sent == {verb: 3}
    assert all(isinstance(event, events.RequestRetried) for event in failing.events)


@pytest.mark.parametrize(("verb", "sent"), [("start", 1), ("complete", 2), ("cancel", 2), ("fail", 2)])
@virtual_time
async def test_request_of_unknown_outcome_is_repeated_unless_it_is_start(verb, sent):
    failing = Failing(Ambiguous("lost"))
    if sent == 1:
        with pytest.raises(Ambiguous):
            await failing.send(verb)
    else:
        await failing.send(verb)
    assert failing.sent == {verb: sent}


@pytest.mark.parametrize("verb", VERBS)
@virtual_time
async def test_rate_limited_request_is_sent_until_it_is_accepted(verb):
    """It was certainly not executed, and the throttle delays the next one."""
    failing = Failing(*[RateLimited("429")] * 9)
    await failing.send(verb)
    assert failing.sent == {verb: 10}
    assert anyio.current_time() == 0


@pytest.mark.parametrize("verb", VERBS)
@virtual_time
async def test_defect_and_conflict_are_not_repeated(verb):
    for error, raised in ((ClaimConflict("409"), ClaimConflict), (SourceError("400"), SourceError)):
        failing = Failing(error)
        with pytest.raises(raised):
            await failing.send(verb)
        assert failing.sent == {verb: 1}
        assert not failing.events


@virtual_time
async def test_retrying_stops_when_all_requests_are_refused_for_long():
    """For ten minutes, or a run over all pending tasks would never end; a success shows that waiting is worth while."""
    failing = Failing(*[RateLimited("429")] * 4)

    async def refuse(task):
        await anyio.sleep(150)
        failing.sent["slow"] += 1
        raise RateLimited("429")

    failing.complete = refuse
    with pytest.raises(RateLimited):
        await failing.send("complete")
    assert failing.sent["slow"] == 6
    with pytest.raises(RateLimited):
        await failing.send("list")
    failing.errors.clear()
    await failing.send("list")
    failing.errors[:] = [RateLimited("429")] * 4
    await failing.send("list")
