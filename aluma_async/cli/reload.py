"""``Reload``: reads the configuration again while a run goes on, and lets it take over what can be."""

from collections.abc import Callable

from aluma_async.cli.exit_codes import error_lines
from aluma_async.config import Config
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.service.console import Console
from aluma_async.service.sd_notify import SystemdNotifier
from aluma_async.wiring import ReloadableExporter


class Reload:
    """A call reads with ``load``; what cannot be used is told, and the old configuration stays."""

    def __init__(
        self, load: Callable[[], Config], run: ReloadableExporter, console: Console, systemd: SystemdNotifier | None
    ) -> None:
        self._load = load
        self._run = run
        self._console = console
        self._systemd = systemd

    def __call__(self) -> None:
        """Reload, without waiting for anything: a file is read, and numbers change."""
        if self._systemd:
            self._systemd.reloading()
        try:
            config = self._load()
            config.routing()
        except AlumaAsyncError as error:
            reason = " ".join(error_lines(error))
            self._console.log.write("error", "ReloadFailed", f"the old configuration stays: {reason}")
        else:
            left = self._run.reload(config)
            self._console.log.set_level(config.service.log_level)
            for warning in config.warnings():
                self._console.log.write("warning", "ConfigWarning", warning)
            if left:
                text = f"takes a new start: {', '.join(left)}; all else holds now"
                self._console.log.write("warning", "ReloadIncomplete", text)
            self._console.log.write("info", "Reloaded", f"the configuration was read again: {_reload_summary(config)}")
        if self._systemd:
            self._systemd.reloaded()


def _reload_summary(config: Config) -> str:
    workers, requests = config.exporter.workers, config.max_at_once
    return f"{workers} workers, {requests} requests at once, log level {config.service.log_level}"
