"""After a run with faults, metrics, journal, summary and Aluma report the same numbers."""

from collections import Counter

import anyio
import pytest

from aluma_async import Exporter, events
from aluma_async.journal import reader
from aluma_async.journal.history import History
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import Summary, Timestamp
from aluma_async.service.metrics import OUTCOMES, REASONS, Metrics
from aluma_async.service.stats import RunStats
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import simulated
from tests.support.stats import scrape


@pytest.mark.parametrize("seed", range(5))
@virtual_time
async def test_metrics_agree_with_journal_summary_and_aluma(seed, tmp_path):
    rates = {Fault.DROP_BEFORE: 0.05, Fault.DROP_AFTER: 0.05, Fault.ERROR_BEFORE: 0.05, Fault.THROTTLE: 0.05}
    faults, journal = FaultPlan(rates, seed=seed), SqliteJournal(tmp_path)
    history = History(journal)
    aluma = simulated(60, seed=seed, latency_seconds=0.05)
    faults.plan("list", [None])
    stats, retries = RunStats(anyio.current_time), Counter()

    def on_event(event):
        stats(event)
        history(event)
        if isinstance(event, events.RequestRetried):
            retries[type(event.error).__name__] += 1

    exporter = Exporter(
        SimulatedSource(aluma, faults),
        MemoryDestination(),
        journal=journal,
        on_event=on_event,
        clock=lambda: Timestamp("boot", anyio.current_time(), anyio.current_time()),
    )
    summaries: list[Summary] = []

    async def run():
        summaries.append(await exporter.run())

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.sleep(24 * 3600)
        exporter.stop()
    (summary,) = summaries
    values = scrape(Metrics(stats, limit=32))
    outcomes = {outcome: values["tasks_total", outcome] for outcome in OUTCOMES.values()}
    assert aluma.count_by_state() == {"completed": 60}
    assert outcomes["exported"] == summary.exported == 60
    assert outcomes["cancelled"] + outcomes["parked"] == summary.cancelled
    assert outcomes["refused"] + outcomes["lost"] == summary.lost
    assert (values["files_total",], values["bytes_total",]) == (summary.files, summary.bytes)
    expected = [data for task_id in aluma.ids() for _, _, data in aluma.expected(task_id)]
    assert values["bytes_total",] == sum(map(len, expected))
    assert sum(retries.values())
    assert [values["http_retries_total", reason] for reason in REASONS] == [retries[reason] for reason in REASONS]
    assert set(retries) <= set(REASONS)
    assert (values["in_flight",], values["queue_depth",], values["parked_tasks",]) == (0, 0, 0)
    journal.close()
    assert not reader.read_records(tmp_path), "no claim is open and no task is on hold"
    exports = list(reader.read_history(tmp_path))
    assert (len(exports), sum(export.files for export in exports)) == (60, values["files_total",])
    assert sum(export.bytes for export in exports) == values["bytes_total",]
