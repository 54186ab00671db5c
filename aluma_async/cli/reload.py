"""``Reload``: reads the configuration again during a run and applies the settings that can change."""

from collections.abc import Callable

from aluma_async.cli.exit_codes import error_lines
from aluma_async.config import Config
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.service.console import Console
from aluma_async.service.sd_notify import SystemdNotifier
from aluma_async.wiring import ReloadableExporter


class Reload:
    """Handler of SIGHUP. If the new configuration is invalid, it is reported and the old one stays in effect.

    Args:
        load: reads the configuration.
        exporter: the running exporter.
        console: receives the log lines and the new log level.
        systemd: informed about the start and the end of a reload, if the run is a systemd service.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        exporter: ReloadableExporter,
        console: Console,
        systemd: SystemdNotifier | None,
    ) -> None:
        self._load = load
        self._exporter = exporter
        self._console = console
        self._systemd = systemd

    def __call__(self) -> None:
        """Reload synchronously: read one file and change settings in memory."""
        if self._systemd:
            self._systemd.reloading()
        log = self._console.log
        try:
            config = self._load()
            config.routing()
        except AlumaAsyncError as error:
            lines = list(error_lines(error))
            hint = {"hint": lines[-1]} if len(lines) > 1 else {}
            log.write("error", "ReloadFailed", f"configuration not reloaded: {'. '.join(lines)}", **hint)
        except Exception as error:  # noqa: BLE001 - a file that cannot be read must not end the run
            log.write("error", "ReloadFailed", f"configuration not reloaded: unexpected {type(error).__name__}")
        else:
            restart_keys = self._exporter.reload(config)
            log.set_level(config.service.log_level)
            for warning in config.warnings():
                log.write("warning", "ConfigWarning", warning)
            if restart_keys:
                text = f"restart required for: {', '.join(restart_keys)}; all other settings are in effect"
                log.write("warning", "ReloadIncomplete", text)
            log.write("info", "Reloaded", f"configuration reloaded: {_reload_summary(config)}")
        if self._systemd:
            self._systemd.reloaded()


def _reload_summary(config: Config) -> str:
    workers, requests = config.exporter.workers, config.max_at_once
    return f"{workers} workers, {requests} requests at once, log level {config.service.log_level}"
