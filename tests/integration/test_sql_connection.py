"""The database URL: parameters of libpq, several hosts, and PgBouncer."""

import anyio
import pytest

from aluma_async.destinations.sql.destination import SqlDestination
from aluma_async.exceptions import ConfigError, DestinationUnavailable
from tests.support.clock import real_time
from tests.support.databases import deliver_file, open_sql
from tests.support.pgbouncer import run_pgbouncer_like_proxy
from tests.support.postgres import PASSWORD
from tests.support.tasks import deliver, make_claim


class At:
    """A database at another URL."""

    def __init__(self, database, url):
        self.url, self.ask = url, database.ask


def test_options_of_the_url_are_kept(postgres_database):
    """Rows land in the schema of the search path that the URL sets."""
    for schema in ("public", "other"):
        postgres_database.ask(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        postgres_database.ask(f"CREATE TABLE {schema}.t (k TEXT PRIMARY KEY)")
    url = postgres_database.url + "?options=-csearch_path%3Dother"
    deliver_file(At(postgres_database, url), "k\n1\n", key=["k"])
    assert postgres_database.ask("SELECT (SELECT count(*) FROM public.t), (SELECT count(*) FROM other.t)") == [(0, 1)]
    deliver_file(At(postgres_database, url), "k\n1\n", key=["k"], table="u", create=True)
    assert postgres_database.ask("SELECT schemaname FROM pg_tables WHERE tablename = 'u'") == [("other",)]


@pytest.mark.parametrize(
    ("parameters", "query", "value"),
    [
        ("application_name=ledger", "SELECT current_setting('application_name')", "ledger"),
        ("options=-clock_timeout%3D7s", "SELECT current_setting('lock_timeout')", "7s"),
        ("", "SELECT current_setting('lock_timeout')", "1min"),
        ("client_encoding=LATIN1", "SELECT current_setting('client_encoding')", "UTF8"),
        ("options=-csynchronous_commit%3Doff", "SELECT current_setting('synchronous_commit')", "on"),
        ("options=-csynchronous_commit%3Dremote_apply", "SELECT current_setting('synchronous_commit')", "remote_apply"),
    ],
)
def test_settings_of_a_transaction(postgres_database, parameters, query, value):
    """A trigger records the setting that is in effect while rows are written."""
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, setting TEXT)")
    body = f"BEGIN NEW.setting := ({query}); RETURN NEW; END"
    postgres_database.ask(f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    postgres_database.ask("CREATE TRIGGER c BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
    deliver_file(At(postgres_database, f"{postgres_database.url}?{parameters}"), "k\n1\n", key=["k"])
    assert postgres_database.ask("SELECT setting FROM t") == [(value,)]


@real_time
async def test_connect_timeout_of_the_url_is_kept(postgres):
    """A server that accepts the connection and never answers."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        destination = SqlDestination(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/db?connect_timeout=2", "t")
        with anyio.fail_after(60), pytest.raises(DestinationUnavailable):
            await destination.probe()
        await destination.close()


@pytest.mark.parametrize(
    "hosts", ["127.0.0.1:1,127.0.0.1:{port}/{name}", "/{name}?host=127.0.0.1:1&host=127.0.0.1:{port}"]
)
def test_several_hosts_are_tried_in_turn(postgres, postgres_database, hosts):
    hosts = hosts.format(port=postgres.port, name=postgres_database.name)
    deliver_file(At(postgres_database, f"postgresql://postgres:{PASSWORD}@{hosts}"), "k\n1\n", create=True)
    assert postgres_database.ask("SELECT k FROM t") == [("1",)]


def test_errors_of_several_hosts_are_one_line(postgres_database):
    with pytest.raises(DestinationUnavailable, match="refused") as caught:
        deliver_file(At(postgres_database, f"postgresql://u:{PASSWORD}@127.0.0.1:1,127.0.0.1:2/x"), "k\n1\n")
    assert len(str(caught.value).splitlines()) == 1
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "POSTGRESQL"])
def test_schemes_of_postgresql(postgres_database, scheme):
    url = scheme + postgres_database.url.removeprefix("postgresql")
    deliver_file(At(postgres_database, url), "k\n1\n", create=True)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:canary@db/x?autocommit=1",
        "postgresql://me:canary@db/x?prepare_threshold=5",
        "postgresql://me:canary@db/x?nonsense=canary",
        "postgresql://me:canary@db/x?options=canary&options=canary",
        "postgresql://me:canary@db:port/x",
        "postgresql://me:canary@db1:1,db2:x/x?nonsense=canary",
        "sqlite://canary",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:canary?mode=memory&uri=true",
        "canary",
        "://canary",
        "",
    ],
)
def test_unusable_url_is_refused_at_start_without_repeating_it(url):
    """A database in memory would lose all rows; ``autocommit`` would end the transaction of a task early."""
    with pytest.raises(ConfigError, match=r"^url: ") as caught:
        SqlDestination(url, "t")
    assert "canary" not in str(caught.value) + caught.value.hint
    assert caught.value.hint


def test_parameters_of_a_sqlite_url_are_kept(tmp_path):
    database = At(type("Database", (), {"ask": None}), f"sqlite:///{tmp_path}/a.db?timeout=5")
    deliver_file(database, "k\n1\n", create=True)


def test_description_contains_no_parameter_of_the_url():
    destination = SqlDestination("postgresql://me:canary@127.0.0.1:1/x?password=canary", "t")
    with pytest.raises(DestinationUnavailable) as caught:
        anyio.run(destination.probe)
    assert "canary" not in str(caught.value)


@real_time
async def test_pgbouncer_in_transaction_mode(postgres, postgres_database):
    """It refuses unknown start-up parameters, and knows no named prepared statements."""
    async with run_pgbouncer_like_proxy(postgres.port) as (port, refused):
        url = postgres_database.url.replace(f":{postgres.port}/", f":{port}/")
        async with open_sql(At(postgres_database, url), "{stem}", key=["k"], create=True) as destination:
            await destination.probe()
            for number in range(12):  # psycopg prepares a statement that it has sent five times
                await deliver(destination, make_claim(f"t{number}", "a.csv", "b.csv"), *[f"k,v\n{number},x\n"] * 2)
        async with open_sql(At(postgres_database, url), "f", mode="files", create=True, manifest=True) as destination:
            for number in range(12):
                await deliver(destination, make_claim(f"t{number}", "a.csv"), "content")
    assert refused == []
    counts = "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b), (SELECT count(*) FROM f)"
    assert postgres_database.ask(counts) == [(12, 12, 12)]


@real_time
async def test_parameter_that_pgbouncer_refuses_is_reported(postgres, postgres_database):
    async with run_pgbouncer_like_proxy(postgres.port) as (port, refused):
        url = postgres_database.url.replace(f":{postgres.port}/", f":{port}/") + "?options=-csearch_path%3Dx"
        destination = SqlDestination(url, "t")
        with pytest.raises(DestinationUnavailable, match="unsupported startup parameter: options"):
            await destination.probe()
        await destination.close()
    assert refused == ["options"]
