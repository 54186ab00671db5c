"""The probe of an object store: it puts small objects as a delivery does, and reads back what it wrote."""

import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import obstore
from msgspec import Struct
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import ObjectStore

from aluma_async.destinations.object_store.client import CONSISTENT_SECONDS, ERRORS, STORED_HINT, map_error, version_of
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.policy.naming import INTERNAL_FOLDER

if TYPE_CHECKING:
    from obstore import GetResult

_MARKER_KEY = f"{INTERNAL_FOLDER}/mark"
_SIZE_HINT = "Let proxies in front of the store keep the header Content-Length of responses."
_UPDATES = 3
"""Attempts to update the marker, because another exporter may update it at the same time."""
_MARKER = b"aluma-async was here"
_CONDITION_REFUSED = re.compile(r"status code: (4(?!08|09|29)\d\d|501)")
"""Responses of servers that do not know conditional writes. The put without a condition shows whether that is all."""


class Capabilities(Struct, frozen=True):
    """What a store can do beyond plain puts."""

    conditional: bool
    """Whether it honours the condition that an object does not exist."""
    conditional_updates: bool
    """Whether it accepts the condition that an object has a certain version."""


async def probe_store(store: ObjectStore, url: str, size: int = 0) -> Capabilities:
    """Put the marker object under conditions that fail and that hold, and read back another new object.

    The new object has at least ``size`` bytes, so that the probe shows whether the store is full.

    Raises ``DestinationUnavailable`` if a request is refused, or confirmed without its effect.
    """
    try:
        conditional = await _refuses_to_replace(store)
        await _read_back(store, url, size)
        return Capabilities(conditional, conditional and await _accepts_update(store))
    except ERRORS as error:
        raise map_error(error, url) from error


async def _refuses_to_replace(store: ObjectStore) -> bool:
    try:
        for _ in range(2):  # the second put must be refused
            await obstore.put_async(store, _MARKER_KEY, _MARKER, mode="create")
    except AlreadyExistsError:
        return True
    except NotImplementedError:  # switched off by an option
        return False
    except ERRORS as error:
        if not _CONDITION_REFUSED.search(str(error)):
            raise
    return False


async def _accepts_update(store: ObjectStore) -> bool:
    for _ in range(_UPDATES):
        response = await _get(store, _MARKER_KEY, head=True)
        if not (version := version_of(response.meta)):
            return False
        try:
            await obstore.put_async(store, _MARKER_KEY, _MARKER, mode=version)
        except PreconditionError:  # another exporter's probe has replaced the object, or the store refuses each version
            continue
        except ERRORS as error:
            if not _CONDITION_REFUSED.search(str(error)):
                raise
            return False
        return True
    return False


async def _read_back(store: ObjectStore, url: str, min_bytes: int) -> None:
    """Put, read and delete an object."""
    content = f"aluma-async was here: {secrets.token_hex(8)}".encode().ljust(min_bytes)
    key = f"{INTERNAL_FOLDER}/probe-{secrets.token_hex(8)}"
    try:
        await obstore.put_async(store, key, content, mode="overwrite", use_multipart=False)
        try:
            size = (await _get(store, key, head=True)).meta["size"]
            stored = bytes(await (await _get(store, key, head=False)).bytes_async())
        except FileNotFoundError:
            raise _not_stored(url, "does not exist") from None
        if size != len(content) or stored != content:
            raise _not_stored(url, "has another content")
    except ERRORS as error:
        if "Content-Length" not in str(error):
            raise
        raise DestinationUnavailable(
            f"{url}: the server does not report the size of an object", hint=_SIZE_HINT
        ) from error
    finally:
        with anyio.CancelScope(shield=True), suppress(*ERRORS):
            await obstore.delete_async(store, key)


async def _get(store: ObjectStore, key: str, *, head: bool) -> "GetResult":
    """Return an object that exists, also if the store shows it only after a moment. Raises ``FileNotFoundError``."""
    for delay in CONSISTENT_SECONDS:
        with suppress(FileNotFoundError):
            return await obstore.get_async(store, key, options={"head": head})
        await anyio.sleep(delay)
    return await obstore.get_async(store, key, options={"head": head})


def _not_stored(url: str, problem: str) -> DestinationUnavailable:
    return DestinationUnavailable(f"{url}: a put was confirmed, but the object {problem}", hint=STORED_HINT)
