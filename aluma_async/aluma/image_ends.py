"""``ImageWalk``: follows the parts of an image while it arrives, to find out whether its end is missing.

Data after the image does not matter. An image that is not understood counts as complete.
"""

import re

from aluma_async.aluma.formats import GIF, JPEG, PNG, TIFF
from aluma_async.aluma.tiff import Steps, tiff_steps

WALK_BYTES = 3
"""Number of bytes that decide whether a file is an image with segments."""
_BOXES = b"\x00\x00\x00"  # of the size of the first box
_OPTIONAL_BOX = re.compile(rb"mdat|meta|moov|moof|mfra|free|skip|uuid|udta|mpvd|jp2c|xml ").fullmatch
"""Types of boxes that may follow the image; other bytes there are something else."""
_TYPE_OF_BOX = re.compile(rb"[\x20-\x7e]{4}").fullmatch


class ImageWalk:
    """Follows the segments of an image."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._step = next(steps)
        self._rest = b""
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes of the file."""
        data, position = self._rest + chunk, 0
        self._rest = b""
        while not self._ended:
            step, available, found = self._step, len(data) - position, b""
            if isinstance(step, bytes):
                start = data.find(step, position)
                if start < 0:
                    self._rest = data[max(position, len(data) - len(step) + 1) :]
                    return
                position = start + len(step)
            elif step < 0:
                if available < -step:
                    self._step = step + available
                    return
                position -= step
            elif available >= step:
                found = data[position : position + step]
                position += step
            else:
                self._rest = data[position:]
                return
            try:
                self._step = self._steps.send(found)
            except StopIteration:
                self._ended = True

    def has_ended(self) -> bool:
        """Return whether the image was complete at the end of the file, or had something that is not understood."""
        if not self._ended:
            try:
                while True:  # because it may go on without the bytes
                    self._steps.throw(EOFError)
            except EOFError:
                return False
            except StopIteration:
                pass
        return True


def image_walk(beginning: bytes) -> ImageWalk | None:
    """Return the walk through an image with this beginning, which was fed; None if its format has no segments."""
    tiff = ((signature, tiff_steps) for signature in TIFF)
    for signature, steps in ((PNG, _png), (JPEG, _jpeg), (_BOXES, _boxes), *((gif, _gif) for gif in GIF), *tiff):
        if beginning.startswith(signature[:WALK_BYTES]):
            walk = ImageWalk(steps())
            walk.feed(beginning)
            return walk
    return None


def _png() -> Steps:
    yield -len(PNG)
    name = b""
    while name != b"IEND":
        header = yield 8
        name = header[4:]
        if not header.strip(b"\x00"):  # the rest of the file may have been replaced by zeros
            yield b"IEND"
            return
        if not name.isalpha():
            return
        yield -4 - int.from_bytes(header[:4], "big")


def _jpeg() -> Steps:
    yield -2
    while True:
        marker = yield 2
        while marker == b"\xff\xff":  # filling
            marker = b"\xff" + (yield 1)
        code = marker[1]
        if marker == b"\x00\x00":
            yield b"\xff\xd9"
            return
        if marker[0] != 0xFF or code == 0xD9:
            return
        if code == 0x01 or 0xD0 <= code <= 0xD8:
            continue
        length = int.from_bytes((yield 2), "big")
        if length < 2:
            return
        if code == 0xDA:  # the image itself; thumbnails, which have ends of their own, precede it
            yield b"\xff\xd9"
            return
        yield 2 - length


def _gif() -> Steps:
    flags = (yield 13)[10]
    while True:
        if flags & 0x80:  # a colour table
            yield -(6 << (flags & 7))
        try:
            kind, flags = (yield 1), 0
        except EOFError:  # the last byte is missing in some images
            return
        if kind == b",":
            flags = (yield 9)[8]
            if flags & 0x80:
                yield -(6 << (flags & 7))
                flags = 0
        elif kind != b"!":  # ";" is the end
            return
        yield -1
        while size := (yield 1)[0]:
            yield -size


def _boxes() -> Steps:
    """Follow the boxes of HEIF, AVIF and JPEG 2000. Each begins with its size and its type."""
    has_content = has_data = False
    while True:
        try:
            first = yield 1
        except EOFError:
            if has_content:
                return
            raise
        try:
            header = first + (yield 7)
        except EOFError:
            if has_content:  # the bytes are padding
                return
            raise
        size, kind = int.from_bytes(header[:4], "big"), header[4:]
        if not size and not kind.strip(b"\x00") and not has_data:  # zeros in place of the rest of the file
            yield b"mdat"
            return
        length = size - 8
        if size == 1:
            length = int.from_bytes((yield 8), "big") - 16
        is_known = _OPTIONAL_BOX if has_content and has_data else _TYPE_OF_BOX
        if length < 0 or not is_known(kind):  # without a length, it ends with the file
            return
        has_data |= kind in (b"mdat", b"jp2c")
        has_content |= kind in (b"meta", b"moov", b"jp2c")
        yield -length
