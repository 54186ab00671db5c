"""Columns of tables that an administrator created: their types, and values that only the database may write."""

import pytest

from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.exceptions import DestinationError, SchemaMismatch
from tests.support.clock import real_time
from tests.support.databases import SqliteDatabase, deliver_file, open_sql
from tests.support.tasks import deliver, make_claim

GERMAN = FileFormat(decimal=",")


@pytest.mark.parametrize(
    ("declared", "cell"),
    [
        ("NUMERIC(10, 2)", "12.5"),
        ("NUMERIC(10, 2)", "1.2345,00"),
        ("NUMERIC(10, 2)", "12,345"),
        ("INTEGER", "12.5"),
        ("INTEGER", "1_000"),
        ("DOUBLE PRECISION", "1,234.5"),
        ("DOUBLE PRECISION", "9007199254740993"),
    ],
)
def test_number_that_would_be_stored_wrong_does_not_fit(database, declared, cell):
    database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x {declared})")
    with pytest.raises(SchemaMismatch, match="row 1, column 'x'") as caught:
        deliver_file(database, f'k,x\n1,"{cell}"\n', key=["k"], file_format=GERMAN)
    assert cell not in str(caught.value) + caught.value.hint
    assert database.ask("SELECT x FROM t") == []


def test_german_numbers_are_stored_with_all_digits(database):
    database.ask("CREATE TABLE t (k INTEGER PRIMARY KEY, x NUMERIC(20, 4), y DOUBLE PRECISION)")
    text = 'k,x,y\n1,"1.234,56","0,1"\n2,"-12,5","1.000.000"\n3,"1234567,8912",""\n'
    deliver_file(database, text, key=["k"], file_format=GERMAN)
    rows = [(k, float(x), y) for k, x, y in database.ask("SELECT k, x, y FROM t ORDER BY k")]
    assert rows == [(1, 1234.56, 0.1), (2, -12.5, 1e6), (3, 1234567.8912, None)]


def test_sqlite_keeps_all_digits_of_a_number_or_refuses_it(tmp_path):
    """SQLite has no decimal numbers: more than 15 digits would be rounded without an error."""
    database = SqliteDatabase(tmp_path / "a.db")
    database.ask("CREATE TABLE t (k INTEGER PRIMARY KEY, x NUMERIC)")
    deliver_file(database, "k,x\n1,123456789012345678\n2,0.1\n4500012345,3.50\n", key=["k"])
    assert database.ask("SELECT x FROM t ORDER BY k") == [(123456789012345678,), (0.1,), (3.5,)]
    with pytest.raises(SchemaMismatch, match="column 'x': has more digits than the column keeps"):
        deliver_file(database, "k,x\n3,12345678901234567.89\n", key=["k"])


@pytest.mark.parametrize("key", [["k"], []])
def test_domain_is_treated_as_its_base_type(postgres_database, key):
    """A number of a domain is read with the configured decimal sign, not with that of the database."""
    postgres_database.ask("CREATE DOMAIN amount AS numeric(10, 2) CHECK (value < 5000)")
    postgres_database.ask("CREATE DOMAIN price AS amount NOT NULL")
    row_key = "aluma_task TEXT, aluma_document BIGINT, aluma_file INT, aluma_row INT"
    unique = "UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row)"
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x price, {row_key}, {unique})")
    deliver_file(postgres_database, 'k,x\na,"1.234"\nb,"1.234,50"\n', key=key, file_format=GERMAN)
    assert [float(x) for (x,) in postgres_database.ask("SELECT x FROM t ORDER BY k")] == [1234, 1234.5]
    for text, message in (
        ('k,x\nc,"12.5"\n', "row 1, column 'x': is not a number"),
        ('k,x\nc,"12,555"\n', "row 1, column 'x': has more than 2 digits"),
        ("k,x\nc,\n", "row 1, column 'x': is empty"),
        ("k,x\nc,5000\n", "a row violates a constraint of the table, row 1.*constraint amount_check"),
    ):
        with pytest.raises(SchemaMismatch, match=message):
            deliver_file(postgres_database, text, key=key, task="t2", file_format=GERMAN)


def test_array_is_written_from_a_list(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT[], n INTEGER[], v VARCHAR(3)[])")
    text = r'[{"k": "a", "x": ["q\"\\,{}", null, "NULL", "ü"], "n": [1, 2], "v": []}, {"k": "b", "x": null}]'
    deliver_file(postgres_database, text, name="a.json", key=["k"])
    deliver_file(postgres_database, 'k,x,n\nc,"[""a,b""]",[7]\nd,"[""a"",""b""]",\n', key=["k"])
    assert postgres_database.ask("SELECT x, n, v FROM t ORDER BY k") == [
        (['q"\\,{}', None, "NULL", "ü"], [1, 2], []),
        (None, None, None),
        (["a,b"], [7], None),
        (["a", "b"], None, None),
    ]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ('"a,b"', "row 1, column 'x': is not a JSON list"),
        ('"[""a"""', "row 1, column 'x': is not a JSON list"),
        ('"{a,b}"', "row 1, column 'x': is not a JSON list"),
        ('"[[""a""],[""b"",""c""]]"', "a value does not have the form"),
    ],
)
def test_text_that_is_no_array_is_reported_by_row_and_column(postgres_database, cell, message):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT[])")
    with pytest.raises(SchemaMismatch, match=message) as caught:
        deliver_file(postgres_database, f"k,x\n1,{cell}\n", key=["k"])
    assert caught.value.hint


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("money", "is of type money, which depends on the language of the server; use numeric"),
        ("name", "is of type name, which cuts long values"),
        ('"char"', 'is of type "char", which cuts all characters after the first'),
        ("money[]", "is of type money"),
    ],
)
def test_type_that_changes_values_is_refused(postgres_database, declared, message):
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x {declared})")
    with pytest.raises(DestinationError, match=message):
        deliver_file(postgres_database, "k,x\n1,12.50\n", key=["k"])
    deliver_file(postgres_database, "k\n1\n", key=["k"])


def test_json_column_keeps_numbers_and_texts(database):
    """A number inside an object stays a number, and a text of digits stays a text."""
    text = '[{"k": "1", "x": {"n": 1.50, "t": "12"}}, {"k": "2", "x": "12"}]'
    deliver_file(database, text, name="a.json", create=True, key=["k"], column_types={"x": "json"})
    cast = "CAST(x AS TEXT)" if "sqlite" in database.url else "x::jsonb::text"
    stored = [x.replace(" ", "") for (x,) in database.ask(f"SELECT {cast} FROM t ORDER BY k")]
    assert stored == ['{"n":1.50,"t":"12"}', '"12"']


def test_identity_column_by_default_takes_values_or_numbers_rows(postgres_database):
    postgres_database.ask("CREATE TABLE t (id INT GENERATED BY DEFAULT AS IDENTITY, k TEXT PRIMARY KEY)")
    deliver_file(postgres_database, "k\na\n", key=["k"])
    deliver_file(postgres_database, "k,id\nb,77\n", key=["k"])
    assert postgres_database.ask("SELECT id, k FROM t ORDER BY k") == [(1, "a"), (77, "b")]


@pytest.mark.parametrize("key", [["k"], []])
@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("GENERATED ALWAYS AS IDENTITY", r"column 'x' is numbered by the database"),
        ("GENERATED ALWAYS AS (1 + 1) STORED", r"column 'x' is computed by the database"),
        ("GENERATED ALWAYS AS (1 + 1) VIRTUAL", r"column 'x' is computed by the database"),
    ],
)
def test_column_that_only_the_database_writes_is_refused(postgres_database, declared, message, key):
    row_key = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
    unique = "UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row)"
    postgres_database.ask(f"CREATE TABLE t (x BIGINT {declared}, k TEXT PRIMARY KEY, {row_key}, {unique})")
    with pytest.raises(DestinationError, match=message) as caught:
        deliver_file(postgres_database, "k,x\na,5\n", key=key)
    assert "column_names" in caught.value.hint
    file_format = FileFormat(column_names={"x": ""})
    deliver_file(postgres_database, "k,x\na,5\n", key=key, file_format=file_format)
    assert len(postgres_database.ask("SELECT x FROM t WHERE x IS NOT NULL")) == 1


def test_generated_column_of_sqlite_is_refused(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x GENERATED ALWAYS AS (1 + 1))")
    with pytest.raises(DestinationError, match="column 'x' is computed by the database"):
        deliver_file(database, "k,x\na,5\n", key=["k"])
    deliver_file(database, "k\na\n", key=["k"])


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ("CREATE UNIQUE INDEX i ON t (k) WHERE x > 0", r"because i has a condition \(WHERE\)"),
        ("CREATE UNIQUE INDEX i ON t (lower(k))", ""),
        ("CREATE UNIQUE INDEX i ON t (k, x)", ""),
        ("CREATE INDEX i ON t (k)", ""),
    ],
)
def test_index_that_does_not_keep_the_key_unique_is_reported_by_the_probe(database, index, problem):
    database.ask("CREATE TABLE t (k TEXT, x INTEGER)")
    database.ask(index)
    expect_probe_error(database, rf"no constraint or index keeps \(k\) unique(, {problem})?$", key=["k"])
    with pytest.raises(DestinationError, match=problem or "no constraint or index"):
        deliver_file(database, "k,x\na,1\n", key=["k"])
    database.ask("CREATE UNIQUE INDEX j ON t (k)")
    deliver_file(database, "k,x\na,1\n", key=["k"])
    deliver_file(database, "k,x\na,2\n", key=["k"])
    assert database.ask("SELECT k, x FROM t") == [("a", 2)]


def test_deferrable_constraint_is_no_key(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT UNIQUE DEFERRABLE, x INTEGER)")
    expect_probe_error(postgres_database, "because t_k_key is deferrable", key=["k"])


def test_unique_index_with_further_columns_is_a_key(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT, x INTEGER)")
    postgres_database.ask("CREATE UNIQUE INDEX i ON t (k) INCLUDE (x)")
    deliver_file(postgres_database, "k,x\na,1\n", key=["k"])


def test_column_without_digits_for_a_time_zone_refuses_it(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TIMESTAMP, y TIMESTAMPTZ)")
    text = "k,{}\n1,2026-12-31T23:00:00+02:00\n"
    with pytest.raises(SchemaMismatch, match="column 'x': has a time zone, which the column does not keep"):
        deliver_file(postgres_database, text.format("x"), key=["k"])
    deliver_file(postgres_database, text.format("y"), key=["k"])
    stored = postgres_database.ask("SELECT (y AT TIME ZONE 'UTC')::text FROM t")
    assert stored == [("2026-12-31 21:00:00",)]


@pytest.mark.parametrize("name", ["aluma_task", "aluma_row"])
def test_column_of_the_exporter_does_not_come_from_a_file(database, name):
    with pytest.raises(SchemaMismatch, match="column 2 has a name that the exporter needs for itself"):
        deliver_file(database, f"x,{name}\n1,2\n", create=True)
    deliver_file(database, f"x,{name}\n1,2\n", create=True, key=["x"], table="u")


def test_column_named_like_the_temporary_one_is_stored(postgres_database):
    deliver_file(postgres_database, "k,aluma_number,aluma_number_\n1,2,3\n", create=True, key=["k"])
    assert postgres_database.ask("SELECT k, aluma_number, aluma_number_ FROM t") == [("1", "2", "3")]


def test_long_column_name_is_refused_by_number(postgres_database):
    """PostgreSQL would cut the name after 63 bytes."""
    with pytest.raises(SchemaMismatch, match="column 2 has a name of 64 bytes, more than 63") as caught:
        deliver_file(postgres_database, f"a,{'x' * 64}\n1,2\n", create=True)
    assert "column_names" in caught.value.hint


def test_long_column_name_is_kept_by_sqlite(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    deliver_file(database, f"a,{'x' * 64}\n1,2\n", create=True)
    assert database.ask(f"SELECT a, {'x' * 64} FROM t") == [("1", "2")]


def test_server_without_standard_strings_stores_backslashes_and_quotes(postgres_database):
    name = postgres_database.name
    postgres_database.ask(f"ALTER DATABASE {name} SET standard_conforming_strings = off")
    postgres_database.ask(f"ALTER DATABASE {name} SET backslash_quote = off")
    value = "it''s \\' \\\\ \"quoted\"\\"
    quoted = value.replace('"', '""')
    task = "t\\'1"
    for _ in range(2):
        deliver_file(postgres_database, f'x\n"{quoted}"\n', create=True, task=task, manifest=True)
    assert postgres_database.ask("SELECT aluma_task, x FROM t") == [(task, value)]
    assert postgres_database.ask("SELECT task FROM aluma_manifest") == [(task,)]


@pytest.mark.parametrize("setting", ["client_encoding = LATIN1", "datestyle = German", "extra_float_digits = -5"])
def test_settings_of_the_user_do_not_change_values(postgres_database, setting):
    postgres_database.ask(f"ALTER DATABASE {postgres_database.name} SET {setting}")
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, d DATE, f FLOAT8)")
    deliver_file(postgres_database, "k,d,f\n€ ü,2026-02-01,0.1234567890123456\n", key=["k"])
    columns = "encode(convert_to(k, 'UTF8'), 'hex'), to_char(d, 'YYYY-MM-DD'), f = 0.1234567890123456"
    assert postgres_database.ask(f"SELECT {columns} FROM t") == [("€ ü".encode().hex(), "2026-02-01", True)]


def test_altered_type_of_a_column_takes_effect_at_once(database):
    """A number is never sent as text, although the column was a text when the table was first read."""
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT)")

    @real_time
    async def main():
        async with open_sql(database, key=["k"], file_format=GERMAN) as destination:
            await deliver(destination, make_claim("t1", "a.csv"), 'k,x\na,"1.234"\n')
            if "sqlite" in database.url:
                database.ask("DROP TABLE t")
                database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x NUMERIC)")
            else:
                database.ask("ALTER TABLE t ALTER x TYPE numeric USING x::numeric")
            await deliver(destination, make_claim("t2", "a.csv"), 'k,x\nb,"1.234"\n')

    main()
    assert [float(x) for (x,) in database.ask("SELECT x FROM t WHERE k = 'b'")] == [1234]


@real_time
async def expect_probe_error(database, message, *, table="t", **options):
    async with open_sql(database, table, **options) as destination:
        with pytest.raises(DestinationError, match=message) as caught:
            await destination.probe()
        assert caught.value.hint
