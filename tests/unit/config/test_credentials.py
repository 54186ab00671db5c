"""``Credentials``: their three sources, and errors without secrets."""

import os

import pytest

from aluma_async.config import AlumaConfig, Config, Credentials
from aluma_async.exceptions import ConfigError

CANARY = "canary-3f9a"


def write_secret(path, mode=0o600, text=f"{CANARY}\n"):
    path.write_text(text)
    path.chmod(mode)
    return path


def test_credentials_come_from_environment_then_systemd_then_config(tmp_path):
    """A line end is not part of a secret. A service may not read the file of the config, which ``init`` has written."""
    file = write_secret(tmp_path / "secret", text="from-file\n")
    write_secret(tmp_path / "aluma-client-secret", mode=0o640, text="from-systemd")
    environ = {"ALUMA_CLIENT_ID": "i", "ALUMA_CLIENT_SECRET": "from-environment\n"}
    systemd = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    config = Config(aluma=AlumaConfig(client_id="j", client_secret_file=file))
    assert config.credentials({**environ, **systemd}) == Credentials("i", "from-environment")
    assert config.credentials(systemd) == Credentials("j", "from-systemd")
    assert config.credentials({}) == Credentials("j", "from-file")
    file.chmod(0)
    assert config.credentials(systemd) == Credentials("j", "from-systemd")


def test_missing_credentials_error_names_all_sources():
    with pytest.raises(ConfigError, match="no client secret") as caught:
        Config().credentials({"ALUMA_CLIENT_ID": "i", "ALUMA_CLIENT_SECRET": ""})
    for source in ("ALUMA_CLIENT_SECRET", "client_secret_file", "systemd"):
        assert source in caught.value.hint


@pytest.mark.skipif(os.name != "posix", reason="requires POSIX file modes")
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o620])
def test_secret_file_is_refused_when_other_users_can_access_it(tmp_path, mode):
    config = Config(aluma=AlumaConfig(client_id="j", client_secret_file=write_secret(tmp_path / "s", mode)))
    with pytest.raises(ConfigError, match="other users") as caught:
        config.credentials({})
    assert "chmod 600" in caught.value.hint


def test_unusable_secret_file_is_reported_without_its_content(tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(CANARY.encode() + b"\xff")
    binary.chmod(0o600)
    for file in (binary, write_secret(tmp_path / "empty", text=" \n"), tmp_path / "missing"):
        with pytest.raises(ConfigError) as caught:
            Config(aluma=AlumaConfig(client_id="j", client_secret_file=file)).credentials({})
        assert file.name in str(caught.value)
        assert CANARY not in str(caught.value) + caught.value.hint


def test_repr_does_not_contain_the_secret():
    assert CANARY not in f"{Credentials('i', CANARY)!r} {Credentials('i', CANARY)}"
