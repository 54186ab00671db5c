"""Channels for notifications: a command and a webhook."""

import os
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
import anyio
import msgspec

from aluma_async.connections import GuardedConnector
from aluma_async.service.notifications import Channel, Notification, NotificationError

_SECRET_VARIABLES = ("ALUMA_CLIENT_SECRET", "CREDENTIALS_DIRECTORY")
_FIRST_ERROR_STATUS = 300


def command_channel(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Channel:
    """Return a channel that runs a command, without a shell, with the notification as JSON on its standard input.

    The kind and the sentence are also in its environment, as ``ALUMA_ASYNC_EVENT`` and ``ALUMA_ASYNC_TEXT``; the
    client secret is not. The command's output is discarded.
    """
    inherited = {name: value for name, value in environ.items() if name not in _SECRET_VARIABLES}

    async def send(notification: Notification) -> None:
        extra = {"ALUMA_ASYNC_EVENT": notification.event, "ALUMA_ASYNC_TEXT": notification.text}
        # A pipe can hold a whole notification, so a command that does not read it delays nothing.
        reading, writing = os.pipe()
        try:
            os.write(writing, msgspec.json.encode(notification) + b"\n")
            os.close(writing)
            done = await anyio.run_process(
                list(argv),
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                env={**inherited, **extra},
                start_new_session=True,  # so that Ctrl-C does not reach it
            )
        except OSError as error:
            raise NotificationError(f"{argv[0]}: {error.strerror}") from error
        finally:
            os.close(reading)
        if done.returncode:
            raise NotificationError(f"{argv[0]}: exit code {done.returncode}")

    return send


@asynccontextmanager
async def open_webhook_channel(url: str) -> AsyncIterator[Channel]:
    """Yield a channel that sends notifications as JSON (POST). The URL may contain a secret: no message repeats it."""

    async def send(notification: Notification) -> None:
        body, headers = msgspec.json.encode(notification), {"Content-Type": "application/json"}
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                status = response.status
        except (aiohttp.ClientError, OSError) as error:
            raise NotificationError(f"webhook: {type(error).__name__}") from error
        if status >= _FIRST_ERROR_STATUS:
            raise NotificationError(f"webhook: HTTP status {status}")

    connector = GuardedConnector()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield send
