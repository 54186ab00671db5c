"""``Receipt``: lets a later process prove that the files of a delivery are still in the folder.

It is kept outside the folder, in the journal, where no names from documents belong. So the paths are encrypted with
the identifier that only the folder's marker contains: with another folder in its place, the receipt cannot be read.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Self, TypeAlias

import msgspec
from msgspec import Struct

from aluma_async.destinations.folder.identity import hash_of

StoredSize: TypeAlias = tuple[str, int]
"""Path below the root, with slashes, and size in bytes."""

_NONCE_BYTES = 12
_files = msgspec.json.Decoder(list[StoredSize])


class Receipt(Struct, frozen=True):
    """What is known about a delivery after its commit."""

    folder: str
    """Hash of the folder's identifier."""
    nonce: str
    files: bytes
    """Path and size of each file, encrypted."""
    boot: str = ""
    """The boot in which the files were written; empty if they were synced, so that they survive a power loss."""

    @classmethod
    def issue(cls, folder_id: str, files: Sequence[StoredSize], boot: str) -> str:
        """Return the receipt of a delivery as text."""
        nonce = os.urandom(_NONCE_BYTES).hex()
        data = msgspec.json.encode(files)
        return msgspec.json.encode(cls(hash_of(folder_id), nonce, _crypt(data, folder_id, nonce), boot)).decode()

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the receipt that ``issue`` wrote; None for any other text."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError:
            return None

    def stored(self, folder_id: str) -> Sequence[StoredSize] | None:
        """Return the files; None if the receipt was issued for another folder."""
        if not folder_id or self.folder != hash_of(folder_id):
            return None
        try:
            return _files.decode(_crypt(self.files, folder_id, self.nonce))
        except msgspec.DecodeError:
            return None


def _crypt(data: bytes, key: str, nonce: str) -> bytes:
    """Encrypt or decrypt data with a key stream, which no second receipt uses because of the nonce."""
    stream = hashlib.shake_256(f"{key} {nonce}".encode()).digest(len(data))
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))
