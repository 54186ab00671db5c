"""``SystemdNotifier``: READY, STOPPING, heartbeats and the status line."""

import re
import socket

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import DestinationUnavailable, Unavailable
from aluma_async.models import ExportTask
from aluma_async.service.health import HealthMonitor
from aluma_async.service.sd_notify import SystemdNotifier, notify_socket, watchdog_seconds
from tests.support.clock import ManualClock, virtual_time
from tests.support.stats import stats_after

TASK = ExportTask("task-1")
LISTED = events.TasksListed(10, 8, 2, 0.0, 1)


class ServiceManager:
    """Stores the messages of a notifier, as long as ``has_room``; passes events to it and to its statistics."""

    def __init__(self, clock, *, has_room=True):
        self.messages, self.stuck_reasons = [], []
        self.has_room = has_room
        self.stats = stats_after(clock=clock)
        self.notifier = make_notifier(self.receive, self.stats, watchdog=30.0, on_stuck=self.stuck_reasons.append)

    def receive(self, message):
        if self.has_room:
            self.messages.append(message)
        return self.has_room

    def emit(self, event):
        self.stats(event)
        self.notifier(event)

    async def run(self, seconds):
        """Let the notifier send heartbeats for some time."""
        with anyio.move_on_after(seconds):
            await self.notifier.run()

    async def run_with_listings(self, seconds):
        """Let the notifier send heartbeats while a listing succeeds every minute."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(self.notifier.run)
                while True:
                    await anyio.sleep(60)
                    self.emit(LISTED)

    @property
    def first_lines(self):
        return [message.split("\n")[0] for message in self.messages]


def make_notifier(send, stats, **options):
    return SystemdNotifier(send, stats, HealthMonitor(stats, poll_seconds=60, stuck_after_seconds=600), **options)


def test_systemd_gets_ready_once_after_the_first_listing():
    manager = ServiceManager(ManualClock())
    manager.emit(events.ListingFailed(Unavailable("away"), 1))
    assert not manager.messages
    manager.emit(LISTED)
    manager.emit(LISTED)
    assert manager.first_lines == ["READY=1"]


@virtual_time
async def test_systemd_gets_stopping_and_a_longer_timeout_while_draining():
    manager = ServiceManager(anyio.current_time)
    manager.emit(LISTED)
    manager.emit(events.TaskStarted(TASK, 1))
    manager.emit(events.DrainStarted(1))
    assert manager.messages[-1].splitlines() == [
        "STOPPING=1",
        "EXTEND_TIMEOUT_USEC=30000000",
        "STATUS=draining, 1 task in progress",
    ]
    await manager.run(60)
    assert all("EXTEND_TIMEOUT_USEC=30000000" in message for message in manager.messages[1:])
    assert len(manager.messages) > 10


@virtual_time
async def test_systemd_gets_state_changes_later_when_its_queue_is_full():
    """READY and STOPPING are sent again until they are accepted; outdated heartbeats are dropped."""
    manager = ServiceManager(anyio.current_time, has_room=False)
    manager.emit(LISTED)
    await manager.run(60)
    manager.emit(events.DrainStarted(0))
    assert not manager.messages
    manager.has_room = True
    await manager.run(1)
    assert manager.first_lines[:2] == ["READY=1", "STOPPING=1"]
    assert "WATCHDOG=1" in manager.messages[2]
    assert len(manager.messages) == 3


def test_systemd_gets_the_start_and_the_end_of_a_reload():
    manager = ServiceManager(ManualClock())
    manager.notifier.reloading()
    manager.notifier.reloaded()
    assert not manager.messages, "a unit that is starting can neither reload nor become ready by it"
    manager.emit(LISTED)
    manager.notifier.reloading()
    manager.notifier.reloaded()
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.messages[1])
    assert manager.messages[2].startswith("READY=1\n")


@virtual_time
async def test_systemd_status_line_shows_progress_or_the_problem():
    manager = ServiceManager(anyio.current_time)

    async def status():
        await manager.run(0.1)
        return manager.first_lines[-1]

    assert await status() == "STATUS=listing pending tasks"
    manager.emit(LISTED)
    manager.emit(events.TaskCompleted(TASK, 1, 1, 1.0))
    assert await status() == "STATUS=1 exported, 0 tasks in progress, 10 pending at the last listing"
    manager.emit(events.ClaimingPaused(DestinationUnavailable("disk full\nREADY=1")))
    assert await status() == "STATUS=disk full?READY=1"


@virtual_time
async def test_watchdog_gets_heartbeats_while_idle_and_none_when_stuck():
    """There are three heartbeats in its timeout. When they stop, the status has the reason, and it is logged once."""
    manager = ServiceManager(anyio.current_time)
    manager.emit(LISTED)
    await manager.run_with_listings(600)
    assert manager.messages.count(manager.messages[-1]) > 100
    assert all("WATCHDOG=1" in message for message in manager.messages[1:])
    manager.emit(events.TaskStarted(TASK, 1))
    manager.messages.clear()
    await manager.run_with_listings(900)
    heartbeats = ["WATCHDOG=1" in message for message in manager.messages]
    assert heartbeats == sorted(heartbeats, reverse=True), "none follows once the exporter is stuck"
    assert 115 <= sum(heartbeats) <= 125, "one every 5 s for 600 s"
    assert manager.messages[-1].startswith("STATUS=stuck: 1 task without progress")
    assert len(manager.stuck_reasons) == 1


def test_notify_socket_does_not_block_when_there_is_no_reader(tmp_path):
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


def receive_ten(manager):
    for _ in range(10):
        manager.recv(999)


@pytest.mark.parametrize("abstract", [False, True])
def test_watchdog_gets_no_heartbeats_while_the_event_loop_is_blocked(abstract, tmp_path):
    """Through a real socket with a path or an abstract name."""
    path = f"@aluma-async-{tmp_path.name}-{tmp_path.parent.name}" if abstract else str(tmp_path / "notify")

    async def main():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind("\0" + path[1:] if abstract else path)
            manager.settimeout(0.5)
            send = notify_socket({"NOTIFY_SOCKET": path})
            stats = stats_after(clock=anyio.current_time)
            notifier = make_notifier(send, stats, watchdog=0.06, on_stuck=print)
            async with anyio.create_task_group() as group:
                group.start_soon(notifier.run)
                for _ in range(3):
                    await anyio.wait_readable(manager)
                    assert "WATCHDOG=1" in manager.recv(999).decode()
                with pytest.raises(TimeoutError):  # this call blocks the loop
                    receive_ten(manager)
                await anyio.wait_readable(manager)
                assert "WATCHDOG=1" in manager.recv(999).decode(), "heartbeats continue"
                group.cancel_scope.cancel()

    anyio.run(main)


def test_notify_socket_is_none_without_a_service_manager():
    assert notify_socket({}) is None
    assert notify_socket({"NOTIFY_SOCKET": "vsock:2:1"}) is None


def test_notify_socket_ignores_a_service_manager_that_is_gone():
    assert notify_socket({"NOTIFY_SOCKET": "/nowhere/notify"})("READY=1"), "it is not sent again"


def test_watchdog_of_another_process_is_ignored():
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000"}) == 30
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "x"}) is None
    assert watchdog_seconds({}) is None
