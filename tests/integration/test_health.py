"""Whether an exporter is alive, and whether it can work: metrics, health checks and the watchdog."""

import json
import re
import socket
from collections import Counter
from contextlib import asynccontextmanager

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aluma_async import Backoff, Exporter, events
from aluma_async.cli.observers import _probe
from aluma_async.config import ServiceConfig
from aluma_async.exceptions import AuthenticationFailed, ConfigError, DestinationUnavailable, JournalError, Unavailable
from aluma_async.journal import sqlite
from aluma_async.journal.history import History
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask, Summary, Timestamp
from aluma_async.pipeline.transfer import _ProgressMeter
from aluma_async.service.health import HealthMonitor
from aluma_async.service.http import serve
from aluma_async.service.metrics import OUTCOMES, REASONS, Metrics
from aluma_async.service.sd_notify import SystemdNotifier, notify_socket, watchdog_seconds
from aluma_async.service.stats import RunStats
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource, run_virtual
from tests.support.clock import ManualClock
from tests.support.events import event_types, sample_event
from tests.support.stack import simulated

TASK = ExportTask("task-1", name="canary-name.pdf", created_at=0.0)
LISTED = events.TasksListed(10, 8, 2, 0.0, 1)
NAMES = {
    "tasks_total",
    "task_duration_seconds",
    "files_total",
    "bytes_total",
    "in_flight",
    "queue_depth",
    "cooldown_tasks",
    "parked_tasks",
    "oldest_pending_task_age_seconds",
    "http_retries_total",
    "last_poll_success_timestamp_seconds",
    "concurrency_limit",
}


def counted(*happened):
    """Make metrics of what happened."""
    return Metrics(stats_after(*happened), limit=16, now=lambda: 0.0)


def scraped(metrics):
    """Read a page as Prometheus does: value by name and label."""
    page = metrics.page()[0].decode()
    return {
        (sample.name.removeprefix("aluma_export_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


# -- metrics


def test_all_promised_metrics_are_there_well_formed_with_help_and_without_task_ids():
    """Prometheus' own parser reads the page; names have their unit, counters end in _total, nothing is told twice."""
    page = counted(*(sample_event(kind) for kind in event_types())).page()[0].decode()
    families = [family for family in text_string_to_metric_families(page) if family.name.startswith("aluma_export_")]
    names = {family.name + "_total" * (family.type == "counter") for family in families}
    assert {f"aluma_export_{name}" for name in NAMES} <= names
    assert len(names) == len(families)
    for family in families:
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        assert re.fullmatch(r"[a-z_]+", family.name)
        series = [(sample.name, *sample.labels.items()) for sample in family.samples]
        assert len(series) == len(set(series))
        assert {label for sample in family.samples for label in sample.labels} <= {"outcome", "reason", "le"}
    assert "task-1" not in page
    assert "canary" not in page


def test_one_who_asks_for_openmetrics_gets_it():
    body, content_type = counted().page("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_ages_and_gauges_are_those_of_the_moment_of_asking():
    clock = ManualClock()
    stats = stats_after(LISTED, events.TaskStarted(TASK, 1), now=clock)
    metrics = Metrics(stats, limit=16, now=clock)
    clock.now = 100.0
    assert scraped(metrics)["oldest_pending_task_age_seconds",] == 100
    for name, value in {"in_flight": 1, "queue_depth": 7, "cooldown_tasks": 1, "parked_tasks": 1}.items():
        assert scraped(metrics)[name,] == value
    stats(events.TaskCompleted(TASK, 2, 1000, 0.3))
    stats(events.ConcurrencyLimitChanged(9))
    now = scraped(metrics)
    assert (now["in_flight",], now["concurrency_limit",]) == (0, 9)
    assert (now["task_duration_seconds_bucket", "0.25"], now["task_duration_seconds_bucket", "0.5"]) == (0, 1)
    stats(events.TasksListed(0, 0, 0, None))
    assert scraped(metrics)["oldest_pending_task_age_seconds",] == 0
    assert scraped(metrics)["queue_depth",] == 0


def test_what_a_crash_left_and_was_completed_later_counts_without_a_duration():
    now = scraped(counted(events.TaskCompleted(TASK, 2, 1000, 0.0)))
    assert now["tasks_total", "exported"] == 1
    assert now["task_duration_seconds_count",] == 0


@pytest.mark.parametrize("seed", range(5))
def test_metrics_journal_summary_and_aluma_agree_at_the_end_of_a_faulty_run(seed, tmp_path):
    async def main():
        rates = {Fault.DROP_BEFORE: 0.05, Fault.DROP_AFTER: 0.05, Fault.ERROR_BEFORE: 0.05, Fault.THROTTLE: 0.05}
        faults, journal = FaultPlan(rates, seed=seed), SqliteJournal(tmp_path)
        history = History(journal)
        aluma = simulated(60, seed=seed, latency_seconds=0.05)
        faults.plan("list", [None])
        stats, retries = RunStats(anyio.current_time), Counter()
        metrics = Metrics(stats, limit=32)

        def hear(event):
            stats(event)
            history(event)
            if isinstance(event, events.RequestRetried):
                retries[type(event.error).__name__] += 1

        exporter = Exporter(
            SimulatedSource(aluma, faults),
            MemoryDestination(),
            journal=journal,
            on_event=hear,
            clock=lambda: Timestamp("boot", anyio.current_time(), anyio.current_time()),
        )
        summary: list[Summary] = []

        async def run():
            summary.append(await exporter.run())

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.sleep(24 * 3600)
            exporter.stop()
        now = scraped(metrics)
        outcomes = {outcome: now["tasks_total", outcome] for outcome in OUTCOMES.values()}
        assert aluma.count_by_state() == {"completed": 60}
        assert outcomes["exported"] == summary[0].exported == 60
        assert outcomes["cancelled"] + outcomes["parked"] == summary[0].cancelled
        assert outcomes["refused"] + outcomes["lost"] == summary[0].lost
        assert (now["files_total",], now["bytes_total",]) == (summary[0].files, summary[0].bytes)
        expected = [data for task_id in aluma.ids() for _, _, data in aluma.expected(task_id)]
        assert now["bytes_total",] == sum(map(len, expected))
        assert sum(retries.values())
        assert [now["http_retries_total", reason] for reason in REASONS] == [retries[reason] for reason in REASONS]
        assert set(retries) <= set(REASONS)
        assert (now["in_flight",], now["queue_depth",], now["parked_tasks",]) == (0, 0, 0)
        journal.close()
        assert not sqlite.read_records(tmp_path), "nothing is open, nothing is held back"
        past = list(sqlite.read_history(tmp_path))
        assert (len(past), sum(one.files for one in past)) == (60, now["files_total",])
        assert sum(one.bytes for one in past) == now["bytes_total",]

    run_virtual(main)


# -- vital signs


def stats_after(*happened, **clocks):
    stats = RunStats(**{"clock": ManualClock(), "now": lambda: 0.0, **clocks})
    for event in happened:
        stats(event)
    return stats


def monitor(stats):
    return HealthMonitor(stats, poll_seconds=60, stuck_after_seconds=600)


def health_after(clock, *happened):
    return monitor(stats_after(*happened, clock=clock))


def not_ready(health):
    return {name: check.reason for name, check in health.readiness().items() if not check.ok}


def test_a_task_of_which_nothing_is_heard_is_stuck_though_others_go_on():
    clock = ManualClock()
    stats = stats_after(LISTED, events.TaskStarted(TASK, 1), clock=clock)
    health = monitor(stats)
    for _ in range(10):
        clock.now += 100
        stats(events.TaskCompleted(ExportTask("other"), 1, 1, 1.0))
    assert health.stuck_reason() == "1 task without progress for 16 min 40 s"
    stats(sample_event(events.BytesReceived, task=TASK))
    assert not health.stuck_reason()


def test_a_poll_loop_of_which_nothing_is_heard_is_stuck():
    clock = ManualClock()
    health = health_after(clock, LISTED)
    clock.now = 660
    assert not health.stuck_reason()
    clock.now = 661
    assert "11 min 1 s" in health.stuck_reason()


def test_one_who_waits_because_aluma_asked_for_it_is_not_stuck():
    clock = ManualClock()
    health = health_after(clock, LISTED, events.TaskStarted(TASK, 1), events.RequestsPaused(3600))
    clock.now = 4100
    assert not health.stuck_reason()
    clock.now = 4300
    assert health.stuck_reason()


def test_an_idle_exporter_and_one_that_cannot_save_are_not_stuck():
    """Hours of nothing to do, of a folder that is away, of an Aluma that is away: each round is a sign of life."""

    async def main():
        aluma = simulated(40, latency_seconds=0.1)
        destination = MemoryDestination()
        stats = RunStats(anyio.current_time)
        health = monitor(stats)
        worst = []

        async def watch():
            while True:
                worst.append(health.stuck_reason())
                await anyio.sleep(10)

        exporter = Exporter(SimulatedSource(aluma), destination, polling=Backoff(2, 60), on_event=stats)
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            group.start_soon(exporter.run)
            await anyio.sleep(0.5)
            destination.unavailable = True
            await anyio.sleep(6 * 3600)
            assert not_ready(health)["destination"] == "the memory destination is set to unavailable"
            destination.unavailable = False
            await anyio.sleep(6 * 3600)
            assert not not_ready(health)
            exporter.stop()
            await anyio.sleep(10)
            group.cancel_scope.cancel()
        assert set(worst) == {""}
        assert aluma.count_by_state() == {"completed": 40}

    run_virtual(main)


def test_an_idle_destination_is_tried_now_and_then():
    """A share that goes away overnight is told before the first task of the morning."""

    async def main():
        destination = MemoryDestination()
        health = health_after(anyio.current_time, LISTED)
        async with anyio.create_task_group() as group:
            group.start_soon(_probe, destination, health)
            await anyio.sleep(100)
            assert "destination" not in not_ready(health)
            destination.unavailable = True
            await anyio.sleep(31)
            assert not_ready(health)["destination"] == "the memory destination is set to unavailable"
            destination.unavailable = False
            await anyio.sleep(31)
            assert "destination" not in not_ready(health)
            group.cancel_scope.cancel()

    run_virtual(main)


def test_a_worker_that_hangs_is_seen_though_all_others_go_on():
    """A disk that does not answer: its thread cannot be cancelled, and only a new start helps."""
    hangs = ""

    class Hanging(MemoryDestination):
        @asynccontextmanager
        async def open(self, claim):
            async with super().open(claim) as delivery:
                if claim.task.id == hangs:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(24 * 3600):
                        await anyio.sleep_forever()
                yield delivery

    async def main():
        nonlocal hangs
        aluma = simulated(40, latency_seconds=0.1)
        hangs = aluma.ids()[5]
        stats = RunStats(anyio.current_time)
        health = monitor(stats)
        exporter = Exporter(SimulatedSource(aluma), Hanging(), workers=4, on_event=stats)
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            await anyio.sleep(590)
            assert aluma.count_by_state()["completed"] > 30
            assert not health.stuck_reason()
            await anyio.sleep(20)
            assert health.stuck_reason().startswith("1 task without progress for 10 min")
            exporter.stop()

    run_virtual(main)


def test_a_download_that_trickles_is_not_stuck():
    """It is heard of each ten seconds, however little comes; how little is enough is for others to say."""

    async def main():
        told = []

        async def chunks():
            for _ in range(600):
                await anyio.sleep(3)
                yield b"x" * 100

        file = ExportFile(0, 0, "", "a.pdf", "url", url="/a")
        async for _ in _ProgressMeter(chunks(), Claim(TASK, ExportSpec((file,)), 0.0), file, told.append):
            pass
        assert sum(event.count for event in told) == 60_000
        assert 120 <= len(told) <= 180

    run_virtual(main)


def test_what_held_back_all_claims_has_passed_when_all_that_waited_was_exported():
    """Also if fewer tasks wait than are tried one by one, and it is said once."""

    async def main():
        told = Counter()
        destination = MemoryDestination()
        exporter = Exporter(
            SimulatedSource(simulated(3)), destination, on_event=lambda event: told.update([type(event)])
        )
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            await anyio.lowlevel.checkpoint()
            destination.unavailable = True
            await anyio.sleep(3600)
            assert told[events.ClaimingPaused] == 1
            assert told[events.ClaimingStillPaused] > 10
            destination.unavailable = False
            await anyio.sleep(7200)
            exporter.stop()
        assert told[events.TaskCompleted] == 3
        assert told[events.ClaimingResumed] == told[events.ClaimingPaused] == 1

    run_virtual(main)


@pytest.mark.parametrize(
    ("happened", "part", "says"),
    [
        ([], "exporter", "first listing"),
        ([LISTED, events.ListingFailed(AuthenticationFailed("refused", hint="Ask."), 1)], "token", "refused. Ask."),
        ([LISTED, events.ClaimingPaused(DestinationUnavailable("disk full"))], "destination", "disk full"),
        ([events.ClaimingPaused(JournalError("no room")), LISTED], "destination", "no room"),
        ([LISTED, events.DrainStarted(3)], "exporter", "draining"),
    ],
)
def test_not_ready_has_a_reason(happened, part, says):
    found = not_ready(health_after(ManualClock(), *happened))
    assert list(found) == [part]
    assert says in found[part]


def test_what_has_passed_is_no_reason_any_more():
    gone = events.ListingFailed(Unavailable("away"), 1)
    full = events.ClaimingPaused(DestinationUnavailable("disk full"))
    assert not not_ready(health_after(ManualClock(), LISTED, gone, LISTED))
    assert not not_ready(health_after(ManualClock(), LISTED, full, LISTED)), (
        "the destination is tried before each listing"
    )


def test_a_listing_must_be_fresh_but_one_that_failed_is_no_reason_yet():
    clock = ManualClock()
    stats = stats_after(LISTED, events.ListingFailed(Unavailable("it is away"), 1), clock=clock)
    health = monitor(stats)
    assert not not_ready(health)
    clock.now = 181
    assert not_ready(health) == {"poll": "it is away"}
    stats(events.TaskCompleted(TASK, 1, 1, 1.0))
    assert not not_ready(health), "while what was listed is exported there is no need to list"


# -- over HTTP


def test_metrics_and_health_over_http():
    async def main():
        clock = ManualClock()
        stats = stats_after(clock=clock)
        async with serve("127.0.0.1", 0, counted(LISTED), monitor(stats)) as url, aiohttp.ClientSession() as session:

            async def get(path):
                async with session.get(url + path) as reply:
                    return reply.status, await reply.text()

            status, page = await get("/metrics")
            assert status == 200
            assert list(text_string_to_metric_families(page))
            assert json.loads((await get("/healthz"))[1]) == {"status": "ok"}
            status, text = await get("/readyz")
            assert (status, json.loads(text)["status"]) == (503, "not ready")
            stats(LISTED)
            status, text = await get("/readyz")
            assert (status, json.loads(text)["status"]) == (200, "ready")
            stats(events.ClaimingPaused(DestinationUnavailable("disk full")))
            status, text = await get("/readyz")
            answer = json.loads(text)
            assert (status, answer["reason"]) == (503, "destination: disk full")
            assert answer["checks"]["destination"] == {"ok": False, "reason": "disk full"}
            assert (await get("/healthz"))[0] == 200, "starting it anew would not help"
            clock.now = 9999
            status, text = await get("/healthz")
            assert (status, json.loads(text)["status"]) == (503, "stuck")
            assert (await get("/"))[0] == 404
            async with session.post(url + "/metrics") as reply:
                assert reply.status == 405

    anyio.run(main)


def test_an_address_that_is_taken_is_a_mistake_in_the_config():
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="listen"):
            async with serve("127.0.0.1", taken.getsockname()[1], counted(), health_after(ManualClock())):
                pass

    anyio.run(main)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("localhost:1", ("localhost", 1)),
        ("", None),
    ],
)
def test_only_a_port_means_the_loopback(listen, address):
    assert ServiceConfig(listen=listen).listen_address == address


@pytest.mark.parametrize("listen", ["host", "host:", ":x", "1.2.3.4:65536", "http://x:1/", "a b:1"])
def test_what_is_no_address_is_refused(listen):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        ServiceConfig(listen=listen)


# -- the service manager


def systemd_of(clock, *, watchdog=30.0, has_room=lambda: True):
    """A service manager that keeps what it is told, and the exporter's vital signs."""
    told, stuck = [], []
    stats = stats_after(clock=clock)

    def send(message):
        if has_room():
            told.append(message)
        return has_room()

    systemd = SystemdNotifier(send, stats, monitor(stats), watchdog=watchdog, on_stuck=stuck.append)

    def hear(event):
        stats(event)
        systemd(event)

    return systemd, hear, told, stuck


def test_ready_is_said_once_and_only_after_the_first_listing():
    _, hear, told, _ = systemd_of(ManualClock())
    hear(events.ListingFailed(Unavailable("away"), 1))
    assert not told
    hear(LISTED)
    hear(LISTED)
    assert [message.split("\n")[0] for message in told] == ["READY=1"]


def test_draining_says_stopping_and_asks_for_more_time_as_long_as_it_lasts():
    async def main():
        systemd, hear, told, _ = systemd_of(anyio.current_time)
        hear(LISTED)
        hear(events.TaskStarted(TASK, 1))
        hear(events.DrainStarted(1))
        assert told[-1].splitlines() == [
            "STOPPING=1",
            "EXTEND_TIMEOUT_USEC=30000000",
            "STATUS=draining, 1 task in progress",
        ]
        with anyio.move_on_after(60):
            await systemd.run()
        assert all("EXTEND_TIMEOUT_USEC=30000000" in message for message in told[1:])
        assert len(told) > 10

    run_virtual(main)


def test_a_service_manager_that_is_busy_is_told_later_what_it_must_know_and_not_what_is_old():
    async def main():
        room = []
        systemd, hear, told, _ = systemd_of(anyio.current_time, has_room=lambda: room)
        hear(LISTED)
        with anyio.move_on_after(60):
            await systemd.run()
        hear(events.DrainStarted(0))
        assert not told
        room.append(1)
        with anyio.move_on_after(1):
            await systemd.run()
        assert [message.split("\n")[0] for message in told[:2]] == ["READY=1", "STOPPING=1"]
        assert "WATCHDOG=1" in told[2]
        assert len(told) == 3

    run_virtual(main)


def test_sending_never_waits_for_a_service_manager_that_does_not_read(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        send = notify_socket({"NOTIFY_SOCKET": path})
        sent = 0
        while send("WATCHDOG=1"):
            sent += 1
        assert sent
        manager.recv(999)
        assert send("WATCHDOG=1")


def test_a_reload_is_told_with_its_moment_and_its_end():
    systemd, hear, told, _ = systemd_of(ManualClock())
    systemd.reloading()
    systemd.reloaded()
    assert not told, "a unit that has not begun cannot reload, nor is it ready for it"
    hear(LISTED)
    systemd.reloading()
    systemd.reloaded()
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", told[1])
    assert told[2].startswith("READY=1\n")


def test_the_status_line_tells_what_goes_on_and_what_is_wrong():
    async def main():
        systemd, hear, told, _ = systemd_of(anyio.current_time)

        async def status():
            with anyio.move_on_after(0.1):
                await systemd.run()
            return told[-1].splitlines()[0]

        assert await status() == "STATUS=listing pending tasks"
        hear(LISTED)
        hear(events.TaskCompleted(TASK, 1, 1, 1.0))
        assert await status() == "STATUS=1 exported, 0 tasks in progress, 10 pending at the last listing"
        hear(events.ClaimingPaused(DestinationUnavailable("disk full\nREADY=1")))
        assert await status() == "STATUS=disk full?READY=1"

    run_virtual(main)


def test_the_watchdog_is_fed_in_time_while_idle_and_not_while_a_worker_is_stuck():
    """Fed three times in the time that it waits; the reason is in the status, and is logged once."""

    async def main():
        systemd, hear, told, stuck = systemd_of(anyio.current_time)
        hear(LISTED)
        with anyio.move_on_after(600):  # idle: the poll loop's next sign is due only after a minute
            async with anyio.create_task_group() as group:
                group.start_soon(systemd.run)
                while True:
                    await anyio.sleep(60)
                    hear(LISTED)
        assert told.count(told[-1]) > 100
        assert all("WATCHDOG=1" in message for message in told[1:])
        hear(events.TaskStarted(TASK, 1))
        told.clear()
        with anyio.move_on_after(900):
            async with anyio.create_task_group() as group:
                group.start_soon(systemd.run)
                while True:
                    await anyio.sleep(60)
                    hear(LISTED)
        fed = ["WATCHDOG=1" in message for message in told]
        assert fed == sorted(fed, reverse=True), "once stuck, no more"
        assert 115 <= sum(fed) <= 125, "600 s, each 5 s"
        assert told[-1].startswith("STATUS=stuck: 1 task without progress")
        assert len(stuck) == 1

    run_virtual(main)


def read_all(manager):
    """Read what comes, until nothing comes any more."""
    for _ in range(10):
        manager.recv(999)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_blocked_event_loop_stops_the_signs_of_life(abstract, tmp_path):
    """Through a real socket, by its path or an abstract name: while the loop is blocked, nothing comes."""
    path = f"@aluma-async-{tmp_path.name}-{tmp_path.parent.name}" if abstract else str(tmp_path / "notify")

    async def main():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind("\0" + path[1:] if abstract else path)
            manager.settimeout(0.5)
            send = notify_socket({"NOTIFY_SOCKET": path})
            stats = stats_after(clock=anyio.current_time)
            systemd = SystemdNotifier(send, stats, monitor(stats), watchdog=0.06, on_stuck=print)
            async with anyio.create_task_group() as group:
                group.start_soon(systemd.run)
                for _ in range(3):
                    await anyio.sleep(0.02)
                    assert "WATCHDOG=1" in manager.recv(999).decode()
                with pytest.raises(TimeoutError):  # this wait blocks the loop
                    read_all(manager)
                await anyio.sleep(0.02)
                assert "WATCHDOG=1" in manager.recv(999).decode(), "and it is fed again"
                group.cancel_scope.cancel()

    anyio.run(main)


def test_without_a_service_manager_nothing_is_sent_and_one_that_is_gone_is_no_error():
    assert notify_socket({}) is None
    assert notify_socket({"NOTIFY_SOCKET": "vsock:2:1"}) is None
    assert notify_socket({"NOTIFY_SOCKET": "/nowhere/notify"})("READY=1"), "sending it again would change nothing"


def test_the_watchdog_of_another_process_is_not_ours():
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000"}) == 30
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "x"}) is None
    assert watchdog_seconds({}) is None
