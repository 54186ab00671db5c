"""``config schema``: prints the JSON Schema of the configuration file, for editors.

Types, ranges and defaults are those of the sections; the descriptions are those of the reference pages.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import structs

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.help import page
from aluma_async.cli.output import print_json
from aluma_async.config import Config
from aluma_async.config.destinations import DESTINATION_TYPES
from aluma_async.config.schema import Section
from aluma_async.config.sections import RouteConfig

_HEADINGS = {"folder": "Folder", "sql": "Database", "object-store": "Object store", "webdav": "WebDAV"}
"""Type of a destination -> the heading of its keys on the page about destinations."""


@click.command("schema")
def schema() -> int:
    """Print the JSON Schema of the file.

    Editors complete and check the file with it.
    """
    print_json(json_schema())
    return OK


def json_schema() -> dict[str, Any]:
    """Return the schema; it may accept a file that ``check`` refuses, because some rules concern several keys."""
    sections = {
        field.name: type(field.default) for field in structs.fields(Config) if isinstance(field.default, Section)
    }
    configuration, destinations = page("configuration"), page("destinations")
    properties: dict[str, Any] = {
        name: _section(kind, _meanings(configuration, f"`[{name}]`")) for name, kind in sections.items()
    }
    kinds = [_section(kind, _meanings(destinations, _HEADINGS[name])) for name, kind in DESTINATION_TYPES.items()]
    plugin = {
        "properties": {"type": {"type": "string", "not": {"enum": list(DESTINATION_TYPES)}}},
        "required": ["type"],
    }
    properties["destinations"] = {"type": "object", "additionalProperties": {"anyOf": [*kinds, plugin]}}
    routes = _section(RouteConfig, _meanings(destinations, "Routes"))
    properties["routes"] = {"type": "array", "items": routes}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of aluma-async",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _section(kind: type[Section], meanings: Mapping[str, str]) -> dict[str, Any]:
    """Return the schema of a section without references, since editors show a description beside one only rarely."""
    _, components = msgspec.json.schema_components([kind], schema_hook=_path_schema)
    section = components[kind.__name__]
    for key, value in section["properties"].items():
        if {"type": "null"} in value.get("anyOf", ()):  # which TOML does not have: the key is left out
            value |= next(kind for kind in value.pop("anyOf") if kind["type"] != "null")
            del value["default"]
        value["description"] = meanings.get(key, "kind of destination")
    return {
        "type": "object",
        "properties": section["properties"],
        "required": section["required"],
        "additionalProperties": False,
    }


def _path_schema(kind: type) -> dict[str, Any]:
    if not issubclass(kind, Path):
        raise NotImplementedError(kind)
    return {"type": "string", "minLength": 1}


def _meanings(text: str, heading: str) -> dict[str, str]:
    """Return the meaning of each key, from the tables below a heading of a page."""
    body = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return dict(_rows(body.splitlines()))


def _rows(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) > 3 and cells[1].startswith("`"):
            meaning = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", cells[-2])
            for key in re.findall(r"`(\w+)`", cells[1]):
                yield key, meaning
