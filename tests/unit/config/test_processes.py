"""``[exporter] processes``: the range, and the share of each process in the limits."""

import pytest

from aluma_async.config import Config
from aluma_async.config.processes import config_of_process
from aluma_async.exceptions import ConfigError
from aluma_async.policy.partition import Partition


def shares(text, count):
    config = Config.from_toml(text, "my.toml")
    return [config_of_process(config, Partition(number, count)).limits for number in range(1, count + 1)]


@pytest.mark.parametrize(("requests", "count"), [(32, 4), (10, 3), (3, 3), (100, 7)])
def test_shares_of_the_limits_add_up_to_the_limits(requests, count):
    limits = f"[limits]\nmax_at_once = {requests}\nmax_per_second = 5\nmax_bytes_per_second = 1000"
    parts = shares(limits, count)
    assert sum(part.max_at_once for part in parts) == requests
    assert max(part.max_at_once for part in parts) - min(part.max_at_once for part in parts) <= 1
    assert sum(part.max_per_second for part in parts) == pytest.approx(5)
    assert sum(part.max_bytes_per_second for part in parts) == pytest.approx(1000)


def test_limits_that_are_not_set_stay_unset():
    part = shares("", 4)[3]
    assert (part.max_at_once, part.max_per_second, part.max_bytes_per_second) == (0, 0, 0)


@pytest.mark.parametrize("processes", ["0", "-1", "65", "1.5", '"2"'])
def test_number_of_processes_outside_the_range_is_refused(processes):
    with pytest.raises(ConfigError, match="processes"):
        Config.from_toml(f"[exporter]\nprocesses = {processes}", "my.toml")


def test_fewer_requests_than_processes_are_refused():
    """A process without a request could not even list."""
    with pytest.raises(ConfigError, match="max_at_once = 3: fewer requests than"):
        Config.from_toml("[exporter]\nprocesses = 4\n[limits]\nmax_at_once = 3", "my.toml")
    assert Config.from_toml("[exporter]\nprocesses = 3\n[limits]\nmax_at_once = 3", "my.toml").max_at_once == 3
