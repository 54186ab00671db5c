"""A number is read with all its digits, or not at all."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async.destinations.sql.numbers import count_digits, integer, parse_number, to_float

OTHER = {".": ",", ",": "."}
decimal_signs = st.sampled_from([".", ","])
numbers = st.decimals(allow_nan=False, allow_infinity=False).filter(lambda number: abs(number.adjusted()) < 400)


@pytest.mark.parametrize(
    ("text", "decimal", "number"),
    [
        ("12.50", ".", "12.50"),
        ("12,50", ",", "12.50"),
        ("1,234.56", ".", "1234.56"),
        ("1.234,56", ",", "1234.56"),
        ("1.234.567", ",", "1234567"),
        ("12,345,678.9", ".", "12345678.9"),
        (" -0,5 ", ",", "-0.5"),
        ("+7", ".", "7"),
        (".5", ".", "0.5"),
        ("5.", ".", "5"),
        ("1e3", ".", "1000"),
        ("1.5E-2", ".", "0.015"),
        ("007", ".", "7"),
        ("12345678901234567890.123456789", ".", "12345678901234567890.123456789"),
    ],
)
def test_number_is_read(text, decimal, number):
    assert parse_number(text, decimal) == Decimal(number)


@pytest.mark.parametrize(
    ("text", "decimal"),
    [
        ("12,50", "."),
        ("1.234,56", "."),
        ("12.5", ","),
        ("1,234.56", ","),
        ("1,23,456", "."),  # groups of two
        ("1234,567", "."),  # more than three digits before the first group sign
        ("0,500", "."),  # a decimal comma
        ("1,234,56", "."),
        (",123", "."),
        ("1,,234", "."),
        ("1.5,000", "."),  # a group sign after the decimal sign
        ("1.000,000", "."),
        ("1_000", "."),
        ("1_000", ","),
        ("1 000", "."),
        ("1'000", "."),
        ("١٢", "."),  # Arabic-Indic digits
        ("\uff11\uff12", "."),  # digits of full width
        ("²", "."),
        ("\u22125", "."),  # a minus sign that is not ASCII
        ("5-", "."),
        ("(5)", "."),
        ("0x10", "."),
        ("1e", "."),
        ("1e99999", "."),
        ("nan", "."),
        ("Infinity", "."),
        ("-inf", "."),
        ("", "."),
        (".", "."),
        ("-", "."),
        ("12.50 €", "."),
        ("1.2.3", "."),
        ("1,000\n,000", "."),
        ("9" * 1001, "."),
    ],
)
def test_ambiguous_or_foreign_number_does_not_fit(text, decimal):
    with pytest.raises(ValueError, match="is not a number with the decimal sign") as caught:
        parse_number(text, decimal)
    assert text not in str(caught.value) or len(text) < 2


@given(numbers, decimal_signs)
def test_plain_form_of_a_number_is_read_back(number, decimal):
    assert parse_number(f"{number:f}".replace(".", decimal), decimal) == number


@given(st.integers(), st.integers(0, 10**6), decimal_signs)
def test_groups_of_three_are_read_back(whole, fraction, decimal):
    text = f"{whole:,}.{fraction}"
    if decimal == ",":
        text = text.translate(str.maketrans(",.", ".,"))
    assert parse_number(text, decimal) == Decimal(f"{whole}.{fraction}")


@given(st.text(alphabet="0123456789.,+-eE_ '٣", max_size=12), decimal_signs)
def test_accepted_text_has_one_meaning(text, decimal):
    """The number equals the text without group signs, and no other text of the same digits is accepted for it."""
    try:
        number = parse_number(text, decimal)
    except ValueError:
        return
    assert text.isascii()
    assert "_" not in text
    assert number == Decimal(text.strip().replace(OTHER[decimal], "").replace(",", "."))
    _, point, fraction = text.partition(decimal)
    assert not point or OTHER[decimal] not in fraction
    for group in text.partition(decimal)[0].split(OTHER[decimal])[1:]:
        assert len(group.partition("e")[0].partition("E")[0].strip()) == 3


@pytest.mark.parametrize(
    ("text", "digits"),
    [("1200", (4, -2)), ("12.50", (2, 1)), ("0.001", (0, 3)), ("0", (0, -1000)), ("1e5", (6, -5)), ("1.20e1", (2, 0))],
)
def test_digits_are_counted_without_zeros_at_the_ends(text, digits):
    assert count_digits(Decimal(text)) == digits


@given(numbers)
def test_digits_before_and_after_the_decimal_sign_contain_the_number(number):
    before, after = count_digits(number)
    assert abs(number) < Decimal(10) ** before
    assert number == Decimal(f"{number:.{max(0, after)}f}")


def test_integer_has_no_fraction():
    assert integer(Decimal("12.00")) == 12
    assert integer(Decimal("1.2e3")) == 1200
    for text in ("12.5", "0.1", "NaN", "Infinity"):
        with pytest.raises(ValueError, match="is not an integer"):
            integer(Decimal(text))
    with pytest.raises(ValueError, match="is too big"):
        integer(Decimal("1e999999999"))  # computed at once, not with a thousand million digits


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_floating_point_number_is_kept(number):
    assert to_float(Decimal(repr(number)), 64) == number


@given(numbers, st.sampled_from([32, 64]))
def test_floating_point_number_keeps_all_digits_or_does_not_fit(number, bits):
    try:
        stored = to_float(number, bits)
    except ValueError:
        return
    digits = max(1, len(str(number.normalize().as_tuple().digits).strip("()").split(",")))
    assert number == 0 or Decimal(f"{stored:.{digits - 1}e}") == number


@pytest.mark.parametrize(
    ("text", "bits"),
    [("9007199254740993", 64), ("0.12345678901234567890", 64), ("16777217", 32), ("1234567.89", 32), ("1e-400", 64)],
)
def test_number_with_too_many_digits_is_not_rounded(text, bits):
    with pytest.raises(ValueError, match="has more digits than the column keeps"):
        to_float(Decimal(text), bits)


@pytest.mark.parametrize(("text", "bits"), [("1e400", 64), ("-1e400", 64), ("1e39", 32)])
def test_number_beyond_the_range_does_not_fit(text, bits):
    with pytest.raises(ValueError, match="is too big for the column"):
        to_float(Decimal(text), bits)
