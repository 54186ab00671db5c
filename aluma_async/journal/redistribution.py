"""Moves the records of journals to the processes that export their tasks, when the number of processes has changed.

So the claims and holds of a process that does not exist any more are not forgotten, and no task on hold is tried by
another process. Each record is durable in its new journal before it is deleted in the old one; if the process ends in
between, the next start continues. The history stays where it is, because commands read all folders.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from aluma_async.journal.folders import journal_folder, journal_folders
from aluma_async.journal.records import Key, Record
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import BreakerRecord, ClaimRecord, HoldRecord
from aluma_async.policy.partition import process_of
from aluma_async.ports import OnEvent


async def redistribute(state: Path, processes: int, *, on_event: OnEvent | None = None) -> None:
    """Move each record to the journal of the process, of ``processes``, that exports its task.

    Raises ``JournalLocked`` if an exporter uses one of the folders, and ``JournalError``.
    """

    def target_of(key: Key) -> Path:
        return journal_folder(state, process_of(key[1], processes))

    with ExitStack() as stack:
        journals: dict[Path, SqliteJournal] = {}
        loaded: dict[Path, dict[Key, Record]] = {}

        async def load(folder: Path) -> None:
            journal = journals[folder] = SqliteJournal(folder, on_event=on_event)
            stack.callback(journal.close)
            records = await journal.load()
            released = set(await journal.pop_released())
            loaded[folder] = {(type(record), record.task_id): record for record in records}
            await _delete(journal, loaded[folder], [key for key in loaded[folder] if _is_released(key, released)])

        for folder in journal_folders(state):
            await load(folder)
        moves: dict[Path, dict[Key, Record]] = {}
        for folder, records in loaded.items():
            for key, record in records.items():
                if (target := target_of(key)) != folder:
                    new = moves.setdefault(target, {})
                    others = (new.get(key), loaded.get(target, {}).get(key))
                    new[key] = _newest([record, *(other for other in others if other)])
        for target in [target for target in moves if target not in journals]:
            await load(target)
        for target, new in moves.items():
            await journals[target].write(*new.values())
        for folder, records in loaded.items():
            await _delete(journals[folder], records, [key for key in records if target_of(key) != folder])


async def _delete(journal: SqliteJournal, records: dict[Key, Record], keys: Sequence[Key]) -> None:
    for key in keys:
        journal.delete(*key)
        del records[key]
    if keys:
        await journal.flush()


def _is_released(key: Key, released: Collection[str]) -> bool:
    return key[0] is HoldRecord and key[1] in released


def _newest(records: Sequence[Record]) -> Record:
    """Return one of the records with the same key, of which there are several after an interrupted move."""
    return max(records, key=_written_at)


def _written_at(record: Record) -> float:
    match record:
        case ClaimRecord(sent_at=at) | HoldRecord(since=at):
            return at.wall
        case BreakerRecord():
            return 0.0


class CollectingJournal(SqliteJournal):
    """The journal of an exporter with one process, which takes over the records of an earlier run with several."""

    async def load(self) -> Sequence[Record]:
        """Move all records into this journal; then lock the folder and read them. Raises ``JournalLocked``."""
        await redistribute(self._folder, 1, on_event=self._on_event)
        return await super().load()
