"""Default sizes that depend on the number of workers."""

QUEUED_TASKS_PER_WORKER = 2
"""Unclaimed tasks in the queue, so that a worker never waits for the next one."""
REQUESTS_PER_WORKER = 2
"""Requests in flight, because a task downloads several files at the same time."""
