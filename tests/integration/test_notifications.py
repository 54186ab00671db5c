"""What a person should know of is told to a command or a webhook, and no export waits for it."""

import json
import sys

import anyio
import pytest
from aiohttp import web

from aluma_async import events
from aluma_async.config import ServiceConfig
from aluma_async.exceptions import ConfigError, DestinationUnavailable, Unavailable, UnexportableTask
from aluma_async.models import ExportTask, HoldRecord, Timestamp
from aluma_async.service import notifications
from aluma_async.service.notification_channels import command_channel, open_webhook_channel
from aluma_async.service.notifications import KINDS, Notification, NotificationError, Notifier
from aluma_async.testing import run_virtual
from tests.support.clock import ManualClock
from tests.support.events import event_types, sample_event

NAME = "canary-name.pdf"
TASK = ExportTask("task-1", name=NAME, project_name="canary-project", created_at=0.0)
HOLD = HoldRecord(
    "task-1", Timestamp("boot", 0.0, 0.0), 21600.0, failures=10, parked=True, error="InvalidResponse", message="why"
)
NOTIFICATION = Notification("paused", "1970-01-01T00:00:00Z", "disk full", error="disk full", error_type="JournalError")


def told(*happened, oldest=0, clock=None):
    """What is told of events, and what is logged about it."""
    notifications, lost = [], []

    async def tell(notification):
        notifications.append(notification)

    async def main():
        notifier = Notifier([tell], max_task_age_seconds=oldest, log=lost.append, now=clock or ManualClock())
        for event in happened:
            event() if callable(event) else notifier(event)
        await notifier.finish()

    run_virtual(main)
    return notifications, lost


# -- what is told


@pytest.mark.parametrize(
    ("event", "kind", "says"),
    [
        (events.TaskParked(TASK, HOLD), "parked", "task task-1: parked for 6 h after 10 failures: why"),
        (events.TaskFailed(TASK, UnexportableTask("no such source")), "quarantined", "quarantine: no such source"),
        (events.ClaimingPaused(DestinationUnavailable("full", hint="Make room.")), "paused", "full. Make room."),
        (events.ClaimingResumed(), "resumed", "claiming resumed"),
    ],
)
def test_what_a_person_should_know_of_is_told_in_a_sentence(event, kind, says):
    (notification,), _ = told(event)
    assert notification.event == kind
    assert says in notification.text
    assert notification.time == "1970-01-01T00:00:00Z"


def test_nothing_else_is_told_and_no_name_ever():
    notifications, _ = told(*(sample_event(kind, task=TASK) for kind in event_types()))
    assert {notification.event for notification in notifications} == set(KINDS) - {"oldest-task-too-old"}
    assert "canary" not in str(notifications)


def test_of_a_task_that_waits_too_long_is_told_once_until_that_has_passed():
    """Also while Aluma is away: time goes on there, too."""
    clock = ManualClock()

    def later():
        clock.now += 90

    old, new = events.TasksListed(1, 1, 0, 0.0), events.TasksListed(0, 0, 0, None)
    away = events.ListingFailed(Unavailable("away"), 1)
    notifications, _ = told(old, later, away, old, new, old, oldest=60, clock=clock)
    assert [notification.event for notification in notifications] == ["oldest-task-too-old"] * 2
    assert "1 min 30 s" in notifications[0].text
    assert told(old, later, old, oldest=0, clock=clock) == ([], [])


# -- what goes wrong is logged, and holds nothing up


def test_what_cannot_be_told_is_logged_and_the_next_one_is_told():
    async def main():
        lost, seen = [], []

        async def hang(_):
            await anyio.sleep_forever()

        async def refuse(_):
            raise NotificationError("it is away")

        async def break_down(_):
            raise ValueError("canary")

        async def hear(notification):
            seen.append(notification)

        notifier = Notifier([hang, refuse, break_down, hear], log=lost.append)
        notifier(events.ClaimingResumed())
        with anyio.move_on_after(60):
            await notifier.run()
        await notifier.finish()
        assert len(seen) == 1
        assert lost == [
            "resumed: not sent within 10 s",
            "resumed: not sent: it is away",
            "resumed: not sent: unexpected ValueError",
        ]

    run_virtual(main)


def test_more_than_can_be_told_is_dropped_and_a_run_ends_in_time_all_the_same():
    async def main():
        lost = []

        async def slow(_):
            await anyio.sleep(4)

        notifier = Notifier([slow], log=lost.append)
        for _ in range(notifications.MAX_QUEUED + 1):
            notifier(events.ClaimingResumed())
        assert lost == ["resumed: not sent, 100 others are queued"]
        began = anyio.current_time()
        await notifier.finish()
        assert anyio.current_time() - began <= notifications.FINISH_TIMEOUT_SECONDS + notifications.SEND_TIMEOUT_SECONDS
        assert lost[1].endswith("not sent before the end of the run")

    run_virtual(main)


def test_the_end_of_a_run_does_not_break_off_what_is_being_told():
    async def main():
        seen = []

        async def slow(notification):
            await anyio.sleep(4)
            seen.append(notification)

        notifier = Notifier([slow], log=print)
        notifier(events.ClaimingPaused(Unavailable("away")))
        notifier(events.ClaimingResumed())
        with anyio.move_on_after(2):
            await notifier.run()
        await notifier.finish()
        assert [notification.event for notification in seen] == ["paused", "resumed"]

    run_virtual(main)


# -- the two ways

WRITE = (
    "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read() + os.environ['ALUMA_ASYNC_EVENT'])"
)


def test_a_command_gets_json_on_its_standard_input_and_no_shell_sees_it(tmp_path):
    out = tmp_path / "$(touch x); out"
    anyio.run(command_channel([sys.executable, "-c", WRITE, str(out)]), NOTIFICATION)
    line, event = out.read_text().splitlines()
    assert event == "paused"
    assert json.loads(line) == {
        "event": "paused",
        "time": "1970-01-01T00:00:00Z",
        "text": "disk full",
        "error": "disk full",
        "error_type": "JournalError",
    }


def test_a_command_does_not_get_the_secret(tmp_path):
    code = "import os, sys; sys.exit('ALUMA_CLIENT_SECRET' in os.environ or 'PATH' not in os.environ)"
    environ = {"ALUMA_CLIENT_SECRET": "canary", "PATH": "/bin"}
    anyio.run(command_channel([sys.executable, "-c", code], environ), NOTIFICATION)


@pytest.mark.parametrize(
    ("argv", "why"), [(["/nowhere/tell"], "No such file"), ([sys.executable, "-c", "exit(3)"], "exit code 3")]
)
def test_a_command_that_fails_says_why(argv, why):
    with pytest.raises(NotificationError, match=why):
        anyio.run(command_channel(argv), NOTIFICATION)


def test_a_command_that_does_not_end_is_ended():
    async def main():
        with anyio.move_on_after(0.3) as scope:
            await command_channel([sys.executable, "-c", "import signal; signal.pause()"])(NOTIFICATION)
        assert scope.cancelled_caught

    anyio.run(main)


@pytest.mark.parametrize(
    ("status", "lost"), [(204, ""), (500, "webhook: HTTP status 500"), (302, "webhook: HTTP status 302")]
)
def test_a_webhook_gets_json_and_what_it_answers_is_looked_at(status, lost):
    got = []

    async def hear(request):
        got.append((request.content_type, await request.json()))
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async def main():
        app = web.Application()
        app.router.add_post("/secret-canary", hear)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with open_webhook_channel(f"http://127.0.0.1:{runner.addresses[0][1]}/secret-canary") as tell:
                await tell(NOTIFICATION)
        finally:
            await runner.cleanup()

    if lost:
        with pytest.raises(NotificationError) as caught:
            anyio.run(main)
        assert str(caught.value) == lost
    else:
        anyio.run(main)
    assert got[0][0] == "application/json"
    assert got[0][1]["text"] == "disk full"


def test_a_webhook_that_is_away_is_told_without_its_address():
    async def main():
        async with open_webhook_channel("http://127.0.0.1:9/secret-canary") as tell:
            await tell(NOTIFICATION)

    with pytest.raises(NotificationError) as caught:
        anyio.run(main)
    assert str(caught.value) == "webhook: ClientConnectorError"


def test_a_url_that_is_none_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="notify_url") as caught:
        ServiceConfig(notify_url="secret-canary")
    assert "canary" not in str(caught.value)
