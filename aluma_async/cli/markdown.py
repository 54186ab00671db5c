"""Renders a Markdown page for a terminal. No code block is wrapped and no word is split, so that both can be copied.

A table that does not fit without splitting a word becomes a list. Importing this module imports rich.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import CodeBlock, Markdown, TableElement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aluma_async.service.color import Color, rich_options

_PAGE_LINK = re.compile(r"\[([^\]]+)\]\((\w+)\.md(?:#[\w-]+)?\)")
_LOCAL_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]+\)")
_GAP = 2
"""Columns between two columns of a table."""


class _Code(CodeBlock):
    """A code block with its lines as they are, also those that are longer than the terminal is wide."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in str(self.text).rstrip().split("\n"):
            yield Text(line, style="cyan", no_wrap=True, overflow="ignore")


class _Table(TableElement):
    """A table whose columns are at least as wide as their longest word, or else a list."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head = [cell.content for cell in self.header.row.cells] if self.header and self.header.row else []
        rows = [[cell.content for cell in row.cells] for row in self.body.rows] if self.body else []
        widths = _column_widths([head, *rows], options.max_width)
        yield _as_table(head, rows, widths) if widths else _as_list(head, rows)


class _Page(Markdown):
    elements: ClassVar = {**Markdown.elements, "table_open": _Table, "fence": _Code, "code_block": _Code}


def render(text: str, width: int, color: Color = "auto") -> str:
    """Return Markdown as text for a terminal; links between pages become the command that shows the page."""
    text = _PAGE_LINK.sub(r"\1 (`aluma-async help \2`)", text)
    text = _LOCAL_LINK.sub(r"\1", text)
    console = Console(width=width, force_terminal=True, **rich_options(color))
    with console.capture() as capture:
        console.print(_Page(text, hyperlinks=False), crop=False)
    return capture.get()


def _column_widths(rows: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Return the widths of the columns; empty if a word would have to be split."""
    columns = list(zip(*rows, strict=True))
    shortest = [max(len(word) for cell in column for word in cell.plain.split() or [""]) for column in columns]
    longest = [max(cell.cell_len for cell in column) for column in columns]
    free = width - _GAP * (len(columns) - 1) - sum(shortest)
    if free < 0:
        return []
    widths = shortest
    narrowest_first = sorted(range(len(columns)), key=lambda index: longest[index] - shortest[index])
    for sharing, index in zip(range(len(columns), 0, -1), narrowest_first, strict=True):
        grow = min(free // sharing, longest[index] - widths[index])
        widths[index] += grow
        free -= grow
    return widths


def _as_table(head: Sequence[Text], rows: Sequence[Sequence[Text]], widths: Sequence[int]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=any(cell.plain for cell in head))
    for cell, width in zip(head, widths, strict=True):
        table.add_column(cell, width=width)
    for row in rows:
        table.add_row(*row)
    return table


def _as_list(head: Sequence[Text], rows: Sequence[Sequence[Text]]) -> RenderableType:
    """Return each row as its first cell, then the others, indented; each one after the title of its column."""
    lines: list[RenderableType] = []
    for first, *others in rows:
        lines.append(first)
        for title, cell in zip(head[1:], others, strict=True):
            label = Text(f"{title.plain}: ") if len(others) > 1 and title.plain else Text("")
            lines.append(Padding(label + cell, (0, 0, 0, 4)))
    return Group(*lines)
