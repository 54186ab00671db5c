"""A WebDAV destination, and the files that its server stores in a folder."""

from contextlib import asynccontextmanager

from aluma_async.destinations.webdav.client import open_session
from aluma_async.destinations.webdav.destination import WebDavDestination


@asynccontextmanager
async def open_webdav(url, **options):
    """Open a destination with a session of its own."""
    async with open_session({}) as session:
        yield WebDavDestination(session, url, **options)


def read_exported(folder):
    """Return the content of all exported files by path."""
    root = folder / "export"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != ".aluma-async"
    }
