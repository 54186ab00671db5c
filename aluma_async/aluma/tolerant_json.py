"""Decodes JSON that msgspec refuses: with half a surrogate pair, invalid UTF-8 or very long numbers. Pure.

It is slower, so it is used only after msgspec has failed. Numbers become texts, so that their length does not matter.
"""

import json
import re
from typing import Any

import msgspec

UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
"""All that msgspec and ``json`` raise while decoding: also for invalid UTF-8 and nesting that is too deep."""

SURROGATE = re.compile("[\ud800-\udfff]")
"""A character that no encoding can represent; JSON may contain it as an escape sequence."""


class Number(str):
    """A number as it was written."""

    __slots__ = ()


_decoder = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=Number, strict=False)
_SEPARATORS = re.compile(r"[,\s]*")


def loads(body: bytes) -> Any:
    """Decode a text. Raises one of ``UNREADABLE``."""
    return _decoder.decode(body.decode(errors="replace"))


def load_rows(body: bytes) -> tuple[list[Any], int]:
    """Decode the rows at the beginning, as far as they are complete; return them and the number of their bytes."""
    text = body.decode(errors="surrogateescape")
    rows, end = [], 0
    try:
        while text.startswith("{", start := _SEPARATORS.match(text, end).end()):  # type: ignore[union-attr]
            row, end = _decoder.raw_decode(text, start)
            rows.append(row)
    except UNREADABLE:
        pass  # the row is incomplete
    return rows, len(text[:end].encode(errors="surrogateescape"))


def clean(value: Any) -> str:
    """Return a text without unpaired surrogates; empty if the value is not a text."""
    return SURROGATE.sub("\ufffd", value) if isinstance(value, str) else ""
