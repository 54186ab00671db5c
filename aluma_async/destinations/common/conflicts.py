"""What becomes of a file whose name another task's file has."""

from collections.abc import Iterator
from typing import Literal, TypeAlias

from aluma_async.exceptions import DestinationError
from aluma_async.policy import naming
from aluma_async.policy.naming import PathParts

OnConflict: TypeAlias = Literal["keep-both", "overwrite", "fail"]


def candidate_paths(wanted: PathParts, task_id: str, on_conflict: OnConflict, what: str) -> Iterator[PathParts]:
    """The paths that may be tried, the best first. Raises ``DestinationError``, about ``what``, if only that may be."""
    for number, parts in enumerate(naming.candidate_paths(wanted, task_id)):
        if number and on_conflict == "fail":
            raise DestinationError(f"{what} has a name that is another's", hint='on_conflict = "keep-both" keeps both.')
        yield parts
