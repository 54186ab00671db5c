"""The place of a SQL destination: the database and the tables that its URL and settings name."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

import sqlalchemy as sa

from aluma_async.destinations.common.place import ANY, DatabaseFile, DatabaseServer, TablePlace, host_name
from aluma_async.destinations.sql.tables import MANIFEST, TableTemplate

_SEARCH_PATH = re.compile(r"(?:-c\s*|--)search_path=(?:\"(\w+)\"|(\w+))(?:\s|$)")


def table_place(
    url: sa.URL, template: TableTemplate, *, manifest: bool, environ: Mapping[str, str] = os.environ
) -> TablePlace | None:
    """Return the place of the tables that match ``template``; None for a database in memory."""
    schema, table = template.schema or "", template.name
    manifest_table = MANIFEST if manifest else ""
    if url.get_backend_name() == "sqlite":
        path = url.database or ""
        if path.startswith("file:"):
            path = unquote(path.removeprefix("file:").partition("?")[0])
        if path in ("", ":memory:"):
            return None
        # SQLite ignores the case of names.
        return TablePlace(DatabaseFile(Path(path)), schema.lower() or "main", table.lower(), manifest_table)
    options = f"{environ.get('PGOPTIONS', '')} {' '.join(_values(url, 'options'))}"
    # Otherwise the schema depends on the settings of server, database and user.
    search_path = match[1] or match[2] if (match := _SEARCH_PATH.search(options)) else ANY
    return TablePlace(_server(url, environ), schema or search_path, table, manifest_table)


def _server(url: sa.URL, environ: Mapping[str, str]) -> DatabaseServer:
    if _values(url, "service") or environ.get("PGSERVICE"):
        return DatabaseServer(frozenset(), ANY)  # the file of services contains the rest
    user = url.username or environ.get("PGUSER", ANY)
    names = [url.database or "", *_values(url, "dbname"), environ.get("PGDATABASE", ""), user]
    return DatabaseServer(frozenset(_hosts(url, environ)), next(filter(None, names), ANY))


def _hosts(url: sa.URL, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    hosts = [url.host or "", *_values(url, "host"), *_values(url, "hostaddr")]
    hosts = [host for text in hosts for host in text.split(",") if host] or [environ.get("PGHOST", "")]
    ports = [port for text in _values(url, "port") for port in text.split(",") if port]
    default = str(url.port or environ.get("PGPORT") or 5432)
    for number, host in enumerate(hosts):
        name, _, port = host.rpartition(":") if host.count(":") == 1 else (host, "", "")
        yield host_name(name), port or (ports[min(number, len(ports) - 1)] if ports else default)


def _values(url: sa.URL, key: str) -> tuple[str, ...]:
    """Return the values of a key in the query of a URL, which may contain it several times."""
    value = url.query.get(key, ())
    return (value,) if isinstance(value, str) else value
