"""``Settings``: the settings of a destination, as its transactions need them."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from msgspec import Struct

from aluma_async.destinations.sql import tables
from aluma_async.destinations.sql.backend import Backend
from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.destinations.sql.table_access import TableUse
from aluma_async.destinations.sql.tables import TableTemplate


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of a destination."""

    backend: Backend
    errors: tuple[type[Exception], ...]
    """Exceptions of the driver and of SQLAlchemy."""
    template: TableTemplate
    mode: Literal["rows", "files"]
    key: tuple[str, ...]
    column_types: Mapping[str, str]
    file_format: FileFormat
    trigger_columns: Collection[str]
    """Columns that a trigger may change, so that they are not compared."""
    manifest: bool
    now: Callable[[], float]

    @property
    def known_names(self) -> Collection[str]:
        """Columns that the configuration names."""
        return {*self.key, *self.column_types, *self.trigger_columns}

    @property
    def use(self) -> TableUse:
        """How the tables of the files are used."""
        if self.mode == "files":
            return TableUse(tables.FILE_KEY, "files", tables.FILE_KINDS)
        return TableUse(self.key, "upsert") if self.key else TableUse(tables.ROW_KEY, "replace", tables.ROW_KEY_KINDS)
