"""``HealthMonitor``: whether an exporter is alive, and whether it can work."""

import asyncio
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from aluma_async import Backoff, Exporter, events
from aluma_async.cli.observers import _probe
from aluma_async.exceptions import AuthenticationFailed, DestinationUnavailable, JournalError, RateLimited, Unavailable
from aluma_async.models import ExportTask
from aluma_async.pipeline.throttle import Outage
from aluma_async.service.health import HealthMonitor
from aluma_async.service.stats import RunStats
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import ManualClock, virtual_time
from tests.support.events import sample_event
from tests.support.stack import simulated
from tests.support.stats import stats_after

TASK = ExportTask("task-1", name="canary-name.pdf", created_at=0.0)
LISTED = events.TasksListed(10, 8, 2, 0.0, 1)
UNAVAILABLE = "the memory destination is set to unavailable"


def health_of(stats):
    return HealthMonitor(stats, poll_seconds=60, stuck_after_seconds=600)


def failed_checks(health):
    return {name: check.reason for name, check in health.readiness().items() if not check.ok}


def test_health_reports_a_task_without_progress_while_others_go_on():
    clock = ManualClock()
    stats = stats_after(LISTED, events.TaskStarted(TASK, 1), clock=clock)
    health = health_of(stats)
    for _ in range(10):
        clock.now += 100
        stats(events.TaskCompleted(ExportTask("other"), 1, 1, 1.0))
    assert health.stuck_reason() == "1 task without progress for 16 min 40 s"
    stats(sample_event(events.BytesReceived, task=TASK))
    assert not health.stuck_reason()


@pytest.mark.parametrize("kind", events.AttemptEnded.__subclasses__())
def test_health_does_not_wait_for_a_task_whose_attempt_has_ended(kind):
    clock = ManualClock()
    stats = stats_after(LISTED, events.TaskStarted(TASK, 1), sample_event(kind, task=TASK), clock=clock)
    clock.now = 650
    assert not health_of(stats).stuck_reason()


def test_health_reports_a_poll_loop_without_events():
    clock = ManualClock()
    health = health_of(stats_after(LISTED, clock=clock))
    clock.now = 660
    assert not health.stuck_reason()
    clock.now = 661
    assert "11 min 1 s" in health.stuck_reason()


def test_health_accepts_a_pause_that_aluma_asked_for():
    clock = ManualClock()
    health = health_of(stats_after(LISTED, events.TaskStarted(TASK, 1), events.RequestsPaused(3600), clock=clock))
    clock.now = 4100
    assert not health.stuck_reason()
    clock.now = 4300
    assert health.stuck_reason()


@virtual_time
async def test_health_accepts_an_idle_exporter_and_a_paused_one():
    """Hours without pending tasks or without the destination are not stuck, because each poll emits an event."""
    aluma = simulated(40, latency_seconds=0.1)
    destination = MemoryDestination()
    stats = RunStats(anyio.current_time)
    health = health_of(stats)
    reasons = set()

    async def watch():
        while True:
            reasons.add(health.stuck_reason())
            await anyio.sleep(10)

    exporter = Exporter(SimulatedSource(aluma), destination, polling=Backoff(2, 60), on_event=stats)
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        group.start_soon(exporter.run)
        await anyio.sleep(0.5)
        destination.unavailable = True
        await anyio.sleep(6 * 3600)
        assert failed_checks(health)["destination"] == UNAVAILABLE
        destination.unavailable = False
        await anyio.sleep(6 * 3600)
        assert not failed_checks(health)
        exporter.stop()
        await anyio.sleep(10)
        group.cancel_scope.cancel()
    assert reasons == {""}
    assert aluma.count_by_state() == {"completed": 40}


@virtual_time
async def test_idle_destination_is_probed_periodically():
    """A share that becomes unavailable overnight is reported before the first task of the morning."""
    destination = MemoryDestination()
    health = health_of(stats_after(LISTED, clock=anyio.current_time))
    async with anyio.create_task_group() as group:
        group.start_soon(_probe, destination, health)
        await anyio.sleep(100)
        assert "destination" not in failed_checks(health)
        destination.unavailable = True
        await anyio.sleep(31)
        assert failed_checks(health)["destination"] == UNAVAILABLE
        destination.unavailable = False
        await anyio.sleep(31)
        assert "destination" not in failed_checks(health)
        group.cancel_scope.cancel()


@virtual_time
async def test_health_reports_a_hanging_worker_while_others_go_on():
    """A disk that does not answer: its thread cannot be cancelled, so only a restart helps."""
    aluma = simulated(40, latency_seconds=0.1)
    hanging_task = aluma.ids()[5]

    class HangingDestination(MemoryDestination):
        @asynccontextmanager
        async def open(self, claim):
            async with super().open(claim) as delivery:
                if claim.task.id == hanging_task:
                    with anyio.CancelScope(shield=True):
                        while anyio.current_time() < 24 * 3600:
                            with suppress(asyncio.CancelledError):
                                await anyio.sleep(24 * 3600)
                yield delivery

    stats = RunStats(anyio.current_time)
    health = health_of(stats)
    exporter = Exporter(SimulatedSource(aluma), HangingDestination(), workers=4, on_event=stats)
    async with anyio.create_task_group() as group:
        group.start_soon(exporter.run)
        await anyio.sleep(590)
        assert aluma.count_by_state()["completed"] > 30
        assert not health.stuck_reason()
        await anyio.sleep(330)  # the step was cancelled after 300 s, which it ignores
        assert health.stuck_reason().startswith("1 task without progress for 10 min")
        exporter.stop()


@pytest.mark.parametrize(
    ("happened", "part", "reason"),
    [
        ([], "exporter", "first listing"),
        ([LISTED, events.ListingFailed(AuthenticationFailed("refused", hint="Ask."), 1)], "token", "refused. Ask."),
        ([LISTED, events.ClaimingPaused(DestinationUnavailable("disk full"))], "destination", "disk full"),
        ([events.ClaimingPaused(JournalError("no room")), LISTED], "destination", "no room"),
        ([LISTED, events.DrainStarted(3)], "exporter", "draining"),
    ],
)
def test_readiness_gives_the_reason_of_the_part_that_cannot_work(happened, part, reason):
    failed = failed_checks(health_of(stats_after(*happened)))
    assert list(failed) == [part]
    assert reason in failed[part]


def test_readiness_recovers_with_the_next_listing():
    failed_listing = events.ListingFailed(Unavailable("away"), 1)
    full = events.ClaimingPaused(DestinationUnavailable("disk full"))
    assert not failed_checks(health_of(stats_after(LISTED, failed_listing, LISTED)))
    assert not failed_checks(health_of(stats_after(LISTED, full, LISTED))), "each listing follows a successful probe"


def test_readiness_forgets_a_failed_probe_after_an_export():
    stats = stats_after(LISTED)
    health = health_of(stats)
    health.record_probe(DestinationUnavailable("away"))
    assert failed_checks(health) == {"destination": "away"}
    stats(events.TaskCompleted(TASK, 1, 1, 1.0))
    assert not failed_checks(health)


def test_readiness_ends_with_the_first_failed_listing_until_something_succeeds():
    """No listing is needed while listed tasks are being exported, so an export counts, too."""
    clock = ManualClock()
    stats = stats_after(LISTED, clock=clock)
    health = health_of(stats)
    for success in (LISTED, events.TaskCompleted(TASK, 1, 1, 1.0)):
        assert health.is_ready()
        stats(events.ListingFailed(Unavailable("it is away"), 1))
        assert failed_checks(health) == {"poll": "it is away"}
        assert not health.is_ready()
        stats(success)
    clock.now = 181
    assert failed_checks(health) == {"poll": "no listing for 3 min 1 s"}


def test_stuck_task_is_noticed_after_a_pause_has_ended_early():
    clock = ManualClock()
    stats = stats_after(LISTED, events.TaskStarted(TASK, 1), events.RequestsPaused(3600), clock=clock)
    stats(events.RequestsResumed())
    assert not stats.requests_paused_seconds
    clock.now += 601
    assert health_of(stats).stuck_reason()


def test_health_is_not_ready_while_requests_have_no_response():
    """Their time-out is longer, and a listing that hangs does not fail before it."""
    health = health_of(stats_after(LISTED, clock=ManualClock()))
    health.outage = lambda: Outage(15.0)
    assert health.is_ready()
    health.outage = lambda: Outage(16.0)
    assert failed_checks(health) == {"requests": "no response for 16 s"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unavailable("it is away", hint="Look."), "no request has succeeded for 16 s: it is away. Look."),
        (
            RateLimited("busy", retry_after=1800),
            "no request has succeeded for 16 s, Aluma asked for a pause of 30 min: busy",
        ),
    ],
)
def test_health_is_not_ready_while_all_requests_fail(error, reason):
    """Also while workers are busy with them, so that no listing has failed; the last error is the reason."""
    health = health_of(stats_after(LISTED, clock=ManualClock()))
    health.outage = lambda: Outage(15.0, error)
    assert health.is_ready()
    health.outage = lambda: Outage(16.0, error)
    assert failed_checks(health) == {"requests": reason}
