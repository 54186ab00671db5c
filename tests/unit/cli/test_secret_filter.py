"""``SecretFilter``: finds the secrets of a configuration and of the environment."""

from pathlib import Path

import pytest

from aluma_async.cli.secret_filter import FilteredStream, SecretFilter
from aluma_async.config.redaction import REDACTED, redact, redact_proxy

SECRET = "s3cr3t'w%40rd"


@pytest.mark.parametrize(
    "raw",
    [
        {"aluma": {"client_secret": SECRET}},
        {"destinations": {"a": {"url": f"postgresql://user:{SECRET}@host/db"}}},
        {"destinations": {"a": {"url": f"https://host/bucket?sig={SECRET}&{SECRET}=1"}}},
        {"destinations": {"a": {"url": f'host=db password="{SECRET}"'.replace('"', "") + " user=u"}}},
        {"destinations": {"a": {"options": {"aws_secret_access_key": SECRET}}}},
        {"destinations": {"a": {"options": {"key": {"file": "secret.txt"}}}}},
        {"destinations": {"a": {"options": {"key": {"env": "NAMED"}}}}},
        {"destinations": {"a": {"url_env": "NAMED_URL"}}},
        {"destinations": {"a": {"token_file": "secret.txt"}}},
        {"service": {"notify_url": f"https://host/hooks/{SECRET}"}},
        {"unknown": [{"password": [SECRET]}]},
    ],
    ids=str,
)
def test_secret_filter_removes_a_secret_of_the_configuration(raw, tmp_path):
    (tmp_path / "secret.txt").write_text(f"{SECRET}\n")
    environ = {"NAMED": SECRET, "NAMED_URL": f"mysql://u:{SECRET}@h/d"}
    clean = SecretFilter(raw, environ, tmp_path)
    cleaned = clean(f"x {SECRET} y hooks/{SECRET} {SECRET}=1 pair sig={SECRET}")
    assert SECRET not in cleaned
    assert cleaned.startswith(f"x {REDACTED} y")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALUMA_CLIENT_SECRET", SECRET),
        ("PGPASSWORD", SECRET),
        ("AZURE_STORAGE_KEY", SECRET),
        ("https_proxy", f"http://user:{SECRET}@proxy:3128"),
        ("HTTP_PROXY", f"user:{SECRET}@proxy"),
        ("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=n;AccountKey={SECRET}=;EndpointSuffix=x"),
        ("STORAGE", f"BlobEndpoint=https://n.example/;SharedAccessSignature=sv=1&sig={SECRET}"),
        ("KEY_PASSPHRASE", SECRET),
        ("URLS", f"amqp://u:{SECRET}@a,amqp://u:other-one@b"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@host/db"),
    ],
)
def test_secret_filter_removes_a_secret_of_the_environment(name, value):
    clean = SecretFilter({}, {name: value}, Path())
    assert SECRET not in clean(f"{SECRET} {value} {SECRET!r}")


def test_secret_filter_knows_a_decoded_password_and_each_line_of_a_key():
    """A library may report a password without percent encoding, or one line of a key."""
    environ = {"A_URL": "postgresql://u:p%40ss%2Fword@h/d", "MY_PRIVATE_KEY": "-----BEGIN\nabcdefgh\nijklmnop\n"}
    clean = SecretFilter({}, environ, Path())
    assert clean("p@ss/word abcdefgh ijklmnop") == f"{REDACTED} {REDACTED} {REDACTED}"


def test_secret_filter_keeps_ordinary_words():
    """Names of paths, of files, and values that are too short to be a secret."""
    environ = {"CREDENTIALS_DIRECTORY": "/run/credentials", "A_TOKEN": "1", "SSH_AUTH_SOCK": "/tmp/socket"}
    raw = {"destinations": {"a": {"url": "postgresql://host/db?sslmode=require", "ca_file": "ca.pem"}}}
    text = "1 of /run/credentials: sslmode is required"
    assert SecretFilter(raw, environ, Path())(text) == text


def test_filtered_stream_joins_a_secret_that_is_written_in_parts():
    lines = []
    stream = FilteredStream(SecretFilter({"password": "hunter22"}, {}, Path()), lines.append)
    for part in ("the hun", "ter22\nand hunt", "er22"):
        stream.write(part)
        stream.flush()
    stream.close()
    assert lines == [f"the {REDACTED}\n", f"and {REDACTED}\n"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        ("http://user:pa/s#s@w@proxy:3128/?a=b", f"http://{REDACTED}@proxy:3128"),
        ("user:password@proxy", f"{REDACTED}@proxy"),
        ("localhost,.example.com", "localhost,.example.com"),
        ("", ""),
    ],
)
def test_proxy_is_shown_without_its_user(url, shown):
    assert redact_proxy(url) == shown
    assert redact("proxy", url) == shown.replace(REDACTED, "user")
