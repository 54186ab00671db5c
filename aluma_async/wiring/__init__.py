"""Builds a client or an exporter from a ``Config``. No other package combines the concrete classes."""

from aluma_async.wiring.client import open_client
from aluma_async.wiring.copies import open_confirmed, open_redelivery
from aluma_async.wiring.exporter import ReloadableExporter, open_exporter, open_reloadable_exporter
from aluma_async.wiring.parts import check_private_folders

__all__ = [
    "ReloadableExporter",
    "check_private_folders",
    "open_client",
    "open_confirmed",
    "open_exporter",
    "open_redelivery",
    "open_reloadable_exporter",
]
