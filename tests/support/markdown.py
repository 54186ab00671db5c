"""README.md and the reference pages: their code blocks, tables, headings and links."""

import re
from pathlib import Path
from typing import NamedTuple

from tests.support.files import ROOT

README = ROOT / "README.md"
PAGES = sorted((ROOT / "aluma_async" / "docs").glob("*.md"))
DOCUMENTS = [README, *PAGES]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]+\]\(([^)]+)\)")


class Block(NamedTuple):
    """A code block."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def page(name: str) -> str:
    """Return the text of a reference page."""
    return (ROOT / "aluma_async" / "docs" / f"{name}.md").read_text("utf-8")


def section(text: str, heading: str) -> str:
    """Return a section, from its heading to the next one of the same level or above."""
    start = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert start, f"no section {heading!r}"
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", _without_code(rest), re.MULTILINE)
    return rest[: end.start()] if end else rest


def blocks(language: str) -> list[Block]:
    """Return all code blocks of a language."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        found += [
            Block(path.name, text.count("\n", 0, match.start(2)) + 1, match[2])
            for match in _BLOCK.finditer(text)
            if match[1] == language
        ]
    return found


def code(text: str, language: str) -> list[str]:
    """Return the code blocks of a language in a text."""
    return [body for name, body in _BLOCK.findall(text) if name == language]


def languages() -> set[str]:
    """Return the languages of all code blocks."""
    return {match[1] for path in DOCUMENTS for match in _BLOCK.finditer(path.read_text("utf-8"))}


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows, without headers and rulers."""
    lines = [line for line in _without_code(text).splitlines() if line.startswith("|")]
    rulers = {number for number, line in enumerate(lines) if set(line) <= set("|- :")}
    body = [line for number, line in enumerate(lines) if number not in rulers and number + 1 not in rulers]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]


def quoted(cell: str) -> list[str]:
    """Return what stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    titles = _HEADING.findall(_without_code(path.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    """Return the targets of all links."""
    return _LINK.findall(_without_code(path.read_text("utf-8")))


def _without_code(text: str) -> str:
    """Blank out code blocks, at the same offsets."""
    return _BLOCK.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
