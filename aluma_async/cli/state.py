"""The state folder, for commands that read what an exporter has written there."""

from pathlib import Path

from aluma_async.config import Config
from aluma_async.exceptions import AlumaAsyncError

_HINT = (
    "Name the folder of the exporter with --state or --config; that of a systemd service is usually"
    " /var/lib/aluma-async. Before the first run there is none."
)


def existing_state_folder(config: Config) -> Path:
    """Return the state folder. Raises ``AlumaAsyncError`` if it does not exist, because empty output would mislead."""
    folder = config.state_folder()
    if not folder.exists():
        raise AlumaAsyncError(f"state folder {folder}: does not exist, so no exporter uses it", hint=_HINT)
    return folder
