"""``Credentials``: id and secret of an Aluma API client, and their three possible sources.

The command line is not one of them, because every user of the machine can read it. This module does not check whether
Aluma accepts the credentials.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from aluma_async.config.paths import systemd_folder
from aluma_async.config.sections import AlumaConfig
from aluma_async.exceptions import ConfigError

_HINT = (
    "Set ALUMA_CLIENT_ID and ALUMA_CLIENT_SECRET, or client_id and client_secret_file under [aluma], "
    "or load the systemd credential aluma-client-secret."
)
_MAX_SECRET_BYTES = 64 * 1024


class Credentials(Struct, frozen=True):
    """Id and secret of an Aluma API client; the repr hides the secret."""

    client_id: str
    client_secret: str

    def __repr__(self) -> str:
        """Leave out the secret."""
        return f"Credentials(client_id={self.client_id!r})"


def collect_credentials(aluma: AlumaConfig, environ: Mapping[str, str]) -> Credentials:
    """Return id and secret from the environment, systemd or the config, in this order. Raises ``ConfigError``.

    A service cannot read the file of the config if it belongs to another user, for whom systemd has read it.
    """
    client_id = environ.get("ALUMA_CLIENT_ID", "").strip() or aluma.client_id
    secret = environ.get("ALUMA_CLIENT_SECRET", "").strip()
    if not secret and (file := systemd_secret(environ)):
        secret = read_secret(file, private=False)  # systemd sets its mode, which may include the group
    if not secret and aluma.client_secret_file:
        secret = read_secret(aluma.client_secret_file)
    missing = [name for name, value in (("client id", client_id), ("client secret", secret)) if not value]
    if missing:
        raise ConfigError(f"credentials: no {' and no '.join(missing)}", hint=_HINT)
    return Credentials(client_id, secret)


def systemd_secret(environ: Mapping[str, str]) -> Path | None:
    """Return the file of the systemd credential ``aluma-client-secret``, if there is one."""
    folder = systemd_folder(environ, "CREDENTIALS_DIRECTORY")
    return file if folder and (file := folder / "aluma-client-secret").is_file() else None


def source_id(aluma: AlumaConfig, credentials: Credentials) -> str:
    """Return a text that is another one for each API and client, without a password."""
    url = urlsplit(aluma.base_url)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path.rstrip('/')} (client {credentials.client_id})"


def read_secret(path: Path, *, private: bool = True) -> str:
    """Read a file that contains only a secret; if ``private``, only its owner may have access.

    Raises ``ConfigError``.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if private and os.name == "posix" and mode & 0o077:
                raise ConfigError(f"{path}: other users can access the secret", hint=f"Run: chmod 600 {path}")
            secret = file.read(_MAX_SECRET_BYTES).decode("utf-8-sig").strip()
    except OSError as error:
        raise ConfigError(
            f"{path}: the secret cannot be read: {error.strerror}", hint="Check that the file exists and is readable."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text", hint="Save only the secret, as UTF-8.") from None
    if not secret:
        raise ConfigError(f"{path}: the file is empty", hint="Write only the secret into the file.")
    return secret
