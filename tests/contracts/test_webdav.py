"""``WebDavDestination`` keeps the contract of a destination, with rclone and with a simulated server."""

import pytest

from aluma_async.destinations.webdav.client import open_session
from aluma_async.destinations.webdav.destination import WebDavDestination
from aluma_async.testing import check_destination, check_memory
from tests.support.clock import real_time
from tests.support.webdav import read_exported, simulated_webdav

pytestmark = pytest.mark.slow


@real_time
async def test_webdav_keeps_the_contract(webdav_url, webdav_folder):
    async with open_session({}) as session:
        await check_destination(
            lambda: WebDavDestination(session, webdav_url), lambda: read_exported(webdav_folder).values()
        )
        await check_memory(WebDavDestination(session, webdav_url))
    staging = webdav_folder / "export" / ".aluma-async" / "staging"
    assert not list(staging.iterdir()), "no staged file is left"


@pytest.mark.parametrize("lie", ["", "no sizes", "no sizes for HEAD", "pages with 201"])
@real_time
async def test_webdav_keeps_the_contract_with_a_limited_server(lie):
    """Servers differ in what they report; none of these limitations loses a file."""
    async with simulated_webdav(lie) as server, open_session({}) as session:
        await check_destination(lambda: WebDavDestination(session, server.url), lambda: server.exported.values())
