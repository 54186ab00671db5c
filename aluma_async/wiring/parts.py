"""The parts that all kinds of exporters share: quarantine, history, time limits, checks before the start."""

import os
from contextlib import AsyncExitStack
from pathlib import Path

from aluma_async.config import Config, FolderConfig
from aluma_async.destinations.registry import open_folder
from aluma_async.events import Event, TaskCompleted
from aluma_async.exceptions import ConfigError
from aluma_async.journal.history import History
from aluma_async.pipeline.listener import SafeListener
from aluma_async.ports import Destination, OnEvent
from aluma_async.private_files import check_folder

_MIN_DESTINATION_SECONDS = 60.0  # a commit may take so long, even if the service shall be restarted earlier


def check_private_folders(config: Config) -> list[str]:
    """Return warnings about other users who can change the exporter's own files. Blocks. Raises ``ConfigError``."""
    folders = {"state folder": config.state_folder(), "quarantine": config.quarantine_folder()}
    return [warning for label, folder in folders.items() if (warning := check_folder(label, folder))]


def check_environment() -> None:
    """Raise ``ConfigError`` if an environment variable disables a part."""
    if os.environ.get("AIOCACHE_DISABLE") == "1":
        raise ConfigError(
            "AIOCACHE_DISABLE=1 disables cool-downs, so that failing tasks are retried without delay", hint="Unset it."
        )


def destination_timeout(config: Config) -> float:
    """Return the limit of a silent destination, which is reached before the service counts as stuck."""
    return max(_MIN_DESTINATION_SECONDS, config.service.stuck_after_seconds / 2)


def safe_listener(on_event: OnEvent | None) -> SafeListener | None:
    """Return a listener for the parts that call it themselves, and would be disturbed by its exceptions."""
    return SafeListener(on_event) if on_event else None


def with_history(history: History, safe: SafeListener | None) -> OnEvent:
    """Return a listener that records exported tasks, and passes each event on."""
    if safe is None:
        return history
    on_event = safe.listener

    def notify(event: Event) -> None:
        if type(event) is TaskCompleted:  # saves a call for every other event
            history(event)
        on_event(event)

    return SafeListener(notify, safe.failures)


def open_quarantine(config: Config, state: Path, stack: AsyncExitStack) -> Destination:
    """Return the quarantine, which ``stack`` closes."""
    # Each copy has a folder of its own, so that no file of another task can be in its place.
    folder = FolderConfig(
        path=config.quarantine_folder(), on_conflict="overwrite", file_mode="0640", folder_mode="0750"
    )
    return open_folder(folder, state, stack)
