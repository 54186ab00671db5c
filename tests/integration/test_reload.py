"""A configuration that changes while a run goes on: what holds at once, and what is said of the rest."""

import os
import signal
import subprocess
from pathlib import Path

import anyio
import pytest
from msgspec import structs

from aluma_async.cli.reload import Reload
from aluma_async.config import (
    Config,
    Credentials,
    ExporterConfig,
    FolderConfig,
    LimitsConfig,
    RouteConfig,
    ServiceConfig,
)
from aluma_async.config.reload import RELOADABLE, restart_required
from aluma_async.destinations.router import DestinationRouter
from aluma_async.events import ConcurrencyLimitChanged, TaskStarted
from aluma_async.exceptions import ConfigError
from aluma_async.models import Claim, ExportSpec
from aluma_async.pipeline.throttle import Throttle
from aluma_async.policy.adaptive_limit import AdaptiveLimit
from aluma_async.policy.routing import Routing
from aluma_async.service.console import Console
from aluma_async.service.stats import RunStats
from aluma_async.testing import MemoryDestination, SimulatedAluma, run_virtual
from aluma_async.wiring import open_reloadable_exporter
from tests.support.events import sample_event
from tests.support.processes import PROGRAM, environment, simulator
from tests.support.tasks import TASK, chunks, make_file

CLAIM = Claim(TASK, ExportSpec((make_file(),)), 0.0)
HERE = FolderConfig(path=Path("here"))
ROUTES = (RouteConfig(to=("a",), filename="*.csv"),)


def test_what_a_run_cannot_take_over_is_named():
    old = Config(destinations={"default": HERE})
    new = structs.replace(old, exporter=ExporterConfig(workers=3, queue_size=9), limits=LimitsConfig(adaptive=False))
    assert list(restart_required(old, new)) == ["exporter.queue_size", "limits.adaptive"]
    assert not list(restart_required(old, structs.replace(old, routes=ROUTES)))
    elsewhere = structs.replace(old, destinations={"a": HERE}, routes=ROUTES)
    assert list(restart_required(old, elsewhere)) == ["destinations", "routes"]


def test_what_is_taken_over_are_keys_that_there_are():
    config = Config()
    for table, keys in RELOADABLE.items():
        assert keys <= set(getattr(config, table).__struct_fields__)


@pytest.mark.parametrize("adaptive", [False, True])
def test_other_limits_hold_for_those_who_wait_and_what_is_under_way_counts(adaptive):
    async def main():
        told = []
        throttle = Throttle(4, adaptive=adaptive, uniform=lambda low, high: low, on_event=told.append)
        peak = [0]

        async def ask():
            while True:
                async with throttle.permit():
                    peak[0] = max(peak[0], throttle.in_flight)
                    await anyio.sleep(1)

        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(ask)
            peaks = []
            for most in (4, 10, 2):
                throttle.set_limits(most, max_per_second=0, max_bytes_per_second=0)
                await anyio.sleep(30)
                peak[0] = 0
                await anyio.sleep(30)
                peaks.append(peak[0])
            group.cancel_scope.cancel()
        assert peaks == [4, 10, 2]
        assert told[-1] == ConcurrencyLimitChanged(2)

    run_virtual(main)


def test_another_rate_holds_at_once():
    async def main():
        throttle = Throttle(100, uniform=lambda low, high: low, on_event=lambda _: None)

        async def seconds_of(requests):
            began = anyio.current_time()
            for _ in range(requests):
                async with throttle.permit():
                    pass
            return anyio.current_time() - began

        assert await seconds_of(50) == 0
        throttle.set_limits(100, max_per_second=5, max_bytes_per_second=0)
        assert await seconds_of(51) == pytest.approx(10, abs=0.5)
        throttle.set_limits(100, max_per_second=0, max_bytes_per_second=0)
        assert await seconds_of(50) == 0

    run_virtual(main)


def test_an_adaptive_limit_stays_below_its_new_bound_and_may_grow_to_it():
    limit = AdaptiveLimit(100)
    limit.set_maximum(5)
    assert limit.value == 5
    limit.set_maximum(50)
    for moment in range(100):
        limit.record_success(float(moment), moment + 0.5, in_flight=limit.value, measured=False)
    assert limit.value == 50


def test_a_task_that_is_opened_goes_by_the_route_of_that_moment():
    async def main():
        places = {"a": MemoryDestination(), "b": MemoryDestination()}
        routed = DestinationRouter(places, Routing((), "a"))
        async with routed.open(CLAIM) as before:
            routed.set_routing(Routing((), "b"))
            await before.save(make_file(), chunks(b"x"))
        assert (len(places["a"].tasks), len(places["b"].tasks)) == (1, 0)
        async with routed.open(CLAIM) as after:
            await after.save(make_file(), chunks(b"x"))
        assert len(places["b"].tasks) == 1

    run_virtual(main)


def test_a_run_takes_over_workers_limits_and_routes(tmp_path):
    async def main():
        folders = {name: FolderConfig(path=tmp_path / name) for name in ("default", "a")}
        config = Config(exporter=ExporterConfig(state=tmp_path / "state"), destinations=folders)
        changed = structs.replace(
            config,
            exporter=structs.replace(config.exporter, workers=3),
            limits=LimitsConfig(max_at_once=5),
            routes=ROUTES,
        )
        async with open_reloadable_exporter(config, Credentials("id", "secret")) as run:
            assert run.exporter.destination.routing.destinations_for(TASK, make_file()) == ("default",)
            assert run.reload(changed) == []
            assert run._throttle.limit == 5
            assert run.exporter._workers == 3
            assert run.exporter.destination.routing.destinations_for(TASK, make_file()) == ("a",)
            moved = structs.replace(config, destinations={**folders, "b": HERE}, routes=(RouteConfig(to=("b",)),))
            assert run.reload(moved) == ["destinations", "routes"]
            assert run.exporter.destination.routing.destinations_for(TASK, make_file()) == ("a",), "the old ones stay"
            with run.exporter._send, run.exporter._receive:  # which a run would have closed
                pass

    anyio.run(main)


def reload_of(run, *found):
    """Reload once for each config that is found, or error."""
    configs = iter(found)

    def load():
        config = next(configs)
        if isinstance(config, Exception):
            raise config
        return config

    console = Console(ServiceConfig(), "none", RunStats(anyio.current_time))
    reload = Reload(load, run, console, None)
    for _ in found:
        reload()
    return console


def test_a_reload_is_told_and_one_with_a_mistake_leaves_all_as_it_was(tmp_path, capsys):
    async def main():
        folder = {"default": FolderConfig(path=tmp_path / "out")}
        config = Config(exporter=ExporterConfig(state=tmp_path / "state"), destinations=folder)
        more = structs.replace(
            config,
            exporter=structs.replace(config.exporter, workers=3, drain_timeout_seconds=5),
            service=ServiceConfig(log_level="debug"),
        )
        nowhere = structs.replace(more, exporter=config.exporter, routes=(RouteConfig(to=("x",)),))
        async with open_reloadable_exporter(config, Credentials("id", "secret")) as run:
            console = reload_of(run, more, ConfigError("c.toml: broken", hint="Mend it."), nowhere)
            assert run.exporter._workers == 3, "the last two changed nothing"
            console.log(sample_event(TaskStarted))
            with run.exporter._send, run.exporter._receive:  # which a run would have closed
                pass

    anyio.run(main)
    said = capsys.readouterr().err.splitlines()
    assert "restart required for: exporter.drain_timeout_seconds" in said[0]
    assert "reloaded: 3 workers, 6 requests at once, log level debug" in said[1]
    assert "configuration not reloaded: c.toml: broken Mend it." in said[2]
    assert "unknown destination" in said[3]
    assert "claimed" in said[4], "that is of level debug"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals here")
def test_where_a_terminal_is_its_end_is_the_end_of_the_run(tmp_path):
    """Who closes the window ends the program, as ever; the next run gives back what was claimed."""
    ours, its = os.openpty()
    with simulator("--tasks", "1", "--profile", "bulk") as aluma:
        env = environment(tmp_path, SimulatedAluma.client_secret, {"TERM": "xterm", "COLUMNS": "80"})
        endless = ["-o", "out", "--max-bytes-per-second", "1000", "--base-url", aluma.base_url]
        with subprocess.Popen([*PROGRAM, *endless], cwd=tmp_path, env=env, stderr=its) as run:
            os.close(its)
            shown = b""
            while b"in progress" not in shown:
                shown += os.read(ours, 9999)
            run.send_signal(signal.SIGHUP)
            assert run.wait(20) == -signal.SIGHUP
    os.close(ours)
