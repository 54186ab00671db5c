"""The deadline of a task at Aluma: a project may delete its tasks some time after their creation. Pure.

It is different from the lease of a claim. The API does not report it, so the administrator configures it.
"""


def seconds_left(created_at: float | None, deadline_seconds: float, now: float) -> float | None:
    """Return for how many seconds Aluma still keeps a task, not more than 0 if it is overdue; None if unknown.

    Args:
        created_at: Creation of the task, in seconds since 1970; None: not known.
        deadline_seconds: How long the project keeps a task from its creation; 0: not known.
        now: The time in seconds since 1970.
    """
    if created_at is None or not deadline_seconds:
        return None
    return created_at + deadline_seconds - now
