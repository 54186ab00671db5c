"""All mistakes of a file are reported at once, each with its line and in the words of the file."""

import pytest

from aluma_async.config.config import Config, read_toml
from aluma_async.config.lines import find_line
from aluma_async.exceptions import ConfigError, ConfigMistakes

BROKEN = """\
# comment
[exporter]
workrs = 3
state = 5

[aluma]
projects = [
  "a",  # one
  3,
]
base_url = "ftp://x"
claim_timeout_seconds = 0
[retry]
wait_initial_seconds = 9
wait_max_seconds = 8
[servic]
[destinations.a]
type = "foldr"
[destinations.b]
type = "folder"
[[routes]]
to = ["b"]
[[routes]]
filename = "*.pdf"
to = "b"
[destinations."c.d"]
type = "sql"
table = "t"
key = ["x", "x"]
"""


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file():
    with pytest.raises(ConfigMistakes) as caught:
        Config.from_toml(BROKEN, "c.toml", {"limits": {"max_at_once": -1}})
    texts = [mistake.text for mistake in caught.value.mistakes]
    starts = [
        "command line or environment: [limits] max_at_once = -1",
        "c.toml:3: [exporter] unknown key 'workrs'. Did you mean 'workers'?",
        "c.toml:4: [exporter] state = 5",
        "c.toml:7: [aluma] projects",
        "c.toml:11: [aluma] base_url = '…': not an http:// or https:// URL",
        "c.toml:12: [aluma] claim_timeout_seconds = 0",
        "c.toml:14: [retry] wait_initial_seconds = 9.0: greater than wait_max_seconds",
        "c.toml:16: unknown table [servic]. Did you mean 'service'?",
        "c.toml:18: [destinations.a] type = 'foldr': unknown type. Did you mean 'folder'?",
        "c.toml:19: [destinations.b]: the key 'path' is missing",
        "c.toml:25: [[routes]] 2 to = 'b'",
        "c.toml:29: [destinations.c.d] key",
    ]
    assert len(texts) == len(starts)
    for text, start in zip(texts, starts, strict=True):
        assert text.startswith(start)
    assert all(text in str(caught.value) for text in starts)


def test_reading_keeps_what_can_be_used():
    reading = read_toml(BROKEN, "c.toml")
    assert reading.config.retry.wait_max_seconds == 8
    assert reading.config.exporter.workers == 16
    assert reading.unreadable == ("a", "b")
    assert list(reading.config.destinations) == ["c.d"]
    assert [route.to for route in reading.config.routes] == [("b",)]


def test_reading_of_invalid_toml_keeps_the_lines_above():
    """What is below the mistake is not known, so a missing key is not reported."""
    reading = read_toml("[exporter]\nworkers = 3\n[destinations.x]\ntype = 'folder'\npath = C:\\x\n[x]", "c.toml")
    assert reading.config.exporter.workers == 3
    (mistake,) = reading.mistakes.found
    assert str(mistake).startswith("c.toml:5: invalid TOML: a value that is neither a number nor a text in quotes")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "no key = value"),
        ("x = y", "text in quotes"),
        ("x = 1\nx = 2", "set twice"),
        ("[a]\n[a]", "occurs twice"),
        (r'x = "C:\export"', "backslash"),
        ('x = "a', "quotation mark"),
        ('x = "a\ny = 2', "quotation mark"),
        ("x = [1\ny = 2", "closing bracket"),
        ("[a\nx = 1", "closing bracket"),
        ("x = 1 2", "after the end of a value"),
    ],
)
def test_mistake_of_toml_is_explained(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Config.from_toml(text, "c.toml")
    assert caught.value.hint != "Correct that line."


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 2),
        (("a", "b", "c"), 3),
        (("a", "text"), 4),
        (("a", "list"), 8),
        (("a", "after"), 12),
        (("a", "inline", "x"), 13),
        (("r", 0, "x"), 15),
        (("r", 1, "x"), 18),
        (("r", 1, "missing"), 17),
        (("a.b", "q r"), 20),
        (("nowhere",), 0),
    ],
)
def test_find_line(path, line):
    text = """\
# [a]
[a]  # "
b.c = 1
text = \'\'\'
[x]
after = 3
\'\'\'
list = [
  "]", # ]
  "'",
]
after = 1
inline = { x = 1, y = "#" }
[[r]]
x = 1

[[r]]
x = 2
["a.b"]
'q r' = 1
"""
    assert find_line(text, path) == line
    assert find_line(text.replace("\n", "\r\n"), path) == line
