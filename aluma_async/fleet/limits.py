"""``FleetLimits``: applies this node's part of the limits, and pauses for which Aluma has asked another node."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from aluma_async.clock import loop_time
from aluma_async.fleet.link import FleetLink
from aluma_async.fleet.ports import FleetUpdate, Limits
from aluma_async.policy.quota import unshared

_IDLE_BYTES_FRACTION = 1 / 8  # a download may begin before the quota grows, and then sleeps by its rate
_MIN_PAUSE_CHANGE = 0.2  # a longer pause than this node's own is taken over


class LimitHooks(Struct, frozen=True):
    """The parts of the exporter that apply limits."""

    apply: Callable[[Limits], None]
    """Sets the limits of this node's requests; infinite for none, 0 requests at once if it may send none."""
    pause: Callable[[float], None]
    """Sends no request for some seconds."""
    in_flight: Callable[[], int]
    """Returns the number of requests in flight, including those that wait with a permit."""
    is_busy: Callable[[], bool]
    """Returns whether there are tasks queued or in progress."""


class FleetLimits:
    """The limits of one node.

    Args:
        link: The connection to the store.
        limits: The configured limits of the fleet.
        nodes: Expected number of nodes, which divides the limits until the store is reached first; 0 if not known.
        hooks: What applies the limits.
    """

    def __init__(self, link: FleetLink, limits: Limits, hooks: LimitHooks, *, nodes: int) -> None:
        self._link = link
        self._limits = limits
        self._hooks = hooks
        self._quota = Limits(
            unshared(limits.max_at_once, nodes, whole=True),
            unshared(limits.max_per_second, nodes, whole=False),
            unshared(limits.max_bytes_per_second, nodes, whole=False),
        )
        self._paused_until = -math.inf
        link.reporters.append(self._report)
        link.listeners.append(self._apply)
        hooks.apply(self._quota)

    @property
    def quota(self) -> Limits:
        """The limits of this node now. They stay in effect while the store is unavailable."""
        return self._quota

    def set_limits(self, limits: Limits) -> None:
        """Replace the configured limits; the quota follows with the next report."""
        self._limits = limits
        self._link.begin_sync()

    def record_pause(self, seconds: float) -> None:
        """Report at once that Aluma has asked to wait."""
        until = loop_time() + seconds
        if until > self._paused_until + _MIN_PAUSE_CHANGE:
            self._paused_until = until
            self._link.begin_sync()

    def _report(self) -> Mapping[str, Any]:
        limits, is_busy = self._limits, self._hooks.is_busy()
        idle = Limits(
            min(limits.max_at_once, 1.0),
            limits.max_per_second if math.isinf(limits.max_per_second) else min(limits.max_per_second, 1.0),
            limits.max_bytes_per_second * _IDLE_BYTES_FRACTION,
        )
        held = max(self._quota.max_at_once, float(self._hooks.in_flight()))
        return {
            "limits": limits,
            "wanted": limits if is_busy else idle,
            "held": Limits(held, self._quota.max_per_second, self._quota.max_bytes_per_second),
            "pause": max(0.0, self._paused_until - loop_time()),
        }

    def _apply(self, update: FleetUpdate, sent_at: float) -> None:
        if update.quota != self._quota:
            self._quota = update.quota
            self._hooks.apply(update.quota)
        until = sent_at + update.pause
        if update.pause and until > self._paused_until + _MIN_PAUSE_CHANGE:
            self._paused_until = until
            self._hooks.pause(update.pause)
