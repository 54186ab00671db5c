"""The configuration of a database: values that could only fail, or store something wrong, at the first export."""

import pytest

from aluma_async.config import Config
from aluma_async.exceptions import ConfigError


def read_config(text):
    return Config.from_toml(f"[destinations.a]\ntype = 'sql'\nurl = 'sqlite:///a.db'\ntable = 't'\n{text}", "c.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoding = 'nonsense'", "unknown encoding"),
        ("encoding = 'base64'", "unknown encoding"),
        ("encoding = 'undefined'", "unknown encoding"),
        (r'encoding = "a\u0000b"', "unknown encoding"),
        ("delimiter = '\"'", "not a separator"),
        (r'delimiter = "\n"', "not a separator"),
        ("delimiter = ';;'", "length <= 1"),
        ("decimal = ';'", "should be one of"),
        ("date_format = '%Q'", "neither a whole date nor a time"),
        ("date_format = '%d.%m.'", "neither a whole date nor a time"),
        ("date_format = 'YYYY-MM-DD'", "neither a whole date nor a time"),
        ("date_format = '%'", "neither a whole date nor a time"),
        ("key = ['a', 'a']", "contains a name twice"),
        ("header_names = ['a', '', 'b', '', 'a']", "contains a name twice"),
        ("key = ['a']\nmode = 'files'", 'not used with mode = "files"'),
        ("column_types = { a = 'money' }", "'money'|should be|invalid"),
    ],
)
def test_value_that_cannot_work_is_refused_at_start(text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(text)


@pytest.mark.parametrize(
    "text",
    [
        "encoding = 'utf-16-le'",
        r'delimiter = "\t"',
        "delimiter = ' '",
        "date_format = '%d.%m.%Y'",
        "date_format = '%d.%m.%y'",
        "date_format = '%Y%m%dT%H%M%S%z'",
        "date_format = '%H:%M'",
        "date_format = '%j/%Y'",
        "header_names = ['a', '', '']",
        "column_names = { \"\" = 'rest' }",
    ],
)
def test_unusual_value_that_works_is_accepted(text):
    read_config(text)
