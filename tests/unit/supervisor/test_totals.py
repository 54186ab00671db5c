"""``Totals`` and ``MergedMetrics``: the states of several processes as one."""

import asyncio
from types import SimpleNamespace

import msgspec

from aluma_async import events
from aluma_async.models import ExportTask, Summary
from aluma_async.service.health import Check, HealthMonitor
from aluma_async.service.metrics import Metrics
from aluma_async.service.stats import RunStats, UnexportedTask
from aluma_async.service.summary import progress_line
from aluma_async.supervisor.messages import End, decode, encode, report_of
from aluma_async.supervisor.metrics import MergedMetrics
from aluma_async.supervisor.totals import Totals
from tests.support.stats import stats_after

LISTED = events.TasksListed(5, 5, 0, None)


def process(number, *happened, **changes):
    """Return what the parent knows about a process after some events."""
    stats = stats_after(*happened)
    report = decode(encode(report_of(stats, HealthMonitor(stats, poll_seconds=60, stuck_after_seconds=600), 0)))
    report = msgspec.structs.replace(report, **changes)
    page = SimpleNamespace(text=Metrics(stats, limit=8).page()[0].decode())
    return SimpleNamespace(
        number=number, report=report, last_report=report, end=None, page=page, pages=0, is_running=True, send=str
    )


def exported(task_id):
    task = ExportTask(task_id)
    return [events.TaskStarted(task, 2), events.TaskCompleted(task, 2, 100, 0.5, ())]


def test_totals_are_the_sums_of_all_processes():
    one = process(1, LISTED, *exported("a"), events.TaskStarted(ExportTask("b"), 1))
    other = process(2, LISTED, *exported("c"), *exported("d"))
    stats = RunStats()
    Totals([one, other], stats).update()
    assert progress_line(stats, stats.rates()).startswith("3 of 10 tasks exported, 6 files, 300 B")
    assert (len(stats.active), stats.listed_tasks) == (1, 10)


def test_totals_keep_what_an_ended_process_has_exported():
    """Its successor counts from zero."""
    killed, stats = process(1, LISTED, *exported("a"), events.TaskStarted(ExportTask("b"), 1)), RunStats()
    totals = Totals([killed], stats)
    killed.report = None
    totals.add_ended(killed)
    assert (stats.exported, len(stats.active)) == (1, 0)
    killed.report = killed.last_report = process(1, LISTED, *exported("b"), *exported("c")).report
    totals.update()
    assert stats.exported == 3
    killed.end = End(Summary(exported=2, files=4, bytes=200, held_back=1), {"x": UnexportedTask("parked", "E", "m")}, 7)
    killed.report = None
    totals.add_ended(killed)
    assert totals.summary(1.5) == Summary(exported=3, files=6, bytes=300, held_back=1, seconds=1.5)
    assert (list(stats.unexported), stats.pending) == (["x"], 7)


def test_health_is_the_worst_of_all_processes_and_names_them():
    one, other = process(1, LISTED), process(2, LISTED, stuck="2 tasks without progress")
    other.report.checks["token"] = Check(ok=False, reason="refused")
    totals = Totals([one, other], RunStats())
    assert totals.stuck_reason() == "process 2: 2 tasks without progress"
    assert totals.readiness()["token"] == Check(ok=False, reason="process 2: refused")
    assert totals.readiness()["poll"].ok
    assert totals.readiness()["processes"].ok
    one.report = None
    assert totals.readiness()["processes"] == Check(ok=False, reason="not running, or starting: 1")


def test_metrics_have_a_label_with_the_process():
    processes = [process(1, LISTED, *exported("a")), process(2, LISTED, *exported("b"), *exported("c"))]
    metrics = MergedMetrics(processes, [0, 3])
    page = metrics.page()[0].decode()
    assert 'aluma_export_tasks_total{outcome="exported",process="1"} 1.0' in page
    assert 'aluma_export_tasks_total{outcome="exported",process="2"} 2.0' in page
    assert 'aluma_export_task_duration_seconds_bucket{le="0.5",process="2"} 2.0' in page
    assert 'aluma_export_process_restarts_total{process="2"} 3.0' in page
    assert page.count("# TYPE aluma_export_tasks_total counter") == 1
    assert 'process="1"' in metrics.page("application/openmetrics-text")[0].decode()


def test_metrics_of_a_process_that_does_not_answer_are_left_out():
    hanging = process(1, LISTED)
    metrics = MergedMetrics([hanging, process(2, LISTED)], [0, 0])
    asyncio.run(metrics.refresh())
    page = metrics.page()[0].decode()
    assert 'aluma_export_process_up{process="1"} 1.0' in page
    assert 'aluma_export_files_total{process="1"}' not in page


def test_metrics_stay_complete_while_the_processes_are_asked_again():
    """Two programs may ask for metrics at the same time."""
    metrics = MergedMetrics([process(1, LISTED)], [0])

    async def ask():
        other = asyncio.create_task(metrics.refresh())
        await asyncio.sleep(0)
        page = metrics.page()[0].decode()
        other.cancel()
        return page

    assert 'aluma_export_files_total{process="1"}' in asyncio.run(ask())
