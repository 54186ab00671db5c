"""``MergedMetrics``: the metrics of all processes on one page, with the label ``process``."""

from collections.abc import Iterable, Iterator, Sequence

import anyio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from aluma_async.clock import thread_time
from aluma_async.supervisor.process import ExporterProcess

_MAX_WAIT_SECONDS = 1.0
_CHECK_SECONDS = 0.01


class MergedMetrics:
    """Asks each process for its page. A process that does not answer is left out of the next one."""

    def __init__(self, processes: Sequence[ExporterProcess], restarts: Sequence[int]) -> None:
        self._processes = processes
        self._restarts = restarts
        self._registry = CollectorRegistry()
        self._registry.register(self)

    async def refresh(self) -> None:
        """Ask all processes, and wait a moment for their answers. Until then, their earlier pages are shown."""
        asked = [(process, process.pages) for process in self._processes if process.report]
        for process, _ in asked:
            process.send("metrics")
        deadline = thread_time() + _MAX_WAIT_SECONDS
        while thread_time() < deadline:
            if all(process.pages > pages or not process.is_running for process, pages in asked):
                break
            await anyio.sleep(_CHECK_SECONDS)
        for process, pages in asked:
            if process.pages == pages:
                process.page = None

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type, in the best accepted format."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of all processes (prometheus-client's protocol)."""
        running = GaugeMetricFamily("aluma_export_process_up", "1 while the process runs", labels=["process"])
        restarts = CounterMetricFamily(
            "aluma_export_process_restarts", "Restarts of the process after a failure", labels=["process"]
        )
        for process, count in zip(self._processes, self._restarts, strict=True):
            running.add_metric([str(process.number)], process.report is not None)
            restarts.add_metric([str(process.number)], count)
        yield from (running, restarts, *self._merged())

    def _merged(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        for process in self._processes:
            for family in text_string_to_metric_families(process.page.text if process.page else ""):
                known = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                label = {"process": str(process.number)}
                known.samples += [one._replace(labels={**one.labels, **label}) for one in family.samples]
        yield from merged.values()
