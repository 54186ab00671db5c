"""``config show``: every value in effect and its origin, without secrets."""

import json
import tomllib

import pytest

from aluma_async.config import AlumaConfig, Config
from aluma_async.config.destinations import SqlConfig
from aluma_async.config.redaction import redact

CANARY = "canary-5b1c"
CONFIG = f"""
[aluma]
proxy = "http://me:{CANARY}@proxy.example:3128"
[exporter]
workers = 5
[[routes]]
filename = "*.csv"
to = ["ledger"]
[destinations.default]
type = "folder"
path = "out"
[destinations.ledger]
type = "sql"
url = "postgresql://me:{CANARY}@db.example/ledger?password={CANARY}"
table = "invoices"
"""


@pytest.fixture
def values(run_cli, tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)

    def run(*arguments, **environ):
        done = run_cli(*arguments, "config", "show", "--json", **environ)
        assert done.returncode == 0, done.stderr
        assert CANARY not in done.stdout
        output = json.loads(done.stdout)["values"]
        return {(value["table"], value["key"]): (value["value"], value["origin"]) for value in output}

    return run


def test_config_show_names_the_origin_of_each_value(values):
    shown = values("--max-at-once", "9", ALUMA_ASYNC_CLAIM_TIMEOUT="900")
    assert shown["limits", "max_at_once"] == (9, "option --max-at-once")
    assert shown["aluma", "claim_timeout_seconds"] == (900, "environment ALUMA_ASYNC_CLAIM_TIMEOUT")
    assert shown["exporter", "workers"] == (5, "config.toml")
    assert shown["exporter", "queue_size"] == (10, "default: twice the workers")
    assert shown["retry", "attempts"] == (5, "default")
    assert shown["destinations.ledger", "table"] == ("invoices", "config.toml")
    assert shown["routes 1", "to"] == (["ledger"], "config.toml")
    assert shown["aluma", "client_id"][1] == "environment ALUMA_CLIENT_ID"
    assert shown["aluma", "client_secret"] == ("…", "environment ALUMA_CLIENT_SECRET")


def test_config_show_prints_every_key(values):
    shown = set(values())
    for name in set(Config.__struct_fields__) - {"destinations", "routes"}:
        assert {(name, key) for key in getattr(Config(), name).__struct_fields__} <= shown


def test_output_option_replaces_all_destinations(values):
    shown = values("-o", "there")
    assert shown["destinations.default", "path"] == ("there", "option --output")
    assert ("destinations.ledger", "type") not in shown


def test_config_show_prints_an_equivalent_config_file(run_cli, tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG.replace(f":{CANARY}@", "@").replace(f"?password={CANARY}", ""))
    done = run_cli("-w", "3", "config", "show")
    again = Config.from_toml(done.stdout, "shown", folder=tmp_path)
    assert again.exporter.workers == 3
    assert again.destinations == Config.load(tmp_path / "config.toml").destinations
    assert again.routes == Config.load(tmp_path / "config.toml").routes
    assert tomllib.loads(done.stdout)["aluma"]["proxy"] == "http://me@proxy.example:3128"


def test_config_show_shows_the_rest_of_a_file_with_mistakes(run_cli, tmp_path):
    """The mistakes are on stderr, the unusable values are replaced by the defaults, and the exit code is 78."""
    text = "[exporter]\nworkrs = 3\nworkers = 0\n[retry]\nattempts = 7\n[destinations.x]\ntype = 'folder'\n"
    (tmp_path / "config.toml").write_text(text)
    done = run_cli("config", "show")
    assert done.returncode == 78
    assert tomllib.loads(done.stdout)["retry"]["attempts"] == 7
    assert [line.partition(" ")[0] for line in done.stderr.splitlines()] == [f"config.toml:{n}:" for n in (2, 3, 6)]
    output = json.loads(run_cli("config", "show", "--json").stdout)
    shown = {(one["table"], one["key"]): (one["value"], one["origin"]) for one in output["values"]}
    assert shown["exporter", "workers"] == (16, "default")
    assert len(output["mistakes"]) == 3
    (tmp_path / "config.toml").write_text("aluma = 3\n[retry]\nattempts = 7\n[exporter\nworkers = 3")
    done = run_cli("config", "show")
    assert done.returncode == 78
    assert "attempts = 7" in done.stdout
    assert "config.toml:4: invalid TOML" in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "redacted"),
    [
        ("url", f"postgresql://me:{CANARY}@db/x", "postgresql://me@db/x"),
        ("password", CANARY, "…"),
        ("options", {"aws_secret_access_key": CANARY, "region": "eu"}, {"aws_secret_access_key": "…", "region": "eu"}),
        ("options", {"account_key": CANARY, "sas_token": CANARY}, {"account_key": "…", "sas_token": "…"}),
        ("notify_url", f"https://hooks.example/{CANARY}", "https://hooks.example/…"),
        ("password_file", "/etc/secret", "/etc/secret"),
        ("key", ("number",), ("number",)),
        ("durability", "full", "full"),
        ("proxy", "", ""),
        ("url", "sqlite:///data.db?timeout=5", "sqlite:///data.db"),
        ("url", f"postgresql://me:{CANARY}/?@{CANARY}@db/x", "postgresql://me@db/x"),
        ("url", f"mysql://me@db:3306/x?password={CANARY}", "mysql://me@db:3306/x"),
        ("url", "https://h:8443/files/me@x.example?a#b", "https://h:8443/files/me@x.example"),
        ("url", "s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_redact_hides_secrets_only(key, value, redacted):
    assert redact(key, value) == redacted


def test_repr_of_a_section_hides_passwords():
    for section in (
        AlumaConfig(proxy=f"http://me:{CANARY}@proxy"),
        SqlConfig(url=f"postgresql://me:{CANARY}@db/x", table="t"),
    ):
        assert CANARY not in f"{section!r} {section} {Config()!r}"
