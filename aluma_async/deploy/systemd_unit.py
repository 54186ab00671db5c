"""The unit file for systemd: as little as the exporter needs, and nothing that it does not.

Exit codes that a new start cannot mend (usage, credentials, configuration) end it for good; after any other it is
started anew, ever more slowly. A watchdog's end writes down where each thread was.
"""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

_GROWING_DELAYS = 254
"""The first version of systemd that knows delays that grow."""
_AFTER_DRAIN_SECONDS = 90
"""What the last words take at most, after the time for draining."""

_UNIT = """\
# Made by "aluma-async systemd". To install:
#   aluma-async systemd{option} > /etc/systemd/system/{file}
#   mkdir -p {configuration}
#   write config.toml there: client_id, and where files go
#   write the client secret into the file client-secret there (chmod 600; only systemd reads it)
#   systemctl daemon-reload && systemctl enable --now {example}
# Files may go below {state}, and to the folders of ReadWritePaths.
# For those make the user first, and let it write there:
#   useradd --system --user-group --shell /usr/sbin/nologin aluma-async

[Unit]
Description=Exporter of finished tasks from Aluma{instance}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} --config {config} --no-progress
ExecReload={program} check --config-only --config {config}
ExecReload={kill} -HUP $MAINPID
User=aluma-async
DynamicUser=yes
ConfigurationDirectory={name}
StateDirectory={name}
StateDirectoryMode=0700
WorkingDirectory=%S/{name}
{writable}LoadCredential=aluma-client-secret:%E/{name}/client-secret
Environment=PYTHONFAULTHANDLER=1
UMask=0027

WatchdogSec=2min
TimeoutStartSec=5min
TimeoutStopSec={stop_seconds:.0f}s
Restart=on-failure
RestartPreventExitStatus=2 77 78
RestartSec=5s
{delays}
AmbientCapabilities=
CapabilityBoundingSet=
DevicePolicy=closed
KeyringMode=private
LimitCORE=0
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateTmp=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome={protect_home}
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources

[Install]
WantedBy=multi-user.target
"""


class Host(Struct, frozen=True):
    """The machine that a unit is for."""

    program: Sequence[str]
    """How the installed program is called."""
    kill: str
    """Where ``kill`` is."""
    systemd: int
    """Version of systemd."""


def render_unit(
    host: Host, *, template: bool, config: Path | None, folders: Sequence[Path], drain_seconds: float
) -> str:
    """Make the unit; ``template``: for several instances. ``folders`` are those that files go to."""
    name = "aluma-async/%i" if template else "aluma-async"
    shown = name.replace("%i", "NAME")
    writable = [_quote(folder) for folder in folders if folder.is_absolute()]
    homes = [str(path) for path in (*map(Path, host.program), *folders, *([config] if config else []))]
    return _UNIT.format(
        option=" --template" if template else "",
        file="aluma-async@.service" if template else "aluma-async.service",
        example="aluma-async@NAME" if template else "aluma-async",
        instance=" (%i)" if template else "",
        configuration=f"/etc/{shown}",
        state=f"/var/lib/{shown}",
        program=" ".join(_quote(part) for part in host.program),
        config=_quote(config) if config else f"%E/{name}/config.toml",
        kill=host.kill,
        name=name,
        writable=f"ReadWritePaths={' '.join(writable)}\n" if writable else "",
        stop_seconds=drain_seconds + _AFTER_DRAIN_SECONDS,
        delays="RestartSteps=8\nRestartMaxDelaySec=10min\n" if host.systemd >= _GROWING_DELAYS else "",
        # What lies in a home must be seen from there; the rest of the home stays as it is.
        protect_home="read-only" if any(home.startswith(("/home/", "/root/")) for home in homes) else "yes",
    )


def _quote(text: str | Path) -> str:
    """Write one argument so that systemd reads it as it is."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if any(sign in escaped for sign in " '\"\\;") else escaped
