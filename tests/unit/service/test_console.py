"""``Console``: how progress is shown, and messages at any log level."""

import json
import time

import anyio
import pytest

from aluma_async import events
from aluma_async.config import ServiceConfig
from aluma_async.models import Summary
from aluma_async.service.console import Console, choose_mode
from aluma_async.service.stats import RunStats
from tests.support.clock import virtual_time


@pytest.mark.parametrize(
    ("level", "log_format", "progress", "terminal", "mode"),
    [
        ("info", "text", None, True, "live"),
        ("info", "text", None, False, "lines"),
        ("info", "json", None, True, "lines"),
        ("debug", "text", None, True, "live"),
        ("warning", "text", None, True, "none"),
        ("warning", "text", True, True, "live"),
        ("info", "text", False, True, "none"),
    ],
)
def test_progress_mode_depends_on_options_and_terminal(level, log_format, progress, terminal, mode):
    service = ServiceConfig(log_level=level, log_format=log_format)
    assert choose_mode(service, progress=progress, terminal=terminal) == mode


@virtual_time
async def test_console_writes_lines_of_progress_only_after_a_change(capsys):
    console = Console(ServiceConfig(), "lines", RunStats(anyio.current_time))
    with anyio.move_on_after(95):
        async with anyio.create_task_group() as group:
            group.start_soon(console.watch)
            await anyio.sleep(25)
            console.on_event(events.TasksListed(10, 8, 2, None))
    (line,) = capsys.readouterr().err.splitlines()
    assert "0 of 8 tasks exported" in line
    assert "2 cooling down" in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_console_writes_messages_and_the_summary_at_any_log_level(capsys, log_format):
    console = Console(ServiceConfig(log_level="error", log_format=log_format), "none", RunStats())
    console.print_message("warning", "Draining", "draining")
    console.finish(Summary(exported=2), "out")
    output = capsys.readouterr()
    assert output.out == ""
    assert "draining" in output.err
    assert "2 tasks" in output.err
    if log_format == "json":
        assert [json.loads(line)["event"] for line in output.err.splitlines()] == ["Draining", "RunSummary"]


@virtual_time
async def test_panel_that_is_expensive_to_draw_is_drawn_less_often(monkeypatch):
    """Drawing takes a small share of the time, also with many tasks on a tall terminal."""
    drawn_at = []

    class SlowPanel:
        def __init__(self, stats, **_):
            self.close = lambda: None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def draw(self):
            drawn_at.append(anyio.current_time())
            ends_at = time.thread_time() + 0.05
            while time.thread_time() < ends_at:
                pass

    monkeypatch.setattr("aluma_async.service.live_display.LiveDisplay", SlowPanel)
    with anyio.move_on_after(10):
        await Console(ServiceConfig(), "live", RunStats(anyio.current_time)).watch()
    assert 2 <= len(drawn_at) <= 10
