"""``ReloadAll``: a configuration that cannot be used changes nothing, and ends nothing."""

import asyncio
from types import SimpleNamespace

import pytest

from aluma_async.cli.supervise import ReloadAll
from aluma_async.config import Config


def reload(load, processes=4):
    """Return the log after SIGHUP, and the number of reloads that were passed on."""
    log, passed_on = [], []

    async def pass_on(seconds):
        passed_on.append(seconds)

    writer = SimpleNamespace(write=lambda level, event, text: log.append(text), set_level=str)
    supervisor = SimpleNamespace(processes=range(processes), reload=pass_on)
    asyncio.run(ReloadAll(load, supervisor, SimpleNamespace(log=writer), None)())
    return log, len(passed_on)


@pytest.mark.parametrize("error", [PermissionError(13, "secret"), RuntimeError("secret")])
def test_reload_reports_an_unexpected_error_and_ends_nothing(error):
    """A file that cannot be read must not end the processes."""

    def load():
        raise error

    assert reload(load) == ([f"configuration not reloaded: unexpected {type(error).__name__}"], 0)


def test_reload_is_refused_when_more_processes_run_than_requests_are_allowed():
    text = "[exporter]\nprocesses = 1\n[limits]\nmax_at_once = 2\n[destinations.a]\ntype = 'folder'\npath = 'a'"
    config = Config.from_toml(text, "my.toml")
    log, passed_on = reload(lambda: config)
    assert passed_on == 0
    assert "max_at_once = 2: fewer requests than the 4 running processes" in log[0]
    assert reload(lambda: config, processes=2) == ([], 1)
