"""The probe of an object store: it puts small objects as a delivery does, and reads back what it wrote."""

import re
import secrets
from contextlib import suppress

import anyio
import obstore
from msgspec import Struct
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore

from aluma_async.destinations.object_store.client import ERRORS, STORED_HINT, map_error
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.policy.naming import INTERNAL_FOLDER

_MARKER_KEY = f"{INTERNAL_FOLDER}/mark"
_CONDITION_REFUSED = re.compile(r"status code: (400|501)")
"""Responses of servers that do not know conditional writes. The put without a condition shows whether that is all."""


class Capabilities(Struct, frozen=True):
    """What a store can do beyond plain puts."""

    conditional: bool
    """Whether it honours conditional writes."""
    reports_sizes: bool
    """Whether it reports the sizes of objects."""


async def probe_store(store: ObjectStore, url: str) -> Capabilities:
    """Put the marker object twice on condition that it does not exist, and read back another new object.

    Raises ``DestinationUnavailable`` if a request is refused, or confirmed without its effect.
    """
    try:
        return Capabilities(await _is_conditional(store), await _read_back(store, url))
    except ERRORS as error:
        raise map_error(error, url) from error


async def _is_conditional(store: ObjectStore) -> bool:
    try:
        for _ in range(2):  # the second put must be refused
            await obstore.put_async(store, _MARKER_KEY, b"aluma-async was here", mode="create")
    except AlreadyExistsError:
        return True
    except NotImplementedError:  # switched off by an option
        return False
    except ERRORS as error:
        if not _CONDITION_REFUSED.search(str(error)):
            raise
    return False


async def _read_back(store: ObjectStore, url: str) -> bool:
    """Put, read and delete an object; return whether the store reports sizes."""
    content = f"aluma-async was here: {secrets.token_hex(8)}".encode()
    key = f"{INTERNAL_FOLDER}/probe-{secrets.token_hex(8)}"
    try:
        await obstore.put_async(store, key, content, mode="overwrite", use_multipart=False)
        try:
            response = await obstore.get_async(store, key)
        except FileNotFoundError:
            problem = "does not exist"
        else:
            if response.meta["size"] == len(content) and bytes(await response.bytes_async()) == content:
                return True
            problem = "has another content"
    except ERRORS as error:
        if "Content-Length" not in str(error):
            raise
        return False
    finally:
        with anyio.CancelScope(shield=True), suppress(*ERRORS):
            await obstore.delete_async(store, key)
    raise DestinationUnavailable(f"{url}: a put was confirmed, but the object {problem}", hint=STORED_HINT)
