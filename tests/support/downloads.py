"""A claim with one file to download, and a client whose downloads a test answers."""

from contextlib import asynccontextmanager

from aiohttp import web

from aluma_async import AlumaClient, Credentials
from aluma_async.aluma.download import DownloadLimits
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from tests.support.stack import BASE_URL, app_session

BODY = b"%PDF-" + bytes(range(256)) * 400 + b"%%EOF"
FILE = ExportFile(0, 0, "", "a.pdf", "url", url="/f")
CLAIM = Claim(ExportTask("t"), ExportSpec((FILE,)), 0.0)


@asynccontextmanager
async def serve_downloads(respond, **limits):
    """Open a client whose downloads ``respond`` answers; yield the client and the list of received requests.

    ``respond`` gets the request and its number, from 1. ``limits`` are the fields of ``DownloadLimits``.
    """
    received = []

    async def token(_):
        return web.json_response({"access_token": "the-token", "expires_in": 60})

    async def file(request):
        received.append(request)
        return await respond(request, len(received))

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.get("/{any:.*}", file)])
    async with app_session(app) as session:
        yield AlumaClient(session, BASE_URL, Credentials("i", "s"), downloads=DownloadLimits(**limits)), received
