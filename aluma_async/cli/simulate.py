"""``simulate``: serves the simulated Aluma on a port until a signal, then prints its state."""

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import click

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.signals import handle_stop_signals
from aluma_async.config.schema import suggest

# The simulated Aluma imports aiohttp, which takes long, and --help does not need it.
if TYPE_CHECKING:
    from aluma_async.testing import FaultPlan, SimulatedAluma

PROFILES = ("mixed", "small", "bulk", "tiny")
FRAMINGS = ("length", "chunked", "unframed")
FAULTS = (
    *("drop-before", "drop-after", "error-before", "error-after", "throttle", "unauthorised", "truncate", "html"),
    *("hang", "late", "slow", "not-found", "not-found-page", "log-in", "forbidden", "not-allowed", "other-success"),
    *("blocked", "json-error", "log-in-page", "empty", "cut", "doubly-chunked", "altered", "other-version"),
    *("other-specification", "damaged-text", "cut-specification", "partial-specification", "maintenance", "long-pause"),
    "surplus",
)
"""The names of all faults, because their module takes long to import."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    metavar="N",
    help="Port to listen on; 0: any free port.",
)
@click.option(
    "--tasks", type=click.IntRange(0), default=100, show_default=True, metavar="N", help="Number of pending tasks."
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the tasks and the faults: the same seed gives the same ones.",
)
@click.option("--profile", type=click.Choice(PROFILES), default="mixed", show_default=True, help="Kind of files.")
@click.option(
    "--fault",
    multiple=True,
    metavar="KIND=RATE",
    help="Fault and its share of the requests, for example drop-after=0.01; repeatable. Kinds: "
    f"{', '.join(FAULTS)}.  [default: none]",
)
@click.option(
    "--latency",
    "latency_seconds",
    type=click.FloatRange(0),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="Delay of each response.",
)
@click.option(
    "--max-at-once",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Maximum number of requests in flight; further ones are refused with status 429.  [default: no limit]",
)
@click.option(
    "--max-listed",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Maximum number of tasks in a listing.  [default: no limit]",
)
@click.option("--malformed-row", is_flag=True, help="One unreadable row in each listing.")
@click.option(
    "--claim-timeout",
    "claim_timeout_seconds",
    type=float,
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="Lease of a claim.",
)
@click.option(
    "--task-deadline",
    "task_deadline_seconds",
    type=click.FloatRange(0),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="Age at which a task is deleted as overdue; 0: never.",
)
@click.option(
    "--token-lifetime",
    "token_seconds",
    type=float,
    default=86400,
    show_default=True,
    metavar="SECONDS",
    help="Lifetime of an access token.",
)
@click.option(
    "--framing", type=click.Choice(FRAMINGS), default="length", show_default=True, help="Framing of file responses."
)
def simulate(
    host: str, port: int, tasks: int, seed: int, profile: Any, fault: tuple[str, ...], **behaviour: Any
) -> int:
    """Serve a simulated Aluma.

    Prints the address, a client id and a client secret, and runs until a signal. Then it prints the state of the tasks
    and the number of requests.
    """
    from aluma_async.testing import Behaviour, SimulatedAluma

    faults = _fault_plan(fault, seed)

    async def run() -> None:
        settings = Behaviour(**behaviour)
        aluma = SimulatedAluma(tasks, seed=seed, profile=profile, behaviour=settings, now=anyio.current_time)
        await _serve(aluma, faults, host, port)

    anyio.run(run)
    return OK


async def _serve(aluma: "SimulatedAluma", faults: "FaultPlan", host: str, port: int) -> None:
    from aluma_async.testing import serve

    stopped = anyio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(handle_stop_signals(stopped.set))
        try:
            base_url = await stack.enter_async_context(serve(aluma, faults, host=host, port=port))
        except OSError as error:
            raise click.BadParameter(f"{host}:{port}: {error.strerror}", param_hint="--host, --port") from None
        click.echo(_banner(aluma, base_url))
        await stopped.wait()
    click.echo(_state_summary(aluma))


def _fault_plan(given: tuple[str, ...], seed: int) -> "FaultPlan":
    from aluma_async.testing.faults import AnyFault, Fault, FaultPlan, WrongReply

    rates: dict[AnyFault, float] = {}
    kinds: dict[str, AnyFault] = {fault.value: fault for fault in (*Fault, *WrongReply)}
    for text in given:
        kind, _, rate = text.partition("=")
        if kind not in kinds:
            raise click.BadParameter(f"{kind!r} is not a fault. {suggest(kind, kinds)}", param_hint="--fault")
        try:
            rates[kinds[kind]] = float(rate)
        except ValueError:
            raise click.BadParameter(f"{text!r} does not have the form {kind}=0.01", param_hint="--fault") from None
    return FaultPlan(rates, seed=seed)


def _banner(aluma: "SimulatedAluma", base_url: str) -> str:
    assign = '$env:{}="{}"' if os.name == "nt" else "export {}={}"
    variables = (
        ("ALUMA_CLIENT_ID", aluma.client_id),
        ("ALUMA_CLIENT_SECRET", aluma.client_secret),
        ("ALUMA_ASYNC_BASE_URL", base_url),
    )
    return "\n".join(
        [
            f"Simulated Aluma at {base_url}",
            f"its state      {base_url}/simulated",
            f"client id      {aluma.client_id}",
            f"client secret  {aluma.client_secret}",
            "In another shell:",
            *(f"  {assign.format(*variable)}" for variable in variables),
            "  aluma-async --once -o out",
            "Ctrl-C stops it.",
        ]
    )


def _state_summary(aluma: "SimulatedAluma") -> str:
    parts = (("Tasks", aluma.count_by_state()), ("Requests", aluma.counts))
    lines = [f"{title}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}" for title, counts in parts]
    return "\n".join([*lines, f"Requests handled at the same moment: {aluma.in_flight_peak} at most"])
