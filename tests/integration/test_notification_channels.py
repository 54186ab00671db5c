"""The channels of notifications: a real command and a real webhook."""

import json
import sys

import anyio
import pytest
from aiohttp import web

from aluma_async.service.notification_channels import command_channel, open_webhook_channel
from aluma_async.service.notifications import Notification, NotificationError

NOTIFICATION = Notification("paused", "1970-01-01T00:00:00Z", "disk full", error="disk full", error_type="JournalError")
WRITE = (
    "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read() + os.environ['ALUMA_ASYNC_EVENT'])"
)


def test_command_receives_json_on_standard_input_without_a_shell(tmp_path):
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


def test_command_does_not_receive_the_client_secret():
    code = "import os, sys; sys.exit('ALUMA_CLIENT_SECRET' in os.environ or 'PATH' not in os.environ)"
    environ = {"ALUMA_CLIENT_SECRET": "canary", "PATH": "/bin"}
    anyio.run(command_channel([sys.executable, "-c", code], environ), NOTIFICATION)


@pytest.mark.parametrize(
    ("argv", "reason"), [(["/nowhere/notify"], "No such file"), ([sys.executable, "-c", "exit(3)"], "exit code 3")]
)
def test_command_failure_is_reported_with_its_reason(argv, reason):
    with pytest.raises(NotificationError, match=reason):
        anyio.run(command_channel(argv), NOTIFICATION)


def test_command_is_ended_when_its_time_is_over():
    async def main():
        with anyio.move_on_after(0.3) as scope:
            await command_channel([sys.executable, "-c", "import signal; signal.pause()"])(NOTIFICATION)
        assert scope.cancelled_caught

    anyio.run(main)


async def post_to_webhook(status):
    """Send a notification to a webhook that responds with ``status``; return the error, and what it received."""
    received = []

    async def respond(request):
        received.append((request.content_type, await request.json()))
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_post("/secret-canary", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with open_webhook_channel(f"http://127.0.0.1:{runner.addresses[0][1]}/secret-canary") as send:
            await send(NOTIFICATION)
    except NotificationError as error:
        return str(error), received
    finally:
        await runner.cleanup()
    return "", received


@pytest.mark.parametrize(
    ("status", "error"), [(204, ""), (500, "webhook: HTTP status 500"), (302, "webhook: HTTP status 302")]
)
def test_webhook_receives_json_and_must_respond_with_success(status, error):
    """A redirect is an error, too: where notifications are sent is decided by the configuration alone."""
    reported, [(content_type, content)] = anyio.run(post_to_webhook, status)
    assert reported == error
    assert content_type == "application/json"
    assert content["text"] == "disk full"


def test_webhook_failure_is_reported_without_its_url():
    async def main():
        async with open_webhook_channel("http://127.0.0.1:9/secret-canary") as send:
            await send(NOTIFICATION)

    with pytest.raises(NotificationError) as caught:
        anyio.run(main)
    assert str(caught.value) == "webhook: ClientConnectorError"
