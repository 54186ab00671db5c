"""``Permit``: the permission to send one request, which ``Throttle`` grants."""

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aluma_async.pipeline.throttle import Throttle


class Permit:
    """Acquires and releases one permit. A class, because a generator would cost more than all its work."""

    __slots__ = ("_level", "_probe", "_sent_at", "_throttle", "_urgent")

    def __init__(self, throttle: "Throttle", *, urgent: bool, probe: bool = False) -> None:
        self._throttle = throttle
        self._urgent = urgent
        self._probe = probe

    async def __aenter__(self) -> float:
        self._sent_at = await self._throttle.acquire(urgent=self._urgent, probe=self._probe)
        self._level = self._throttle.unanswered
        return self._sent_at

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._throttle.release(self._sent_at, self._level, error, urgent=self._urgent, probe=self._probe)
