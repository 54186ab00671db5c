"""``Digests``: compares a download with the digests in its response's headers (RFC 1864, RFC 3230 and RFC 9530).

MD5, SHA-256 and SHA-512 are compared. Other algorithms and malformed values are ignored; so is an ETag, which is a
digest on some servers only. The digests of the first response apply to the whole file, also if it is resumed: it is not
compressed and not a part, so its content is the representation.
"""

import binascii
import hashlib
import re
from typing import Self

from multidict import CIMultiDictProxy

_ALGORITHMS = {"md5": "md5", "sha-256": "sha256", "sha-512": "sha512"}
_ITEM = re.compile(r"\s*([\w*./-]+)\s*=\s*(:?)([A-Za-z0-9+/]+={0,2})(\2)\s*(?:;[^,]*)?", re.ASCII)


class Digests:
    """The digests that a file must have, and those of the bytes so far."""

    def __init__(self, expected: list[tuple[str, bytes]]) -> None:
        self._expected = expected
        self._actual = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm, _ in expected}

    @classmethod
    def of(cls, headers: CIMultiDictProxy[str]) -> Self | None:
        """Return the digests in the headers of a response, or None if there is none."""
        if not (
            "Digest" in headers or "Content-Digest" in headers or "Repr-Digest" in headers or "Content-MD5" in headers
        ):
            return None
        expected = []
        for name in ("Digest", "Content-Digest", "Repr-Digest"):
            for value in headers.getall(name, ()):
                for item in value.split(","):
                    if match := _ITEM.fullmatch(item):
                        expected += _decoded(match[1], match[3])
        for value in headers.getall("Content-MD5", ()):
            expected += _decoded("md5", value.strip())
        return cls(expected) if expected else None

    def update(self, chunk: bytes) -> None:
        """Add the next bytes of the file."""
        for digest in self._actual.values():
            digest.update(chunk)

    def problem(self) -> str:
        """Return the contradiction between the file and its digests, or "" if there is none."""
        for algorithm, expected in self._expected:
            if self._actual[algorithm].digest() != expected:
                return f"the file does not have the {algorithm} digest that was sent with it"
        return ""


def _decoded(algorithm: str, text: str) -> list[tuple[str, bytes]]:
    """Return the algorithm and the digest; nothing if one of them is unknown or malformed."""
    name = _ALGORITHMS.get(algorithm.lower())
    if name is None:
        return []
    try:
        digest = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return []
    is_valid = len(digest) == hashlib.new(name, usedforsecurity=False).digest_size
    return [(name, digest)] if is_valid else []
