"""``TimeLimit``: ends what takes longer than it may. One timer for all, as one for each costs more than its scope."""

from asyncio import TimerHandle, get_running_loop
from types import TracebackType

from anyio import CancelScope

from aluma_async.clock import loop_time


class TimeLimit:
    """For blocks that may all last ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[CancelScope, float] = {}
        self._timer: TimerHandle | None = None

    def since(self, begun: float, *, shield: bool = False) -> "_Limited":
        """Cancel a block, and nothing beyond it, that is not over in time; ``begun``: on the event loop's clock."""
        return _Limited(self, begun + self._seconds, shield=shield)

    def enter(self, scope: CancelScope, end: float) -> None:
        """Watch over a scope."""
        self._ends[scope] = end
        if self._timer is None or end < self._timer.when():
            self._arm(end)

    def leave(self, scope: CancelScope) -> None:
        """Watch over it no longer. The timer stays: those who come later end later, so it is right or early."""
        self._ends.pop(scope, None)

    def _arm(self, end: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = get_running_loop().call_at(end, self._end)

    def _end(self) -> None:
        self._timer = None
        now = loop_time()
        for scope in [scope for scope, end in self._ends.items() if end <= now]:
            scope.cancel()
            del self._ends[scope]
        if self._ends:
            self._arm(min(self._ends.values()))


class _Limited:
    """One block."""

    __slots__ = ("_end", "_limit", "_scope")

    def __init__(self, limit: TimeLimit, end: float, *, shield: bool) -> None:
        self._limit = limit
        self._end = end
        self._scope = CancelScope(shield=shield)

    def __enter__(self) -> None:
        self._scope.__enter__()
        self._limit.enter(self._scope, self._end)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._limit.leave(self._scope)
        return bool(self._scope.__exit__(kind, error, trace))
