"""``ValkeyFleetStore``: a fleet on several machines, in a Valkey or Redis server.

Every call is one script, so that it is atomic. The client never repeats a call: redis-py would execute one twice after
a pause of the server. A node is present while it subscribes to a channel of its id; the server notices the end of its
process at once, and that of its machine after some minutes.
"""

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import Any, TypeVar

import anyio
import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from aluma_async.exceptions import FleetStoreError
from aluma_async.fleet import ports
from aluma_async.fleet.ports import (
    TIMEOUT_SECONDS,
    FleetClaim,
    FleetHold,
    FleetUpdate,
    FleetView,
    ListingPage,
    NodeReport,
    Notice,
    NoticeKind,
)
from aluma_async.fleet.stores.schema import encode
from aluma_async.models import ExportTask, HoldRecord
from aluma_async.policy import quota
from aluma_async.policy.liveness import NodeSnapshot
from aluma_async.policy.rendezvous import SLOTS, slot_of

T = TypeVar("T")

_SOCKET_SECONDS = 0.9 * TIMEOUT_SECONDS
_POLL_SECONDS = 5.0
_KEEP_ALIVE_SECONDS = 15
_SCRIPT = "\n".join(
    files("aluma_async.fleet.stores").joinpath("lua", f"{part}.lua").read_text("utf-8")
    for part in ("records", "rows", "limits", "steps")
)
_CONSTANTS = encode(
    {
        "held": sorted(ports.HELD),
        "started": sorted(ports.HELD | {ports.RecordState.STARTING}),
        "intended": sorted(ports.INTENDED),
        "exclusive": sorted(ports.EXCLUSIVE),
        "claims": sorted(ports.CLAIMS),
        "turn_seconds": ports.TURN_SECONDS,
        "queued_seconds": ports.QUEUED_SECONDS,
        "taken_over_seconds": ports.TAKEN_OVER_SECONDS,
        "hold_memory_seconds": ports.HOLD_MEMORY_SECONDS,
        "ended_hold_seconds": ports.ENDED_HOLD_SECONDS,
        "max_rows": ports.MAX_ROWS,
        "max_holds": ports.MAX_HOLDS_PER_UPDATE,
        "slots": SLOTS,
        "lease_seconds": quota.LEASE_SECONDS,
        "learning_seconds": quota.LEARNING_SECONDS,
        "max_silence_seconds": quota.MAX_SILENCE_SECONDS,
    }
)
_decode_task = msgspec.msgpack.Decoder(ExportTask).decode
_decode_hold = msgspec.msgpack.Decoder(HoldRecord).decode


class ValkeyFleetStore:
    """The keys that begin with ``prefix`` on the server at ``url``.

    Args:
        url: Address of the server: ``redis://``, ``rediss://`` or ``unix://``.
        prefix: Beginning of all keys; with a part in braces, so that they belong to one slot of a cluster.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        self._name = "the store of the fleet"  # the address may contain a password
        self._client: Any = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=_SOCKET_SECONDS,
            socket_connect_timeout=_SOCKET_SECONDS,
            socket_keepalive=True,
            decode_responses=False,
        )
        self._sha = ""

    async def sync(self, report: NodeReport) -> FleetUpdate:
        """Apply a report."""
        fields = {name: getattr(report, name) for name in report.__struct_fields__}
        fields["claims"] = [
            (c.task_id, c.state, c.age, c.remaining, -1.0 if c.unconfirmed_age is None else c.unconfirmed_age)
            for c in report.claims
        ]
        fields["holds"], texts = _hold_arguments(report.holds)
        reply = await self._run("sync", fields, texts)
        with self._errors():
            values = msgspec.msgpack.decode(reply[0])
            holds, stored = values.pop("holds", []), reply[1:]  # the texts of the holds, then those of the rows
            return msgspec.structs.replace(
                msgspec.convert(values, FleetUpdate),
                holds=tuple(
                    FleetHold(task_id, age, _decode_hold(text) if text else None)
                    for (task_id, age), text in zip(holds, stored, strict=False)
                ),
                rows=tuple(map(_decode_task, stored[len(holds) :])),
            )
        raise AssertionError  # errors are raised

    async def begin_listing(self, node_id: str, scope: str = "") -> bool:
        """Start or renew a node's turn to list."""
        return bool(msgspec.msgpack.decode((await self._run("begin_listing", (node_id, scope)))[0]))

    async def publish_listing(self, page: ListingPage) -> None:
        """Store a page of a listing."""
        fields = {name: getattr(page, name) for name in page.__struct_fields__}
        fields["rows"] = [(task.id, slot_of(task.id)) for task in page.rows]
        await self._run("publish", fields, [encode(task) for task in page.rows])

    async def take_over(self, node_id: str, dead: NodeSnapshot) -> Sequence[FleetClaim]:
        """Move the claims of a dead node."""
        call = {"node_id": node_id, "dead": dead.node_id, "sequence": dead.sequence, "is_present": dead.is_present}
        return self._decode(await self._run("take_over", call), tuple[FleetClaim, ...])

    async def release_holds(self, task_ids: Sequence[str]) -> None:
        """End holds."""
        holds, texts = _hold_arguments([FleetHold(task_id, 0.0) for task_id in task_ids])
        await self._run("release_holds", holds, texts)

    async def inspect(self) -> FleetView:
        """Return the content."""
        return self._decode(await self._run("inspect", None), FleetView)

    @asynccontextmanager
    async def subscribe(self, node_id: str) -> AsyncIterator[AsyncIterator[Notice]]:
        """Subscribe to the channel of a node, which shows that it is present, and to that of all notices."""
        channels = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            with self._errors(), anyio.fail_after(TIMEOUT_SECONDS):
                await channels.subscribe(f"{self._prefix}:node:{node_id}", f"{self._prefix}:notices")
                for _ in range(2):  # the server has confirmed both
                    await channels.get_message(ignore_subscribe_messages=False, timeout=TIMEOUT_SECONDS)
            yield self._read_notices(channels)
        finally:
            with anyio.move_on_after(TIMEOUT_SECONDS, shield=True):
                await channels.aclose()

    async def warnings(self) -> list[str]:
        """Return warnings about the settings of the server, if it shows them."""
        try:
            settings = await self._client.config_get("maxmemory-policy")
        except (RedisError, OSError, TimeoutError):
            return []
        policy = next(iter(settings.values()), b"noeviction")
        policy = policy.decode() if isinstance(policy, bytes) else str(policy)
        if policy == "noeviction":
            return []
        return [f"maxmemory-policy is {policy}: the server may remove records of the fleet; set it to noeviction"]

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _read_notices(self, channels: Any) -> AsyncIterator[Notice]:
        number = 0
        while True:
            with self._errors():
                message = await channels.get_message(timeout=_POLL_SECONDS)
            if message:
                number += 1
                yield Notice(NoticeKind(message["data"].decode("ascii", "replace")), number)

    async def _run(self, step: str, argument: object, texts: Sequence[bytes] = ()) -> list[Any]:
        """Run a step of the script. It is sent again only if the server does not know it, so that nothing was done."""
        arguments = (self._prefix, step, encode(argument), _CONSTANTS, secrets.token_hex(8), *texts)
        with self._errors():
            with anyio.fail_after(TIMEOUT_SECONDS):
                try:
                    if self._sha:
                        return list(await self._client.evalsha(self._sha, 1, *arguments))
                except NoScriptError:
                    pass
                self._sha = await self._client.script_load(_SCRIPT)
                return list(await self._client.evalsha(self._sha, 1, *arguments))
        raise AssertionError  # errors are raised

    def _decode(self, reply: list[Any], kind: type[T]) -> T:
        with self._errors():
            return msgspec.msgpack.decode(reply[0], type=kind)
        raise AssertionError

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert errors of the client. Redis-py raises its own time-outs, and those of the system."""
        try:
            yield
        except (RedisError, OSError, TimeoutError, msgspec.MsgspecError, ValueError) as error:
            raise FleetStoreError(f"{self._name}: {str(error) or type(error).__name__}") from error


def _hold_arguments(holds: Sequence[FleetHold]) -> tuple[list[tuple[str, float, float, int]], list[bytes]]:
    """Return holds as arguments of the script, and the texts to which they refer by number, from 1."""
    arguments, texts = [], []
    for hold in holds:
        if hold.record:
            texts.append(encode(hold.record))
        number = len(texts) if hold.record else 0
        arguments.append((hold.task_id, hold.age, hold.record.seconds if hold.record else 0.0, number))
    return arguments, texts
