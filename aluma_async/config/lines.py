"""Finds the lines of the tables and keys in a TOML text, because ``tomllib`` does not return them."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""The names of a table, its number in an array of tables from 0, and a key."""

_MAY_END = re.compile(r"""[\]}"']\s*(#.*)?$""")
"""The last line of a value with several lines."""
_MAX_ATTEMPTS = 200
"""Number of lines that may end a value of several lines."""


def find_line(text: str, path: KeyPath) -> int:
    """Return the line of a key or a table, otherwise of the table that contains it; 0 if there is none."""
    lines = _lines(text)
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 0)


@lru_cache(1)
def _lines(text: str) -> Mapping[KeyPath, int]:
    lines: dict[KeyPath, int] = {}
    numbers: Counter[KeyPath] = Counter()
    table: KeyPath = ()
    for number, is_header, content in _statements(text):
        if is_header:
            *_, table = _paths(content)
            names = tuple(name for name in table if isinstance(name, str))
            if table != names:  # an array of tables
                table = (*names, numbers[names])
                numbers[names] += 1
            paths = [table[:end] for end in range(1, len(table) + 1)]
        else:
            paths = [(*table, *path) for path in _paths(content)]
        for path in paths:
            lines.setdefault(path, number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, bool, Mapping[str, Any]]]:
    """Yield the first line of each statement, whether it is the header of a table, and its content."""
    statement, first, attempts = "", 1, 0
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            first, attempts = number, 0
        elif not _MAY_END.search(line):
            statement += line + "\n"
            continue
        statement += line + "\n"
        try:
            content = tomllib.loads(statement)
        except (ValueError, RecursionError):  # it continues in the next line, or is a mistake
            attempts += 1
            if attempts > _MAX_ATTEMPTS:
                return
            continue
        if content:
            yield first, statement.lstrip().startswith("["), content
        statement = ""


def _paths(content: object) -> Iterator[KeyPath]:
    """Yield the paths of all keys of a statement, outer ones first."""
    items: Iterator[tuple[str | int, object]]
    if isinstance(content, dict):
        items = iter(content.items())
    elif isinstance(content, list) and any(isinstance(item, dict) for item in content):
        items = iter(enumerate(content))
    else:
        return
    for key, value in items:
        yield (key,)
        yield from ((key, *path) for path in _paths(value))
