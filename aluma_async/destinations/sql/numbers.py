"""Numbers in files: text to exact values, and whether a column keeps all their digits. Pure."""

import math
import re
import struct
from decimal import Decimal

_MAX_CHARS = 1000
_MANTISSA = r"[+-]?(?:(?:[0-9]+|[1-9][0-9]{{0,2}}(?:{group}[0-9]{{3}})+)(?:{point}[0-9]*)?|{point}[0-9]+)"
_EXPONENT = r"(?:[eE][+-]?[0-9]{1,4})?"
_NUMBER = {
    ".": re.compile(_MANTISSA.format(group=",", point=r"\.") + _EXPONENT),
    ",": re.compile(_MANTISSA.format(group=r"\.", point=",") + _EXPONENT),
}
"""By decimal sign. Digits are ASCII; group signs stand between groups of three, before the decimal sign only."""
_PLAIN = {".": re.compile(r"-?[0-9]{1,99}(?:\.[0-9]{1,99})?"), ",": re.compile(r"-?[0-9]{1,99}(?:,[0-9]{1,99})?")}
"""The usual forms, which need no further checks."""
_MAX_DIGITS = 17
_SAFE_DIGITS = {64: 15, 32: 6}
_SAFE_EXPONENT = {64: 290, 32: 36}
"""Numbers with at most so many digits, of such a size, are kept by floating-point numbers of that many bits."""


def parse_number(text: str, decimal: str) -> Decimal:
    """Return the number that a text contains. Raises ``ValueError`` unless the text means one number only."""
    if _PLAIN[decimal].fullmatch(text):
        return Decimal(text if decimal == "." else text.replace(",", "."))
    text = text.strip()
    if len(text) > _MAX_CHARS or not _NUMBER[decimal].fullmatch(text):
        raise ValueError(f"is not a number with the decimal sign {decimal!r}")
    return Decimal(text.replace("," if decimal == "." else ".", "").replace(",", "."))


def integer(number: Decimal) -> int:
    """Return a whole number. Raises ``ValueError``."""
    if not number.is_finite() or count_digits(number)[1] > 0:
        raise ValueError("is not an integer")
    if number.adjusted() > _MAX_CHARS:  # so that no digits are computed for a number like 1e999999999
        raise ValueError("is too big for the column")
    return int(number)


def count_digits(number: Decimal) -> tuple[int, int]:
    """Return the number of digits before and after the decimal sign, without zeros at the ends.

    The second is negative if the number ends with zeros before the decimal sign.
    """
    digits = number.as_tuple().digits
    significant = len(bytes(digits).rstrip(b"\0"))
    return (max(0, number.adjusted() + 1), significant - 1 - number.adjusted()) if significant else (0, -_MAX_CHARS)


def to_float(number: Decimal, bits: int) -> float:
    """Return a number as a floating-point number. Raises ``ValueError`` if that would lose digits."""
    try:
        result = float(number)
        if bits == 32:
            (result,) = struct.unpack("f", struct.pack("f", result))
    except OverflowError:
        result = math.inf
    if math.isinf(result):
        raise ValueError("is too big for the column")
    digits = len(bytes(number.as_tuple().digits).strip(b"\0"))
    is_safe = digits <= _SAFE_DIGITS[bits] and abs(number.adjusted()) <= _SAFE_EXPONENT[bits]
    if not digits or is_safe or (bits == 64 and Decimal(repr(result)) == number):
        return result
    if digits > _MAX_DIGITS or Decimal(format(result, f".{digits - 1}e")) != number:
        raise ValueError("has more digits than the column keeps")
    return result
