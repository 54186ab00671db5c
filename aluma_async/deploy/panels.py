"""The panels of the Grafana dashboard: single figures in the first row, then graphs."""

from msgspec import Struct

from aluma_async.deploy.thresholds import Thresholds


class Panel(Struct, frozen=True):
    """A panel. Its thresholds are values from which on it is orange or red."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """Expression and legend of each line. The renderer adds the selection of jobs and instances to each metric."""
    warn_above: float | None = None
    alarm_above: float | None = None
    words: tuple[tuple[str, str, str], ...] = ()
    """Value, text and colour, in place of a number."""
    shows_name: bool = False
    """Whether the figure is the legend instead of the value."""
    may_be_negative: bool = False


def figures(thresholds: Thresholds) -> tuple[Panel, ...]:
    """Return the single figures of the first row."""
    return (
        Panel(
            "Oldest pending task",
            "Age of the oldest pending task. Aluma deletes overdue tasks, so watch this first.",
            "s",
            (("max(aluma_export_oldest_pending_task_age_seconds)", ""),),
            thresholds.aging_seconds,
            thresholds.overdue_seconds,
        ),
        Panel(
            "Ready",
            "Whether all exporters can work; /readyz of each has the reason if not.",
            "short",
            (("min(aluma_export_ready)", ""),),
            words=(("0", "not ready", "red"), ("1", "ready", "green")),
        ),
        Panel(
            "Credentials",
            "Whether Aluma refuses the client id and secret of an exporter.",
            "short",
            (("max(aluma_export_credentials_refused)", ""),),
            words=(("0", "accepted", "green"), ("1", "refused", "red")),
        ),
        Panel(
            "Pending tasks",
            "Pending tasks of the last complete listing.",
            "short",
            (("sum(aluma_export_listed_tasks)", ""),),
        ),
        Panel(
            "Exported in the last hour",
            "Tasks that were exported and completed in the last hour.",
            "short",
            (('sum(increase(aluma_export_tasks_total{outcome="exported"}[1h]))', ""),),
        ),
        Panel(
            "Parked tasks",
            "Tasks that need a decision: 'aluma-async status' shows each reason.",
            "short",
            (("sum(aluma_export_parked_tasks)", ""),),
            alarm_above=1,
        ),
        Panel(
            "Failed in the last day",
            "Tasks that were failed at Aluma in the last 24 hours; their content is in the quarantine.",
            "short",
            (('sum(increase(aluma_export_tasks_total{outcome="failed"}[1d]))', ""),),
            alarm_above=1,
        ),
        Panel(
            "Version",
            "Versions of aluma-async that run.",
            "short",
            (("count by (version) (aluma_export_build_info)", "{{version}}"),),
            shows_name=True,
        ),
    )


def graphs(thresholds: Thresholds) -> tuple[Panel, ...]:
    """Return the graphs below the first row."""
    return (
        Panel(
            "Oldest pending task",
            "Age of the oldest pending task of each exporter at its last listing.",
            "s",
            (("max by (instance) (aluma_export_oldest_pending_task_age_seconds)", "{{instance}}"),),
            thresholds.aging_seconds,
            thresholds.overdue_seconds,
        ),
        Panel(
            "Tasks per second, by outcome",
            "Ended attempts. 'exported' is success; 'cancelled' and 'parked' are tried again.",
            "ops",
            (("sum by (outcome) (rate(aluma_export_tasks_total[5m]))", "{{outcome}}"),),
        ),
        Panel(
            "Tasks",
            "Pending tasks by what happens to them, and copies in the quarantine.",
            "short",
            (
                ("sum(aluma_export_listed_tasks)", "pending at the last listing"),
                ("sum(aluma_export_queue_depth)", "queued"),
                ("sum(aluma_export_in_flight)", "in progress"),
                ("sum(aluma_export_cooldown_tasks)", "cooling down"),
                ("sum(aluma_export_parked_tasks)", "parked"),
                ("sum(max by (instance) (aluma_export_quarantined_tasks))", "in the quarantine"),
                ("sum(max by (instance) (aluma_export_left_out_tasks))", "of other projects"),
            ),
        ),
        Panel(
            "Bytes per second",
            "Bytes of exported tasks.",
            "Bps",
            (("sum by (instance) (rate(aluma_export_bytes_total[5m]))", "{{instance}}"),),
        ),
        Panel(
            "Duration of a task",
            "Time from Start to Complete of exported tasks, as quantiles. It must stay far below the lease.",
            "s",
            tuple(
                (
                    f"histogram_quantile({share}, sum by (le) (rate(aluma_export_task_duration_seconds_bucket[5m])))",
                    f"{share:.0%}",
                )
                for share in (0.5, 0.9, 0.99)
            ),
        ),
        Panel(
            "Retried requests per second",
            "Repeated requests by error. RateLimited: lower max_at_once; the others: network, proxy or Aluma.",
            "ops",
            (("sum by (reason) (rate(aluma_export_http_retries_total[5m]))", "{{reason}}"),),
            1,
        ),
        Panel(
            "Concurrency limit",
            "Requests that may be in flight. It falls while Aluma is slow or refuses requests.",
            "short",
            (("sum by (instance) (aluma_export_concurrency_limit)", "{{instance}}"),),
        ),
        Panel(
            "Time since the last listing",
            "While many tasks are exported, no listing is due.",
            "s",
            (("time() - min by (instance) (aluma_export_last_poll_success_timestamp_seconds)", "{{instance}}"),),
            thresholds.silence_seconds,
        ),
        Panel(
            "Paused, not ready or refused",
            "1 while claiming is paused, while /readyz fails, or while Aluma refuses the credentials.",
            "short",
            (
                ("max by (instance) (aluma_export_paused)", "{{instance}} paused"),
                ("1 - min by (instance) (aluma_export_ready)", "{{instance}} not ready"),
                ("max by (instance) (aluma_export_credentials_refused)", "{{instance}} refused"),
            ),
            alarm_above=0.5,
        ),
        Panel(
            "Time until Aluma deletes the oldest parked task",
            "Only if a task is parked and task_deadline_seconds is set. Negative: overdue.",
            "s",
            (("min by (instance) (aluma_export_parked_task_seconds_left)", "{{instance}}"),),
            may_be_negative=True,
        ),
        Panel(
            "Quarantine",
            "Size of the quarantine and its limit. When it is full, parked tasks get no copy.",
            "bytes",
            (
                ("max by (instance) (aluma_export_quarantine_bytes)", "{{instance}}"),
                ("max by (instance) (aluma_export_quarantine_max_bytes) > 0", "limit of {{instance}}"),
            ),
        ),
        Panel(
            "Failed copies in the last hour",
            "Copies of parked or failed tasks that could not be stored or removed.",
            "short",
            (("sum by (instance) (increase(aluma_export_failed_copies_total[1h]))", "{{instance}}"),),
            alarm_above=0.5,
        ),
        Panel(
            "Files per second",
            "Files of exported tasks.",
            "ops",
            (("sum by (instance) (rate(aluma_export_files_total[5m]))", "{{instance}}"),),
        ),
        Panel(
            "Processes",
            "Processes that run, and their restarts in the last hour. Only with several processes.",
            "short",
            (
                ("sum by (instance) (aluma_export_process_up)", "{{instance}}"),
                ("sum by (instance) (increase(aluma_export_process_restarts_total[1h]))", "restarts of {{instance}}"),
            ),
        ),
        Panel(
            "Memory",
            "Resident memory of the processes of an exporter.",
            "bytes",
            (("sum by (instance) (process_resident_memory_bytes)", "{{instance}}"),),
        ),
        Panel(
            "Processor time",
            "Cores in use; at 1 for one process, more processes are faster.",
            "short",
            (("sum by (instance) (rate(process_cpu_seconds_total[5m]))", "{{instance}}"),),
        ),
    )
