"""Exports finished tasks from Aluma, concurrently and without losing one."""

from aluma_async import events, exceptions
from aluma_async.aluma.client import AlumaClient
from aluma_async.config import Config, Credentials
from aluma_async.destinations.folder import FolderDestination
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask, Summary
from aluma_async.pipeline.exporter import Exporter
from aluma_async.pipeline.journal import MemoryJournal
from aluma_async.policy.retry import Patience, Retry
from aluma_async.ports import Clock, Delivery, Destination, Journal, OnEvent, Permits, TaskSource
from aluma_async.wiring import open_exporter

__version__ = "0.1.0"

__all__ = [
    "AlumaClient",
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
    "OnEvent",
    "Patience",
    "Permits",
    "Retry",
    "Summary",
    "TaskSource",
    "__version__",
    "events",
    "exceptions",
    "open_exporter",
]
