"""``Notifier``: which events become notifications, and that no export waits for one."""

import anyio
import pytest
from msgspec.structs import replace

from aluma_async import events
from aluma_async.exceptions import DestinationUnavailable, Unavailable, UnexportableTask
from aluma_async.models import ExportTask, HoldRecord, Timestamp
from aluma_async.service import notifications
from aluma_async.service.notifications import KINDS, NotificationError, Notifier
from tests.support.clock import ManualClock, virtual_time
from tests.support.events import event_types, sample_event

TASK = ExportTask("task-1", name="canary-name.pdf", project_name="canary-project", created_at=0.0)
HOLD = HoldRecord(
    "task-1", Timestamp("boot", 0.0, 0.0), 21600.0, failures=10, parked=True, error="InvalidResponse", message="why"
)


class Channel:
    """Stores the notifications that it receives, after ``delay`` seconds."""

    def __init__(self, delay=0):
        self.received = []
        self._delay = delay

    async def __call__(self, notification):
        await anyio.sleep(self._delay)
        self.received.append(notification)

    @property
    def kinds(self):
        return [notification.event for notification in self.received]


async def notify(*happened, clock=None, **options):
    """Return the notifications for these events, and the log; a number lets the clock advance by as many seconds."""
    channel, log, clock = Channel(), [], clock or ManualClock()
    notifier = Notifier([channel], log=log.append, now=clock, **options)
    for event in happened:
        if isinstance(event, int):
            clock.now += event
        else:
            notifier(event)
    await notifier.finish()
    return channel, log


@pytest.mark.parametrize(
    ("event", "kind", "text"),
    [
        (events.TaskParked(TASK, HOLD), "parked", "task task-1: parked for 6 h after 10 failures: why"),
        (events.TaskFailed(TASK, UnexportableTask("no such source")), "quarantined", "quarantine: no such source"),
        (events.ClaimingPaused(DestinationUnavailable("full", hint="Make room.")), "paused", "full. Make room."),
        (events.ClaimingResumed(), "resumed", "claiming resumed"),
    ],
)
@virtual_time
async def test_notification_has_kind_time_and_a_sentence(event, kind, text):
    channel, _ = await notify(event)
    (notification,) = channel.received
    assert notification.event == kind
    assert text in notification.text
    assert notification.time == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("deadline", "left", "text"),
    [
        (0, None, "created 2 h ago, deadline not known"),
        (10_800, 3600, "Aluma deletes it in 1 h"),
        (3600, -3600, "overdue"),
    ],
)
@virtual_time
async def test_notification_of_a_parked_task_has_the_time_that_is_left(deadline, left, text):
    clock = ManualClock()
    clock.now = 7200.0
    parked = events.TaskParked(TASK, replace(HOLD, created_at=0.0))
    channel, _ = await notify(parked, clock=clock, task_deadline_seconds=deadline)
    assert channel.received[0].seconds_left == left
    assert text in channel.received[0].text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (events.CopyStored(TASK, 3, 100, 0), "a complete copy is in the quarantine"),
        (events.CopyStored(TASK, 3, 100, 2), "its copy lacks 2 files"),
        (events.CopyFailed(TASK, DestinationUnavailable("full")), "it has no copy in the quarantine"),
    ],
)
@virtual_time
async def test_notification_of_a_parked_task_says_whether_it_has_a_copy(event, text):
    channel, _ = await notify(event, events.TaskParked(TASK, HOLD), events.TaskParked(TASK, HOLD))
    assert text in channel.received[0].text
    assert text not in channel.received[1].text


@virtual_time
async def test_notifications_are_sent_for_few_events_and_contain_no_names():
    channel, _ = await notify(*(sample_event(kind, task=TASK) for kind in event_types()))
    assert set(channel.kinds) == set(KINDS) - {"oldest-task-too-old"}
    assert "canary" not in str(channel.received)


@virtual_time
async def test_notification_of_an_overdue_task_is_sent_once_until_the_age_falls():
    """Also while Aluma cannot be reached, because the age grows nevertheless."""
    old, new = events.TasksListed(1, 1, 0, 0.0), events.TasksListed(0, 0, 0, None)
    failed = events.ListingFailed(Unavailable("away"), 1)
    channel, _ = await notify(old, 90, failed, old, new, old, max_task_age_seconds=60)
    assert channel.kinds == ["oldest-task-too-old"] * 2
    assert "1 min 30 s" in channel.received[0].text


@virtual_time
async def test_notification_of_an_overdue_task_is_not_sent_without_a_limit():
    old = events.TasksListed(1, 1, 0, 0.0)
    channel, log = await notify(old, 90, old, max_task_age_seconds=0)
    assert (channel.received, log) == ([], [])


@virtual_time
async def test_notifier_logs_a_failed_notification_and_uses_the_next_channel():
    async def hang(_):
        await anyio.sleep_forever()

    async def fail(_):
        raise NotificationError("it is away")

    async def crash(_):
        raise ValueError("canary")

    log, channel = [], Channel()
    notifier = Notifier([hang, fail, crash, channel], log=log.append)
    notifier(events.ClaimingResumed())
    with anyio.move_on_after(60):
        await notifier.run()
    await notifier.finish()
    assert len(channel.received) == 1
    assert log == [
        "resumed: not sent within 10 s",
        "resumed: not sent: it is away",
        "resumed: not sent: unexpected ValueError",
    ]


@virtual_time
async def test_notifier_drops_excess_notifications_and_finishes_in_bounded_time():
    log = []
    notifier = Notifier([Channel(delay=4)], log=log.append)
    for _ in range(notifications.MAX_QUEUED + 1):
        notifier(events.ClaimingResumed())
    assert log == ["resumed: not sent, 100 others are queued"]
    started_at = anyio.current_time()
    await notifier.finish()
    seconds = anyio.current_time() - started_at
    assert seconds <= notifications.FINISH_TIMEOUT_SECONDS + notifications.SEND_TIMEOUT_SECONDS
    assert log[1].endswith("not sent before the end of the run")


@virtual_time
async def test_notifier_completes_the_current_notification_when_cancelled():
    channel = Channel(delay=4)
    notifier = Notifier([channel], log=print)
    notifier(events.ClaimingPaused(Unavailable("away")))
    notifier(events.ClaimingResumed())
    with anyio.move_on_after(2):
        await notifier.run()
    await notifier.finish()
    assert channel.kinds == ["paused", "resumed"]
