"""The pager of ``help``."""

import pytest

from aluma_async.cli.help import allow_styles


@pytest.mark.parametrize(
    ("environ", "styled", "less"),
    [
        ({}, True, "-R"),
        ({"PAGER": "less"}, True, "-R"),
        ({"PAGER": "/usr/bin/less -R"}, True, None),
        ({"LESS": "-FRX"}, True, "-FRX"),
        ({"LESS": "FRX"}, True, "FRX"),
        ({"LESS": "--RAW-CONTROL-CHARS"}, True, "--RAW-CONTROL-CHARS"),
        ({"LESS": "-F"}, False, "-F"),
        ({"PAGER": "less -F"}, True, "-R"),
        ({"PAGER": "cat"}, True, None),
        ({"PAGER": "more"}, True, None),
    ],
)
def test_allow_styles_makes_less_show_styles(environ, styled, less):
    """Styles are sent only to a pager that shows them, because ``less`` would print ``ESC[1m``."""
    assert allow_styles(environ) is styled
    assert environ.get("LESS") == less
