"""The tables of the config file: their keys, defaults and ranges."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Meta

from aluma_async.config.schema import InvalidValue, Section

Count: TypeAlias = Annotated[int, Meta(ge=1, le=100_000)]
CountOrZero: TypeAlias = Annotated[int, Meta(ge=0, le=100_000)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=31_536_000)]
Rate: TypeAlias = Annotated[float, Meta(ge=0, le=1e15)]


class AlumaConfig(Section, frozen=True, kw_only=True):
    """``[aluma]``: which API, as whom, and which of its tasks."""

    base_url: str = "https://api.aluma.io"
    client_id: str = ""
    client_secret_file: Path | None = None
    claim_timeout_seconds: Annotated[float, Meta(gt=0, le=31_536_000)] = 1800
    """How long Aluma waits for Complete before it gives the task to somebody else."""
    projects: tuple[str, ...] = ()
    """Ids or names; empty: all."""
    download_hosts: tuple[str, ...] = ()
    """Hosts besides the API's to which Aluma may redirect a download; they get no token."""
    allow_insecure: bool = False
    ca_file: Path | None = None
    proxy: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        # A URL that is refused may hold a password, so it is not repeated.
        if reason := url_problem(self.base_url):
            raise InvalidValue("base_url", "…", reason, hint="Give it like https://api.aluma.io.")
        if self.unencrypted and not self.allow_insecure:
            reason = "http sends the secret and the documents unencrypted"
            hint = "Use https, or --allow-insecure (allow_insecure = true) on a network you trust."
            raise InvalidValue("base_url", self.base_url, reason, hint=hint)
        if self.proxy and not self.proxy.startswith(("http://", "https://")):
            raise InvalidValue("proxy", "…", "is no http:// or https:// URL", hint="Give it like http://proxy:3128.")

    @property
    def unencrypted(self) -> bool:
        """Whether the secret would cross a network in the clear; the loopback is none."""
        return is_unencrypted(self.base_url)


class ExporterConfig(Section, frozen=True, kw_only=True):
    """``[exporter]``: how much at once, and when to look for work."""

    ASCENDING = (("poll_wait_initial_seconds", "poll_wait_max_seconds"),)

    workers: Count = 16
    queue_size: CountOrZero = 0
    """Tasks that wait, unclaimed, for a worker; 0: twice the workers."""
    drain_timeout_seconds: Seconds = 60
    poll_wait_initial_seconds: Seconds = 2
    poll_wait_max_seconds: Seconds = 60
    state: Path | None = None
    """The journal's folder; None: see ``Config.state_folder``."""


class LimitsConfig(Section, frozen=True, kw_only=True):
    """``[limits]``: for the requests of all workers together."""

    max_at_once: CountOrZero = 0
    """Requests in flight; 0: twice the workers."""
    adaptive: bool = True
    """Whether to find out how many of them Aluma takes."""
    max_per_second: Rate = 0
    """Requests started; 0: no limit."""
    max_bytes_per_second: Rate = 0
    """Bytes downloaded; 0: no limit."""
    min_bytes_per_second: Rate = 1000
    """Of one download, over a minute of waiting for it; less, and it is begun anew. 0: however slow."""
    max_file_bytes: Rate = 0
    """Of one file; 0: no limit."""


class RetryConfig(Section, frozen=True, kw_only=True):
    """``[retry]``: of one request, then of one task."""

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
    """Failures of one task in a row after which it is parked; 0: never."""
    park_seconds: Seconds = 21600
    """How long a parked task rests; also one that is fatal and could not be quarantined."""


class RouteConfig(Section, frozen=True, kw_only=True):
    """``[[routes]]``: which files go to which destinations; what is empty fits everything."""

    to: Annotated[tuple[str, ...], Meta(min_length=1)]
    project: str = ""
    """Id or name."""
    folder: str = ""
    filename: str = ""
    """Globs."""
    source: Literal["", "content", "url"] = ""


class ServiceConfig(Section, frozen=True, kw_only=True):
    """``[service]``: what is said while it runs, and to whom."""

    SECRET = ("notify_url",)

    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    listen: str = ""
    """Where metrics and health are served, ``HOST:PORT`` or a port of the loopback; empty: nowhere."""
    stuck_after_seconds: Annotated[float, Meta(ge=1, le=31_536_000)] = 600
    """How long a task may be in hand without any sign of it until the exporter counts as stuck."""
    notify_command: tuple[str, ...] = ()
    """Run for each notification, without a shell; empty: none."""
    notify_url: str = ""
    """Where each notification is sent to; it may hold a secret."""
    notify_task_age_seconds: Seconds = 86400
    """Of a task that has waited for longer a notification tells; 0: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.listen and not self.listen_address:
            hint = "Give it like 127.0.0.1:9464, or only the port."
            raise InvalidValue("listen", self.listen, "is no HOST:PORT", hint=hint)
        if self.notify_url and not self.notify_url.startswith(("http://", "https://")):
            raise InvalidValue("notify_url", "…", "is no http:// or https:// URL", hint="Give it whole.")

    @property
    def listen_address(self) -> tuple[str, int] | None:
        """Host and port of ``listen``."""
        host, _, port = self.listen.rpartition(":")
        if not (port.isascii() and port.isdecimal() and int(port) < 65536) or any(c in host for c in " /@"):
            return None
        return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def is_unencrypted(url: str) -> bool:
    """Whether what is sent there crosses a network in the clear; the loopback is none."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def url_problem(text: str) -> str:
    """Tell what is wrong with the address of a server; empty if nothing is. The address may hold a password."""
    if not text.isprintable() or any(character in text for character in " \\"):
        return "holds spaces or signs that no URL has"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        return f"is no URL: {error}"
    if url.scheme not in {"http", "https"} or not url.hostname or port == 0:
        return "is no http:// or https:// URL"
    if "@" in url.netloc:
        return "holds a user name or a password"
    if "?" in text or "#" in text:
        return "holds a query or a fragment"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
