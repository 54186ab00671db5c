"""A source that replies as planned, behind the one that tracks claims."""

import anyio

from aluma_async import MemoryJournal
from aluma_async.models import Claim, ExportSpec, ExportTask
from aluma_async.pipeline.claim_source import ClaimTrackingSource
from aluma_async.pipeline.claim_tracker import ClaimTracker
from tests.support.world import system_time

TASK = ExportTask("t")


class Replies:
    """A source that replies as planned, and records the requests."""

    def __init__(self, **replies):
        self.replies = {verb: list(planned) for verb, planned in replies.items()}
        self.sent = []

    async def _reply(self, verb):
        self.sent.append(verb)
        reply = self.replies[verb].pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def start(self, task):
        await self._reply("start")
        return Claim(task, ExportSpec(()), anyio.current_time())

    async def complete(self, task):
        await self._reply("complete")

    async def cancel(self, task):
        await self._reply("cancel")

    async def fail(self, task, message):
        await self._reply("fail")

    async def state(self, task):
        return await self._reply("state")


class Parts:
    """A source with a claim of ``TASK``, unless Start is planned to fail."""

    def __init__(self, **replies):
        self.replies = Replies(**{"start": [None], **replies})
        self.claims = ClaimTracker(MemoryJournal(), system_time, 1800.0)
        self.source = ClaimTrackingSource(self.replies, self.claims)

    def settle(self, verb):
        return self.source.fail(TASK, "m") if verb == "fail" else getattr(self.source, verb)(TASK)
