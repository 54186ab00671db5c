"""A run until drained, with a listing that does not show all pending tasks."""

import anyio
import pytest
from aiohttp import web

from aluma_async import Config, Credentials
from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.run import run

TOKEN = {"access_token": "t", "expires_in": 300}
PAGE = '{"tasks": [], "has_more": true}'


async def exit_code(folder, listing, link=""):
    """Return the exit code of a run whose listings have this body."""

    async def answer(request):
        if request.method == "POST":
            return web.json_response(TOKEN)
        return web.Response(text=listing, content_type="application/json", headers={"Link": link} if link else {})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        text = (
            f"[aluma]\nbase_url = 'http://127.0.0.1:{port}'\n[exporter]\nstate = '{folder}/state'\n"
            f"[destinations.default]\ntype = 'folder'\npath = '{folder}/out'\n"
        )
        with anyio.fail_after(60):
            return await run(Config.from_toml(text, "c.toml"), Credentials("id", "secret"), once=True, progress=False)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("listing", "link", "code", "reason"),
    [
        ('{"tasks": [{"id": "a/b"}, {"task_id": "c"}]}', "", INCOMPLETE, "none of its 2 rows"),
        ('{"tasks": [{"id": "a", "state": "pending"}]}', "", INCOMPLETE, "none of its 1 rows"),
        (PAGE, "", INCOMPLETE, "'has_more' names a next page"),
        ('{"tasks": []}', '</tasks?page=2>; rel="next"', INCOMPLETE, "a link to a next page"),
        ('{"tasks": []}', '</tasks?page=1>; rel="first"', OK, ""),
    ],
)
def test_once_exits_with_1_when_the_listing_is_incomplete(listing, link, code, reason, tmp_path, capfd):
    """Exit code 0 would mean that all pending tasks are exported."""
    assert anyio.run(exit_code, tmp_path, listing, link) == code
    log = capfd.readouterr().err
    assert reason in log
    assert ("does not show all pending tasks" in log) == bool(reason)
