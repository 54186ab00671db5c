"""``config.example.toml``: every key, with its default."""

import re
import tomllib
from pathlib import Path

from msgspec import structs

from aluma_async.config import Config, FolderConfig, RouteConfig
from aluma_async.config.destinations import DESTINATION_TYPES
from aluma_async.config.sections import Rate, Seconds
from tests.support.files import ROOT

EXAMPLE = ROOT / "config.example.toml"
SECTIONS = {field.name: field.type for field in structs.fields(Config) if field.name not in ("destinations", "routes")}


def test_example_contains_the_default_values():
    """Using an unchanged copy of the example changes nothing."""
    config = Config.load(EXAMPLE)
    assert structs.replace(config, destinations={}) == Config()
    assert config.destinations == {"default": FolderConfig(path=EXAMPLE.parent / "aluma-export")}


def test_example_lists_and_explains_every_key():
    """A key without a default is listed as a comment, with a valid value."""
    lines = EXAMPLE.read_text().splitlines()
    keys = [line.removeprefix("# ") for line in lines if re.match(r"(# )?[a-z_]+ = ", line)]
    assert all("#" in line for line in keys if not line.startswith("type"))
    text = "\n".join(line.removeprefix("# ") if re.match(r"# ([a-z_]+ = |\[)", line) else line for line in lines)
    assert Config.from_toml(text, "example").aluma.ca_file == Path("/etc/ssl/company.pem")
    raw = tomllib.loads(text)
    assert {name: set(raw[name]) for name in SECTIONS} == {
        name: set(kind.__struct_fields__) for name, kind in SECTIONS.items()
    }
    documented = {table["type"]: set(table) for table in raw["destinations"].values()}
    assert documented == {name: {"type", *kind.__struct_fields__} for name, kind in DESTINATION_TYPES.items()}
    assert set(raw["routes"][0]) == set(RouteConfig.__struct_fields__)


def test_keys_of_quantities_contain_the_unit():
    """Counts have no unit; seconds and bytes are part of the name."""
    for kind in (*SECTIONS.values(), *DESTINATION_TYPES.values(), RouteConfig):
        for field in structs.fields(kind):
            if field.type in (float, Seconds, Rate) or str(field.type).startswith("typing.Annotated[float"):
                assert re.search(r"_seconds$|_per_second$|_bytes$|_bytes_", field.name), field.name
