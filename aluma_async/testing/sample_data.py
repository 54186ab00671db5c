"""``SampleData``: realistic tasks and files for the simulated Aluma, generated on demand from a seed.

There are four projects from four kinds of business. A task has one to five documents; each document has a text file
(CSV or JSON) and a valid PDF. Some names are duplicates or invalid as filenames, as in real projects.
"""

import base64
import json
import random
import struct
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from msgspec import Struct

Profile: TypeAlias = Literal["mixed", "small", "bulk", "tiny"]
"""Kind of files.

``mixed``: as in real projects. ``small``: a PDF of 20 KiB and a CSV of 0.5 KB. ``bulk``: a PDF of 64 MiB and a CSV.
``tiny``: files of a few bytes, which only begin and end rightly, for simulations of thousands of schedules.
"""

PROJECTS = (
    ("ZbfzIZorTFOV60GX58YUuQ", "ACME Medical Records"),
    ("q1VwLx0hSk-3nN0cJrT5Gg", "Accounts Payable"),
    ("Hh7mPz2bQ4C_eW9sYdKk0A", "HR Onboarding"),
    ("u8RtB6vXRfiLoa1Dj3MZcw", "Freight Documents"),
)
_TINY_ENDINGS = ("png", "xml", "zip", "edi", "heic", "tif")
_EDI = b"UNA:+.? '"
_SUPPLIERS = ("Dell", "Müller & Söhne", "Lieferant Nr. 7", "O'Neill Ltd.", "Smith/Jones", "Ångström AB", "Globex")
_PEOPLE = ("John C Franklin", "Renée Dupont", "Zoë Ödegård", 'Bob "Rusty" Hale', "Li Wei", "Ana María Ruiz")


class SampleFile(Struct, frozen=True):
    """A file of a simulated specification. ``text`` is None for a PDF; ``size`` is 0 for a text."""

    folder: str
    filename: str
    text: str | None
    size: int
    seed: int


class SampleData:
    """Generates the content of tasks; ``number`` selects the task."""

    def __init__(self, seed: int = 0, profile: Profile = "mixed") -> None:
        self._seed = seed
        self._profile = profile

    def task_id(self, number: int) -> str:
        """Return an id like Aluma's: 22 characters of URL-safe base64. Some start with a dash."""
        return base64.urlsafe_b64encode(self._random(number, "id").randbytes(16)).decode().rstrip("=")

    def project(self, number: int) -> tuple[str, str]:
        """Return the id and the name of the task's project."""
        return PROJECTS[number % len(PROJECTS)]

    def name(self, number: int) -> str:
        """Return the task's name: the name of the uploaded file."""
        return f"{number % 5000 + 1:05}.pdf"  # because scanners restart their numbering

    def documents(self, number: int) -> list[list[SampleFile]]:
        """Return the files of each document of a task."""
        rng = self._random(number, "work")
        if self._profile == "tiny":
            pdfs = range(rng.choice((0, 1, 1, 2)))
            ending = _TINY_ENDINGS[number % len(_TINY_ENDINGS)]
            files = [SampleFile("", f"{number}-{n}.{ending if n else 'pdf'}", None, 8, number * 10 + n) for n in pdfs]
            return [[SampleFile("", f"{number}.csv", f"a,b\n{rng.random()},", 0, 0), *files]]
        if self._profile != "mixed":
            size = 20 * 1024 if self._profile == "small" else 64 * 1024 * 1024
            text = _csv(rng, 500)
            return [
                [SampleFile("", f"{number:07}.csv", text, 0, 0), SampleFile("", f"{number:07}.pdf", None, size, number)]
            ]
        return [self._document(rng, number) for _ in range(min(5, int(rng.expovariate(0.9)) + 1))]

    def pdf(self, file: SampleFile) -> bytes:
        """Return a PDF of exactly ``file.size`` bytes (profile ``tiny``: a few bytes, also of other formats)."""
        if self._profile == "tiny":
            return _tiny_file(file.filename, b"%d of %d" % (file.seed, self._seed))
        start = file.seed % (1024 * 1024)
        return _pdf(file.filename, file.size, memoryview(_image_bytes(self._seed))[start:])

    def content(self, file: SampleFile) -> bytes:
        """Return the bytes that an exporter must write."""
        return file.text.encode() if file.text is not None else self.pdf(file)

    def _document(self, rng: random.Random, number: int) -> list[SampleFile]:
        project = number % len(PROJECTS)
        supplier, person = rng.choice(_SUPPLIERS), rng.choice(_PEOPLE)
        serial = rng.randrange(100_000)
        folder, stem = (
            ("", f"{number % 5000 + 1:05}"),
            (f"invoices/{rng.choice((2023, 2024, 2025))}/{supplier}", f"INV-{serial:05}"),
            (f"people/{person}", rng.choice(("contract", "id card", "references"))),
            ("freight", f"CMR {serial:05} {supplier}"),
        )[project]
        if rng.random() < 0.03:
            stem = rng.choice(("INV/2024/001", "A:B?", "con", "offer. ", "..", "x" * 300))
        size = min(8 << 20, max(20 << 10, int(rng.lognormvariate(11.2, 1.0))))
        text = _csv(rng, 800) if rng.random() < 0.7 else _json(rng, person)
        ending = "csv" if text.startswith("Patient") else "json"
        return [
            SampleFile(folder, f"{stem}.{ending}", text, 0, 0),
            SampleFile(folder, f"{stem}.pdf", None, size, rng.getrandbits(32)),
        ]

    def _random(self, number: int, purpose: str) -> random.Random:
        return random.Random(f"{self._seed}/{purpose}/{number}")


def has_end(body: bytes) -> bool:
    """Return whether the first half of a file of the profile ``tiny`` differs from a whole file."""
    return not body.startswith(_EDI)


@lru_cache(maxsize=1)
def _image_bytes(seed: int) -> bytes:
    """Return random bytes that look like a scan. Images of any size are slices of them, because copying is fast."""
    return random.Random(seed).randbytes(4 * 1024 * 1024)


def _tiny_file(name: str, text: bytes) -> bytes:
    """Return a file whose beginning and end fit its name. None is JSON, as which errors would be accepted."""
    match name.rpartition(".")[2]:
        case "xml":
            return b"<file>%b</file>" % text
        case "png":
            return b"\x89PNG\r\n\x1a\n%btEXt%b" % (len(text).to_bytes(4, "big"), text) + bytes(8) + b"IEND\xaeB`\x82"
        case "zip":  # without members, with a comment
            return b"PK\x05\x06" + bytes(16) + len(text).to_bytes(2, "little") + text
        case "heic":
            parts = ((b"ftyp", b"heic"), (b"meta", bytes(4)), (b"mdat", text))
            return b"".join(struct.pack(">I4s", len(data) + 8, kind) + data for kind, data in parts)
        case "tif":  # a directory before its strip
            entries = ((256, 999), (257, 8), (258, 8), (259, 5), (273, 86), (279, len(text)))
            table = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in entries)
            return b"II*\0" + struct.pack("<LH", 8, len(entries)) + table + bytes(4) + text
        case "edi":
            return _EDI + text
    return b"%%PDF-1.4 %b %%%%EOF" % text


def _csv(rng: random.Random, length: int) -> str:
    lines = ["PatientNumber,PatientName,Amount"]
    while sum(map(len, lines)) < length:
        name = rng.choice(_PEOPLE).replace('"', '""')
        lines.append(f'X{rng.randrange(99999):05},"{name}",{rng.random() * 1000:.2f}')
    return "\n".join(lines)  # without a final line end, as in Aluma's own sample


def _json(rng: random.Random, person: str) -> str:
    data: dict[str, Any] = {"name": person, "total": round(rng.random() * 1e4, 2), "lines": []}
    data["lines"] = [{"text": rng.choice(_SUPPLIERS), "qty": rng.randrange(9)} for _ in range(8)]
    return json.dumps(data, ensure_ascii=False, indent=1)


def _pdf(title: str, size: int, pixel_source: memoryview) -> bytes:
    """Return a one-page PDF (1.4) with a line of text and a grey image like a scan, padded to ``size`` bytes."""
    text = "".join(c if c.isascii() and c.isprintable() and c not in "()\\" else "_" for c in title)[:60]
    page = b"q 480 0 0 640 57 60 cm /I Do Q BT /F 14 Tf 57 720 Td (" + text.encode() + b") Tj ET"
    width = 1024
    height = (size - 1400) // width

    def document(padding: int) -> bytes:
        image = b"<</Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8/Length %d>>"
        pixels = bytes(pixel_source[: min(len(pixel_source), width * height)])
        pixels = (pixels * (width * height // len(pixels) + 1))[: width * height]
        bodies = (
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R"
            b"/Resources<</Font<</F 5 0 R>>/XObject<</I 6 0 R>>>>>>",
            b"<</Length %d>>stream\n%b\nendstream" % (len(page), page),
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
            image % (width, height, width * height) + b"stream\n" + pixels + b"\nendstream",
        )
        out = [b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n%" + b" " * padding + b"\n"]
        position, offsets = len(out[0]), []
        for number, body in enumerate(bodies, 1):
            out.append(b"%d 0 obj\n%b\nendobj\n" % (number, body))
            offsets.append(position)
            position += len(out[-1])
        out.append(b"xref\n0 7\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets))
        out.append(b"trailer\n<</Size 7/Root 1 0 R>>\nstartxref\n%10d\n%%%%EOF\n" % position)
        return b"".join(out)

    return document(size - len(document(0)))
