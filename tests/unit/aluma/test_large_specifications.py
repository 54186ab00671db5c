"""Large Export Specifications: which are decoded, and in a thread."""

import json
from threading import get_ident

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from aluma_async import AlumaClient, Credentials
from aluma_async.aluma import wire
from aluma_async.exceptions import BadSpecification
from aluma_async.models import ExportTask
from tests.support.clock import real_time
from tests.support.quarantine import specification
from tests.support.stack import BASE_URL, app_session


@pytest.mark.parametrize(("size", "in_thread"), [(1024 * 1024 + 1, True), (1024 * 1024, False)])
@real_time
async def test_start_that_is_cancelled_returns_the_claim_that_it_received(monkeypatch, size, in_thread):
    """The task is claimed, so that its worker must settle the claim. A specification of up to 1 MiB needs no thread."""
    export_spec, event_loop, scope, claims = wire.export_spec, get_ident(), anyio.CancelScope(), []
    body = json.loads(specification(("", "a.txt", "x")))
    body["padding"] = ""
    body["padding"] = "x" * (size - len(json.dumps(body)))

    def decode(*args, **options):
        assert (get_ident() != event_loop) is in_thread
        return export_spec(*args, **options)

    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 60})

    async def start(_):
        scope.cancel()
        return web.json_response(body)

    monkeypatch.setattr(wire, "export_spec", decode)
    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.put("/{any:.*}", start)])
    async with app_session(app) as session:
        client = AlumaClient(session, BASE_URL, Credentials("i", "s"))
        with scope:
            claims.append(await client.start(ExportTask("t")))
            await anyio.lowlevel.checkpoint()
    assert [len(claim.spec.received) for claim in claims] == [size]
    assert scope.cancelled_caught


def test_specification_with_too_many_files_is_not_decoded():
    """Texts of files do not count, although they may look like a specification."""
    file = b'{"filename": "a", "source": "content", "content": "{\\"filename\\": 1}"}'
    body = b'{"documents": [{"files": [%b]}]}' % b", ".join([file] * 5)
    assert len(wire.export_spec(body, max_files=5).files) == len(wire.export_spec(body).files) == 5
    with pytest.raises(BadSpecification, match="contains 5 files, more than 4") as caught:
        wire.export_spec(body, max_files=4)
    with pytest.raises(BadSpecification, match="5 files, more than 1"):
        wire.export_spec(body, max_files=1)
    assert caught.value.received == body
    assert "max_files" in caught.value.hint
