"""The setting ``on_conflict``: what happens to a file if another task's file already has its name."""

from collections.abc import Iterator
from itertools import islice

from aluma_async.exceptions import DestinationError
from aluma_async.policy import naming
from aluma_async.policy.naming import OnConflict, PathParts

_MAX_CANDIDATES = 100
"""Names to try. More than two are rarely needed, because the second one contains a hash of the task's id."""


def candidate_paths(wanted: PathParts, task_id: str, on_conflict: OnConflict, subject: str) -> Iterator[PathParts]:
    """Yield the paths to try, the preferred one first.

    With ``on_conflict="fail"`` there is only one. Asking for more names than there are raises ``DestinationError``
    about ``subject``.
    """
    for number, parts in enumerate(islice(naming.candidate_paths(wanted, task_id), _MAX_CANDIDATES)):
        if number and on_conflict == "fail":
            raise DestinationError(
                f"{subject}: another file already has this name",
                hint='Set on_conflict = "keep-both" to keep both files.',
            )
        yield parts
    raise DestinationError(
        f"{subject}: no free name among {_MAX_CANDIDATES}",
        hint="Check that the destination does not report files that do not exist, and remove files of this name.",
    )
