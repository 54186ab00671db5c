"""Renders the systemd unit from ``aluma-async.service.in``: least privilege, restarts with a growing delay.

Exit codes that a restart cannot fix (usage, credentials, configuration) stop the unit. If the watchdog ends the
process, the traceback of every thread is in the log.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from msgspec import Struct

_TEMPLATE = "aluma-async.service.in"
_RESTART_DELAYS = "RestartSteps=8\nRestartMaxDelaySec=10min"
_RESTART_DELAYS_VERSION = 254
"""First version of systemd that supports growing restart delays."""
_WRITABLE_STEPS = """\
#   useradd --system --user-group --shell /usr/sbin/nologin aluma-async
#   create these folders and give this user write access to them: {}"""
_SETTLE_SECONDS = 90
"""Seconds to settle all claims after the drain timeout."""


class Host(Struct, frozen=True):
    """The machine on which the unit will run."""

    program: Sequence[str]
    """Command that starts the installed program."""
    kill: str
    """Path of ``kill``."""
    systemd: int
    """Version of systemd."""


def render_unit(
    host: Host,
    *,
    template: bool,
    config: Path | None,
    secret: Path | None,
    folders: Sequence[Path],
    drain_seconds: float,
) -> str:
    """Return the text of the unit file.

    Args:
        host: The machine on which the unit will run.
        template: Render a template unit, so that several instances can run side by side.
        config: The config file; None: ``config.toml`` in the unit's configuration folder.
        secret: The file with the client secret; None: ``client-secret`` in the unit's configuration folder.
        folders: Folders to which the exporter writes; the unit permits the absolute ones.
        drain_seconds: The drain timeout.
    """
    name = "aluma-async/%i" if template else "aluma-async"
    instance_name = name.replace("%i", "NAME")
    writable = [_quote(folder) for folder in dict.fromkeys(folders) if folder.is_absolute()]
    paths = [str(path) for path in (*map(Path, host.program), *folders, *([config] if config else []))]
    values = {
        "option": (" --template" if template else "") + (f" --config {_quote(config)}" if config else ""),
        "writable_steps": _WRITABLE_STEPS.format(" ".join(writable)) if writable else "",
        "file": "aluma-async@.service" if template else "aluma-async.service",
        "example_unit": "aluma-async@NAME" if template else "aluma-async",
        "instance": " (%i)" if template else "",
        "configuration_folder": f"/etc/{instance_name}",
        "state_folder": f"/var/lib/{instance_name}",
        "program": " ".join(_quote(part) for part in host.program),
        "config": _quote(config) if config else f"%E/{name}/config.toml",
        "secret": str(secret).replace("%", "%%") if secret else f"%E/{name}/client-secret",
        "secret_file": str(secret or "the file client-secret there"),
        "kill": host.kill,
        "name": name,
        "read_write_paths": f"ReadWritePaths={' '.join(writable)}" if writable else "",
        "stop_seconds": f"{drain_seconds + _SETTLE_SECONDS:.0f}",
        "restart_delays": _RESTART_DELAYS if host.systemd >= _RESTART_DELAYS_VERSION else "",
        # A program, config or destination in a home folder must be visible; the rest of the home stays read-only.
        "protect_home": "read-only" if any(path.startswith(("/home/", "/root/")) for path in paths) else "yes",
    }
    return _fill_in((files("aluma_async.deploy") / _TEMPLATE).read_text("utf-8"), values)


def _fill_in(text: str, values: Mapping[str, str]) -> str:
    """Replace each ``@NAME@``; a line that consists of an empty one is dropped."""
    for name in re.findall(r"^@(\w+)@$", text, re.MULTILINE):
        if not values[name]:
            text = text.replace(f"\n@{name}@\n", "\n")
    return re.sub(r"@(\w+)@", lambda match: values[match[1]], text)


def _quote(text: str | Path) -> str:
    """Quote one argument for a systemd unit."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if any(character in escaped for character in " '\"\\;") else escaped
