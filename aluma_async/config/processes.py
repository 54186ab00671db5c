"""The configuration of one of several processes: each has an equal share of the limits, so that their sum is kept."""

from msgspec import structs

from aluma_async.config.config import Config
from aluma_async.exceptions import ConfigError
from aluma_async.policy.partition import Partition


def config_of_process(config: Config, partition: Partition) -> Config:
    """Return a configuration with this process's share of the limits that are set.

    A limit that is not set, and the number of workers, apply to each process. A process has at least one request, also
    if the file was edited for fewer processes than run.
    """
    limits, count = config.limits, partition.count
    if config.fleet.is_enabled:  # which divides the limits, and needs the number of processes only at its start
        return structs.replace(config, fleet=structs.replace(config.fleet, nodes=config.fleet.nodes or count))
    requests, rest = divmod(limits.max_at_once, count)
    share = requests + (partition.number <= rest)
    shares = structs.replace(
        limits,
        max_at_once=max(1, share) if limits.max_at_once else 0,
        max_per_second=limits.max_per_second / count,
        max_bytes_per_second=limits.max_bytes_per_second / count,
    )
    return structs.replace(config, limits=shares)


def check_shares(config: Config, count: int) -> None:
    """Raise ``ConfigError`` if ``max_at_once`` is too low for ``count`` running processes, whatever number is set."""
    requests = config.limits.max_at_once
    if 0 < requests < count:
        text = f"[limits] max_at_once = {requests}: fewer requests than the {count} running processes"
        raise ConfigError(text, hint="Restart the exporter to change the number of processes.")
