"""Databases for tests: a SQLite file, and a database of a PostgreSQL server."""

import itertools
import sqlite3
from contextlib import asynccontextmanager, closing

import anyio

from aluma_async.destinations.sql.destination import SqlDestination
from tests.support.postgres import PASSWORD
from tests.support.tasks import deliver, make_claim

_NUMBERS = itertools.count()


class SqliteDatabase:
    """A new SQLite file."""

    def __init__(self, path):
        self._path = path
        self.url = f"sqlite:///{path}"

    def ask(self, statement):
        """Return all rows of a statement's result."""
        with closing(sqlite3.connect(self._path)) as database, database:
            return database.execute(statement).fetchall()


class PostgresDatabase:
    """A new database of the server."""

    def __init__(self, server):
        self._server, self.name = server, f"test_{next(_NUMBERS)}"
        server.ask("postgres", f"CREATE DATABASE {self.name}")
        self.url = server.url(self.name)

    def ask(self, statement):
        """Return all rows of a statement's result."""
        return self._server.ask(self.name, statement)

    def create_user(self, *grants):
        """Return the database as a new user sees it, who has only these rights: ``INSERT ON t``."""
        user = f"{self.name}_user_{next(_NUMBERS)}"
        self.ask(f"CREATE USER {user} PASSWORD 'canary-user-password'")
        for grant in grants:
            self.ask(f"GRANT {grant} TO {user}")
        return _DatabaseUser(user, self._server.url(self.name).replace("//postgres:", f"//{user}:", 1), self.ask)


class _DatabaseUser:
    """A database with the URL of a user."""

    def __init__(self, name, url, ask):
        self.name, self.url, self.ask = name, url.replace(f":{PASSWORD}@", ":canary-user-password@"), ask


def create_citext(database, name="citext"):
    """Create a type of texts without upper and lower case, as the extension citext does, which may be missing."""
    options = "IMMUTABLE STRICT AS"
    compare = "bttextcmp(lower($1::text), lower($2::text))"
    operators = {"<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">": "gt"}
    strategies = ", ".join(f"OPERATOR {number} {operator}" for number, operator in enumerate(operators, 1))
    statements = [
        f"CREATE TYPE {name}",
        f"CREATE FUNCTION {name}_in(cstring) RETURNS {name} LANGUAGE internal {options} 'textin'",
        f"CREATE FUNCTION {name}_out({name}) RETURNS cstring LANGUAGE internal {options} 'textout'",
        f"CREATE TYPE {name} (INPUT = {name}_in, OUTPUT = {name}_out, LIKE = text, COLLATABLE = true)",
        f"CREATE CAST ({name} AS text) WITHOUT FUNCTION AS IMPLICIT",
        f"CREATE CAST (text AS {name}) WITHOUT FUNCTION AS ASSIGNMENT",
        f"CREATE FUNCTION {name}_cmp({name}, {name}) RETURNS int LANGUAGE sql {options} 'SELECT {compare}'",
    ]
    for operator, word in operators.items():
        body = f"'SELECT {compare} {operator} 0'"
        statements += [
            f"CREATE FUNCTION {name}_{word}({name}, {name}) RETURNS bool LANGUAGE sql {options} {body}",
            f"CREATE OPERATOR {operator} (FUNCTION = {name}_{word}, LEFTARG = {name}, RIGHTARG = {name})",
        ]
    statements.append(
        f"CREATE OPERATOR CLASS {name}_ops DEFAULT FOR TYPE {name} USING btree AS {strategies}, "
        f"FUNCTION 1 {name}_cmp({name}, {name})"
    )
    database.ask("; ".join(statements))


@asynccontextmanager
async def open_sql(database, table="t", **options):
    """Open a destination, and close its connections at the end."""
    destination = SqlDestination(database.url, table, **options)
    try:
        yield destination
    finally:
        await destination.close()


def deliver_file(database, content, *, task="t1", name="a.csv", table="t", **options):
    """Deliver a task with one file through a destination of its own."""

    async def main():
        async with open_sql(database, table, **options) as destination:
            await deliver(destination, make_claim(task, name), content)

    anyio.run(main)
