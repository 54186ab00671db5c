"""``Config``: mistakes are reported with file, key and value; overrides and computed values."""

import json
import re
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from aluma_async.config import AlumaConfig, Config, ExporterConfig, FolderConfig, RetryConfig
from aluma_async.config.destinations import DESTINATION_TYPES
from aluma_async.config.mistakes import Mistakes
from aluma_async.config.schema import read_section
from aluma_async.config.sections import RouteConfig
from aluma_async.exceptions import ConfigError

SECTIONS = {field.name: field.type for field in structs.fields(Config) if field.name not in ("destinations", "routes")}
CANARY = "canary-3f9a"


def read_error(text, **overrides):
    with pytest.raises(ConfigError) as caught:
        Config.from_toml(text, "my.toml", overrides)
    mistakes = caught.value.mistakes or [caught.value]
    return " ".join(map(str, mistakes)), " ".join(mistake.hint for mistake in mistakes)


def read_one(kind, raw):
    mistakes = Mistakes("my.toml")
    read_section(kind, raw, mistakes, name="[x]", path=("x",))
    mistakes.raise_all()


def read_config_or_message(text):
    try:
        return Config.from_toml(text, "my.toml")
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize(
    ("text", "parts", "hint"),
    [
        ("[exporter]\nworkrs = 3", ["[exporter]", "'workrs'"], "'workers'"),
        ("[exprter]\nworkers = 3", ["[exprter]"], "'exporter'"),
        ("[limits]\nzzz = 3", ["[limits]", "'zzz'"], "max_at_once, max_bytes_per_second"),
        ("[destinations.a]\ntype = 'sql'\ntypes = {}", ["[destinations.a]", "'types'"], "'column_types'"),
        ("[destinations.a]\ntype = 'sql'\ncolumns = {}", ["[destinations.a]", "'columns'"], "'column_names'"),
        ("[destinations.a]\ntype = 'sql'\nheader = []", ["[destinations.a]", "'header'"], "'header_names'"),
        ("[service]\nlisten = 'x'", ["[service] listen = 'x'", "HOST:PORT"], "9464"),
        ("[exporter]\nworkers = 0", ["[exporter] workers = 0", ">= 1"], ""),
        ("[exporter]\nworkers = 2.5", ["[exporter] workers = 2.5", "expected an integer, got a number"], ""),
        ("[exporter]\nworkers = true", ["[exporter] workers = True", "expected an integer, got true or false"], ""),
        ("[exporter]\nstate = 3", ["[exporter] state = 3", "path"], ""),
        ("[exporter]\npoll_wait_initial_seconds = 99", ["poll_wait_initial_seconds = 99", "poll_wait_max_seconds"], ""),
        ("[retry]\nattempts = 0", ["[retry] attempts = 0"], ""),
        ("[retry]\nwait_max_seconds = nan", ["[retry] wait_max_seconds = nan"], ""),
        ("[retry]\nwait_max_seconds = inf", ["[retry] wait_max_seconds = inf"], ""),
        ("[limits]\nmax_per_second = -1", ["[limits] max_per_second = -1"], ""),
        ("[aluma]\nclaim_timeout_seconds = 0", ["[aluma] claim_timeout_seconds = 0"], ""),
        ("[aluma]\nprojects = ['a', 3]", ["[aluma] projects"], ""),
        ("[service]\nlog_format = 'xml'", ["[service] log_format = 'xml'", "text, json"], ""),
        ("aluma = 3", ["[aluma] must be a table"], "[aluma]"),
        ("destinations = 3", ["destinations must be a table"], "[destinations.NAME]"),
        ("[destinations.a]\npath = 'x'", ["[destinations.a] type"], "folder"),
        ("[destinations.a]\ntype = 'foldr'", ["[destinations.a] type = 'foldr'"], "'folder'"),
        ("[destinations.a]\ntype = ['folder']", ["[destinations.a] type"], "'folder'"),
        ("[destinations.a]\ntype = 'folder'", ["[destinations.a]", "'path'"], "Add"),
        ("[destinations.a]\ntype = 'folder'\npath = ''", ["[destinations.a] path = ''"], ""),
        ("[destinations.a]\ntype = 'folder'\npath = 'x'\npaht = 'y'", ["[destinations.a]", "'paht'"], "'path'"),
        (
            "[destinations.a]\ntype = 'folder'\npath = 'x'\non_conflict = 'keep'",
            ["on_conflict = 'keep'", "keep-both"],
            "",
        ),
        ("[aluma]\n\nbase_url = https", ["my.toml:3: invalid TOML", "line 3"], 'as "text"'),
        ("[exporter]\nworkers = '8'", ["expected an integer, got a string"], "Write workers = 8, without quotes."),
        ("[limits]\nadaptive = 'False'", ["expected true or false"], "Write adaptive = false, without quotes."),
        ("[exporter]\nworkers = 'x'", ["expected an integer"], "help configuration' lists the keys of [exporter]"),
        ("[[routes]]\nto = []", ["[[routes]] 1 to = []", "an array of length >= 1"], "help destinations"),
        ("[[routes]]\nfilename = '*'", ["[[routes]] 1", "'to' is missing"], "Add"),
        (
            "[destinations.a]\ntype = 'sql'\ntable = 't'\ncolumn_types = { x = 'decimal' }",
            ["[destinations.a] column_types", "should be one of text, integer, number"],
            "help destinations",
        ),
    ],
)
def test_mistake_is_reported_with_file_key_and_value(text, parts, hint):
    message, actual_hint = read_error(text)
    assert message.startswith("my.toml:")
    assert all(part in message for part in parts), message
    assert hint in actual_hint


VALUES = (3, 2.5, True, "x", [], {}, date(2026, 1, 1), time(1), datetime(2026, 1, 1, tzinfo=UTC))
FIELDS = [
    (kind, field)
    for kind in {*SECTIONS.values(), RouteConfig, *DESTINATION_TYPES.values()}
    for field in structs.fields(kind)
]


def test_message_about_a_type_uses_the_words_of_toml():
    """No key of any section is reported with the name of a Python type, and each mistake has a remedy."""
    for kind, field in FIELDS:
        for value in VALUES:
            raw = {one.name: "x" for one in structs.fields(kind) if one.required} | {field.name: value}
            try:
                read_one(kind, raw)
            except ConfigError as error:
                reason = str(error).rpartition(": ")[2]
                assert not re.search(r"`|\b(int|str|float|bool|object|null|enum)\b", reason), error
                assert error.hint
                assert "config show" not in error.hint  # it would fail with the same error


def nested_arguments(kind):
    """Yield the arguments of a type, of its arguments, and so on."""
    for argument in get_args(kind):
        yield argument
        yield from nested_arguments(argument)


def test_message_about_a_choice_lists_the_choices():
    for kind, field in FIELDS:
        choices = [value for value in nested_arguments(field.type) if isinstance(value, str)]
        raw = {one.name: ["x"] if one.name == "to" else "x" for one in structs.fields(kind) if one.required}
        if choices:
            raw[field.name] = {"x": "?"} if "dict" in str(field.type) else "?"
            listed = ", ".join(value or '""' for value in choices)
            with pytest.raises(ConfigError, match=re.escape(f"should be one of {listed}") + r"($|\.)"):
                read_one(kind, raw)


def test_mistake_on_the_command_line_is_not_attributed_to_the_file():
    message, _ = read_error("[aluma]\nprojects = ['x']", aluma={"base_url": "ftp://x"})
    assert message.startswith("command line or environment: [aluma] base_url")


def test_secret_in_the_file_is_refused_without_repeating_it():
    message, hint = read_error(f"[aluma]\nclient_secret = '{CANARY}'")
    assert "client_secret_file" in hint
    assert CANARY not in message + hint


@pytest.mark.parametrize(
    "make",
    [
        lambda: ExporterConfig(workers=0),
        lambda: ExporterConfig(poll_wait_initial_seconds=9, poll_wait_max_seconds=3),
        lambda: RetryConfig(attempts="3"),
        lambda: AlumaConfig(base_url="http://aluma.example"),
        lambda: FolderConfig(path="a text"),
        lambda: FolderConfig(path=Path("a"), file_mode="0440"),
        lambda: FolderConfig(path=Path("a"), file_mode="rw-"),
        lambda: FolderConfig(path=Path("a"), file_mode="6400"),
        lambda: FolderConfig(path=Path("a"), folder_mode="0640"),
        lambda: FolderConfig(path=Path("a"), folder_mode="4750"),
        lambda: structs.replace(ExporterConfig(), workers=-1),
    ],
)
def test_section_created_in_code_is_validated(make):
    with pytest.raises(ConfigError):
        make()


scalars = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.floats().map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text(st.characters(codec="utf-8"), max_size=20).map(json.dumps),
    st.just("[]"),
    st.just("{}"),
)
known_keys = st.sampled_from([(section, key) for section, kind in SECTIONS.items() for key in kind.__struct_fields__])


@given(known_keys, scalars)
def test_any_value_is_accepted_or_reported_with_its_key(section_and_key, value):
    """Every value gives a usable config or a ``ConfigError`` that names the key."""
    section, key = section_and_key
    result = read_config_or_message(f"[{section}]\n{key} = {value}")
    if isinstance(result, Config):
        assert result.queue_size >= 1
        assert result.max_at_once >= 1
    else:
        assert key in result or "invalid TOML" in result


@given(st.text())
def test_any_text_gives_a_config_or_a_config_error(text):
    assert read_config_or_message(text)


def test_unreadable_file_is_reported(tmp_path):
    latin = tmp_path / "latin.toml"
    latin.write_bytes("# Müller".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        Config.load(latin)
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.load(tmp_path)


def test_byte_order_mark_is_ignored(tmp_path):
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xef\xbb\xbf[exporter]\r\nworkers = 3\r\n")
    assert Config.load(str(file)).exporter.workers == 3


def test_overrides_take_precedence_key_by_key():
    text = "[exporter]\nworkers = 3\nqueue_size = 5\n[destinations.a]\ntype = 'folder'\npath = 'a'"
    output = {"default": {"type": "folder", "path": "b"}}
    config = Config.from_toml(text, "my.toml", {"exporter": {"workers": 4}, "destinations": output})
    assert (config.exporter.workers, config.exporter.queue_size) == (4, 5)
    assert config.destinations == {"default": FolderConfig(path=Path("b"))}


def test_queue_size_and_request_limit_follow_from_the_workers():
    config = Config(exporter=ExporterConfig(workers=5))
    assert (config.queue_size, config.max_at_once) == (10, 10)


def test_tilde_in_a_path_is_the_home_folder():
    config = Config.from_toml("[exporter]\nstate = '~/state'", "my.toml")
    assert config.exporter.state == Path("~/state").expanduser()


def test_short_delays_are_accepted_with_a_warning():
    assert Config().warnings() == []
    config = Config.from_toml("[retry]\ncooldown_initial_seconds = 0.2\n[aluma]\nclaim_timeout_seconds = 5", "my.toml")
    assert config.retry.cooldown_initial_seconds == 0.2
    cooldown_warning, lease_warning = config.warnings()
    assert "delayed request" in cooldown_warning
    assert "lose the claim" in lease_warning


def test_default_destination_is_the_one_named_default_or_the_only_one():
    """With none or several destinations and no route, there is an error."""
    a, b = FolderConfig(path=Path("a")), FolderConfig(path=Path("b"))
    assert Config(destinations={"x": a}).routing().default == "x"
    assert Config(destinations={"x": a, "default": b}).routing().default == "default"
    for none_or_many in ({}, {"x": a, "y": b}):
        with pytest.raises(ConfigError) as caught:
            Config(destinations=none_or_many).routing()
        assert caught.value.hint


def test_destination_types_have_the_tags_of_their_classes():
    assert {kind.__struct_config__.tag: kind for kind in DESTINATION_TYPES.values()} == DESTINATION_TYPES


def test_number_with_thousands_of_digits_is_a_mistake_of_the_file():
    """Python refuses to convert it, with an error of another type."""
    for text in (f"x = {'9' * 5000}", f"[exporter]\nworkers = {'9' * 5000}"):
        with pytest.raises(ConfigError, match="invalid TOML: Exceeds the limit"):
            Config.from_toml(text, "c.toml")
