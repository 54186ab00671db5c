"""The state of a run after a sequence of events, and its metrics."""

from prometheus_client.parser import text_string_to_metric_families

from aluma_async.service.stats import RunStats
from tests.support.clock import ManualClock


def stats_after(*events, clock=None, now=lambda: 0.0):
    """Return ``RunStats`` that has recorded ``events``."""
    stats = RunStats(clock or ManualClock(), now)
    for event in events:
        stats(event)
    return stats


def scrape(metrics):
    """Parse a page as Prometheus does; return values by name and label."""
    page = metrics.page()[0].decode()
    return {
        (sample.name.removeprefix("aluma_export_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
