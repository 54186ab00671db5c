"""The setting ``on_conflict``: what happens to a file if another task's file already has its name."""

from collections.abc import Iterator

from aluma_async.exceptions import DestinationError
from aluma_async.policy import naming
from aluma_async.policy.naming import OnConflict, PathParts


def candidate_paths(wanted: PathParts, task_id: str, on_conflict: OnConflict, subject: str) -> Iterator[PathParts]:
    """Yield the paths to try, the preferred one first.

    With ``on_conflict="fail"`` there is only one; asking for another raises ``DestinationError`` about ``subject``.
    """
    for number, parts in enumerate(naming.candidate_paths(wanted, task_id)):
        if number and on_conflict == "fail":
            raise DestinationError(
                f"{subject}: another file already has this name",
                hint='Set on_conflict = "keep-both" to keep both files.',
            )
        yield parts
