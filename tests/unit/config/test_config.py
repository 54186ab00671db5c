"""Configuration: text and environment in, structs out; every mistake says where it is and what to do."""

import contextlib
import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from aluma_async.config import AlumaConfig, Config, Credentials, ExporterConfig, FolderConfig, RetryConfig, RouteConfig
from aluma_async.config.destinations import DESTINATION_TYPES
from aluma_async.config.paths import find_config_file
from aluma_async.config.sections import Rate, Seconds
from aluma_async.exceptions import ConfigError
from tests.support.files import ROOT

EXAMPLE = ROOT / "config.example.toml"
TABLES = {field.name: field.type for field in structs.fields(Config) if field.name not in ("destinations", "routes")}
CANARY = "canary-3f9a"


def refusal(text, **overrides):
    with pytest.raises(ConfigError) as caught:
        Config.from_toml(text, "my.toml", overrides)
    return str(caught.value), caught.value.hint


def config_or_message(text):
    try:
        return Config.from_toml(text, "my.toml")
    except ConfigError as error:
        return str(error)


# -- the example


def test_the_example_holds_the_defaults():
    """Somebody who copies the example changes nothing by it."""
    config = Config.load(EXAMPLE)
    assert structs.replace(config, destinations={}) == Config()
    assert config.destinations == {"default": FolderConfig(path=Path("aluma-export"))}


def test_the_example_lists_every_key_and_explains_it():
    """A key that has no default stands there as well, behind a comment sign, and could be used as it stands."""
    lines = EXAMPLE.read_text().splitlines()
    keys = [line.removeprefix("# ") for line in lines if re.match(r"(# )?[a-z_]+ = ", line)]
    assert all("#" in line for line in keys if not line.startswith("type"))
    text = "\n".join(line.removeprefix("# ") if re.match(r"# ([a-z_]+ = |\[)", line) else line for line in lines)
    assert Config.from_toml(text, "example").aluma.ca_file == Path("/etc/ssl/company.pem")
    raw = tomllib.loads(text)
    assert {name: set(raw[name]) for name in TABLES} == {
        name: set(kind.__struct_fields__) for name, kind in TABLES.items()
    }
    shown = {table["type"]: set(table) for table in raw["destinations"].values()}
    assert shown == {name: {"type", *kind.__struct_fields__} for name, kind in DESTINATION_TYPES.items()}
    assert set(raw["routes"][0]) == set(RouteConfig.__struct_fields__)


def test_every_number_that_has_a_unit_has_it_in_its_name():
    """What is counted needs none; of seconds and bytes nobody has to guess."""
    for kind in (*TABLES.values(), *DESTINATION_TYPES.values(), RouteConfig):
        for field in structs.fields(kind):
            if field.type in (float, Seconds, Rate) or str(field.type).startswith("typing.Annotated[float"):
                assert re.search(r"_seconds$|_per_second$|_bytes$|_bytes_", field.name), field.name


# -- mistakes


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("[exporter]\nworkrs = 3", ["[exporter]", "'workrs'"], "'workers'"),
        ("[exprter]\nworkers = 3", ["[exprter]"], "'exporter'"),
        ("[limits]\nzzz = 3", ["[limits]", "'zzz'"], "max_at_once, max_bytes_per_second"),
        ("[service]\nlisten = 'x'", ["[service] listen = 'x'", "HOST:PORT"], "9464"),
        ("[exporter]\nworkers = 0", ["[exporter] workers = 0", ">= 1"], ""),
        ("[exporter]\nworkers = 2.5", ["[exporter] workers = 2.5", "int"], ""),
        ("[exporter]\nworkers = true", ["[exporter] workers = True", "int"], ""),
        ("[exporter]\nstate = 3", ["[exporter] state = 3", "path"], ""),
        ("[exporter]\npoll_wait_initial_seconds = 99", ["poll_wait_initial_seconds = 99", "poll_wait_max_seconds"], ""),
        ("[retry]\nattempts = 0", ["[retry] attempts = 0"], ""),
        ("[retry]\nwait_max_seconds = nan", ["[retry] wait_max_seconds = nan"], ""),
        ("[retry]\nwait_max_seconds = inf", ["[retry] wait_max_seconds = inf"], ""),
        ("[limits]\nmax_per_second = -1", ["[limits] max_per_second = -1"], ""),
        ("[aluma]\nclaim_timeout_seconds = 0", ["[aluma] claim_timeout_seconds = 0"], ""),
        ("[aluma]\nprojects = ['a', 3]", ["[aluma] projects"], ""),
        ("[service]\nlog_format = 'xml'", ["[service] log_format = 'xml'", "text, json"], ""),
        ("aluma = 3", ["aluma must be a table"], "[aluma]"),
        ("destinations = 3", ["destinations must be a table"], "[destinations.NAME]"),
        ("[destinations.a]\npath = 'x'", ["[destinations.a] type"], "folder"),
        ("[destinations.a]\ntype = 'foldr'", ["[destinations.a] type = 'foldr'"], "'folder'"),
        ("[destinations.a]\ntype = ['folder']", ["[destinations.a] type"], "'folder'"),
        ("[destinations.a]\ntype = 'folder'", ["[destinations.a]", "`path`"], "Add"),
        ("[destinations.a]\ntype = 'folder'\npath = ''", ["[destinations.a] path = ''"], ""),
        ("[destinations.a]\ntype = 'folder'\npath = 'x'\npaht = 'y'", ["[destinations.a]", "'paht'"], "'path'"),
        (
            "[destinations.a]\ntype = 'folder'\npath = 'x'\non_conflict = 'keep'",
            ["on_conflict = 'keep'", "keep-both"],
            "",
        ),
        ("[aluma]\n\nbase_url = https", ["invalid TOML", "line 3"], ""),
    ],
)
def test_a_mistake_is_told_with_file_key_and_value(text, says, hint):
    message, told = refusal(text)
    assert message.startswith("my.toml: ")
    assert all(part in message for part in says), message
    assert hint in told


def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file():
    message, _ = refusal("[aluma]\nprojects = ['x']", aluma={"base_url": "ftp://x"})
    assert message.startswith("command line or environment: [aluma] base_url")


def test_a_secret_put_into_the_file_is_refused_and_not_repeated():
    message, hint = refusal(f"[aluma]\nclient_secret = '{CANARY}'")
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
        lambda: structs.replace(ExporterConfig(), workers=-1),
    ],
)
def test_the_rules_hold_for_a_config_made_in_code(make):
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
known_keys = st.sampled_from([(table, key) for table, kind in TABLES.items() for key in kind.__struct_fields__])


@given(known_keys, scalars)
def test_whatever_a_key_is_set_to_it_is_taken_or_told(where, value):
    """No value makes anything but a config that can be used, or a ``ConfigError`` with the key in it."""
    table, key = where
    made = config_or_message(f"[{table}]\n{key} = {value}")
    if isinstance(made, Config):
        assert made.queue_size >= 1
        assert made.max_at_once >= 1
    else:
        assert key in made or "invalid TOML" in made


@given(st.text())
def test_no_text_makes_anything_but_a_config_or_a_config_error(text):
    assert config_or_message(text)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    latin = tmp_path / "latin.toml"
    latin.write_bytes("# Müller".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        Config.load(latin)
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.load(tmp_path)


def test_a_byte_order_mark_as_windows_editors_write_it_does_no_harm(tmp_path):
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xef\xbb\xbf[exporter]\r\nworkers = 3\r\n")
    assert Config.load(str(file)).exporter.workers == 3


# -- values


def test_overrides_win_and_only_where_they_are_given():
    text = "[exporter]\nworkers = 3\nqueue_size = 5\n[destinations.a]\ntype = 'folder'\npath = 'a'"
    to = {"default": {"type": "folder", "path": "b"}}
    config = Config.from_toml(text, "my.toml", {"exporter": {"workers": 4}, "destinations": to})
    assert (config.exporter.workers, config.exporter.queue_size) == (4, 5)
    assert config.destinations == {"default": FolderConfig(path=Path("b"))}


def test_what_is_left_open_follows_from_the_workers():
    config = Config(exporter=ExporterConfig(workers=5))
    assert (config.queue_size, config.max_at_once) == (10, 10)


def test_a_tilde_is_the_users_home():
    config = Config.from_toml("[exporter]\nstate = '~/state'", "my.toml")
    assert config.exporter.state == Path("~/state").expanduser()


@pytest.mark.parametrize(
    "url",
    [
        "https://api.aluma.io",
        "https://h/v1/",
        "https://h:8443",
        "http://localhost:80",
        "http://127.3.2.1",
        "http://[::1]:8",
    ],
)
def test_base_urls_that_are_taken(url):
    assert AlumaConfig(base_url=url).base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.aluma.io",
        "ftp://api.aluma.io",
        "https://",
        "https://h?x=1",
        "https://h#x",
        "https://h/?",
        "https://h:port",
        "https://h:99999",
        "https://a b",
        "https://h\n",
        "https://h\\x",
        f"https://user:{CANARY}@h",
        "http://aluma.example",
        "http://localhost.example",
        "http://10.0.0.1",
    ],
)
def test_base_urls_that_are_refused(url):
    with pytest.raises(ConfigError) as caught:
        AlumaConfig(base_url=url)
    assert CANARY not in str(caught.value) + caught.value.hint


def test_http_to_another_host_needs_a_word_and_earns_a_warning():
    config = Config(aluma=AlumaConfig(base_url="http://aluma.example", allow_insecure=True))
    assert any("unencrypted" in warning for warning in config.warnings())


def test_small_waits_are_taken_with_a_warning_that_says_why():
    assert Config().warnings() == []
    config = Config.from_toml("[retry]\ncooldown_initial_seconds = 0.2\n[aluma]\nclaim_timeout_seconds = 5", "my.toml")
    assert config.retry.cooldown_initial_seconds == 0.2
    late, lost = config.warnings()
    assert "delayed request" in late
    assert "lose the claim" in lost


def test_where_everything_goes():
    """The destination named default, else the only one; else it has to be said."""
    a, b = FolderConfig(path=Path("a")), FolderConfig(path=Path("b"))
    assert Config(destinations={"x": a}).routing().default == "x"
    assert Config(destinations={"x": a, "default": b}).routing().default == "default"
    for none_or_many in ({}, {"x": a, "y": b}):
        with pytest.raises(ConfigError) as caught:
            Config(destinations=none_or_many).routing()
        assert caught.value.hint


def test_each_destination_type_is_known_by_its_tag():
    assert {kind.__struct_config__.tag: kind for kind in DESTINATION_TYPES.values()} == DESTINATION_TYPES


# -- places


def test_a_named_config_file_is_not_passed_over_and_the_nearer_one_wins(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (there / "config.toml").touch()
    environ = {"CONFIGURATION_DIRECTORY": f"{there}{os.pathsep}/nowhere"}
    with contextlib.chdir(tmp_path):
        assert find_config_file(environ) == there / "config.toml"
        assert find_config_file({**environ, "ALUMA_ASYNC_CONFIG": "missing.toml"}) == Path("missing.toml")
        Path("config.toml").touch()
        assert find_config_file(environ) == Path("config.toml")


def test_where_state_is_kept():
    assert Config().state_folder({"STATE_DIRECTORY": "/s"}) == Path("/s")
    said = Config(exporter=ExporterConfig(state=Path("/t")))
    assert said.state_folder({"STATE_DIRECTORY": "/s"}) == Path("/t")
    assert "aluma-async" in str(Config().state_folder({}))


# -- credentials


def write_secret(path, mode=0o600, text=f"{CANARY}\n"):
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_three_places_of_credentials(tmp_path):
    """The environment goes before the config, and that before systemd; line ends do not belong to a secret."""
    file = write_secret(tmp_path / "secret", text="from-file\n")
    write_secret(tmp_path / "aluma-client-secret", mode=0o640, text="from-systemd")
    environ = {"ALUMA_CLIENT_ID": "i", "ALUMA_CLIENT_SECRET": "from-environment\n"}
    systemd = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    config = Config(aluma=AlumaConfig(client_id="j", client_secret_file=file))
    assert config.credentials({**environ, **systemd}) == Credentials("i", "from-environment")
    assert config.credentials(systemd) == Credentials("j", "from-file")
    assert Config(aluma=AlumaConfig(client_id="j")).credentials(systemd) == Credentials("j", "from-systemd")


def test_missing_credentials_name_all_three_places():
    with pytest.raises(ConfigError, match="no client secret") as caught:
        Config().credentials({"ALUMA_CLIENT_ID": "i", "ALUMA_CLIENT_SECRET": ""})
    for place in ("ALUMA_CLIENT_SECRET", "client_secret_file", "systemd"):
        assert place in caught.value.hint


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o620])
def test_a_secret_that_others_can_read_or_change_is_refused(tmp_path, mode):
    config = Config(aluma=AlumaConfig(client_id="j", client_secret_file=write_secret(tmp_path / "s", mode)))
    with pytest.raises(ConfigError, match="others") as caught:
        config.credentials({})
    assert "chmod 600" in caught.value.hint


def test_a_secret_file_that_cannot_be_used_is_told_without_what_it_holds(tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(CANARY.encode() + b"\xff")
    binary.chmod(0o600)
    for file in (binary, write_secret(tmp_path / "empty", text=" \n"), tmp_path / "missing"):
        with pytest.raises(ConfigError) as caught:
            Config(aluma=AlumaConfig(client_id="j", client_secret_file=file)).credentials({})
        assert file.name in str(caught.value)
        assert CANARY not in str(caught.value) + caught.value.hint


def test_no_repr_holds_the_secret():
    assert CANARY not in f"{Credentials('i', CANARY)!r} {Credentials('i', CANARY)}"
