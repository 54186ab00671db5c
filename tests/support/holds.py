"""Ends holds in a journal, as their time would."""

import anyio
from msgspec.structs import replace

from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import HoldRecord


def end_holds(state):
    """End all holds in a state folder; what they say about the last attempt stays, unlike after ``retry``."""

    async def end():
        journal = SqliteJournal(state)
        try:
            holds = [record for record in await journal.load() if isinstance(record, HoldRecord)]
            await journal.write(*(replace(hold, seconds=0.0) for hold in holds))
        finally:
            journal.close()

    anyio.run(end)
