"""The values from which on the dashboard is coloured and an alert fires."""

from msgspec import Struct

_MIN_SILENCE_SECONDS = 900
_MISSED_POLLS = 3
_DEFAULT_OVERDUE_SECONDS = 86400


class Thresholds(Struct, frozen=True):
    """Thresholds that depend on the configuration."""

    overdue_seconds: int = _DEFAULT_OVERDUE_SECONDS
    """Age of a pending task that is critical."""
    silence_seconds: int = _MIN_SILENCE_SECONDS
    """Time without a listing and an export that is critical."""

    @property
    def aging_seconds(self) -> int:
        """Age of a pending task that is a warning."""
        return self.overdue_seconds // 6


def thresholds_for(notify_task_age_seconds: float, poll_wait_max_seconds: float) -> Thresholds:
    """Return the thresholds that follow from these keys of a configuration; 0 stands for a day."""
    return Thresholds(
        int(notify_task_age_seconds) or _DEFAULT_OVERDUE_SECONDS,
        max(_MIN_SILENCE_SECONDS, int(_MISSED_POLLS * poll_wait_max_seconds)),
    )
