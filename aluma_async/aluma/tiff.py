"""Follows the directories of a TIFF to the end of its last strip or tile. Pure.

Only what is certain counts, because some programs write wrong byte counts: if all together are larger than the pixels,
or as large although the image is compressed, they are not believed. Lists before their directory are not looked at.
"""

import struct
from collections.abc import Generator
from typing import NamedTuple, TypeAlias

Steps: TypeAlias = Generator[int | bytes, bytes, None]
"""Yields what to do next: read a number of bytes, skip one (negative), or search for bytes."""

_MAX_LIST_BYTES = 1024 * 1024
"""Maximum size of a list of numbers that is read."""
_MAX_ENTRIES = 4096
"""Maximum number of entries of a directory that is read."""
_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 256, 257, 258, 259
_STRIPS, _STRIP_COUNTS = 273, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_COUNTS = 322, 323, 324, 325
_LISTS = (_BITS, _STRIPS, _STRIP_COUNTS, _TILES, _TILE_COUNTS)
_UNCOMPRESSED = 1
_OLD_JPEG = 6
"""A compression whose images are found by other tags."""
_FORMATS = {3: "H", 4: "L", 16: "Q"}
"""The types of numbers."""


class _Form(NamedTuple):
    """The order of bytes, and the sizes of fields: of an ordinary TIFF or of a BigTIFF."""

    order: str
    entries: str
    """Format of the number of entries."""
    offset: str
    """Format of an offset."""

    def size(self, field: str) -> int:
        return struct.calcsize(self.order + field)

    def unpack(self, field: str, data: bytes) -> tuple[int, ...]:
        return struct.unpack_from(self.order + field, data)


class _Entry(NamedTuple):
    """An entry of a directory: its values, or the place where they are."""

    values: tuple[int, ...]
    format: str
    length: int
    offset: int


def tiff_steps() -> Steps:
    """Yield the steps through a TIFF."""
    header = yield 8
    order = ">" if header.startswith(b"MM") else "<"
    form = _Form(order, "H", "L")
    position, (start,) = 8, form.unpack("L", header[4:])
    if b"+" in header[2:4]:
        form = _Form(order, "Q", "Q")
        position, (start,) = 16, form.unpack("Q", (yield 8))
    elif b"*" not in header[2:4]:
        return
    end = 0
    while start >= position:
        yield position - start
        (count,) = form.unpack(form.entries, (yield form.size(form.entries)))
        if not 0 < count < _MAX_ENTRIES:
            return
        size = 4 + 2 * form.size(form.offset)
        data = yield count * size
        try:
            following = yield form.size(form.offset)
        except EOFError:  # it is missing in some files
            following = bytes(form.size(form.offset))
        position = start + form.size(form.entries) + len(data) + len(following)
        directory = dict(_entry(form, data[at : at + size]) for at in range(0, len(data), size))
        values, position = yield from _read_lists(form, directory, position)
        end = max(end, _end_of_image(values))
        (start,) = form.unpack(form.offset, following)
    if end > position:
        yield position - end


def _entry(form: _Form, data: bytes) -> tuple[int, _Entry]:
    tag, kind = form.unpack("HH", data)
    (count,) = form.unpack(form.offset, data[4:])
    field, rest = _FORMATS.get(kind, ""), data[4 + form.size(form.offset) :]
    if field and count * form.size(field) <= len(rest):
        return tag, _Entry(form.unpack(f"{count}{field}", rest), field, count, 0)
    return tag, _Entry((), field, count, form.unpack(form.offset, rest)[0])


def _read_lists(
    form: _Form, directory: dict[int, _Entry], position: int
) -> Generator[int | bytes, bytes, tuple[dict[int, tuple[int, ...]], int]]:
    """Return the values of the entries by tag, and the position after the last list that was read."""
    values: dict[int, tuple[int, ...]] = {} if _BITS in directory else {_BITS: (1,)}
    values |= {tag: entry.values for tag, entry in directory.items() if entry.values}
    lists = [(entry.offset, tag, entry) for tag in _LISTS if (entry := directory.get(tag)) and not entry.values]
    for offset, tag, entry in sorted(lists, key=lambda item: item[0]):
        size = entry.length * form.size(entry.format)
        if position <= offset and 0 < size <= _MAX_LIST_BYTES:
            yield position - offset
            values[tag] = form.unpack(f"{entry.length}{entry.format}", (yield size))
            position = offset + size
    return values, position


def _end_of_image(values: dict[int, tuple[int, ...]]) -> int:
    """Return the size that a file must have because of one image; 0 if unknown."""
    compression = values.get(_COMPRESSION, (_UNCOMPRESSED,))[0]
    if compression == _OLD_JPEG:
        return 0
    offsets, counts = values.get(_STRIPS, ()), values.get(_STRIP_COUNTS, ())
    sizes, number = (values.get(_WIDTH), values.get(_HEIGHT)), 1
    if _TILES in values:
        offsets, counts = values[_TILES], values.get(_TILE_COUNTS, ())
        sizes, number = (values.get(_TILE_WIDTH), values.get(_TILE_HEIGHT)), len(offsets)
    width, height = sizes
    if not (width and height) or len(offsets) != len(counts):
        return 0
    bits = values.get(_BITS, ())
    pixels = sum((width[0] * one + 7) // 8 for one in bits) * height[0] * number
    if sum(counts) + (compression != _UNCOMPRESSED) > pixels:
        return 0
    return max((offset + count for offset, count in zip(offsets, counts, strict=True) if count), default=0)
