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
        ("date_format = '%m.%Y %H:%M'", "neither a whole date nor a time"),
        ("date_format = '%Y-%m-%d %H:%M %Z'", "%Z reads the name of a time zone and drops it"),
        ("date_format = '%d.%m.%Y %I:%M'", "an hour from 1 to 12 needs both %I and %p"),
        ("date_format = '%d.%m.%Y %H:%M %p'", "an hour from 1 to 12 needs both %I and %p"),
        ("date_format = '%H:%M (%I %p)'", "it contains the hour twice"),
        ("date_format = '%d.%m.%Y (%j)'", "it contains the day twice"),
        ("date_format = '%d %b %m %Y'", "it contains the month twice"),
        ("date_format = '%d.%m.%Y %y'", "it contains the year twice"),
        ("date_format = '%c %H'", "it contains the hour twice"),
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
        "date_format = '%d.%m.%Y %I:%M %p'",
        "date_format = '%A, %d. %B %Y'",
        "date_format = '%G-W%V-%u'",
        "date_format = '100%% %d.%m.%Y'",
        "header_names = ['a', '', '']",
        "column_names = { \"\" = 'rest' }",
    ],
)
def test_unusual_value_that_works_is_accepted(text):
    read_config(text)
