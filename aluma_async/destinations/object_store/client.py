"""Access to an object store through obstore: opening it, conditional and multipart puts, and the mapping of errors."""

import os
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

from aluma_async.destinations.common.place import ANY, RemotePlace, server_name
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.exceptions import ConfigError, DestinationError, DestinationUnavailable

MULTIPART_BYTES = 8 * 1024 * 1024
"""Size above which an object is uploaded in parts of this size. No store can make a multipart upload conditional."""
CONSISTENT_SECONDS = (0.1, 0.5)
"""Delays between attempts to read an object after its put, because some stores show it a moment later."""
ERRORS = (BaseError, OSError)
"""The exceptions that obstore raises."""
STORED_HINT = "Check that url and endpoint name the store, and that no log-in page or proxy answers in its place."

_MAX_PARTS = 10_000
_PART_CONCURRENCY = 2
_MIN_BYTES_PER_SECOND = 64 * 1024
_CLIENT_OPTION = re.compile(
    "allow_(http|invalid_certificates)|(connect_|read_)?timeout|default_(content_type|headers)|http[12]_\\w+|pool_\\w+"
    "|proxy_(url|ca_certificate|excludes)|root_certificate|randomize_addresses|user_agent"
)
"""Options of the HTTP client; all others are options of the store."""
# Short, because the task itself is retried if an outage lasts longer.
_RETRIES, _RETRY_TIMEOUT = 3, timedelta(seconds=20)
_REQUEST_TIMEOUT = timedelta(minutes=2)  # enough for a part of MULTIPART_BYTES over a slow line
_S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_AMAZON_HOST, _GOOGLE_HOST, _AZURE_HOST = ".amazonaws.com", "storage.googleapis.com", ".core.windows.net"
"""Hosts of the providers: their buckets have the same name in all regions and in no other account."""
_STATUS = re.compile(r"status code: (\d{3})")
_NO_SPACE_CODE = re.compile("Quota|StorageFull|InsufficientStorage|NoSpace")
_OWN_CODES = ("EntityTooLarge", "RequestTooLarge", "KeyTooLongError", "InvalidObjectName", "InvalidURI")
"""Errors that only one object can have. For all others, the probe decides whether they concern all tasks."""
_ERROR_CODE = re.compile(r"<Code>\s*(\w{1,60})\s*</Code>")


def open_store(url: str, options: Mapping[str, Any], *, retries: int = _RETRIES) -> ObjectStore:
    """Open a store without sending a request. ``retries``: how often a request is repeated. Raises ``ConfigError``."""
    client: Any = {"timeout": _REQUEST_TIMEOUT}
    client |= {key: value for key, value in options.items() if _CLIENT_OPTION.fullmatch(key)}
    config: Any = {key: value for key, value in options.items() if not _CLIENT_OPTION.fullmatch(key)}
    scheme = url.partition("://")[0]
    if scheme not in ("s3", "az", "gs"):
        raise ConfigError(f"url: {scheme!r} is not supported", hint="Use s3://bucket/prefix, az://… or gs://….")
    try:
        retry: Any = {"max_retries": retries, "retry_timeout": _RETRY_TIMEOUT}
        return from_url(url, config=config, client_options=client, retry_config=retry)
    except (BaseError, ValueError, TypeError) as error:
        # Only this message is repeated, because any other may contain a secret.
        unknown_key = re.match(r"Configuration key: '\w+' is not valid", str(error))
        raise ConfigError(
            f"options: {unknown_key[0] if unknown_key else 'obstore cannot use them'}",
            hint="Use the option names of obstore, with text or true/false as values.",
        ) from None


def place_of(url: str, store: ObjectStore, environ: Mapping[str, str] = os.environ) -> RemotePlace:
    """Return the place of a store: kind, endpoint or account, bucket and prefix."""
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("?")[0].partition("/")
    names = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT") if scheme == "az" else _S3_ENDPOINTS
    config: Mapping[str, Any] = getattr(store, "config", {})
    endpoint = str(config.get("endpoint") or next(filter(None, map(environ.get, names)), ""))
    server = server_name(endpoint)
    if scheme == "az":
        account = config.get("account_name") or environ.get("AZURE_STORAGE_ACCOUNT_NAME", ANY)
        if not endpoint or server.endswith(_AZURE_HOST):
            server = server.partition(".")[0] if endpoint else account
    elif scheme == "gs" or server.endswith(_GOOGLE_HOST):
        scheme, server = "gs", _GOOGLE_HOST
    elif not endpoint or server.endswith(_AMAZON_HOST):
        server = _AMAZON_HOST
    return RemotePlace(scheme, server, (bucket, *filter(None, prefix.split("/"))))


async def put_object(
    store: ObjectStore, key: str, data: SpooledFile, attributes: dict[str, str], mode: Any, seconds: float
) -> None:
    """Put an object in one request. Shielded, because the outcome of a cancelled request would be unknown.

    Raises ``TimeoutError`` if there is no response in ``seconds`` after the time that the upload needs.
    """
    content = await data.read_all()
    with anyio.fail_after(seconds + data.size / _MIN_BYTES_PER_SECOND, shield=True):
        await obstore.put_async(store, key, content, attributes=attributes, mode=mode, use_multipart=False)


async def put_multipart(
    store: ObjectStore,
    key: str,
    data: SpooledFile,
    attributes: dict[str, str],
    precondition: Callable[[], Awaitable[bool]],
) -> bool:
    """Put an object in parts and return whether it exists now.

    The object appears with the last part. Before that, ``precondition`` is called: if it returns False, or if the
    caller is cancelled, the upload is aborted and no part remains.
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
            except Exception as raised:  # noqa: BLE001 - raised below, outside the task group, so that it is not wrapped
                error = raised
        if cancelled:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    if error and error is not aborted:
        raise error
    return error is None


def version_of(meta: Mapping[str, Any]) -> Any:
    """Return the version of an object for the condition of a put; empty if the server reports none."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name]}


class _Aborted(Exception):
    """Raised by the iterator of parts, so that obstore aborts the multipart upload."""


def is_out_of_space(error: Exception) -> bool:
    """Return whether a store has no space for an object, or a quota is used up."""
    text = str(error)
    status, code = _STATUS.search(text), _ERROR_CODE.search(text)
    return bool((status and status[1] == "507") or (code and _NO_SPACE_CODE.search(code[1])))


def map_error(error: Exception, subject: str) -> DestinationError:
    """Return the ``DestinationError`` for an error of obstore, without its message, which contains URLs and keys."""
    text = str(error)
    status, code = _STATUS.search(text), _ERROR_CODE.search(text)
    reason = " ".join(match[1] for match in (status, code) if match)
    if is_out_of_space(error):
        return DestinationUnavailable(f"{subject}: {reason}", hint="Free space in the store, or raise the quota.")
    if code and code[1] == "RequestTimeTooSkewed":
        return DestinationUnavailable(f"{subject}: {reason}", hint="Set the clock of this machine.")
    if isinstance(error, FileNotFoundError):
        return DestinationUnavailable(
            f"{subject}: {reason or 'not found'}", hint="Check that the bucket (or container) exists."
        )
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return DestinationUnavailable(
            f"{subject}: {reason or 'access denied'}", hint="Check the access keys and their write permission."
        )
    if (status and status[1] in ("413", "414")) or (code and code[1] in _OWN_CODES):
        return DestinationError(f"{subject}: {reason}")
    if code and code[1] in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
        return DestinationUnavailable(f"{subject}: {reason}", hint="Renew the access keys or the token.")
    if "BadScheme" in text:
        return DestinationUnavailable(
            f"{subject}: plain http is not allowed", hint="Use https, or set allow_http = true in options."
        )
    if not status:
        reason = "no response"
    return DestinationUnavailable(
        f"{subject}: {reason}", hint="Check that the store is running and that url and options are right."
    )
