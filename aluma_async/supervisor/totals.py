"""``Totals``: the state of all processes as one: sums for progress and the service manager, the worst for health."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import structs

from aluma_async import events
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import ExportTask, Summary
from aluma_async.service.health import Check
from aluma_async.service.stats import MAX_UNEXPORTED_TASKS, ActiveTask, RunStats
from aluma_async.supervisor.messages import COUNTERS, GAUGES
from aluma_async.supervisor.process import ExporterProcess


class Totals:
    """Writes the sums of all reports into ``stats``, from which the displays of one process read."""

    def __init__(self, processes: Sequence[ExporterProcess], stats: RunStats) -> None:
        self._processes = processes
        self._stats = stats
        self._past: Counter[str] = Counter()
        self._past_outcomes: Counter[str] = Counter()
        self._ended: list[Summary] = []
        self._untried = 0

    def add_ended(self, process: ExporterProcess) -> None:
        """Keep the numbers of a process that has ended."""
        if report := process.last_report:
            self._past.update(report.counters)
            self._past_outcomes.update(report.outcomes)
        if end := process.end:
            self._ended.append(end.summary)
            self._untried += end.pending
            for task_id, task in end.unexported.items():
                if len(self._stats.unexported) < MAX_UNEXPORTED_TASKS:
                    self._stats.unexported[task_id] = task
        elif report:  # killed: what it had reported
            exported = report.outcomes.get(events.TaskCompleted.__name__, 0)
            files, size = report.counters["files"], report.counters["bytes"]
            self._ended.append(Summary(exported=exported, files=files, bytes=size))
        self.update()

    def update(self) -> None:
        """Compute the sums again."""
        stats, numbered = self._stats, [(one.number, one.report) for one in self._processes if one.report]
        reports = [report for _, report in numbered]
        counters, outcomes, gauges = Counter(self._past), Counter(self._past_outcomes), Counter[str]()
        for report in reports:
            counters.update(report.counters)
            outcomes.update(report.outcomes)
            gauges.update(report.gauges)
        for names, sums in ((COUNTERS, counters), (GAUGES, gauges)):
            for name in names:
                setattr(stats, name, sums[name])
        stats.outcomes = Counter({getattr(events, name): number for name, number in outcomes.items()})
        placeholder = ActiveTask(ExportTask(""), 0, 0.0, 0.0)
        stats.active = dict.fromkeys(map(str, range(sum(report.active for report in reports))), placeholder)
        pause = max((report.paused_seconds for report in reports), default=0.0)
        stats.requests_paused_until = stats.clock() + pause if pause else float("-inf")
        stats.paused = _first_error((number, report.paused) for number, report in numbered)
        stats.listing_error = _first_error((number, report.error) for number, report in numbered)

    def summary(self, seconds: float) -> Summary:
        """Return the summary of all processes, after their end."""
        self._stats.pending = self._untried
        total: Counter[str] = Counter()
        for summary in self._ended:
            total.update({name: number for name, number in structs.asdict(summary).items() if name != "seconds"})
        return Summary(**total, seconds=seconds)

    # -- health: what ``/healthz`` and ``/readyz`` show

    def stuck_reason(self) -> str:
        """Return which processes are stuck, and why; empty if all make progress."""
        reports = ((one.number, one.report) for one in self._processes)
        return "; ".join(f"process {number}: {report.stuck}" for number, report in reports if report and report.stuck)

    def readiness(self) -> Mapping[str, Check]:
        """Return whether each part can work in all processes, with the numbers of those in which it cannot."""
        reasons: defaultdict[str, list[str]] = defaultdict(list)
        names: dict[str, None] = {}
        for process in self._processes:
            for name, check in (process.report.checks if process.report else {}).items():
                names[name] = None
                if not check.ok:
                    reasons[name].append(f"process {process.number}: {check.reason}")
        waiting = [str(process.number) for process in self._processes if not process.report and not process.end]
        if waiting:
            reasons["processes"].append(f"not running, or starting: {', '.join(waiting)}")
        return {name: Check(name not in reasons, "; ".join(reasons[name])) for name in ("processes", *names)}


def _first_error(reasons: Iterable[tuple[int, str]]) -> AlumaAsyncError | None:
    return next((AlumaAsyncError(f"process {number}: {reason}") for number, reason in reasons if reason), None)
