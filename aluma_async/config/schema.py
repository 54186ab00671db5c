"""``Section``: a struct that validates itself, and the function that reads one from parsed TOML.

A mistake is reported with section, key and value, and with the most similar key.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeGuard, TypeVar, get_args, get_origin

from msgspec import Struct, ValidationError, convert, structs

from aluma_async.config.lines import KeyPath
from aluma_async.config.mistakes import Mistakes
from aluma_async.config.paths import resolve
from aluma_async.config.redaction import redact
from aluma_async.exceptions import ConfigError


class InvalidValue(ConfigError):
    """A value that cannot be used; ``read_section`` adds the file and the section."""

    def __init__(self, key: str, value: object, reason: str, *, hint: str = "", other: str = "") -> None:
        shown = str(value) if isinstance(value, Path) else repr(value)
        super().__init__(f"{key} = {shown[:200]}: {reason}", hint=hint)
        self.keys = (key, other) if other else (key,)
        """The key, and another one that it does not fit to."""


class Section(Struct, frozen=True, kw_only=True):
    """Base class of all sections. Types and ranges are also checked for a section that is created in code."""

    ASCENDING: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of keys; the first value must not be greater than the second."""
    SECRET: ClassVar[tuple[str, ...]] = ()
    """Keys whose values may contain a secret, so that no message repeats them."""

    def __repr__(self) -> str:
        """Leave out secrets."""
        fields = ", ".join(f"{name}={redact(name, getattr(self, name))!r}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({fields})"

    def __post_init__(self) -> None:
        for field in structs.fields(self):
            value = getattr(self, field.name)
            try:
                convert(value, field.type)
            except ValidationError as error:
                shown = "…" if field.name in self.SECRET else value
                raise InvalidValue(field.name, shown, _reason(error, field.type)) from None
        for low, high in self.ASCENDING:
            if getattr(self, low) > getattr(self, high):
                raise InvalidValue(
                    low, getattr(self, low), f"greater than {high} = {getattr(self, high)!r}", other=high
                )


AnySection = TypeVar("AnySection", bound=Section)

_TYPE_NAMES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "array": "an array",
    "object": "a table",
    "null": "",
    "date": "a date",
    "time": "a time",
    "datetime": "a date-time",
}
"""Type in a message of msgspec -> its name in a TOML file."""


def read_section(
    kind: type[AnySection],
    raw: object,
    mistakes: Mistakes,
    *,
    name: str,
    path: KeyPath,
    overrides: Mapping[str, object] | None = None,
    folder: Path | None = None,
) -> AnySection | None:
    """Read one section; ``overrides`` take precedence. Return it with default values in place of unusable ones.

    Return None if a required key is unusable or missing.

    Args:
        kind: The class of the section.
        raw: Its keys and values.
        mistakes: Receives all mistakes of the section.
        name: Its name in messages, with brackets.
        path: Its path in the file.
        overrides: Keys and values from other sources.
        folder: The folder of the file, to which its paths are relative; None: the working folder.
    """
    if not isinstance(raw, dict):
        mistakes.add(path, f"{name} must be a table", f"Write {name} on a separate line.")
        raw = {}
    for key in (key for key in raw if key not in kind.__struct_fields__):
        mistakes.add((*path, key), f"{name} unknown key {key!r}", suggest(key, kind.__struct_fields__))
    overrides = overrides or {}
    paths = {field.name for field in structs.fields(kind) if Path in (field.type, *get_args(field.type))}
    values: dict[str, Any] = {
        **{
            key: resolve(folder, value) if key in paths and _is_path(value) else value
            for key, value in raw.items()
            if key in kind.__struct_fields__
        },
        **overrides,
    }
    reported: set[str] = set()
    while True:  # each mistake is reported, and then the default is used instead, to find the next one
        try:
            return convert(values, kind, dec_hook=_decode_path)
        except (InvalidValue, ValidationError) as error:
            bad = error if isinstance(error, InvalidValue) else _invalid_value(error, kind, values)
        if bad is None:
            missing = {field.name for field in structs.fields(kind) if field.required} - values.keys() - reported
            for key in sorted(missing):
                mistakes.add(path, f"{name}: the key {key!r} is missing", "Add that key.")
            return None
        key = next((key for key in bad.keys if key in values), "")
        origin = "command line or environment" if key in overrides else ""
        hint = bad.hint or _hint(name, bad.keys[0], values.get(bad.keys[0]), kind)
        mistakes.add((*path, key), f"{name} {bad}", hint, origin=origin)
        if not key:
            return None
        reported.add(key)
        del values[key]


def _invalid_value(error: ValidationError, kind: type[Section], values: Mapping[str, Any]) -> InvalidValue | None:
    """Return the value that msgspec refuses; None if a key is missing, the only error without a location."""
    key = re.search(r"at `\$\.(\w+)", str(error))
    if not key:
        return None
    types = {field.name: field.type for field in structs.fields(kind)}
    shown = "…" if key[1] in kind.SECRET else values[key[1]]
    return InvalidValue(key[1], shown, _reason(error, types[key[1]]))


_RENAMED = {"types": "column_types", "columns": "column_names", "header": "header_names"}
"""Former keys that are not similar enough to their new names, or more similar to another key."""


def suggest(key: str, known: Iterable[str]) -> str:
    """Return a hint with the new or the most similar name, or with all known names."""
    known = sorted(known)
    renamed = _RENAMED.get(key)
    match = [renamed] if renamed in known else difflib.get_close_matches(key, known, n=1)
    return f"Did you mean {match[0]!r}?" if match else f"Use one of: {', '.join(known)}."


def _hint(name: str, key: str, value: object, kind: type[Section]) -> str:
    """Return the remedy for a value of a wrong type or out of range."""
    if isinstance(value, str) and key not in kind.SECRET:
        unquoted = value.strip().lower()
        with suppress(ValueError, ValidationError, ConfigError):
            number = {"true": True, "false": False}[unquoted] if unquoted in ("true", "false") else float(unquoted)
            types = {field.name: field.type for field in structs.fields(kind)}
            convert(int(number) if unquoted.isdecimal() else number, types[key])
            return f"Write {key} = {unquoted}, without quotes."
    page = "destinations" if name.startswith(("[destinations", "[[routes")) else "configuration"
    return f"Correct it; 'aluma-async help {page}' lists the keys of {name.partition(']] ')[0] or name}."


def _reason(error: ValidationError, kind: object) -> str:
    message = str(error).partition(" - at ")[0]
    if get_origin(kind) is Literal or message.startswith("Invalid enum value"):
        return f"should be one of {', '.join(_choices(kind))}"
    message = re.sub(r"`([^`]+)`", lambda match: _type_names(match[1]), message)
    return message[:1].lower() + message[1:]


def _choices(kind: object) -> Iterator[str]:
    """Yield the values of all enumerations in a type."""
    for argument in get_args(kind):
        if get_origin(kind) is Literal:
            yield argument or '""'
        else:
            yield from _choices(argument)


def _type_names(types: str) -> str:
    """Return the names of types that msgspec separates by ``|``."""
    names = [_TYPE_NAMES.get(name, name) for name in types.split(" | ")]
    return " or ".join(name for name in names if name)


def _is_path(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _decode_path(kind: type, value: object) -> Path:
    """Decode a path, with ``~`` as the user's home folder; TOML has no type for it."""
    if not _is_path(value):
        raise ValueError("expected a path")
    try:
        return kind(value).expanduser()  # type: ignore[no-any-return]
    except RuntimeError:
        raise ValueError("the home folder is not known") from None
