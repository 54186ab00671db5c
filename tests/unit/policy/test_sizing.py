"""``policy.sizing``: the numbers that follow from the number of workers."""

from aluma_async.config.config import Config
from aluma_async.config.sections import ExporterConfig
from aluma_async.policy.sizing import QUEUED_TASKS_PER_WORKER, REQUESTS_PER_WORKER


def test_queue_and_requests_are_twice_the_workers_by_default():
    """As the documentation says of ``queue_size = 0`` and ``max_at_once = 0``."""
    assert (QUEUED_TASKS_PER_WORKER, REQUESTS_PER_WORKER) == (2, 2)
    config = Config(exporter=ExporterConfig(workers=7))
    assert (config.queue_size, config.max_at_once) == (14, 14)
