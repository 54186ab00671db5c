"""What of a changed configuration holds at once, and what only after a new start."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from aluma_async.config.config import Config

RELOADABLE: Mapping[str, AbstractSet[str]] = {
    "exporter": {"workers"},
    "limits": {"max_at_once", "max_per_second", "max_bytes_per_second"},
    "service": {"log_level"},
}
"""Keys by table that a run takes over; besides them ``[[routes]]``, as long as the destinations are the same."""


def restart_required(old: Config, new: Config) -> Iterator[str]:
    """Name the keys that differ and that a run cannot take over."""
    for table in old.__struct_fields__:
        if table in ("destinations", "routes"):
            continue
        before, after = getattr(old, table), getattr(new, table)
        for key in before.__struct_fields__:
            if key not in RELOADABLE.get(table, ()) and getattr(before, key) != getattr(after, key):
                yield f"{table}.{key}"
    if old.destinations != new.destinations:
        yield "destinations"
        if old.routes != new.routes:
            yield "routes"
