"""Opens the journal of a process in a state folder."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

from aluma_async.journal.folders import journal_folder, journal_folders
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.policy.partition import Partition
from aluma_async.ports import OnEvent


def open_journal(
    state: Path,
    stack: AsyncExitStack,
    on_event: OnEvent | None,
    partition: Partition | None = None,
    *,
    collects: bool = True,
) -> SqliteJournal:
    """Return a journal, which ``stack`` closes: that of the process with ``partition``, or of the only process.

    ``collects``: the only process takes over the claims and holds of a run with several processes.
    """
    executor = stack.enter_context(ThreadPoolExecutor(1, "aluma-async-journal"))
    journal: SqliteJournal
    if collects and partition is None and len(journal_folders(state)) > 1:
        from aluma_async.journal.redistribution import CollectingJournal  # only after a run with several processes

        journal = CollectingJournal(state, executor=executor, on_event=on_event)
    else:
        folder = journal_folder(state, partition.number) if partition else state
        journal = SqliteJournal(folder, executor=executor, on_event=on_event)
    stack.callback(journal.close)
    return journal
