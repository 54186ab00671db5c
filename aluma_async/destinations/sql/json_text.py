"""JSON without loss: numbers keep all their digits, and repeated names or values outside JSON are refused."""

import json
from decimal import Decimal
from typing import Any

_PLAIN_DIGITS = 18


def load_json(text: str, *, unique_names: bool = False) -> Any:
    """Return the value of a JSON text, with numbers as int or Decimal.

    Raises ``ValueError``; ``RecursionError`` if it is nested too deeply. ``unique_names``: refuse objects in which a
    name is repeated, because all but one of its values would be lost.
    """
    return json.loads(
        text,
        parse_float=Decimal,
        parse_int=_parse_int,
        parse_constant=_refuse_constant,
        object_pairs_hook=_unique if unique_names else None,
    )


def _parse_int(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _PLAIN_DIGITS else Decimal(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise RepeatedName
    return result


class RepeatedName(ValueError):
    """An object contains a name twice."""
