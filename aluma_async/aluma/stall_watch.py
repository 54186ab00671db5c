"""``StallWatch``: ends requests about single tasks that make no progress while other tasks wait for their turn.

Otherwise a few tasks whose requests hang, or whose files arrive very slowly, would hold all workers for minutes.

A request *lags* while the client waits for it and receives nothing, or less than ``slow_bytes_per_second`` and less
than a quarter of the average of all, which a slow connection limits. It may lag for ``LAG_SECONDS``, twice as long at
each further attempt of its task, and always twice as long as the requests of its kind that were answered lately. If
none was answered lately, the server may be slow for all; then the oldest quarter of the requests may lag without a
limit. It does not end requests that nothing waits for, those that fetch a copy for the quarantine, nor those about no
single task.
"""

from asyncio import TimerHandle, get_running_loop
from collections.abc import Callable

import aiohttp

from aluma_async.aluma.responses import RequestKind
from aluma_async.clock import loop_time
from aluma_async.exceptions import Ambiguous, SourceError, Unavailable
from aluma_async.ports import OTHERS_WAIT

LAG_SECONDS = 15.0
"""Seconds for which the first attempt of a task may lag while other tasks wait."""
_CHECK_SECONDS = 2.5
_SHARE = 4
"""A request makes progress if it receives this fraction of the average, because the connection may be slow for all."""
_MIN_LINK_FACTOR = 2
"""Multiple of ``slow_bytes_per_second`` below which the responses together are not slow because of the connection."""
_MEMORY_SECONDS = 60.0
"""Minimum seconds for which the lag of an answered request is remembered."""
_MAX_TASKS = 4096
"""Number of tasks whose ended attempts are remembered."""


class StallWatch:
    """Watches the requests about single tasks.

    Args:
        slow_bytes_per_second: Rate below which a response makes no progress, unless the connection is slow; 0: only if
            nothing is received.
        is_contended: Returns whether requests wait because too many are in flight.
    """

    def __init__(self, slow_bytes_per_second: float, is_contended: Callable[[], bool]) -> None:
        self._slow_bytes_per_second = slow_bytes_per_second
        self._is_contended = is_contended
        self.requests: dict[WatchedRequest, None] = {}
        """The requests in flight, in the order in which they were sent."""
        self.lags: dict[RequestKind, float] = {}
        """The longest lag of the requests answered in this period, by kind."""
        self._earlier_lags: dict[RequestKind, float] = {}  # in the period before
        self._period_ends = 0.0
        self._ended: dict[str, int] = {}  # attempts by task id
        self.timer: TimerHandle | None = None
        """The next check; None if no request is in flight."""
        self._check_at = 0.0
        self.finished_bytes = 0
        """Number of bytes received since the last check by requests that have ended."""

    @property
    def paused_requests(self) -> int:
        """Number of requests whose response the client does not wait for at the moment."""
        return sum(not request.is_waiting for request in self.requests)

    def schedule(self) -> None:
        """Schedule the next check."""
        self._check_at = loop_time() + _CHECK_SECONDS
        self.timer = get_running_loop().call_at(self._check_at, self._check)

    def _check(self) -> None:
        self.timer = None
        now = loop_time()
        if now >= self._period_ends:
            was_idle = now >= self._period_ends + _MEMORY_SECONDS
            self._earlier_lags, self.lags = {} if was_idle else self.lags, {}
            self._period_ends = now + _MEMORY_SECONDS
        # If this process was suspended or busy, what has arrived meanwhile is not read yet.
        was_late = now - self._check_at > _CHECK_SECONDS
        slow = self._slow_rate(now)
        lagging = []
        for request in self.requests:
            if was_late or request.has_progressed(now, slow):
                request.restart(now)
            elif request.lag(now) >= self._allowed(request) and request.others_wait:
                lagging.append(request)
        if lagging:
            self._end(lagging)
        if self.requests:
            self.schedule()

    def _slow_rate(self, now: float) -> float:
        """Return the rate below which a response makes no progress, and count the bytes since the last check.

        On a slow connection, that is a part of the average: of 1 Mbit/s, each of 16 downloads gets 8 kB/s.
        """
        count, self.finished_bytes = self.finished_bytes, 0
        for request in self.requests:
            count += request.count_bytes()
        rate = count / (now - self._check_at + _CHECK_SECONDS)
        if rate < _MIN_LINK_FACTOR * self._slow_bytes_per_second or not self.requests:
            return self._slow_bytes_per_second
        return min(self._slow_bytes_per_second, rate / (_SHARE * len(self.requests)))

    def _allowed(self, request: "WatchedRequest") -> float:
        """Return the seconds for which a request may lag."""
        kind = request.kind
        usual = max(self.lags.get(kind, 0.0), self._earlier_lags.get(kind, 0.0))
        return max(LAG_SECONDS * 2.0 ** self._ended.get(request.task_id, 0), 2 * usual)

    def _end(self, lagging: "list[WatchedRequest]") -> None:
        spared = set()
        for kind in {request.kind for request in lagging} - self.lags.keys() - self._earlier_lags.keys():
            of_kind = [request for request in self.requests if request.kind is kind and request.others_wait]
            spared.update(of_kind[: len(of_kind) // 4])
        is_contended = self._is_contended()
        for request in lagging:
            if request not in spared and request.others_wait and (is_contended or request.others_wait()):
                del self.requests[request]
                ended = self._ended.pop(request.task_id, 0)
                if len(self._ended) >= _MAX_TASKS:
                    del self._ended[next(iter(self._ended))]
                self._ended[request.task_id] = ended + 1
                request.end_early()


class WatchedRequest:
    """A request about one task. Several may be sent for it, one after the other (redirects, a new token)."""

    __slots__ = (
        "_end",
        "_lags_since",
        "_received",
        "_stalls",
        "counted_bytes",
        "ended_early",
        "is_answered",
        "is_waiting",
        "kind",
        "longest_lag",
        "others_wait",
        "response",
        "task_id",
    )

    def __init__(self, stalls: StallWatch, kind: RequestKind, task_id: str) -> None:
        self._stalls = stalls
        self.kind = kind
        self.task_id = task_id
        self.others_wait = OTHERS_WAIT.get()  # None: the request is not ended
        self.response: aiohttp.ClientResponse | None = None
        self.ended_early = False

    def begin(self, sent_at: float, end: Callable[[], object]) -> None:
        """Watch the request, which is being sent; ``end`` ends it."""
        self._end = end
        self.response = None
        self.is_answered, self.is_waiting = False, True
        self._received, self.longest_lag, self._lags_since = 0, 0.0, sent_at
        self.counted_bytes = 0  # by the last check
        self._stalls.requests[self] = None
        if self._stalls.timer is None:
            self._stalls.schedule()

    def receive(self, response: aiohttp.ClientResponse) -> None:
        """Watch the body of the response, which is ended by closing it. Nothing waits for it until it is read."""
        self.response = response
        self.is_waiting = False
        self._end = response.close

    def finish(self) -> None:
        """Stop watching the request, and remember how long it lagged if it was answered."""
        stalls = self._stalls  # here and without further calls, because each request ends here
        if stalls.requests.pop(self, self) is None:
            if self.response is not None:
                stalls.finished_bytes += self.response.content.total_bytes - self.counted_bytes
            kind, lags = self.kind, stalls.lags
            if self.is_answered and (kind not in lags or self.longest_lag > lags[kind]):
                lags[kind] = self.longest_lag

    def has_progressed(self, now: float, bytes_per_second: float) -> bool:
        """Return whether the request does not lag now: enough was received, or the client does not wait for it."""
        if not self.is_waiting:
            return True
        count = (self.response.content.total_bytes if self.response else 0) - self._received
        return count > 0 and count >= bytes_per_second * (now - self._lags_since)

    def count_bytes(self) -> int:
        """Return the number of bytes received since the last call."""
        received = self.response.content.total_bytes if self.response else 0
        count, self.counted_bytes = received - self.counted_bytes, received
        return count

    def lag(self, now: float) -> float:
        """Return and record the seconds for which the request has lagged."""
        lag = now - self._lags_since
        self.longest_lag = max(self.longest_lag, lag)
        return lag

    def restart(self, now: float) -> None:
        """Record that the request does not lag now."""
        self._lags_since = now
        self._received = self.response.content.total_bytes if self.response else 0

    def end_early(self) -> None:
        """End the request, because other tasks wait."""
        self.ended_early = True
        self._end()

    def error(self, operation: str) -> SourceError:
        """Return the error of a request that was ended early."""
        error = (Ambiguous if self.kind.changes else Unavailable)(
            f"{operation}: given up after {self.longest_lag:.0f} s of no or little progress, because other tasks wait"
        )
        error.spares_others = error.ended_early = True
        return error
