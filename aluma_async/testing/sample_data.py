"""Believable work for the simulated Aluma: made from a seed when it is asked for, the same each time.

Four projects of four kinds of business, one to five documents a task; for each a text (CSV or JSON) and a PDF
that readers open. Names repeat and misbehave now and then, as those of real projects do.
"""

import base64
import json
import random
from functools import cached_property
from typing import Any, Literal, TypeAlias

from msgspec import Struct

Profile: TypeAlias = Literal["mixed", "small", "bulk", "tiny"]
"""``mixed``: as in real projects; ``small``: one 20 KB PDF and 0.5 KB CSV; ``bulk``: one PDF of 64 MiB.

``tiny``: a few bytes under the same names, no real PDF; for simulations that run by the thousand.
"""

PROJECTS = (
    ("ZbfzIZorTFOV60GX58YUuQ", "ACME Medical Records"),
    ("q1VwLx0hSk-3nN0cJrT5Gg", "Accounts Payable"),
    ("Hh7mPz2bQ4C_eW9sYdKk0A", "HR Onboarding"),
    ("u8RtB6vXRfiLoa1Dj3MZcw", "Freight Documents"),
)
_SUPPLIERS = ("Dell", "Müller & Söhne", "Lieferant Nr. 7", "O'Neill Ltd.", "Smith/Jones", "Ångström AB", "Globex")
_PEOPLE = ("John C Franklin", "Renée Dupont", "Zoë Ödegård", 'Bob "Rusty" Hale', "Li Wei", "Ana María Ruiz")


class SampleFile(Struct, frozen=True):
    """One file of a simulated specification; ``size`` is that of its PDF, 0 for a text."""

    folder: str
    filename: str
    text: str | None
    size: int
    seed: int


class SampleData:
    """What each of many tasks holds; ``number`` says which task."""

    def __init__(self, seed: int = 0, profile: Profile = "mixed") -> None:
        self._seed = seed
        self._profile = profile

    @cached_property
    def _image_bytes(self) -> bytes:
        """Scans look like noise: slices of this make images of any size at the speed of a copy."""
        return random.Random(self._seed).randbytes(4 * 1024 * 1024)

    def task_id(self, number: int) -> str:
        """22 characters of URL-safe base64, as Aluma's; some begin with a dash."""
        return base64.urlsafe_b64encode(self._random(number, "id").randbytes(16)).decode().rstrip("=")

    def project(self, number: int) -> tuple[str, str]:
        """Id and name of the task's project."""
        return PROJECTS[number % len(PROJECTS)]

    def name(self, number: int) -> str:
        """The task's name: that of the file it was made from."""
        return f"{number % 5000 + 1:05}.pdf"  # as scanners number: they begin again

    def documents(self, number: int) -> list[list[SampleFile]]:
        """The files of each document of a task."""
        chance = self._random(number, "work")
        if self._profile == "tiny":
            pdfs = range(chance.choice((0, 1, 1, 2)))
            files = [SampleFile("", f"{number}-{n}.pdf", None, 8, number * 10 + n) for n in pdfs]
            return [[SampleFile("", f"{number}.csv", f"a,b\n{chance.random()},", 0, 0), *files]]
        if self._profile != "mixed":
            size = 20 * 1024 if self._profile == "small" else 64 * 1024 * 1024
            text = _csv(chance, 500)
            return [
                [SampleFile("", f"{number:07}.csv", text, 0, 0), SampleFile("", f"{number:07}.pdf", None, size, number)]
            ]
        return [self._document(chance, number) for _ in range(min(5, int(chance.expovariate(0.9)) + 1))]

    def pdf(self, file: SampleFile) -> bytes:
        """The bytes of a PDF of just ``file.size`` bytes."""
        if self._profile == "tiny":
            return b"%%PDF-1.4 %d of %d" % (file.seed, self._seed)
        start = file.seed % (1024 * 1024)
        return _pdf(file.filename, file.size, memoryview(self._image_bytes)[start:])

    def content(self, file: SampleFile) -> bytes:
        """The bytes that an exporter has to write."""
        return file.text.encode() if file.text is not None else self.pdf(file)

    def _document(self, chance: random.Random, number: int) -> list[SampleFile]:
        project = number % len(PROJECTS)
        supplier, person = chance.choice(_SUPPLIERS), chance.choice(_PEOPLE)
        serial = chance.randrange(100_000)
        folder, stem = (
            ("", f"{number % 5000 + 1:05}"),
            (f"invoices/{chance.choice((2023, 2024, 2025))}/{supplier}", f"INV-{serial:05}"),
            (f"people/{person}", chance.choice(("contract", "id card", "references"))),
            ("freight", f"CMR {serial:05} {supplier}"),
        )[project]
        if chance.random() < 0.03:
            stem = chance.choice(("INV/2024/001", "A:B?", "con", "offer. ", "..", "x" * 300))
        size = min(8 << 20, max(20 << 10, int(chance.lognormvariate(11.2, 1.0))))
        text = _csv(chance, 800) if chance.random() < 0.7 else _json(chance, person)
        ending = "csv" if text.startswith("Patient") else "json"
        return [
            SampleFile(folder, f"{stem}.{ending}", text, 0, 0),
            SampleFile(folder, f"{stem}.pdf", None, size, chance.getrandbits(32)),
        ]

    def _random(self, number: int, purpose: str) -> random.Random:
        return random.Random(f"{self._seed}/{purpose}/{number}")


def _csv(chance: random.Random, length: int) -> str:
    lines = ["PatientNumber,PatientName,Amount"]
    while sum(map(len, lines)) < length:
        name = chance.choice(_PEOPLE).replace('"', '""')
        lines.append(f'X{chance.randrange(99999):05},"{name}",{chance.random() * 1000:.2f}')
    return "\n".join(lines)  # Aluma's own sample has no line end after the last line


def _json(chance: random.Random, person: str) -> str:
    data: dict[str, Any] = {"name": person, "total": round(chance.random() * 1e4, 2), "lines": []}
    data["lines"] = [{"text": chance.choice(_SUPPLIERS), "qty": chance.randrange(9)} for _ in range(8)]
    return json.dumps(data, ensure_ascii=False, indent=1)


def _pdf(title: str, size: int, noise: memoryview) -> bytes:
    """A one-page PDF (1.4) with a line of text and a grey image as a scanner makes it, padded to ``size``."""
    text = "".join(c if c.isascii() and c.isprintable() and c not in "()\\" else "_" for c in title)[:60]
    page = b"q 480 0 0 640 57 60 cm /I Do Q BT /F 14 Tf 57 720 Td (" + text.encode() + b") Tj ET"
    width = 1024
    height = (size - 1400) // width

    def document(padding: int) -> bytes:
        image = b"<</Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8/Length %d>>"
        pixels = bytes(noise[: min(len(noise), width * height)])
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
        at, places = len(out[0]), []
        for number, body in enumerate(bodies, 1):
            out.append(b"%d 0 obj\n%b\nendobj\n" % (number, body))
            places.append(at)
            at += len(out[-1])
        out.append(b"xref\n0 7\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places))
        out.append(b"trailer\n<</Size 7/Root 1 0 R>>\nstartxref\n%10d\n%%%%EOF\n" % at)
        return b"".join(out)

    return document(size - len(document(0)))
