"""How the rows of CSV and JSON files become rows of tables, in SQLite and in PostgreSQL."""

import pytest

from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.exceptions import SchemaMismatch
from tests.support.clock import real_time
from tests.support.databases import deliver_file, open_sql
from tests.support.tasks import deliver, make_claim


def test_csv_rows_are_written_to_a_created_table(database):
    text = "id,name,amount\n1,Müller,3.50\n2,,4\n"
    column_types = {"id": "integer", "amount": "number"}
    deliver_file(database, "\ufeff" + text, create=True, column_types=column_types, key=["id"])
    assert database.ask("SELECT id, name, amount FROM t ORDER BY id") == [(1, "Müller", 3.5), (2, None, 4)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "one.json"])
def test_json_rows_are_written_to_a_created_table(database, name):
    rows = ['{"id": 1, "ok": true, "more": {"x": [1]}}', '{"id": 2, "ok": null, "new": "n"}']
    text = {"a.json": f"[{','.join(rows)}]", "a.jsonl": "\n".join(rows), "one.json": rows[0]}[name]
    column_types = {"id": "integer", "ok": "boolean", "more": "json"}
    deliver_file(database, text, name=name, create=True, column_types=column_types, key=["id"])
    expected = [(1, True)] if name == "one.json" else [(1, True), (2, None)]
    assert database.ask("SELECT id, ok FROM t ORDER BY id") == expected


def test_file_format_applies_to_csv(database):
    """Delimiter, header, encoding, decimals, dates, columns with other names, and skipped columns."""
    file_format = FileFormat(
        column_names={"Betrag": "amount", "Datum": "day", "Notiz": ""},
        header_names=("Betrag", "Datum", "Notiz"),
        delimiter=";",
        encoding="cp1252",
        decimal=",",
        date_format="%d.%m.%Y",
    )
    data = "1.234,50;31.12.2026;ä\n".encode("cp1252")
    column_types = {"amount": "number", "day": "date"}
    deliver_file(database, data, create=True, column_types=column_types, file_format=file_format)
    ((amount, day),) = database.ask("SELECT amount, day FROM t")
    assert (float(amount), str(day)) == (1234.5, "2026-12-31")


def test_cells_are_converted_to_the_type_of_their_column(database):
    kinds = ["text", "integer", "float", "boolean", "timestamp", "time", "json"]
    text = 'a,b,c,d,e,f,g\nx,"1,000",1e3,yes,2026-12-31T23:59:58,12:34,"{""k"": 1}"\n'
    deliver_file(database, text, create=True, column_types=dict(zip("abcdefg", kinds, strict=True)))
    ((a, b, c, d, e, f, g),) = database.ask("SELECT a, b, c, d, e, f, g FROM t")
    assert (a, b, c, bool(d), str(e)[:19], str(f)[:5]) == ("x", 1000, 1000.0, True, "2026-12-31 23:59:58", "12:34")
    assert g in ({"k": 1}, '{"k": 1}')


def test_hostile_column_names_and_values_are_stored_unchanged(database):
    name, value = 'x"); DROP TABLE t; --%s:y', "'; DROP TABLE t; --\\\t\\N%(a)s"
    quoted = name.replace('"', '""')
    deliver_file(database, f'"{quoted}",z\n"{value}",\n\\.,\n', create=True)
    assert database.ask(f'SELECT "{quoted}" FROM t ORDER BY 1') == [(value,), ("\\.",)]


def test_row_replaces_the_one_with_the_same_key(database):
    """Of several rows of a file with the same key, the last one counts. Other columns keep their values."""
    database.ask("CREATE TABLE t (a INTEGER, b INTEGER, c TEXT, other TEXT, PRIMARY KEY (a, b))")
    database.ask("INSERT INTO t VALUES (1, 1, 'old', 'mine'), (9, 9, 'old', 'mine')")
    deliver_file(database, "b,a,c\n1,1,first\n2,1,new\n1,1,last\n", key=["a", "b"])
    rows = [(1, 1, "last", "mine"), (1, 2, "new", None), (9, 9, "old", "mine")]
    assert database.ask("SELECT a, b, c, other FROM t ORDER BY a, b") == rows
    deliver_file(database, "a,b\n1,1\n5,5\n", key=["a", "b"], task="t2")
    assert len(database.ask("SELECT a FROM t")) == 4, "a file with only key columns adds the missing rows"


@pytest.mark.parametrize("row", [",x", '"",x', "  ,x"])
def test_row_with_an_empty_key_does_not_fit(database, row):
    """Rows without a number would replace each other."""
    with pytest.raises(SchemaMismatch, match="row 2: has an empty key"):
        deliver_file(database, f"k,x\n1,x\n{row}\n", key=["k"], create=True)
    deliver_file(database, f"k,x\n1,x\n{row}\n", key=["k", "x"], create=True, table="u")
    assert len(database.ask("SELECT k FROM u")) == 2


@real_time
async def test_rows_without_a_key_replace_those_of_the_same_task(database):
    async with open_sql(database, create=True) as destination:
        await deliver(destination, make_claim("one", "a.csv", "b.csv"), "x\n1\n2\n", "x\n3\n")
        await deliver(destination, make_claim("two", "a.csv"), "x\n9\n")
        await deliver(destination, make_claim("one", "a.csv"), "x\n7\n")
    assert database.ask("SELECT aluma_task, aluma_file, aluma_row, x FROM t ORDER BY 1, 2, 3") == [
        ("one", 0, 1, "7"),
        ("two", 0, 1, "9"),
    ]


@real_time
async def test_task_is_one_transaction_over_all_its_tables(database):
    async with open_sql(database, "{stem}", create=True, column_types={"x": "integer"}) as destination:
        await deliver(destination, make_claim("one", "a.csv"), "x\n1\n")
        with pytest.raises(SchemaMismatch, match=r"task one, file 1, row 2, column 'x': is not an integer"):
            await deliver(destination, make_claim("one", "a.csv", "b.csv"), "x\n5\n", "x\n1\nsecret\n")
    assert database.ask("SELECT x FROM a") == [(1,)]


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("x VARCHAR(3)", "x\nabc\nabcd\n", "row 2, column 'x': has 4 characters, more than 3"),
        ("x INTEGER", "x\n99999999999999999999\n", "row 1, column 'x': is too big for the column"),
        ("x INTEGER NOT NULL", 'x\n""\n', "row 1, column 'x': is empty"),
        ("x NUMERIC(4, 2)", "x\n100\n", "row 1, column 'x': has more than 2 digits before the decimal separator"),
        ("x NUMERIC(4, 2)", "x\n99.999\n", "row 1, column 'x'"),
        ("x DATE", "x\n31.12.2026\n", "row 1, column 'x': is not a date"),
        ("x BOOLEAN", "x\nperhaps\n", "row 1, column 'x': is neither true nor false"),
        ("x TEXT", "x\n1,2\n", "row 1: has 2 values for 1 columns"),
        ("x TEXT", "x,y\n1,2\n", "has no column for column 2 of the file"),
        ("x TEXT", "x\na\0b\n", "row 1, column 'x': contains a zero character"),
        ("x TEXT", "", "is empty"),
        ("x TEXT", "x,x\n1,2\n", "column 2 has the same name as column 1"),
        ("x TEXT", b"x\n\xff\n", "is not valid utf-8-sig text"),
        ("x TEXT", 'x\n"a\n', "line 2"),
    ],
)
def test_row_that_does_not_fit_is_reported_without_its_value(database, column, text, message):
    """The error names file, row and column, and the hint names what the administrator can change."""
    row_key = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
    primary_key = "PRIMARY KEY (aluma_task, aluma_document, aluma_file, aluma_row)"
    database.ask(f"CREATE TABLE t ({row_key}, {column}, {primary_key})")
    with pytest.raises(SchemaMismatch) as caught:
        deliver_file(database, text)
    assert "task t1, file 0" in str(caught.value)
    assert message in str(caught.value)
    assert caught.value.hint
    assert not any(value in str(caught.value) for value in ("99999", "abcd", "perhaps", "31.12"))
    assert database.ask("SELECT x FROM t") == []


def test_violated_constraint_is_reported_without_the_value(database):
    """Both databases report the name of the constraint."""
    database.ask("CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER, CONSTRAINT positive CHECK (x > 0))")
    with pytest.raises(SchemaMismatch, match="positive") as caught:
        deliver_file(database, "id,x\n1,5\n2,-424242\n", key=["id"])
    assert "-424242" not in str(caught.value) + caught.value.hint
    assert database.ask("SELECT x FROM t") == []
