"""The configured name of a table is quoted as it is; what a document inserts into it is restricted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async.destinations.sql.tables import TableTemplate
from aluma_async.exceptions import ConfigError, SchemaMismatch
from aluma_async.models import ExportFile


def table_for(text, folder="in", filename="a.csv", max_name_bytes=63):
    file = ExportFile(0, 0, folder, filename, "url")
    return TableTemplate.parse(text, max_name_bytes).table_for(file)


@pytest.mark.parametrize(
    ("text", "table_id"),
    [
        ("invoices", (None, "invoices")),
        ("Invoices", (None, "Invoices")),
        ("ledger.Rechnungen Übersicht", ("ledger", "Rechnungen Übersicht")),
        ("2024", (None, "2024")),
        ("a-b;c", (None, "a-b;c")),
        ('"my.schema"."my.table"', ("my.schema", "my.table")),
        ('"say ""hi"""', (None, 'say "hi"')),
        ('ledger."a.b"', ("ledger", "a.b")),
        ("{stem}", (None, "a")),
        ("x_{folder}_{stem}", (None, "x_in_a")),
        ("Über {stem}", (None, "Über a")),
        ("{folder}.{stem}", ("in", "a")),
    ],
)
def test_table_name_is_kept_as_it_is(text, table_id):
    assert table_for(text) == table_id


@pytest.mark.parametrize(
    "text", ["", " ", "a.", "a\nb", "a\0", '"a', 'a"b"', '"a".', "x" * 64, "ü" * 32, "a.b" + "x" * 63]
)
def test_unusable_table_name_is_refused_at_start(text):
    with pytest.raises(ConfigError, match=r"^table: "):
        table_for(text)


def test_length_of_the_name_is_limited_where_the_database_limits_it():
    assert table_for("x" * 64, max_name_bytes=0) == (None, "x" * 64)


@pytest.mark.parametrize("text", ["{stem}", "{folder}", "t_{stem}", "{stem}.t", "s.{folder}{stem}"])
@pytest.mark.parametrize("part", ["", "a b", "a.b.c", 'a"', "ä", "a;b", "a-b", "$x", "..", "a\n", "x" * 64])
def test_document_inserts_only_plain_names(text, part):
    with pytest.raises(SchemaMismatch, match="do not form a valid table name") as caught:
        table_for(text, part, part + ".csv")
    assert len(part) < 3 or part not in str(caught.value)


@pytest.mark.parametrize("part", ["sqlite_master", "SQLite_x", "aluma_manifest", "ALUMA_Manifest"])
def test_document_does_not_name_a_table_of_the_database_or_the_exporter(part):
    with pytest.raises(SchemaMismatch, match="do not form a valid table name"):
        table_for("{stem}", filename=part + ".csv")
    assert table_for("t_{stem}", filename=part + ".csv") == (None, f"t_{part}")


def test_name_does_not_begin_with_an_inserted_digit():
    with pytest.raises(SchemaMismatch):
        table_for("{stem}", filename="1.csv")
    assert table_for("t_{stem}", filename="1.csv") == (None, "t_1")


@given(st.text(), st.text())
def test_inserted_text_is_ascii_letters_digits_and_underscores(folder, stem):
    try:
        schema, name = table_for("s.t_{folder}_{stem}", folder, stem + ".csv")
    except SchemaMismatch:
        return
    assert schema == "s"
    assert name.replace("_", "a").isalnum()
    assert name.isascii()
    assert len(name) <= 63
