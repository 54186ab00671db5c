"""``SharedDeadline``: cancels blocks that exceed a time limit.

All blocks share one timer, because a timer per block costs more than its cancel scope.
"""

from asyncio import TimerHandle, get_running_loop
from types import TracebackType

from anyio import CancelScope

from aluma_async.clock import loop_time


class SharedDeadline:
    """A time limit of ``seconds`` for any number of blocks."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.expiries: dict[CancelScope, float] = {}
        """The time at which each scope expires, on the event loop's clock."""
        self._timer: TimerHandle | None = None

    def scope(self, started_at: float, *, shield: bool = False) -> "_DeadlineScope":
        """Limit a block, counted from ``started_at`` (the event loop's clock). A block that exceeds it is cancelled."""
        return _DeadlineScope(self, started_at + self._seconds, shield=shield)

    def add(self, scope: CancelScope, expires_at: float) -> None:
        """Add a scope that expires at a time of the event loop's clock."""
        self.expiries[scope] = expires_at
        if self._timer is None or expires_at < self._timer.when():
            self._schedule(expires_at)

    def _schedule(self, expires_at: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = get_running_loop().call_at(expires_at, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = loop_time()
        for scope in [scope for scope, expires_at in self.expiries.items() if expires_at <= now]:
            scope.cancel()
            del self.expiries[scope]
        if self.expiries:
            self._schedule(min(self.expiries.values()))


class _DeadlineScope:
    """The context manager of one block."""

    __slots__ = ("_deadline", "_expires_at", "_scope")

    def __init__(self, deadline: SharedDeadline, expires_at: float, *, shield: bool) -> None:
        self._deadline = deadline
        self._expires_at = expires_at
        self._scope = CancelScope(shield=shield)

    def __enter__(self) -> CancelScope:
        self._deadline.add(self._scope, self._expires_at)
        return self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        # The timer stays, because later scopes expire later, so that it is never too late.
        self._deadline.expiries.pop(self._scope, None)
        return bool(self._scope.__exit__(kind, error, trace))
