"""Determines which changes of a configuration take effect at a reload, and which require a restart."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from aluma_async.config.config import Config

RELOADABLE: Mapping[str, AbstractSet[str]] = {
    "exporter": {"workers"},
    "limits": {"max_at_once", "max_per_second", "max_bytes_per_second"},
    "service": {"log_level"},
}
"""Keys by section that a reload applies; also ``[[routes]]``, if the destinations have not changed."""


def restart_required(old: Config, new: Config) -> Iterator[str]:
    """Yield the changed keys that a reload cannot apply."""
    for section in old.__struct_fields__:
        if section in ("destinations", "routes"):
            continue
        before, after = getattr(old, section), getattr(new, section)
        for key in before.__struct_fields__:
            if key not in RELOADABLE.get(section, ()) and getattr(before, key) != getattr(after, key):
                yield f"{section}.{key}"
    if old.destinations != new.destinations:
        yield "destinations"
        if old.routes != new.routes:
            yield "routes"
