"""``SafeListener``: calls a listener whose exceptions must not disturb the export."""

from collections import Counter

from aluma_async.events import Event
from aluma_async.pipeline.defect import report_listener_defect
from aluma_async.ports import OnEvent


class SafeListener:
    """Calls ``listener``. The first exception of all listeners that share ``failures`` is logged with its stack."""

    def __init__(self, listener: OnEvent, failures: Counter[type[Event]] | None = None) -> None:
        self.listener = listener
        self.failures: Counter[type[Event]] = Counter() if failures is None else failures
        """Number of exceptions so far."""

    def __call__(self, event: Event) -> None:
        """Pass an event to the listener."""
        try:
            self.listener(event)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a CancelledError here is no cancellation of the exporter
            report_listener_defect(error, self.failures)
