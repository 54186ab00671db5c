"""JSON files: an object, a list of objects, or an object per line."""

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

from aluma_async.destinations.sql.json_text import RepeatedName, load_json
from aluma_async.destinations.sql.row_groups import ABSENT
from aluma_async.exceptions import SchemaMismatch

NO_ROWS_HINT = "Change the export in the Aluma project, or send such files to another destination with a route."


def read_json(data: IO[bytes], subject: str, *, lines: bool) -> tuple[Sequence[str], Iterator[list[Any]], bool]:
    """Return the names of all objects, their values in this order, and whether an object lacks a name.

    The whole file is read into memory. ``lines`` is whether it has an object per line. Raises ``SchemaMismatch``.
    """
    data.seek(0)
    content = data.read()
    number = 0
    try:
        text = content.decode(json.detect_encoding(content))
        if not text.strip():
            raise SchemaMismatch(f"{subject}: is empty", hint=NO_ROWS_HINT)
        rows: Any = []
        if lines:
            for line in text.split("\n"):
                number += 1
                if line.strip():
                    rows.append(load_json(line, unique_names=True))
        else:
            rows = load_json(text, unique_names=True)
    except UnicodeError:
        raise SchemaMismatch(f"{subject}: is not valid UTF-8 text", hint="Save JSON files as UTF-8.") from None
    except RepeatedName:
        raise SchemaMismatch(
            f"{subject}: repeats a name within an object", hint="Give each value of an object a name of its own."
        ) from None
    except json.JSONDecodeError as error:
        raise SchemaMismatch(
            f"{subject}: is not valid JSON (line {number or error.lineno})",
            hint="A file with one object per line needs the extension .jsonl.",
        ) from None
    except (ValueError, RecursionError):
        raise SchemaMismatch(
            f"{subject}: is not valid JSON", hint="Check for NaN, Infinity, and very deep nesting."
        ) from None
    if isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SchemaMismatch(f"{subject}: is neither a JSON object nor a list of JSON objects", hint=NO_ROWS_HINT)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise SchemaMismatch(f"{subject}: contains no values", hint=NO_ROWS_HINT)
    is_ragged = any(len(row) < len(names) for row in rows)
    return names, ([row.get(name, ABSENT) for name in names] for row in rows), is_ragged
