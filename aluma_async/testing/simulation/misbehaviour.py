"""What goes wrong around the exporters of a schedule besides the network: proxies, disks, administrators.

``misbehave`` adds it to a plan. Each kind has a random stream of its own, so that a new one does not change the others.
"""

import random
from collections.abc import Mapping, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from aluma_async.clock import loop_time
from aluma_async.testing.behaviour import Behaviour, SpecQuirk
from aluma_async.testing.faults import (
    PROXY_REPLIES,
    REPLY_VERBS,
    VERBS,
    AnyFault,
    Fault,
    FaultPlan,
    WrongReply,
)
from aluma_async.testing.simulation.stalls import Stall

NOT_YET: frozenset[str] = frozenset()
"""Kinds of misbehaviour that random plans do not have, because the exporter does not withstand them yet. None now."""
_FULL_STACK_ONLY = (WrongReply.OTHER_VERSION, WrongReply.SURPLUS)
_PROJECTS = 4


class Loss(StrEnum):
    """What is lost between a crash and the next run."""

    DISK = "disk"
    """The destination is empty."""
    FILE = "file"
    """Some files of the destination are removed."""
    QUARANTINE = "quarantine"
    """The quarantine is empty."""


class Sickness(StrEnum):
    """How the place of one task at the destination is defective, although the probe succeeds."""

    ERROR = "error"
    """Saving raises ``DestinationError``."""
    UNAVAILABLE = "unavailable"
    """Saving raises ``DestinationUnavailable``."""
    EXCEPTION = "exception"
    """Saving raises an exception that a plug-in must not raise."""
    CANCELLED = "cancelled"
    """Saving raises ``CancelledError``."""
    EXIT = "exit"
    """Saving raises ``SystemExit``."""
    LEAK = "leak"
    """Saving cancels the asyncio task in which it is called, and goes on."""
    SILENT = "silent"
    """Saving never returns, or only after minutes."""


_RAISED = tuple(kind for kind in Sickness if kind is not Sickness.SILENT)


class Outage(Struct, frozen=True):
    """A time during which a proxy answers all requests of some verbs. Times are seconds from the start."""

    start: float
    end: float
    reply: WrongReply
    verbs: Sequence[str] = VERBS


class Misbehaviour(Struct, frozen=True):
    """The parameters of what goes wrong in a schedule."""

    replies: Mapping[WrongReply, float] = {}
    """Probability of each wrong reply; it applies to the requests that the reply is for."""
    outages: Sequence[Outage] = ()
    refused: Sequence[int] = ()
    """Numbers of the tasks whose content the destination refuses until the end of the faulty time."""
    losses: Sequence[Loss] = ()
    """What may be lost after each crash."""
    configured_anew: bool = False
    """Whether each run has other settings, and perhaps another destination."""
    sick: Mapping[int, Sickness] = {}
    """The tasks whose places are defective until the end of the faulty time, by number."""
    stalled: Mapping[int, Stall] = {}
    """The tasks whose requests stall until the end of the faulty time, by number; only in full schedules."""
    healthy_by: float = 0.0
    """Time at which all other tasks must be completed; 0: not checked, because of further faults."""
    deletions: Sequence[float] = ()
    """Times at which an administrator deletes all copies in the quarantine by hand."""
    probe_raises: bool = False
    """Whether the probe raises an exception of another kind while the destination is unavailable."""
    other_client: bool = False
    """Whether some crashes are followed by a run with another base URL and client; only without the full stack."""
    suspended: float = 0.0
    """Probability that the machine sleeps for longer than a lease while the files of a task are published."""

    @property
    def may_lose_claims(self) -> bool:
        """Whether a wrong reply can end a claim that Aluma still holds."""
        return WrongReply.NOT_FOUND in self.replies or any(o.reply is WrongReply.NOT_FOUND for o in self.outages)


class MisbehavingFaults(FaultPlan):
    """The faults of the network, and before them those of a ``Misbehaviour``."""

    def __init__(
        self, misbehaviour: Misbehaviour, rates: Mapping[Fault, float], *, seed: int, burst: float, full: bool
    ) -> None:
        super().__init__(rates, seed=seed, burst=burst)
        self._outages = misbehaviour.outages
        self._replies = [
            (reply, rate, random.Random(f"{reply}/{seed}"))
            for reply, rate in misbehaviour.replies.items()
            if full or reply not in _FULL_STACK_ONLY
        ]

    def end(self) -> None:
        """Remove all faults."""
        super().end()
        self._outages = ()
        self._replies.clear()

    def next(self, verb: str) -> AnyFault | None:
        """Return the fault of the next request."""
        if self._outages:
            now = loop_time()
            for outage in self._outages:
                if outage.start <= now < outage.end and verb in outage.verbs:
                    return outage.reply
        for reply, rate, rng in self._replies:
            if verb in REPLY_VERBS[reply] and rng.random() < rate:
                return reply
        return super().next(verb)


def misbehave(seed: int, tasks: int, instances: int, faulty_seconds: float) -> Misbehaviour:
    """Return the random misbehaviour of a schedule."""
    replies = {reply: rng.choice((0.02, 0.1, 0.3)) for reply in WrongReply if (rng := _stream(seed, reply, 0.08))}
    outages = []
    if rng := _stream(seed, "outage", 0.15):
        for _ in range(rng.choice((1, 2))):
            start = rng.uniform(0, faulty_seconds)
            verbs = rng.choice((VERBS, VERBS[:5], ("file",), ("complete", "fail"), ("start",), ("cancel",)))
            outages.append(Outage(start, start + rng.choice((20.0, 200.0)), rng.choice(PROXY_REPLIES), verbs))
    refused: tuple[int, ...] = ()
    if rng := _stream(seed, "refused", 0.1):
        refused = tuple(number for number in range(tasks) if rng.random() < 0.4)
    losses: tuple[Loss, ...] = ()
    # With several exporters, another one may be about to complete a task whose files are lost.
    if instances == 1 and (rng := _stream(seed, "loss", 0.3)):
        losses = (rng.choice(tuple(Loss)),)
    return Misbehaviour(
        replies,
        tuple(outages),
        refused,
        losses,
        _stream(seed, "configuration", 0.1) is not None,
        deletions=[rng.uniform(0, faulty_seconds) for _ in range(3)] if (rng := _stream(seed, "deletion", 0.1)) else (),
        other_client=_stream(seed, "client", 0.1) is not None,
        suspended=rng.choice((0.1, 0.5)) if (rng := _stream(seed, "suspension", 0.05)) else 0.0,
    )


def sick_places(seed: int) -> tuple[random.Random, Mapping[int, Sickness]] | None:
    """Return a random stream and the sick tasks of a schedule; None if it has none. They are listed first."""
    rng = _stream(seed, "sick", 0.1)
    if rng is None:
        return None
    kinds = rng.sample(_RAISED, rng.choice((1, 2, len(_RAISED))))
    sick: dict[int, Sickness] = {number: rng.choice(kinds) for number in range(rng.choice((1, 5, 5, 30)))}
    if silent := _stream(seed, "silent", 0.3):
        for number in range(min(len(sick), silent.choice((1, 3)))):
            sick[number] = Sickness.SILENT
    return rng, sick


def stalled_tasks(seed: int) -> tuple[random.Random, Mapping[int, Stall]] | None:
    """Return a random stream and the tasks of a schedule that stall; None if it has none. They are listed first."""
    rng = _stream(seed, "stalled", 0.05)
    if rng is None:
        return None
    kinds = rng.sample(tuple(Stall), rng.choice((1, 2, len(Stall))))
    return rng, {number: rng.choice(kinds) for number in range(rng.choice((1, 5, 10)))}


def add_quirks(seed: int, tasks: int, behaviour: Behaviour) -> Behaviour:
    """Return a behaviour with peculiar specifications."""
    rng = _stream(seed, "quirks", 0.15)
    if rng is None:
        return behaviour
    numbers = [number for number in range(tasks) if number not in behaviour.impossible_tasks and rng.random() < 0.4]
    return replace(behaviour, quirks={number: rng.choice(tuple(SpecQuirk)) for number in numbers})


def add_contradictions(seed: int, tasks: int, behaviour: Behaviour) -> Behaviour:
    """Return a behaviour with tasks that listings contain with two projects."""
    rng = _stream(seed, "contradictions", 0.1)
    if rng is None:
        return behaviour
    exportable = [number for number in range(tasks) if number not in behaviour.impossible_tasks]
    return replace(behaviour, contradictory_tasks=tuple(number for number in exportable if rng.random() < 0.5))


def is_project_unexportable(seed: int) -> bool:
    """Return whether all tasks of a project are unexportable in a schedule."""
    return _stream(seed, "unexportable", 0.03) is not None


def unexportable_project(tasks: int) -> tuple[int, ...]:
    """Return the numbers of the tasks of the first project."""
    return tuple(range(0, tasks, _PROJECTS))


def _stream(seed: int, kind: str, probability: float) -> random.Random | None:
    """Return the random stream of a kind of misbehaviour, or None if a schedule does not have it."""
    if kind in NOT_YET:
        return None
    rng = random.Random(f"{kind}/{seed}")
    return rng if rng.random() < probability else None
