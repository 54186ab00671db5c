"""The sections of the config file: keys, defaults and ranges."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Meta

from aluma_async.config.schema import InvalidValue, Section

MAX_WORKERS = 1000
MAX_PROCESSES = 64
Count: TypeAlias = Annotated[int, Meta(ge=1, le=100_000)]
CountOrZero: TypeAlias = Annotated[int, Meta(ge=0, le=100_000)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=31_536_000)]
Rate: TypeAlias = Annotated[float, Meta(ge=0, le=1e15)]


class AlumaConfig(Section, frozen=True, kw_only=True):
    """``[aluma]``: the API, its client and the tasks to export."""

    base_url: str = "https://api.aluma.io"
    client_id: str = ""
    client_secret_file: Path | None = None
    claim_timeout_seconds: Annotated[float, Meta(gt=0, le=31_536_000)] = 1800
    """The lease: seconds that Aluma waits for Complete before the task is pending again."""
    task_deadline_seconds: Seconds = 0
    """Seconds for which the projects keep a task from its creation; 0: not known. Only reports use it."""
    projects: tuple[str, ...] = ()
    """Ids or names of projects; empty: all."""
    download_hosts: tuple[str, ...] = ()
    """Other hosts from which files may be downloaded; they receive no token."""
    verify_content: bool = True
    """Whether to check that the first bytes of a downloaded file fit its name."""
    allow_insecure: bool = False
    ca_file: Path | None = None
    proxy: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        # The URL is not repeated, because it may contain a password.
        if reason := url_problem(self.base_url):
            raise InvalidValue("base_url", "…", reason, hint="Use for example https://api.aluma.io.")
        if self.unencrypted and not self.allow_insecure:
            reason = "http sends the secret and the documents unencrypted"
            hint = "Use https, or --allow-insecure (allow_insecure = true) on a network you trust."
            raise InvalidValue("base_url", self.base_url, reason, hint=hint)
        if self.proxy and not self.proxy.startswith(("http://", "https://")):
            raise InvalidValue(
                "proxy", "…", "not an http:// or https:// URL", hint="Use for example http://proxy:3128."
            )

    @property
    def unencrypted(self) -> bool:
        """Whether the secret is sent unencrypted to another machine."""
        return is_unencrypted(self.base_url)


class ExporterConfig(Section, frozen=True, kw_only=True):
    """``[exporter]``: concurrency and polling."""

    ASCENDING = (("poll_wait_initial_seconds", "poll_wait_max_seconds"),)

    workers: Annotated[int, Meta(ge=1, le=MAX_WORKERS)] = 16
    processes: Annotated[int, Meta(ge=1, le=MAX_PROCESSES)] = 1
    """Number of processes that share the tasks; each has ``workers`` workers."""
    queue_size: CountOrZero = 0
    """Maximum number of unclaimed tasks in the queue; 0: twice the workers."""
    drain_timeout_seconds: Seconds = 60
    poll_wait_initial_seconds: Seconds = 2
    poll_wait_max_seconds: Seconds = 60
    state: Path | None = None
    """Folder of the journal and the quarantine; None: see ``Config.state_folder``."""
    quarantine_max_bytes: Annotated[int, Meta(ge=0, le=1_000_000_000_000_000)] = 10 * 1024**3
    """Maximum size of the quarantine in bytes; 0: no limit."""


class LimitsConfig(Section, frozen=True, kw_only=True):
    """``[limits]``: limits for all workers together."""

    max_at_once: CountOrZero = 0
    """Maximum number of requests in flight; 0: twice the workers."""
    adaptive: bool = True
    """Whether to reduce that number when Aluma is overloaded."""
    max_per_second: Rate = 0
    """Maximum number of requests sent per second; 0: no limit."""
    max_bytes_per_second: Rate = 0
    """Maximum number of bytes downloaded per second; 0: no limit."""
    min_bytes_per_second: Rate = 1000
    """Minimum average rate of one download over a minute; slower downloads are restarted. 0: no minimum."""
    max_file_bytes: Rate = 0
    """Maximum size of one file in bytes; 0: no limit."""
    max_specification_bytes: Annotated[int, Meta(ge=1024**2, le=1024**4)] = 64 * 1024**2
    """Maximum size of an Export Specification, which contains the texts of its task and is kept in memory."""
    max_files: Annotated[int, Meta(ge=0, le=10_000_000)] = 100_000
    """Maximum number of files of one task; 0: no limit."""


class RetryConfig(Section, frozen=True, kw_only=True):
    """``[retry]``: retries of one request, and cool-downs of one task."""

    ASCENDING = (
        ("wait_initial_seconds", "wait_max_seconds"),
        ("cooldown_initial_seconds", "cooldown_max_seconds"),
    )

    attempts: Count = 5
    wait_initial_seconds: Seconds = 0.5
    wait_max_seconds: Seconds = 30
    cooldown_initial_seconds: Seconds = 60
    cooldown_max_seconds: Seconds = 3600
    park_after: CountOrZero = 10
    """Failures in a row after which a task is parked; 0: never."""
    park_seconds: Seconds = 21600
    """Seconds that a task stays parked; also a task with a fatal error that could not be quarantined."""


class RouteConfig(Section, frozen=True, kw_only=True):
    """``[[routes]]``: the destinations of the files that match; an empty condition matches every file."""

    to: Annotated[tuple[str, ...], Meta(min_length=1)]
    project: str = ""
    """Id or name of the project."""
    folder: str = ""
    filename: str = ""
    """Globs of folder and filename."""
    source: Literal["", "content", "url"] = ""


class ServiceConfig(Section, frozen=True, kw_only=True):
    """``[service]``: logs, metrics and notifications."""

    SECRET = ("notify_url",)

    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    listen: str = ""
    """Address of metrics and health checks: ``HOST:PORT``, or a port on the loopback; empty: not served."""
    stuck_after_seconds: Annotated[float, Meta(ge=1, le=31_536_000)] = 600
    """Seconds without progress of a task until the exporter is considered stuck."""
    notify_command: tuple[str, ...] = ()
    """Command that is run for each notification, without a shell; empty: none."""
    notify_url: str = ""
    """URL that receives each notification; may contain a secret."""
    notify_task_age_seconds: Seconds = 86400
    """Age of a pending task, in seconds, from which a notification is sent; 0: never."""
    history_names: bool = False
    """Whether the history has the names of tasks and projects."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.listen and not self.listen_address:
            hint = "Use for example 127.0.0.1:9464, or only the port."
            raise InvalidValue("listen", self.listen, "not HOST:PORT", hint=hint)
        if self.notify_url and not self.notify_url.startswith(("http://", "https://")):
            raise InvalidValue("notify_url", "…", "not an http:// or https:// URL", hint="Set the complete URL.")

    @property
    def listen_address(self) -> tuple[str, int] | None:
        """Host and port of ``listen``."""
        host, _, port = self.listen.rpartition(":")
        if not (port.isascii() and port.isdecimal() and int(port) < 65536) or any(c in host for c in " /@"):
            return None
        return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def is_unencrypted(url: str) -> bool:
    """Return whether requests to a URL are sent unencrypted to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def url_problem(text: str) -> str:
    """Return the problem of a server's URL; empty if there is none. The URL may contain a password."""
    if not text.isprintable() or any(character in text for character in " \\"):
        return "contains characters that are invalid in a URL"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        return f"not a URL: {error}"
    if url.scheme not in {"http", "https"} or not url.hostname or port == 0:
        return "not an http:// or https:// URL"
    if "@" in url.netloc:
        return "contains a user name or a password"
    if "?" in text or "#" in text:
        return "contains a query or a fragment"
    return ""


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
