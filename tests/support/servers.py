"""Simulated WebDAV servers and object stores, for tests of what both kinds of destinations promise."""

from contextlib import asynccontextmanager

from aluma_async.destinations.object_store.destination import ObjectStoreDestination
from tests.support.buckets import simulated_s3
from tests.support.webdav import open_webdav, simulated_webdav


@asynccontextmanager
async def open_server(kind, **options):
    """Yield a server that behaves well, and a destination on it."""
    if kind == "webdav":
        async with simulated_webdav() as server, open_webdav(server.url, **options) as destination:
            yield server, destination
    else:
        async with simulated_s3() as server:
            yield server, ObjectStoreDestination("s3://bucket", options=server.options, **options)


@asynccontextmanager
async def open_other(kind, server, **options):
    """Yield the destination of another exporter on a server."""
    if kind == "webdav":
        async with open_webdav(server.url, **options) as destination:
            yield destination
    else:
        yield ObjectStoreDestination("s3://bucket", options=server.options, **options)
