"""The files of a server that regards different names as equal, as some databases behind servers do."""

import unicodedata
from collections.abc import MutableMapping


def without_accents(name):
    """Return what a database with a collation such as ``utf8_general_ci`` compares."""
    decomposed = unicodedata.normalize("NFD", name.lower())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def without_emoji(name):
    """Return what a database compares for which all characters above U+FFFF are equal."""
    return "".join(character if character < "\U00010000" else "?" for character in name)


def without_trailing_dots(name):
    """Return what a server on Windows stores; the names of this program never end with an ASCII dot or space."""
    return unicodedata.normalize("NFKC", name).rstrip(". ")


class EqualNames(MutableMapping):
    """Content by name, where names with the same ``key`` are one; the first one stays visible."""

    def __init__(self, key):
        self._key, self._files = key, {}

    def __getitem__(self, name):
        return self._files[self._key(name)][1]

    def __setitem__(self, name, content):
        self._files[self._key(name)] = self._files.get(self._key(name), (name,))[0], content

    def __delitem__(self, name):
        del self._files[self._key(name)]

    def __iter__(self):
        return iter([name for name, _ in self._files.values()])

    def __len__(self):
        return len(self._files)
