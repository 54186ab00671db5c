"""Faults and wrong replies of the simulated Aluma over HTTP, and what the client makes of them."""

import pytest

from aluma_async.exceptions import (
    Ambiguous,
    AuthenticationFailed,
    ClaimConflict,
    FileMissing,
    InvalidResponse,
    RequestRejected,
    SourceError,
    WrongContent,
)
from aluma_async.models import ExportTask
from aluma_async.testing import FaultPlan
from aluma_async.testing.faults import REPLY_VERBS, VERBS, Fault, WrongReply
from tests.support.clock import virtual_time
from tests.support.stack import client_of, download, list_tasks, simulated

CHANGES = ("start", "complete", "cancel", "fail")


async def send(client, verb, task):
    match verb:
        case "list":
            return await list_tasks(client)
        case "get":
            return await client.state(task)
        case "fail":
            return await client.fail(task, "message")
    return await getattr(client, verb)(task)


@pytest.mark.parametrize(
    ("reply", "read", "change"),
    [
        (WrongReply.NOT_FOUND, FileMissing, ClaimConflict),
        (WrongReply.NOT_FOUND_PAGE, SourceError, RequestRejected),
        (WrongReply.LOG_IN, AuthenticationFailed, AuthenticationFailed),
        (WrongReply.FORBIDDEN, SourceError, RequestRejected),
        (WrongReply.NOT_ALLOWED, SourceError, RequestRejected),
    ],
)
@virtual_time
async def test_reply_of_a_proxy_is_not_taken_for_one_of_aluma(reply, read, change):
    """Except for a 404 as JSON, which looks the same. The request is not executed, and nothing else is sent."""
    aluma, faults = simulated(1), FaultPlan()
    async with client_of(aluma, faults) as client:
        (task,) = await list_tasks(client)
        executed = dict(aluma.counts)
        for verb in ("list", *(["get"] if reply is not WrongReply.NOT_FOUND else []), *CHANGES):
            faults.plan(verb, [reply, reply])
            with pytest.raises(SourceError) as caught:
                await send(client, verb, task)
            assert type(caught.value) is (change if verb in CHANGES else read), verb
        executed["token"] = aluma.counts["token"]
        assert aluma.counts == executed


@virtual_time
async def test_success_that_is_not_documented_leaves_the_outcome_of_start_unknown():
    aluma, faults = simulated(1), FaultPlan()
    faults.plan("start", [WrongReply.OTHER_SUCCESS])
    async with client_of(aluma, faults) as client:
        with pytest.raises(Ambiguous):
            await client.start(ExportTask(aluma.ids()[0]))
    assert aluma.counts["start"] == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (WrongReply.JSON_ERROR, WrongContent),
        (WrongReply.LOG_IN_PAGE, WrongContent),
        (WrongReply.EMPTY, WrongContent),
        (WrongReply.CUT, WrongContent),
        (WrongReply.DOUBLY_CHUNKED, WrongContent),
        (WrongReply.ALTERED, WrongContent),
        (WrongReply.OTHER_VERSION, InvalidResponse),
    ],
)
@virtual_time
async def test_download_with_wrong_bytes_raises(reply, error):
    aluma, faults = simulated(1), FaultPlan()
    async with client_of(aluma, faults) as client:
        claim = await client.start(ExportTask(aluma.ids()[0]))
        faults.plan("file", [reply, reply])
        with pytest.raises(error):
            await download(client, claim)
        faults.end()
        assert await download(client, claim) == aluma.expected(claim.task.id)[1][2]


@virtual_time
async def test_surplus_response_is_never_used():
    aluma, faults = simulated(3), FaultPlan()
    async with client_of(aluma, faults) as client:
        for task in await list_tasks(client):
            for verb in REPLY_VERBS[WrongReply.SURPLUS]:
                faults.plan(verb, [WrongReply.SURPLUS])
            claim = await client.start(task)
            assert await download(client, claim) == aluma.expected(task.id)[1][2]
            await client.complete(task)
            assert await client.state(task) == "completed"


def test_random_wrong_reply_occurs_only_for_its_requests():
    for reply in WrongReply:
        faults = FaultPlan({reply: 0.5}, burst=0.5)
        met = {verb for _ in range(100) for verb in VERBS if faults.next(verb)}
        assert met == set(REPLY_VERBS[reply]), reply
    faults = FaultPlan({Fault.SLOW: 0.5})
    assert {verb for _ in range(100) for verb in VERBS if faults.next(verb)} == set(VERBS)
