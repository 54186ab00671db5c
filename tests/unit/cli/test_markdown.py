"""Pages in a terminal: code can be copied, and no word is split."""

import re

import pytest

from aluma_async.cli.markdown import render
from tests.support.markdown import PAGES, code, languages, quoted, rows

WIDTHS = (40, 80, 100)


def plain(text: str, width: int) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", render(text, width)).splitlines()]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_render_keeps_each_line_of_code_whole(path):
    """Also on a terminal that is narrower than the code."""
    text = path.read_text("utf-8")
    samples = [block.rstrip().splitlines() for language in languages() for block in code(text, language)]
    for width in WIDTHS:
        shown = plain(text, width)
        for sample in samples:
            expected = [line.rstrip() for line in sample]
            assert any(shown[at : at + len(expected)] == expected for at in range(len(shown))), (width, sample)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_code_of_a_page_fits_into_80_columns(path):
    text = path.read_text("utf-8")
    lines = [line for language in languages() for block in code(text, language) for line in block.splitlines()]
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_render_splits_no_word_of_a_table(path):
    text = path.read_text("utf-8")
    names = [name for row in rows(text) for cell in row for name in quoted(cell) if not re.search(r"[\s\\]", name)]
    shown = "\n".join(plain(text, 80))
    assert [name for name in names if name not in shown] == []


def test_render_shows_a_table_that_does_not_fit_as_a_list():
    lines = plain("| Key | Default | Meaning |\n|-|-|-|\n| `a_long_name` | `1` | words of a_meaning |", 16)
    assert lines[1:] == ["a_long_name", "    Default: 1", "    Meaning:", "    words of", "    a_meaning"]


def test_render_gives_long_cells_the_same_share_of_the_width():
    lines = plain(f"| A | B | C |\n|-|-|-|\n| x | {'word ' * 30} | {'word ' * 40} |", 80)
    assert max(map(len, lines)) <= 80
    assert len(lines) < 10
