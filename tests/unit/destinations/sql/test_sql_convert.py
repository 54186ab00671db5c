"""Converters store a cell as it is, or refuse it."""

import json
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async.destinations.sql.convert import FileFormat, converter
from aluma_async.destinations.sql.layout import Column, ColumnType


def convert(kind, cell, *, from_json=False, file_format=None, **options):
    """Convert one cell for a column of this kind."""
    column = Column(name="x", declared=kind, type=ColumnType(kind=kind, **options))
    return converter(column, file_format or FileFormat(), required=False, from_json=from_json)(cell)


@pytest.mark.parametrize("cell", ["12.345", "0.001", "99.999", Decimal("1.005")])
def test_number_is_not_rounded_to_the_scale_of_its_column(cell):
    with pytest.raises(ValueError, match="has more than 2 digits after the decimal separator"):
        convert("number", cell, precision=4, scale=2)


@pytest.mark.parametrize(("cell", "number"), [("12.3400", "12.34"), ("-99.99", "-99.99"), ("0", "0"), (7, "7")])
def test_number_that_fits_its_column_is_kept(cell, number):
    assert convert("number", cell, precision=4, scale=2) == Decimal(number)


def test_number_of_a_column_with_negative_scale_ends_with_zeros():
    assert convert("number", "12300", precision=3, scale=-2) == 12300
    with pytest.raises(ValueError, match="after the decimal separator"):
        convert("number", "12345", precision=3, scale=-2)


def test_number_with_more_digits_than_decimals_context_is_kept():
    text = "12345678901234567890123456789012.34"
    assert convert("number", text, precision=40, scale=2) == Decimal(text)


@pytest.mark.parametrize(("cell", "value"), [("12.50", 12.5), ("5", 5), ("123456789012345678", 123456789012345678)])
def test_number_that_is_stored_as_a_float_keeps_its_digits(cell, value):
    assert convert("number", cell, is_double=True) == value


def test_number_that_is_stored_as_a_float_and_has_too_many_digits_does_not_fit():
    with pytest.raises(ValueError, match="has more digits than the column keeps"):
        convert("number", "12345678901234567.89", is_double=True)


def test_json_number_has_a_decimal_point_whatever_the_decimal_sign_of_the_files():
    file_format = FileFormat(decimal=",")
    assert convert("number", Decimal("12.5"), file_format=file_format) == Decimal("12.5")
    assert convert("number", "12,5", file_format=file_format) == Decimal("12.5")


@pytest.mark.parametrize("cell", [[1], {"a": 1}, ["1"]])
def test_list_or_object_is_not_a_number(cell):
    for kind in ("integer", "number", "float"):
        with pytest.raises(ValueError, match="is not a number"):
            convert(kind, cell)


def test_json_number_in_a_text_column_keeps_its_digits():
    assert convert("text", Decimal("0.0000001")) == "0.0000001"
    assert convert("text", Decimal("1.50")) == "1.50"
    assert convert("text", Decimal(10**30)) == "1" + "0" * 30


def test_json_column_keeps_the_types_of_a_json_file():
    """The text "12345" of a JSON file is a text in the column, too, and numbers stay numbers with all digits."""
    assert convert("json", "12345", from_json=True) == '"12345"'
    assert convert("json", "true", from_json=True) == '"true"'
    assert convert("json", {"a": Decimal("1.50"), "b": [1, None]}, from_json=True) == '{"a":1.50,"b":[1,null]}'
    assert convert("json", Decimal(12345678901234567890123), from_json=True) == "12345678901234567890123"


@pytest.mark.parametrize("cell", ["abc", "NaN", "Infinity", "01", "{broken", "tRue"])
def test_csv_text_that_is_no_json_becomes_a_json_string(cell):
    assert json.loads(convert("json", cell)) == cell


@pytest.mark.parametrize("cell", ['{"k": 1.10}', "[1, 2]", "12.50", '"text"', "null"])
def test_csv_text_that_is_json_stays_as_it_is(cell):
    assert convert("json", cell) == cell


@pytest.mark.parametrize("cell", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]'])
def test_repeated_name_does_not_fit_a_column_that_keeps_one(cell):
    with pytest.raises(ValueError, match="repeats a name within an object"):
        convert("json", cell, unique_names=True)
    assert convert("json", cell) == cell


def test_space_at_the_end_does_not_fit_a_padded_column():
    with pytest.raises(ValueError, match="ends with a space"):
        convert("text", "ab ", max_chars=5, is_padded=True)
    assert convert("text", "ab ", max_chars=5) == "ab "
    assert convert("text", " ab", max_chars=5, is_padded=True) == " ab"


def test_text_that_does_not_match_the_pattern_of_its_type_does_not_fit():
    assert convert("other", "101", pattern="[01]+") == "101"
    with pytest.raises(ValueError, match="is not in a form that the column keeps unchanged"):
        convert("other", "x1", pattern="[01]+")


def test_json_number_that_the_column_would_round_does_not_fit():
    with pytest.raises(ValueError, match="has more digits"):
        convert("json", "12345678901234567.89", is_double=True)


def test_deeply_nested_json_does_not_fit():
    with pytest.raises(ValueError, match="nested too deeply"):
        convert("json", "[" * 100_000)


@pytest.mark.parametrize(
    ("cell", "literal"),
    [
        (["a", "b"], '{"a","b"}'),
        (['q"\\', None, ""], '{"q\\"\\\\",NULL,""}'),
        ([["a"], ["b"]], '{{"a"},{"b"}}'),
        ('["a,b"]', '{"a,b"}'),
        ([], "{}"),
    ],
)
def test_list_becomes_an_array(cell, literal):
    assert convert("array", cell, item=ColumnType(kind="text")) == literal


@pytest.mark.parametrize("cell", ["a,b", "[1", '["a"', "1", 5, {"a": 1}, "{a,b}", r"{C:\dir}", "{null}", "{ab   ,}"])
def test_text_that_is_no_list_does_not_fit_an_array(cell):
    """In the database's own form, backslashes, spaces and NULL have a meaning that the author may not have meant."""
    with pytest.raises(ValueError, match="is not a JSON list"):
        convert("array", cell, item=ColumnType(kind="text"))


def test_items_of_an_array_are_converted():
    item = ColumnType(kind="number", precision=4, scale=2)
    assert (
        convert("array", ["1,50", Decimal("2.5")], item=item, file_format=FileFormat(decimal=",")) == '{"1.50","2.5"}'
    )
    with pytest.raises(ValueError, match="is not a number"):
        convert("array", ["1.50"], item=item, file_format=FileFormat(decimal=","))


@pytest.mark.parametrize("cell", [[[]], [[], []], '[["a"], []]'])
def test_empty_list_within_a_list_does_not_fit(cell):
    """PostgreSQL stores it as an empty array."""
    with pytest.raises(ValueError, match="contains an empty list within a list"):
        convert("array", cell, item=ColumnType(kind="text"))


def test_list_for_an_array_repeats_no_name():
    with pytest.raises(ValueError, match="repeats a name"):
        convert("array", '[{"a": 1, "a": 2}]', item=ColumnType(kind="json"))


@pytest.mark.parametrize("cell", ["1234567_-1234-1234-1234-123456789012", "{}", "123", "\uff112345678" * 4])
def test_text_that_is_no_uuid_does_not_fit(cell):
    with pytest.raises(ValueError, match="is not a UUID"):
        convert("uuid", cell)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(json_values, st.sampled_from(["text", "integer", "number", "float", "boolean", "date", "json", "uuid", "other"]))
def test_any_json_value_is_converted_or_refused_with_a_value_error(value, kind):
    """No other error reaches the caller, which reports ``ValueError`` with the row and column."""
    with suppress(ValueError, ArithmeticError):
        convert(kind, value, from_json=True)
