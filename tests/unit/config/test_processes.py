"""``[exporter] processes``: the range, and the share of each process in the limits."""

import pytest

from aluma_async.config import Config
from aluma_async.config.processes import check_shares, config_of_process
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


def test_process_has_a_request_when_the_file_has_fewer_processes_by_now():
    """A process that is restarted reads a file that was edited meanwhile; a share of 0 would mean no limit."""
    text = "[exporter]\nprocesses = 1\n[limits]\nmax_at_once = 2"
    assert [part.max_at_once for part in shares(text, 4)] == [1, 1, 1, 1]


def test_shares_are_refused_when_more_processes_run_than_requests_are_allowed():
    """Their number changes at a restart only, whatever the file says."""
    config = Config.from_toml("[exporter]\nprocesses = 1\n[limits]\nmax_at_once = 2", "my.toml")
    with pytest.raises(ConfigError, match="max_at_once = 2: fewer requests than the 3 running processes"):
        check_shares(config, 3)
    check_shares(config, 2)
    check_shares(Config(), 3)
