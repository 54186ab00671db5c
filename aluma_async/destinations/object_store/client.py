"""What a bucket needs of obstore: the store, an object put whole or in parts, and its errors made ours."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread
import obstore
from anyio.abc import TaskStatus
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore, from_url

from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.exceptions import ConfigError, DestinationError, DestinationUnavailable

MULTIPART_BYTES = 8 * 1024 * 1024
"""Bytes above which an object goes up in parts, as no store can make conditional; each part is of this size."""
ERRORS = (BaseError, OSError)
"""All that a store raises."""

_MAX_PARTS = 10_000
_PART_CONCURRENCY = 2
_CLIENT_OPTION = re.compile(
    "allow_(http|invalid_certificates)|(connect_|read_)?timeout|default_(content_type|headers)|http[12]_\\w+|pool_\\w+"
    "|proxy_(url|ca_certificate|excludes)|root_certificate|randomize_addresses|user_agent"
)
"""Options that are the HTTP client's, not the store's."""
_RETRY_CONFIG: Any = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
}  # what fails for longer is tried with its task
_REQUEST_TIMEOUT = timedelta(minutes=2)  # of one request: time for a part of ``BIG`` bytes over a slow line
_STATUS = re.compile(r"status code: (\d{3})")
_ERROR_CODE = re.compile(r"<Code>\s*(\w{1,60})\s*</Code>")


def open_store(url: str, options: Mapping[str, Any]) -> ObjectStore:
    """Make a store; nothing is sent yet. Raises ``ConfigError``."""
    client: Any = {"timeout": _REQUEST_TIMEOUT} | {
        key: value for key, value in options.items() if _CLIENT_OPTION.fullmatch(key)
    }
    config: Any = {key: value for key, value in options.items() if not _CLIENT_OPTION.fullmatch(key)}
    scheme = url.partition("://")[0]
    if scheme not in ("s3", "az", "gs"):
        raise ConfigError(f"url: {scheme!r} is not supported", hint="Like s3://bucket/prefix; also az:// and gs://.")
    try:
        return from_url(url, config=config, client_options=client, retry_config=_RETRY_CONFIG)
    except (BaseError, ValueError, TypeError) as error:
        unknown_key = re.match(
            r"Configuration key: '\w+' is not valid", str(error)
        )  # any other message may hold a secret
        raise ConfigError(
            f"options: {unknown_key[0] if unknown_key else 'cannot be used'}",
            hint="They are obstore's own, as text or true/false.",
        ) from None


async def put_object(store: ObjectStore, key: str, data: SpooledFile, attributes: dict[str, str], mode: Any) -> None:
    """Put an object in one request, which is not given up half-way: nobody would know whether it was carried out."""
    content = await data.read_all()
    with anyio.CancelScope(shield=True):
        await obstore.put_async(store, key, content, attributes=attributes, mode=mode, use_multipart=False)


async def put_multipart(
    store: ObjectStore,
    key: str,
    data: SpooledFile,
    attributes: dict[str, str],
    precondition: Callable[[], Awaitable[bool]],
) -> bool:
    """Put an object in parts; it is there when the last one is, unless ``still`` says no: then it is given up.

    What is cancelled is given up as well; no part stays.
    """
    aborted, cancelled = _Aborted(), False
    error: Exception | None = None

    async def wait_for_cancellation(*, task_status: TaskStatus[None]) -> None:
        nonlocal cancelled
        try:
            task_status.started()
            await anyio.sleep_forever()
        finally:
            cancelled = True

    async def parts() -> AsyncIterator[bytes]:
        data.data.seek(0)
        while part := await anyio.to_thread.run_sync(data.data.read, part_size):
            yield part
            if cancelled:
                raise aborted
        if not await precondition():
            raise aborted

    part_size = max(MULTIPART_BYTES, data.size // (_MAX_PARTS - 1))
    async with anyio.create_task_group() as group:
        await group.start(wait_for_cancellation)
        with anyio.CancelScope(shield=True):
            try:
                await obstore.put_async(
                    store,
                    key,
                    parts(),
                    attributes=attributes,
                    chunk_size=part_size,
                    max_concurrency=_PART_CONCURRENCY,
                    use_multipart=True,
                )
            except Exception as raised:  # noqa: BLE001 - raised below, alone
                error = raised
        if cancelled:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    if error and error is not aborted:
        raise error
    return error is None


class _Aborted(Exception):
    """Makes obstore abort what it has begun."""


def map_error(error: Exception, subject: str) -> DestinationError:
    """Make ours of a store's error. Its own message holds addresses and names, so it is not repeated."""
    text = str(error)
    status, code = _STATUS.search(text), _ERROR_CODE.search(text)
    reason = " ".join(found[1] for found in (status, code) if found)
    if isinstance(error, FileNotFoundError):
        return DestinationUnavailable(
            f"{subject}: {reason or 'not found'}", hint="Is there such a bucket (or container)?"
        )
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return DestinationUnavailable(
            f"{subject}: {reason or 'refused'}", hint="Are the keys right, and may they write there?"
        )
    if status and status[1].startswith("4") and status[1] not in ("408", "429"):
        return DestinationError(f"{subject}: {reason}")
    if not status:
        reason = "no answer"
    return DestinationUnavailable(f"{subject}: {reason}", hint="Is the store up, and are url and options right?")
