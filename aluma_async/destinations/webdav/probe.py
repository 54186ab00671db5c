"""The probe of a WebDAV server: it does what a delivery does, and reads back what it wrote."""

import secrets
from contextlib import suppress

import anyio

from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.webdav.client import Path, WebDavClient
from aluma_async.destinations.webdav.responses import PAGE_HINT
from aluma_async.exceptions import DestinationError, DestinationUnavailable


async def probe_folder(client: WebDavClient, folder: Path) -> str:
    """PUT, COPY, MOVE, read and delete small files in a folder; return the server's limitations as one text.

    If the server had no space for a file, a file of about its size is uploaded, too, so that the probe shows whether
    the server is full.

    Raises ``DestinationError`` if a request is refused, or confirmed without its effect.
    """
    token = secrets.token_hex(8)
    uploaded, copied, moved = ((*folder, f"{token}-{name}") for name in ("uploaded", "copied", "moved"))
    data = SpooledFile.from_bytes(f"aluma-async was here: {token}".encode())
    try:
        await client.put(uploaded, data)
        await _expect(client, uploaded, token, "PUT")
        await client.move(uploaded, copied, overwrite=False, method="COPY")
        await _expect(client, copied, token, "COPY")
        refuses = not await client.move(uploaded, copied, overwrite=False, method="COPY")
        await client.move(uploaded, moved, overwrite=False)
        await _expect(client, moved, token, "MOVE")
        await client.verify_gone(uploaded, f"{client.url}: the file of the probe")
        await client.verify_size(moved, data.size, f"{client.url}: the file of the probe")
        reports_sizes = await client.size(moved) is not None
        if client.refused_bytes > data.size:
            await client.put(uploaded, SpooledFile.from_bytes(bytes(client.refused_bytes)))
        client.refused_bytes = 0
    finally:
        with anyio.CancelScope(shield=True), suppress(DestinationError):
            for path in (uploaded, copied, moved):
                await client.delete(path)
    warnings = []
    if not refuses:
        warnings.append("the server ignores the header Overwrite: use each folder with one exporter only")
    if not reports_sizes:
        warnings.append("the server reports no sizes: exported files are not verified")
    return "; ".join(warnings)


async def _expect(client: WebDavClient, path: Path, token: str, method: str) -> None:
    text = await client.read(path)
    if text != f"aluma-async was here: {token}":
        state = "does not exist" if text is None else "has another content"
        raise DestinationUnavailable(f"{client.url}: {method}: confirmed, but the file {state}", hint=PAGE_HINT)
