"""The two ways of a notification: into a command, and to a webhook."""

import os
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
import anyio
import msgspec

from aluma_async.service.notifications import Channel, Notification, NotificationError

_SECRETS = ("ALUMA_CLIENT_SECRET", "CREDENTIALS_DIRECTORY")
_TOO_HIGH = 300


def command_channel(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Channel:
    """Run a command for each: no shell, JSON on its standard input, what it says is thrown away.

    Kind and sentence are also ``ALUMA_ASYNC_EVENT`` and ``ALUMA_ASYNC_TEXT`` in its environment; the secret is not.
    """
    inherited = {name: value for name, value in environ.items() if name not in _SECRETS}

    async def send(notification: Notification) -> None:
        extra = {"ALUMA_ASYNC_EVENT": notification.event, "ALUMA_ASYNC_TEXT": notification.text}
        # A pipe holds more than all of it, so nothing waits for a command that does not read.
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
                start_new_session=True,  # Ctrl-C is meant for us
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
    """Send each as JSON (POST), in a session of its own. The URL may hold a secret, so it is in no message."""

    async def send(notification: Notification) -> None:
        body, kind = msgspec.json.encode(notification), {"Content-Type": "application/json"}
        try:
            async with session.post(url, data=body, headers=kind, allow_redirects=False) as response:
                status = response.status
        except (aiohttp.ClientError, OSError) as error:
            raise NotificationError(f"webhook: {type(error).__name__}") from error
        if status >= _TOO_HIGH:
            raise NotificationError(f"webhook: answered {status}")

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield send
