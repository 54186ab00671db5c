"""``Mistakes``: collects the mistakes of a configuration, so that all are reported at once, each with its line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from aluma_async.config.lines import KeyPath, find_line
from aluma_async.exceptions import ConfigError, ConfigMistakes


class Mistakes:
    """The mistakes that were found in ``text``, the content of ``file``."""

    def __init__(self, file: str = "", text: str = "") -> None:
        self.file = file
        self._found: list[tuple[int, ConfigError]] = []
        self.paths: set[KeyPath] = set()
        """The keys of the file that were not used."""
        self._text = text

    @property
    def found(self) -> list[ConfigError]:
        """All mistakes, ordered by line."""
        return [mistake for _, mistake in sorted(self._found, key=lambda pair: pair[0])]

    def append(self, mistake: ConfigError) -> None:
        """Add a mistake, with file and line if its path is known."""
        self._found.append((find_line(self._text, mistake.path), self.located(mistake)))

    def add(self, path: KeyPath, message: str, hint: str, *, origin: str = "") -> None:
        """Add a mistake at a key or table of the file, or at another ``origin``."""
        error = ConfigError(f"{origin or self.location(path)}: {message}", hint=hint)
        self._found.append((0 if origin else find_line(self._text, path), error))
        self.paths.add(path)

    @contextmanager
    def collect(self, path: KeyPath = ()) -> Iterator[None]:
        """Add the mistakes of the ``ConfigError`` that the block raises, if any; ``path`` is where they are."""
        try:
            yield
        except ConfigError as error:
            for mistake in error.mistakes or (error,):
                mistake.path = mistake.path or path
                self.append(mistake)

    def located(self, error: ConfigError) -> ConfigError:
        """Return an error with the file and the line of its mistakes, as far as they are known."""
        if error.mistakes:
            return ConfigMistakes([self.located(mistake) for mistake in error.mistakes])
        if not find_line(self._text, error.path):
            return error
        return ConfigError(f"{self.location(error.path)}: {error}", hint=error.hint)

    def location(self, path: KeyPath) -> str:
        """Return file and line of a key."""
        line = find_line(self._text, path)
        return f"{self.file}:{line}" if line else self.file

    def raise_all(self) -> None:
        """Raise the only mistake, or all in one ``ConfigMistakes``."""
        found = self.found
        if found:
            raise found[0] if len(found) == 1 else ConfigMistakes(found)


_TOML_MISTAKES = (
    (r"Expected '=' after a key", "a line that is no key = value", "Write key = value, or # before a comment."),
    (r"Invalid value", "a value that is neither a number nor a text in quotes", 'Write a text as "text".'),
    (r"Cannot overwrite a value|Duplicate inline", "a key that is set twice", "Remove one of the lines."),
    (r"Cannot declare", "a table that occurs twice", "Join the two tables."),
    (r"Unescaped '\\'", "a backslash in a text in double quotes", "Use single quotes, for example 'C:\\\\export'."),
    (r"Unterminated string|Illegal character '\\n'", "a text without a quotation mark at its end", "Add it."),
    (r"Unclosed (array|inline)", "a list or table without its closing bracket", "Add it."),
    (r"Expected ']'", "a table name without its closing bracket", "Add it."),
    (r"Expected newline", "text after the end of a value", "Remove it, write # before it, or correct the quotes."),
)
"""Message of ``tomllib`` -> the mistake in other words, and its remedy."""


def toml_error(file: str, error: Exception) -> ConfigError:
    """Return an error of ``tomllib`` in words that need no knowledge of TOML."""
    message = str(error)
    position = re.search(r" \(at line (\d+), column (\d+)\)", message)
    where = f"{file}:{position[1]}" if position else file
    for pattern, text, hint in _TOML_MISTAKES:
        if re.search(pattern, message):
            return ConfigError(f"{where}: invalid TOML: {text} ({message})", hint=hint)
    return ConfigError(f"{where}: invalid TOML: {message}", hint="Correct that line.")
