"""The configuration of one of several processes: each has an equal share of the limits, so that their sum is kept."""

from msgspec import structs

from aluma_async.config.config import Config
from aluma_async.policy.partition import Partition


def config_of_process(config: Config, partition: Partition) -> Config:
    """Return a configuration with this process's share of the limits that are set.

    A limit that is not set, and the number of workers, apply to each process.
    """
    limits, count = config.limits, partition.count
    requests, rest = divmod(limits.max_at_once, count)
    shares = structs.replace(
        limits,
        max_at_once=requests + (partition.number <= rest),
        max_per_second=limits.max_per_second / count,
        max_bytes_per_second=limits.max_bytes_per_second / count,
    )
    return structs.replace(config, limits=shares)
