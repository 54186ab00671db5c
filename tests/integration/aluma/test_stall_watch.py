"""``StallWatch``: requests that make no progress give way to other tasks, unless the server is slow for all."""

import anyio
import pytest
from aiohttp import web

from aluma_async import events
from tests.support.clock import virtual_time
from tests.support.sick_server import SickServer

SICK, HEALTHY = 30, 40


async def hang(_):
    await anyio.sleep(3600)


async def hang_after_the_headers(request):
    response = web.StreamResponse(headers={"Content-Type": "application/pdf", "Content-Length": "10000000"})
    await response.prepare(request)
    await anyio.sleep(3600)


async def drip(request):
    """Send a file a little faster than the minimum rate."""
    response = web.StreamResponse(headers={"Content-Type": "application/pdf", "Content-Length": "10000000"})
    await response.prepare(request)
    await response.write(b"%PDF-1.4\n")
    while True:
        await response.write(b"x" * 1500)
        await anyio.sleep(1)


def sick_requests(kind, misbehave, **options):
    async def answer(request, its_kind, is_sick):
        return await misbehave(request) if is_sick and its_kind == kind else None

    return SickServer(answer, **options)


@pytest.mark.parametrize(
    ("kind", "misbehave", "max_at_once", "seconds"),
    [
        ("file", hang, 32, 60),
        ("file", hang, 4, 240),
        ("file", hang_after_the_headers, 32, 60),
        ("file", drip, 32, 60),
        ("file", drip, 4, 240),
        ("start", hang, 32, 60),
        ("start", hang, 4, 240),
        ("complete", hang, 32, 60),
        ("complete", hang, 4, 600),
    ],
)
@virtual_time
async def test_sick_tasks_do_not_stop_healthy_ones(kind, misbehave, max_at_once, seconds):
    """Neither by the workers nor by the permits that their requests hold."""
    server = sick_requests(kind, misbehave)
    await server.export(seconds, max_at_once=max_at_once, min_bytes_per_second=1000)
    assert len(set(server.aluma.ids("completed")) - set(server.sick)) == HEALTHY


@pytest.mark.parametrize("kind", ["start", "file", "complete"])
@virtual_time
async def test_healthy_tasks_behind_very_many_that_hang_are_exported(kind):
    server = sick_requests(kind, hang, sick=100, healthy=5)
    await server.export(600)
    assert len(set(server.aluma.ids("completed")) - set(server.sick)) == 5


@pytest.mark.parametrize("seconds", [14, 25, 55])
@pytest.mark.parametrize("kind", ["file", "start"])
@virtual_time
async def test_tasks_of_a_slow_server_are_exported(seconds, kind):
    """All requests of a kind take long: at most some of the first ones are given up."""

    async def answer(_, its_kind, __):
        if its_kind == kind:
            await anyio.sleep(seconds)

    server = SickServer(answer, sick=0, healthy=60)
    completed, emitted = await server.export(20 * seconds)
    given_up = [event for event in emitted if isinstance(event, events.TaskCancelled)]
    assert completed >= 60 - len(given_up)
    assert len(given_up) <= (0 if seconds < 15 else 12 * (seconds // 15))


@virtual_time
async def test_slow_task_is_exported_beside_fast_ones():
    """Each attempt may take longer than the one before it."""

    async def answer(_, kind, is_sick):
        if is_sick and kind == "file":
            await anyio.sleep(50)

    server = SickServer(answer, sick=20, healthy=400)
    completed, _ = await server.export(3600)
    assert completed == 420


@virtual_time
async def test_slow_task_is_not_given_up_while_no_other_waits():
    async def answer(_, kind, is_sick):
        if is_sick and kind == "file":
            await anyio.sleep(50)

    server = SickServer(answer, sick=10, healthy=10)
    completed, emitted = await server.export(300)
    assert completed == 20
    assert not [event for event in emitted if isinstance(event, events.TaskCancelled)]


@virtual_time
async def test_request_limit_is_not_exceeded_by_requests_that_hang():
    server = sick_requests("file", hang)
    await server.export(120, max_at_once=4)
    assert server.aluma.in_flight_peak <= 4
