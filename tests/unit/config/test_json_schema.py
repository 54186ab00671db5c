"""``config schema``: the JSON Schema agrees with what the program accepts."""

import json
import re
import tomllib

import pytest
from click.testing import CliRunner

from aluma_async.cli.config_schema import json_schema
from aluma_async.cli.main import cli
from aluma_async.config.destinations import DESTINATION_TYPES
from tests.support.files import ROOT

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def schema():
    return json_schema()


def mistakes(schema, text):
    return [
        "/".join(map(str, error.path)) for error in jsonschema.Draft7Validator(schema).iter_errors(tomllib.loads(text))
    ]


def sections(schema):
    properties = schema["properties"]
    yield from (section for section in properties.values() if "properties" in section)
    yield properties["routes"]["items"]
    yield from properties["destinations"]["additionalProperties"]["anyOf"][: len(DESTINATION_TYPES)]


def test_schema_command_prints_the_schema(schema):
    done = CliRunner().invoke(cli, ["config", "schema"], obj={})
    assert json.loads(done.stdout) == json.loads(json.dumps(schema))
    jsonschema.Draft7Validator.check_schema(schema)


def test_schema_accepts_the_example(schema):
    """With the keys that are comments because they have no default."""
    text = re.sub(r"^# (?=[a-z_]+ = |\[)", "", (ROOT / "config.example.toml").read_text("utf-8"), flags=re.MULTILINE)
    assert set(DESTINATION_TYPES) == {table["type"] for table in tomllib.loads(text)["destinations"].values()}
    assert mistakes(schema, text) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[exporter]\nworkers = 0", "exporter/workers"),
        ("[exporter]\nworkrs = 1", "exporter"),
        ("[aluma]\nca_file = ''", "aluma/ca_file"),
        ("[service]\nlog_format = 'xml'", "service/log_format"),
        ("[unknown]", ""),
        ("[destinations.a]\ntype = 'folder'", "destinations/a"),
        ("[destinations.a]\ntype = 'folder'\npath = 'a'\nmode = 1", "destinations/a"),
        ("[[routes]]\nproject = 'a'", "routes/0"),
    ],
)
def test_schema_refuses_what_the_program_refuses(schema, text, path):
    assert mistakes(schema, text) == [path]


def test_schema_accepts_destinations_of_plugins(schema):
    assert mistakes(schema, "[destinations.a]\ntype = 'mine'\nanything = 1") == []


def test_schema_describes_every_key(schema):
    """From the tables of the reference pages; no link remains in the text."""
    described = [value["description"] for section in sections(schema) for value in section["properties"].values()]
    assert len(described) > 70
    assert described.count("kind of destination") == len(DESTINATION_TYPES)
    assert not any("](" in text or "null" in text for text in described)
