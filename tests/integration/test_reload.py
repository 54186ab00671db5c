"""Reloading the configuration during a run: which settings are in effect at once, and which need a restart."""

import os
import signal
import subprocess
from contextlib import asynccontextmanager
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
from aluma_async.testing import MemoryDestination, SimulatedAluma
from aluma_async.wiring import open_reloadable_exporter
from tests.support.clock import virtual_time
from tests.support.events import sample_event
from tests.support.processes import MAX_SECONDS, PROGRAM, environment, simulator
from tests.support.tasks import TASK, chunks, make_file

CLAIM = Claim(TASK, ExportSpec((make_file(),)), 0.0)
FOLDER = FolderConfig(path=Path("folder"))
ROUTES = (RouteConfig(to=("a",), filename="*.csv"),)


def test_restart_is_required_for_settings_that_cannot_change():
    old = Config(destinations={"default": FOLDER})
    new = structs.replace(old, exporter=ExporterConfig(workers=3, queue_size=9), limits=LimitsConfig(adaptive=False))
    assert list(restart_required(old, new)) == ["exporter.queue_size", "limits.adaptive"]
    assert not list(restart_required(old, structs.replace(old, routes=ROUTES)))
    other_destination = structs.replace(old, destinations={"a": FOLDER}, routes=ROUTES)
    assert list(restart_required(old, other_destination)) == ["destinations", "routes"]


def test_reloadable_settings_exist():
    config = Config()
    for section, keys in RELOADABLE.items():
        assert keys <= set(getattr(config, section).__struct_fields__)


@pytest.mark.parametrize("adaptive", [False, True])
@virtual_time
async def test_throttle_applies_a_new_limit_to_waiting_requests(adaptive):
    """Requests in flight count against the new limit."""
    events = []
    throttle = Throttle(4, adaptive=adaptive, uniform=lambda low, high: low, on_event=events.append)
    peak = 0

    async def send_requests():
        nonlocal peak
        while True:
            async with throttle.permit():
                peak = max(peak, throttle.in_flight)
                await anyio.sleep(1)

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(send_requests)
        peaks = []
        for maximum in (4, 10, 2):
            throttle.set_limits(maximum, max_per_second=0, max_bytes_per_second=0)
            await anyio.sleep(30)
            peak = 0
            await anyio.sleep(30)
            peaks.append(peak)
        group.cancel_scope.cancel()
    assert peaks == [4, 10, 2]
    assert events[-1] == ConcurrencyLimitChanged(2)


@virtual_time
async def test_throttle_applies_a_new_rate_at_once():
    throttle = Throttle(100, uniform=lambda low, high: low, on_event=lambda _: None)

    async def duration_of(requests):
        started_at = anyio.current_time()
        for _ in range(requests):
            async with throttle.permit():
                pass
        return anyio.current_time() - started_at

    assert await duration_of(50) == 0
    throttle.set_limits(100, max_per_second=5, max_bytes_per_second=0)
    assert await duration_of(51) == pytest.approx(10, abs=0.5)
    throttle.set_limits(100, max_per_second=0, max_bytes_per_second=0)
    assert await duration_of(50) == 0


def test_adaptive_limit_stays_below_its_new_maximum_and_grows_to_it():
    limit = AdaptiveLimit(100)
    limit.set_maximum(5)
    assert limit.value == 5
    limit.set_maximum(50)
    for moment in range(100):
        limit.record_success(float(moment), moment + 0.5, level=limit.value, in_flight=limit.value, measured=False)
    assert limit.value == 50


@virtual_time
async def test_router_keeps_the_routing_of_an_open_task():
    destinations = {"a": MemoryDestination(), "b": MemoryDestination()}
    router = DestinationRouter(destinations, Routing((), "a"))
    async with router.open(CLAIM) as before:
        router.set_routing(Routing((), "b"))
        await before.save(make_file(), chunks(b"x"))
    assert (len(destinations["a"].tasks), len(destinations["b"].tasks)) == (1, 0)
    async with router.open(CLAIM) as after:
        await after.save(make_file(), chunks(b"x"))
    assert len(destinations["b"].tasks) == 1


@asynccontextmanager
async def open_idle_exporter(config, on_event=None):
    """Open an exporter that is never run; close the queue that a run would have closed."""
    async with open_reloadable_exporter(config, Credentials("id", "secret"), on_event=on_event) as reloadable:
        yield reloadable
        with reloadable.exporter._send, reloadable.exporter._receive:
            pass


def test_reload_applies_workers_limits_and_routes(tmp_path):
    """A changed destination needs a restart, and so do routes to it; the old ones stay in effect."""

    async def main():
        folders = {name: FolderConfig(path=tmp_path / name) for name in ("default", "a")}
        config = Config(exporter=ExporterConfig(state=tmp_path / "state"), destinations=folders)
        changed = structs.replace(
            config,
            exporter=structs.replace(config.exporter, workers=3),
            limits=LimitsConfig(max_at_once=5),
            routes=ROUTES,
        )
        events = []
        async with open_idle_exporter(config, events.append) as reloadable:
            routing = reloadable.exporter.destination.routing
            assert routing.destinations_for(TASK, make_file()) == ("default",)
            assert reloadable.reload(changed) == []
            assert events == [ConcurrencyLimitChanged(5)]
            assert reloadable.exporter.workers == 3
            assert reloadable.exporter.destination.routing.destinations_for(TASK, make_file()) == ("a",)
            moved = structs.replace(config, destinations={**folders, "b": FOLDER}, routes=(RouteConfig(to=("b",)),))
            assert reloadable.reload(moved) == ["destinations", "routes"]
            assert reloadable.exporter.destination.routing.destinations_for(TASK, make_file()) == ("a",)

    anyio.run(main)


def reload_each(reloadable, *results):
    """Reload once for each config, or for each exception that reading it raises."""
    remaining = iter(results)

    def load():
        result = next(remaining)
        if isinstance(result, Exception):
            raise result
        return result

    console = Console(ServiceConfig(), "none", RunStats(anyio.current_time))
    reload = Reload(load, reloadable, console, None)
    for _ in results:
        reload()
    return console


def test_reload_reports_changes_and_keeps_the_old_config_when_invalid(tmp_path, capsys):
    async def main():
        folder = {"default": FolderConfig(path=tmp_path / "out")}
        config = Config(exporter=ExporterConfig(state=tmp_path / "state"), destinations=folder)
        valid = structs.replace(
            config,
            exporter=structs.replace(config.exporter, workers=3, drain_timeout_seconds=5),
            service=ServiceConfig(log_level="debug"),
        )
        unknown_destination = structs.replace(valid, exporter=config.exporter, routes=(RouteConfig(to=("x",)),))
        unreadable = ConfigError("c.toml: broken", hint="Correct it.")
        async with open_idle_exporter(config) as reloadable:
            console = reload_each(reloadable, valid, unreadable, unknown_destination)
            assert reloadable.exporter.workers == 3, "the invalid ones change nothing"
            console.log(sample_event(TaskStarted))

    anyio.run(main)
    lines = capsys.readouterr().err.splitlines()
    assert "restart required for: exporter.drain_timeout_seconds" in lines[0]
    assert "reloaded: 3 workers, 6 requests at once, log level debug" in lines[1]
    assert "configuration not reloaded: c.toml: broken. Correct it." in lines[2]
    assert "unknown destination" in lines[3]
    assert "claimed" in lines[4], "which is logged at level debug"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_sighup_ends_a_run_on_a_terminal(tmp_path):
    """It means that the window was closed. The next run releases the claims."""
    screen, terminal = os.openpty()
    with simulator("--tasks", "1", "--profile", "bulk") as aluma:
        env = environment(tmp_path, SimulatedAluma.client_secret, {"TERM": "xterm", "COLUMNS": "80"})
        slow = ["-o", "out", "--max-bytes-per-second", "1000", "--base-url", aluma.base_url]
        with subprocess.Popen([*PROGRAM, *slow], cwd=tmp_path, env=env, stderr=terminal) as run:
            os.close(terminal)
            output = b""
            while b"in progress" not in output:
                output += os.read(screen, 9999)
            run.send_signal(signal.SIGHUP)
            assert run.wait(MAX_SECONDS) == -signal.SIGHUP
    os.close(screen)


def test_reload_survives_an_error_of_any_kind(tmp_path, capsys):
    async def main():
        config = Config(
            exporter=ExporterConfig(state=tmp_path / "state"),
            destinations={"default": FolderConfig(path=tmp_path / "out")},
        )
        async with open_idle_exporter(config) as reloadable:
            reload_each(reloadable, ZeroDivisionError("a secret"))

    anyio.run(main)
    assert "configuration not reloaded: unexpected ZeroDivisionError\n" in capsys.readouterr().err
