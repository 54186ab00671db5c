"""A database that ``SqlDestination`` cannot use is reported without the password and other secrets."""

import threading

import anyio
import pytest

from aluma_async.destinations.sql.destination import SqlDestination
from aluma_async.exceptions import ConfigError, DestinationUnavailable
from tests.support.clock import real_time
from tests.support.databases import open_sql
from tests.support.postgres import PASSWORD
from tests.support.tasks import deliver, make_claim


def test_wrong_password_is_reported_without_it(postgres_database):
    url = postgres_database.url.replace(PASSWORD, "canary-wrong")
    expect_unavailable(url, "password authentication failed", secret="canary-wrong")


def test_missing_database_is_reported(postgres):
    expect_unavailable(postgres.url("nowhere"), 'database "nowhere" does not exist', secret=PASSWORD)


def test_unreachable_server_is_reported(postgres, postgres_database):
    expect_unavailable(postgres_database.url.replace(f":{postgres.port}", ":1"), "refused", secret=PASSWORD)


def test_sqlite_file_in_a_missing_folder_is_reported():
    expect_unavailable("sqlite:////no/such/folder/data.db", "unable to open database file", secret="canary")


def test_invalid_url_is_refused_without_repeating_it():
    with pytest.raises(ConfigError, match="url: oracle is not supported"):
        SqlDestination("oracle://me:canary@db/x", "t")
    with pytest.raises(ConfigError, match="url") as caught:
        SqlDestination("no url canary", "t")
    assert "canary" not in str(caught.value)


@real_time
async def test_read_only_database_is_reported(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY)")
    postgres_database.ask(f"ALTER DATABASE {postgres_database.name} SET default_transaction_read_only = on")
    async with open_sql(postgres_database, key=["k"]) as destination:
        with pytest.raises(DestinationUnavailable, match="read-only"):
            await deliver(destination, make_claim("t1", "a.csv"), "k\n1\n")


@real_time
async def expect_unavailable(url, message, *, secret):
    """Check that a probe fails with one line that contains the message and not the secret."""
    destination = SqlDestination(url, "t")
    with pytest.raises(DestinationUnavailable) as caught:
        await destination.probe()
    await destination.close()
    # The thread of aiosqlite still calls the loop after close(), and there is no event for its end.
    while any("connection_worker" in thread.name for thread in threading.enumerate()):  # noqa: ASYNC110
        await anyio.sleep(0.01)
    assert message in str(caught.value)
    assert secret not in str(caught.value) + caught.value.hint
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://ledger.db", "contains a host, but SQLite has none"),
        ("sqlite://me:canary@host/ledger.db", "contains a host, but SQLite has none"),
        ("postgresql://me:canary@host:port/db", "is not a database URL"),
    ],
)
def test_url_with_a_mistake_is_refused_with_a_remedy(url, message):
    with pytest.raises(ConfigError, match=message) as caught:
        SqlDestination(url, "t")
    assert caught.value.hint
    assert "canary" not in str(caught.value) + caught.value.hint
