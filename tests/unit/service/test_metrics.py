"""``Metrics``: the names and values that Prometheus reads."""

import platform
import re

import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from aluma_async import __version__, events
from aluma_async.exceptions import AuthenticationFailed, Unreachable
from aluma_async.models import ExportTask
from aluma_async.service.metrics import Metrics
from tests.support.clock import ManualClock
from tests.support.events import event_types, sample_event
from tests.support.stats import scrape, stats_after

TASK = ExportTask("task-1", name="canary-name.pdf", created_at=0.0)
LISTED = events.TasksListed(10, 8, 2, 0.0, 1)
PROMISED_NAMES = {
    "tasks_total",
    "task_duration_seconds",
    "files_total",
    "bytes_total",
    "in_flight",
    "queue_depth",
    "cooldown_tasks",
    "parked_tasks",
    "oldest_pending_task_age_seconds",
    "http_retries_total",
    "last_poll_success_timestamp_seconds",
    "concurrency_limit",
}
LABELS = {"outcome", "reason", "le", "version", "python"}


def metrics_after(*happened):
    return Metrics(stats_after(*happened), limit=16, now=lambda: 0.0)


def test_metrics_page_contains_all_promised_names_and_is_well_formed():
    """Prometheus' parser reads the page; counters end in _total, no series comes twice, no id or name is a label."""
    page = metrics_after(*(sample_event(kind) for kind in event_types())).page()[0].decode()
    families = [family for family in text_string_to_metric_families(page) if family.name.startswith("aluma_export_")]
    names = {family.name + "_total" * (family.type == "counter") for family in families}
    assert {f"aluma_export_{name}" for name in PROMISED_NAMES} <= names
    assert len(names) == len(families)
    for family in families:
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        assert re.fullmatch(r"[a-z_]+", family.name)
        series = [(sample.name, *sample.labels.items()) for sample in family.samples]
        assert len(series) == len(set(series))
        assert {label for sample in family.samples for label in sample.labels} <= LABELS
    assert "task-1" not in page
    assert "canary" not in page


def test_metrics_page_is_openmetrics_when_accepted():
    body, content_type = metrics_after().page("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_metrics_are_computed_at_the_time_of_the_scrape():
    clock = ManualClock()
    stats = stats_after(LISTED, events.TaskStarted(TASK, 1), now=clock)
    metrics = Metrics(stats, limit=16, now=clock)
    clock.now = 100.0
    assert scrape(metrics)["oldest_pending_task_age_seconds",] == 100
    for name, value in {"in_flight": 1, "queue_depth": 7, "cooldown_tasks": 1, "parked_tasks": 1}.items():
        assert scrape(metrics)[name,] == value
    stats(events.TaskCompleted(TASK, 2, 1000, 0.3))
    stats(events.ConcurrencyLimitChanged(9))
    values = scrape(metrics)
    assert (values["in_flight",], values["concurrency_limit",]) == (0, 9)
    assert (values["task_duration_seconds_bucket", "0.25"], values["task_duration_seconds_bucket", "0.5"]) == (0, 1)
    stats(events.TasksListed(0, 0, 0, None))
    assert scrape(metrics)["oldest_pending_task_age_seconds",] == 0
    assert scrape(metrics)["queue_depth",] == 0


def test_metrics_report_how_long_the_oldest_parked_task_has_left():
    """There is no sample without a parked task, or if the deadline is not known: an alert must not read it as 0."""
    clock = ManualClock()
    clock.now = 100.0
    stats = stats_after(events.TasksListed(3, 0, 2, 0.0, 2, oldest_parked_created_at=50.0))
    known = Metrics(stats, limit=16, task_deadline_seconds=3600, now=clock)
    assert scrape(known)["parked_task_seconds_left",] == 3550
    assert ("parked_task_seconds_left",) not in scrape(Metrics(stats, limit=16, now=clock))
    stats(events.TasksListed(3, 3, 0, 0.0, 0))
    assert ("parked_task_seconds_left",) not in scrape(known)


def test_metrics_report_the_size_of_the_quarantine_and_failed_copies():
    values = scrape(metrics_after(events.QuarantineUsed(2, 10, 100), sample_event(events.CopyFailed)))
    assert values["quarantined_tasks",] == 2
    assert (values["quarantine_bytes",], values["quarantine_max_bytes",], values["failed_copies_total",]) == (
        10,
        100,
        1,
    )


def test_metrics_report_paused_until_claiming_resumes():
    stats = stats_after(LISTED, sample_event(events.ClaimingPaused))
    metrics = Metrics(stats, limit=16)
    assert (scrape(metrics)["paused",], scrape(metrics)["queue_depth",]) == (1, 0)
    stats(events.ClaimingResumed())
    assert scrape(metrics)["paused",] == 0


def test_metrics_count_an_export_without_a_duration_after_a_crash():
    """For a claim that a crashed run left, the time of Start is unknown."""
    values = scrape(metrics_after(events.TaskCompleted(TASK, 2, 1000, 0.0)))
    assert values["tasks_total", "exported"] == 1
    assert values["task_duration_seconds_count",] == 0


def test_metrics_name_the_versions_that_run():
    values = scrape(metrics_after())
    assert values["build_info", platform.python_version(), __version__] == 1


def test_metrics_report_pending_tasks_of_the_last_listing():
    assert scrape(metrics_after(LISTED))["listed_tasks",] == 10


@pytest.mark.parametrize("kind", [events.ListingFailed, events.ClaimingPaused])
def test_metrics_report_refused_credentials_until_a_listing_succeeds(kind):
    """The refusal of a listing and that of a Start count; other errors do not."""
    refused = structs.replace(sample_event(kind), error=AuthenticationFailed("invalid_client"))
    stats = stats_after(LISTED, refused)
    metrics = Metrics(stats, limit=16)
    assert scrape(metrics)["credentials_refused",] == 1
    stats(LISTED if kind is events.ListingFailed else events.ClaimingResumed())
    assert scrape(metrics)["credentials_refused",] == 0
    stats(structs.replace(refused, error=Unreachable("no route")))
    assert scrape(metrics)["credentials_refused",] == 0
