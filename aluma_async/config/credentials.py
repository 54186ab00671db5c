"""``Credentials``: an Aluma API client's id and secret, and the three places they may come from.

A command line is none of them: everybody on the machine can read it. Whether Aluma accepts them is not known here.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from aluma_async.config.paths import systemd_folder
from aluma_async.config.sections import AlumaConfig
from aluma_async.exceptions import ConfigError

_HINT = (
    "Set ALUMA_CLIENT_ID and ALUMA_CLIENT_SECRET, or client_id and client_secret_file under [aluma], "
    "or have systemd load the credential aluma-client-secret."
)
_MAX_SECRET_BYTES = 64 * 1024


class Credentials(Struct, frozen=True):
    """An Aluma API client; its repr hides the secret."""

    client_id: str
    client_secret: str

    def __repr__(self) -> str:
        """Leave the secret out."""
        return f"Credentials(client_id={self.client_id!r})"


def collect_credentials(aluma: AlumaConfig, environ: Mapping[str, str]) -> Credentials:
    """Take id and secret from the environment, else from the config, else from systemd. Raises ``ConfigError``."""
    client_id = environ.get("ALUMA_CLIENT_ID", "").strip() or aluma.client_id
    secret = environ.get("ALUMA_CLIENT_SECRET", "").strip()
    if not secret and aluma.client_secret_file:
        secret = read_secret(aluma.client_secret_file)
    folder = systemd_folder(environ, "CREDENTIALS_DIRECTORY")
    if not secret and folder and (file := folder / "aluma-client-secret").is_file():
        secret = read_secret(file, private=False)  # systemd sees to its mode, which may allow the group
    missing = [name for name, value in (("client id", client_id), ("client secret", secret)) if not value]
    if missing:
        raise ConfigError(f"credentials: no {' and no '.join(missing)}", hint=_HINT)
    return Credentials(client_id, secret)


def read_secret(path: Path, *, private: bool = True) -> str:
    """Read a file that holds a secret and nothing else; a ``private`` one only its owner may read.

    Raises ``ConfigError``.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if private and os.name == "posix" and mode & 0o077:
                raise ConfigError(f"{path}: others may read or change the secret", hint=f"chmod 600 {path}")
            secret = file.read(_MAX_SECRET_BYTES).decode("utf-8-sig").strip()
    except OSError as error:
        raise ConfigError(
            f"{path}: the secret cannot be read: {error.strerror}", hint="Does it exist, and may you read it?"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text", hint="Save the secret, and nothing else, as UTF-8.") from None
    if not secret:
        raise ConfigError(f"{path}: is empty", hint="Write the secret, and nothing else, into it.")
    return secret
