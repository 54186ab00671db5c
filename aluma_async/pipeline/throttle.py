"""``Throttle``: one limit, one rate and one pause for all requests of an exporter."""

from asyncio import get_running_loop
from collections import deque
from collections.abc import Callable
from copy import copy
from typing import NamedTuple

import anyio

from aluma_async.clock import loop_time
from aluma_async.events import ConcurrencyLimitAdapted, ConcurrencyLimitChanged, RequestsPaused, RequestsResumed
from aluma_async.exceptions import ClaimConflict, RateLimited, SourceError
from aluma_async.pipeline.pauses import MAX_PAUSE_SECONDS, MAX_URGENT_PAUSE_SECONDS, RequestPause
from aluma_async.pipeline.permit import Permit
from aluma_async.policy.adaptive_limit import AdaptiveLimit
from aluma_async.policy.rate_limit import RateLimit, with_rate
from aluma_async.ports import OnEvent, Uniform

_REPORT_FACTOR = 1.5
"""Factor between two adaptive limits that makes a change worth a line in the log."""
_PROBE_SECONDS = 1.0  # interval at which a waiting urgent request notices that another one has succeeded
_MIN_FAILURES = 3  # failed requests in a row that are an outage although a download receives data
_MAX_SLEEP_SECONDS = 1.0  # the rate may change meanwhile
_MIN_SLEEP_SECONDS = 0.01  # so that the clock's resolution does not turn a wait into a busy loop


class Outage(NamedTuple):
    """A time without a successful request."""

    seconds: float
    """Seconds since the last success, while requests fail or wait for a response; 0 if they succeed."""
    error: SourceError | None = None
    """The last error; None if no response has arrived."""


class Throttle:
    """Grants permits (``ports.RequestLimiter``): at most ``max_at_once``, at most ``max_per_second``, none in a pause.

    Permits are granted in the order of the calls, urgent ones first, which leave a quarter of the permits to others.
    In a pause that is longer than ``max_urgent_pause``, one urgent request is sent each time this has passed, and all
    of them as soon as one succeeds.

    Args:
        max_at_once: Requests in flight at most.
        adaptive: Whether the limit is also lowered to the number of requests that Aluma is found to accept.
        max_per_second: Requests per second; 0 for no limit.
        max_bytes_per_second: Downloaded bytes per second; 0 for no limit.
        max_urgent_pause: Upper limit of a pause for urgent requests, in seconds.
        uniform: Returns a random number between two bounds.
        on_event: Receives ``RequestsPaused``, ``RequestsResumed``, ``ConcurrencyLimitChanged`` and
            ``ConcurrencyLimitAdapted``.
    """

    def __init__(
        self,
        max_at_once: int,
        *,
        adaptive: bool = False,
        max_per_second: float = 0,
        max_bytes_per_second: float = 0,
        max_urgent_pause: float = MAX_URGENT_PAUSE_SECONDS,
        uniform: Uniform,
        on_event: OnEvent,
    ) -> None:
        self.in_flight = 0
        """Number of permits that are held now."""
        self._urgent_in_flight = 0
        self.unanswered = 0
        """Number of requests that have been sent and not answered; others with a permit still wait."""
        self.paused_requests: Callable[[], int] = lambda: 0
        """Returns the number of these whose response is not waited for, because what has arrived is being stored."""
        self.on_pause: Callable[[float], None] = lambda _: None
        """Receives the seconds of each pause that Aluma has asked for, unless it may be that of single tasks."""
        self._answered_at = self._received_at = 0.0
        self._succeeded_at = float("-inf")  # unlike _answered_at, not set when a request is sent
        self._failures = 0  # in a row; a success that was already under way at the first one does not end the row
        self._failed_at = self._failing_since = 0.0  # time of the first of them, and of the last success before it
        self._last_error: SourceError | None = None
        self._adaptive = AdaptiveLimit(max_at_once) if adaptive else None
        self.limit = self._adaptive.value if self._adaptive else max_at_once
        """Number of permits that may be held now."""
        self._reported_limit = self.limit
        self._limit_was_reduced = False
        self._pace = RateLimit(max_per_second) if max_per_second else None
        self._bytes = RateLimit(max_bytes_per_second, burst=max_bytes_per_second) if max_bytes_per_second else None
        self._urgent: deque[anyio.Event] = deque()
        self._waiting: deque[anyio.Event] = deque()
        self._pacing_lock = anyio.Lock(fast_acquire=True)
        self._probe_lock = anyio.Lock(fast_acquire=True)
        self._limit_before_pause: AdaptiveLimit | None = None  # before the first pause since the last success
        self._pause = RequestPause(max_urgent_pause, uniform)
        self._on_event = on_event

    def set_limits(
        self, max_at_once: int, *, max_per_second: float, max_bytes_per_second: float, quota: float = float("inf")
    ) -> None:
        """Replace the limits; requests in flight, and what was sent before, count against the new ones.

        ``quota`` is a lower number of requests in flight, for a while; with 0 no request is sent.
        """
        now = loop_time()
        for adaptive in filter(None, (self._adaptive, self._limit_before_pause)):
            adaptive.set_maximum(max_at_once)
            adaptive.quota = quota
        self._pace = with_rate(self._pace, max_per_second, 1.0, now)
        self._bytes = with_rate(self._bytes, max_bytes_per_second, max_bytes_per_second, now)
        self._set_limit(self._adaptive.value if self._adaptive else int(min(max_at_once, quota)), report=False)
        self._wake_waiters()

    @property
    def is_contended(self) -> bool:
        """Whether requests wait because as many as allowed are in flight."""
        return self.in_flight >= self.limit and bool(self._urgent or self._waiting)

    @property
    def outage(self) -> Outage:
        """The time for which no request has succeeded although some were sent.

        While a download receives data, a few failed requests are no outage.
        """
        now = loop_time()
        if self._failures >= _MIN_FAILURES or (self._failures and self._received_at <= self._failing_since):
            return Outage(now - self._failing_since, self._last_error)
        return Outage(now - self._answered_at if self.unanswered > self.paused_requests() else 0.0)

    def permit(self, *, urgent: bool = False) -> Permit:
        """Wait for the permission to send one request, and hold it until the response has been read."""
        return Permit(self, urgent=urgent)

    def probe_permit(self) -> Permit:
        """Wait for the permission to send one request in an unverified pause."""
        return Permit(self, urgent=True, probe=True)

    @property
    def pause_is_unverified(self) -> bool:
        """Whether a long pause was caused only by requests about single tasks, so that it may be theirs alone."""
        return self._pause.is_unverified

    def end_pause(self) -> None:
        """End an unverified pause."""
        if self.pause_is_unverified:
            if self._limit_before_pause:  # the refusals were no sign of overload
                self._adaptive, self._limit_before_pause = self._limit_before_pause, None
                self._set_limit(self._adaptive.value)
            self._end_pause(self._pause.until)
            self._on_event(RequestsResumed())

    async def consume_bytes(self, count: int) -> None:
        """Account for downloaded bytes; sleep if they arrived faster than allowed."""
        self._answered_at = self._received_at = self._succeeded_at = now = loop_time()
        if self._bytes:
            self._bytes.consume(now, count)
            if (wait := self._bytes.delay_until_allowed(now)) > 0:
                await self._wait_for_bytes(wait, self._bytes.units_ahead(now))

    async def _wait_for_bytes(self, wait: float, ahead: float) -> None:
        """Sleep until ``ahead`` bytes are allowed, which takes ``wait`` seconds if the rate does not change."""
        rate = ahead / wait
        while ahead > 0:
            step = min(ahead / rate, _MAX_SLEEP_SECONDS)
            await anyio.sleep(step)
            ahead -= step * rate
            if not self._bytes:
                return
            rate = self._bytes.rate

    def pause(self, seconds: float) -> None:
        """Send no request for some seconds, because Aluma has asked another exporter for it."""
        if self._pause.extend(seconds, loop_time()):
            self._schedule_end_of_pause(seconds)

    async def acquire(self, *, urgent: bool, probe: bool = False) -> float:
        """Wait until a request may be sent; return that time (loop clock)."""
        while True:
            if probe and self.unanswered < self.limit:
                self.in_flight += 1  # beside urgent requests that hold a permit, but wait for the end of the pause
                self._urgent_in_flight += 1
            elif (
                self.in_flight < self.limit
                and not self._urgent
                and (urgent or not (self._waiting or self._pause.until))
            ):
                self.in_flight += 1
                self._urgent_in_flight += urgent
            else:
                await self._wait_in_line(self._urgent if urgent else self._waiting)
            try:
                if urgent and self._pause.urgent_until and not probe:
                    await self._wait_for_probe()
                now = loop_time()
                # Only the first in line sleeps while it holds the lock; the others wait for the lock in order.
                if self._pace and (self._pacing_lock.locked() or self._pace.delay_until_allowed(now) > 0):
                    async with self._pacing_lock:
                        while (wait := self._delay(loop_time())) > 0:  # noqa: ASYNC110 - the rate may change
                            await anyio.sleep(min(max(wait, _MIN_SLEEP_SECONDS), _MAX_SLEEP_SECONDS))
                    now = loop_time()
            except BaseException:
                self._free_permit(urgent=urgent)
                raise
            if urgent or not self._pause.until:
                break
            self._free_permit(urgent=urgent)  # a pause has begun, and urgent requests may need the permit
        if self._pace:
            self._pace.consume(now)
        if not self.unanswered:
            self._answered_at = now
        self.unanswered += 1
        return now

    def release(
        self, sent_at: float, level: int, error: BaseException | None, *, urgent: bool, probe: bool = False
    ) -> None:
        """Take the permit back, and record the outcome of a request; ``level`` is ``unanswered`` after it was sent.

        A request that tests a pause is ``probe``: only ``end_pause`` ends the pause, because its token may be refused.
        """
        self.unanswered -= 1
        is_answered = error is None or isinstance(error, ClaimConflict)
        if self._pause.urgent_until and urgent and not probe and is_answered and sent_at > self._pause.refused_at:
            self._pause.urgent_until = 0.0
        if is_answered and sent_at >= self._failed_at:
            self._failures = 0
        elif is_answered:
            self._failing_since = loop_time()
        if error is None:
            if not probe:
                self._pause.rate_limited_count = 0
                self._limit_before_pause = None
            self._answered_at = self._succeeded_at = loop_time()
            # Skip samples that carry no information about the limit: it was not reached, the round trip was not
            # measured, and no request was refused.
            if self._adaptive and (urgent or self.in_flight >= self.limit or self._adaptive.refusals):
                self._adaptive.record_success(
                    sent_at, loop_time(), level=level, in_flight=self.in_flight, measured=urgent
                )
                self._set_limit(self._adaptive.value)
        elif isinstance(error, SourceError):
            self._record_error(error, sent_at, level)
        self._free_permit(urgent=urgent)

    def _set_limit(self, limit: int, *, report: bool = True) -> None:
        if limit == self.limit:
            return
        self.limit = limit
        self._on_event(ConcurrencyLimitChanged(limit))
        previous = self._reported_limit
        is_reduced = limit * _REPORT_FACTOR <= previous
        if report and (is_reduced or (self._limit_was_reduced and limit >= previous * _REPORT_FACTOR)):
            self._limit_was_reduced = True
            self._reported_limit = limit
            self._on_event(ConcurrencyLimitAdapted(previous, limit))
        elif not (report and (self._limit_was_reduced or limit < previous)):  # growth at the start is not reported
            self._reported_limit = limit

    async def _wait_in_line(self, line: deque[anyio.Event]) -> None:
        """Wait in a line; the caller holds the permit when this returns."""
        turn = anyio.Event()
        line.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # the permit was granted at the moment of the cancellation
                self._free_permit(urgent=line is self._urgent)
            else:
                line.remove(turn)
            raise

    def _free_permit(self, *, urgent: bool) -> None:
        self.in_flight -= 1
        self._urgent_in_flight -= urgent
        if self._urgent or self._waiting:
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        """Grant free permits to the waiters."""
        while self.in_flight < self.limit and (line := self._next_line()):
            self.in_flight += 1
            self._urgent_in_flight += line is self._urgent
            line.popleft().set()

    def _next_line(self) -> deque[anyio.Event]:
        """Return the line that is served next: urgent requests first, and in a pause only those.

        But they leave a quarter of the permits to others, because settlements that hang would stop all tasks.
        """
        reserve = (self.limit + 2) // 4
        others_first = self._waiting and self._urgent_in_flight >= self.limit - reserve
        return self._urgent if self._pause.until or (self._urgent and not others_first) else self._waiting

    def _delay(self, now: float) -> float:
        """Return the seconds until the rate allows the next request."""
        return self._pace.delay_until_allowed(now) if self._pace else 0.0

    async def _wait_for_probe(self) -> None:
        """Wait in a pause until the next urgent request may be sent: one at a time, until one succeeds."""
        async with self._probe_lock:
            while (wait := self._pause.urgent_until - loop_time()) > 0:  # noqa: ASYNC110 - pauses are rare
                await anyio.sleep(min(max(wait, _MIN_SLEEP_SECONDS), _PROBE_SECONDS))
            self._pause.delay_next_urgent(loop_time())

    def _end_pause(self, until: float) -> None:
        if until >= self._pause.until:  # otherwise it was extended
            self._pause.end()
            self._wake_waiters()

    def _schedule_end_of_pause(self, seconds: float) -> None:
        get_running_loop().call_at(self._pause.until, self._end_pause, self._pause.until)
        self._on_event(RequestsPaused(seconds))

    def _record_error(self, error: SourceError, sent_at: float, level: int) -> None:
        """Start a pause if the error asks for one, and lower the limit if Aluma is overloaded."""
        now = loop_time()
        if not isinstance(error, ClaimConflict):
            if not self._failures:
                self._failed_at, self._failing_since = now, max(sent_at, self._answered_at)
            self._failures += 1
            self._last_error = error
        pause = self._pause.begin(error, now, self._succeeded_at)
        if pause is not None:
            if self._limit_before_pause is None and error.operation:
                self._limit_before_pause = copy(self._adaptive)
            self._schedule_end_of_pause(pause)
            if not self.pause_is_unverified:
                self.on_pause(pause)
        if self._adaptive and error.overloaded and not error.spares_others:
            self._adaptive.record_refusal(
                sent_at,
                now,
                level=level,
                rate_limited=isinstance(error, RateLimited),
                pause=min(error.retry_after or 0.0, MAX_PAUSE_SECONDS),
            )
            self._set_limit(self._adaptive.value)
