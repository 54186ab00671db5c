"""Exports finished tasks from Aluma, concurrently and without losing a task."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aluma_async import events, exceptions

if TYPE_CHECKING:
    from aluma_async.aluma.client import AlumaClient
    from aluma_async.config import Config, Credentials
    from aluma_async.destinations.folder.destination import FolderDestination
    from aluma_async.journal.memory import MemoryJournal
    from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask, Snapshot, Summary, Timestamp
    from aluma_async.pipeline.exporter import Exporter
    from aluma_async.policy.backoff import Backoff, RetryPolicy
    from aluma_async.ports import (
        BeforeComplete,
        Clock,
        Delivery,
        Destination,
        Journal,
        OnEvent,
        RequestLimiter,
        TaskSource,
    )
    from aluma_async.service.monitor import Monitor
    from aluma_async.wiring import open_client, open_exporter

__version__ = "0.1.0"

__all__ = [
    "AlumaClient",
    "Backoff",
    "BeforeComplete",
    "Claim",
    "Clock",
    "Config",
    "Credentials",
    "Delivery",
    "Destination",
    "ExportFile",
    "ExportSpec",
    "ExportTask",
    "Exporter",
    "FolderDestination",
    "Journal",
    "MemoryJournal",
    "Monitor",
    "OnEvent",
    "RequestLimiter",
    "RetryPolicy",
    "Snapshot",
    "Summary",
    "TaskSource",
    "Timestamp",
    "__version__",
    "events",
    "exceptions",
    "open_client",
    "open_exporter",
]

_EXPORTS = {
    "aluma_async.aluma.client": "AlumaClient",
    "aluma_async.config": "Config Credentials",
    "aluma_async.destinations.folder.destination": "FolderDestination",
    "aluma_async.models": "Claim ExportFile ExportSpec ExportTask Snapshot Summary Timestamp",
    "aluma_async.pipeline.exporter": "Exporter",
    "aluma_async.journal.memory": "MemoryJournal",
    "aluma_async.policy.backoff": "Backoff RetryPolicy",
    "aluma_async.ports": "BeforeComplete Clock Delivery Destination Journal OnEvent RequestLimiter TaskSource",
    "aluma_async.service.monitor": "Monitor",
    "aluma_async.wiring": "open_client open_exporter",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: importing aiohttp takes long, and shell completion must be fast."""
    for module, names in _EXPORTS.items():
        if name in names.split():
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
