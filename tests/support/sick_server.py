"""A simulated Aluma that treats the requests about the first tasks of its listing in another way."""

import random

import anyio
from aiohttp import web

from aluma_async import AlumaClient, Backoff, Credentials, Exporter
from aluma_async.aluma.download import DownloadLimits
from aluma_async.pipeline.throttle import Throttle
from aluma_async.testing import MemoryDestination, simulated_app
from tests.support.stack import BASE_URL, app_session, simulated


def kind_of(path):
    """Return the kind of a request: ``list``, ``token``, the verb of a change, otherwise ``file``."""
    kind = path.rpartition("/")[2].removesuffix("_client_action")
    return {"tasks": "list", "token": "token"}.get(kind, kind if "client_action" in path else "file")


class SickServer:
    """``answer`` gets a request, its kind (a verb, "file", "list", "token") and whether it is about a sick task.

    It returns a response, or None for the usual one. Kinds of requests are those of ``FaultPlan``.
    """

    def __init__(self, answer, *, sick=30, healthy=40, profile="small"):
        self.answer = answer
        self.aluma = simulated(sick + healthy, profile)
        self.sick = self.aluma.ids()[:sick]
        self._specifications = b"".join(self.aluma.specification(task_id) for task_id in self.sick).decode()
        self.app = simulated_app(self.aluma, prefix="/v1")
        self.app.middlewares.append(self._middleware())

    def _middleware(self):
        @web.middleware
        async def intercept(request, handler):
            path = request.path.removeprefix("/v1")
            kind = kind_of(path)
            is_sick = path in self._specifications if kind == "file" else any(sick in path for sick in self.sick)
            return await self.answer(request, kind, is_sick) or await handler(request)

        return intercept

    async def export(self, seconds, *, max_at_once=32, **limits):
        """Run an exporter for some time; return the number of tasks completed by then, and its events."""
        emitted = []
        uniform = random.Random(0).uniform
        throttle = Throttle(max_at_once, adaptive=True, uniform=uniform, on_event=emitted.append)
        async with app_session(self.app) as session:
            credentials = Credentials(self.aluma.client_id, self.aluma.client_secret)
            downloads = DownloadLimits(**limits)
            client = AlumaClient(session, BASE_URL, credentials, downloads=downloads, request_limiter=throttle)
            exporter = Exporter(
                client, MemoryDestination(), polling=Backoff(2, 60), uniform=uniform, on_event=emitted.append
            )
            async with anyio.create_task_group() as group:
                group.start_soon(exporter.run)
                await anyio.sleep(seconds)
                completed = len(self.aluma.ids("completed"))
                exporter.stop()
        return completed, emitted
