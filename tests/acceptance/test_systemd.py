"""``aluma-async systemd``: the unit file that it prints, checked by systemd itself where it is installed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aluma_async.deploy.systemd_unit import Host, render_unit

HOST = Host(["/opt/aluma/bin/aluma-async"], "/bin/kill", 255)
needs_systemd_analyze = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


def unit_settings(**options):
    """Return the settings of a unit that is rendered with these options."""
    defaults = {"template": False, "config": None, "secret": None, "folders": [], "drain_seconds": 60}
    return parse_settings(render_unit(options.pop("host", HOST), **{**defaults, **options}))


def parse_settings(text):
    """Return values by key; of a key that comes twice, the last one."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def print_unit(run_cli, tmp_path, *options, name="aluma-async"):
    """Return the path of a file with the unit that the program prints."""
    done = run_cli("systemd", *options)
    assert done.returncode == 0, done.stderr
    path = tmp_path / f"{name}.service"
    path.write_text(done.stdout)
    return path


@needs_systemd_analyze
@pytest.mark.parametrize(("options", "name"), [([], "aluma-async"), (["--template"], "aluma-async@one")])
def test_unit_is_valid_and_well_protected(options, name, run_cli, tmp_path):
    path = print_unit(run_cli, tmp_path, *options, name=name)
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", path], capture_output=True, text=True, check=True
    )
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure[1]) <= 1.5


def test_unit_starts_this_installation_and_checks_a_config_before_reload(run_cli, tmp_path):
    text = print_unit(run_cli, tmp_path).read_text()
    program = str(Path(sys.executable).with_name("aluma-async"))
    assert parse_settings(text)["ExecStart"] == f"{program} --config %E/aluma-async/config.toml --no-progress"
    reload = re.findall(r"^ExecReload=(.*)$", text, re.MULTILINE)
    assert reload[0] == f"{program} check --config-only --config %E/aluma-async/config.toml"
    assert reload[1].endswith("kill -HUP $MAINPID")


def test_unit_has_the_settings_of_a_supervised_service():
    settings = unit_settings()
    assert settings["Type"] == "notify"
    assert settings["LoadCredential"] == "aluma-client-secret:%E/aluma-async/client-secret"
    assert (settings["StateDirectory"], settings["ConfigurationDirectory"]) == ("aluma-async", "aluma-async")
    assert settings["Restart"] == "on-failure"
    assert settings["RestartPreventExitStatus"] == "2 77 78"
    assert settings["WatchdogSec"] == "2min"
    assert (settings["RestartSteps"], settings["RestartMaxDelaySec"]) == ("8", "10min")
    assert settings["TimeoutStopSec"] == "150s"


def test_unit_has_no_growing_delays_for_an_older_systemd():
    assert "RestartSteps" not in unit_settings(host=Host(HOST.program, HOST.kill, 252))


def test_unit_has_no_placeholder_left():
    given = {"template": True, "config": None, "secret": None, "folders": [], "drain_seconds": 60}
    for systemd in (252, 255):
        assert not re.search(r"@\w+@", render_unit(Host(HOST.program, HOST.kill, systemd), **given))


def test_template_unit_shares_nothing_between_instances():
    settings = unit_settings(template=True)
    for key in ("StateDirectory", "ConfigurationDirectory"):
        assert settings[key] == "aluma-async/%i"
    assert "%E/aluma-async/%i/config.toml" in settings["ExecStart"]
    assert settings["LoadCredential"].endswith("%E/aluma-async/%i/client-secret")


def test_unit_can_write_to_absolute_destination_folders():
    settings = unit_settings(folders=[Path("/srv/a b"), Path("relative")], config=Path("/srv/100%/c.toml"))
    assert settings["ReadWritePaths"] == '"/srv/a b"'
    assert "--config /srv/100%%/c.toml" in settings["ExecStart"]


def test_unit_can_write_to_everything_that_the_config_names(run_cli, tmp_path):
    """Folder destinations, SQLite databases with their journals, and the state folder; relative to the file."""
    config = """
        exporter.state = "/srv/statex"
        [destinations.a]
        type = "folder"
        path = "/srv/export"
        [destinations.b]
        type = "sql"
        table = "t"
        url = "sqlite:////srv/db/ledger.db"
        [destinations.c]
        type = "folder"
        path = "relative"
        [[routes]]
        to = ["a", "b", "c"]
    """
    (tmp_path / "c.toml").write_text(config)
    done = run_cli("systemd", "-c", "c.toml")
    assert parse_settings(done.stdout)["ReadWritePaths"] == f"/srv/statex /srv/export /srv/db {tmp_path / 'relative'}"
    assert done.stderr == ""


def test_unit_explains_the_steps_in_their_order():
    given = {
        "template": False,
        "config": Path("/srv/c.toml"),
        "secret": None,
        "folders": [Path("/srv/a")],
        "drain_seconds": 60,
    }
    header = render_unit(HOST, **given).partition("[Unit]")[0]
    steps = ["mkdir -p", "useradd", "access to them: /srv/a", "systemd --config /srv/c.toml >", "enable --now"]
    assert sorted(steps, key=header.index) == steps
    assert "useradd" not in render_unit(HOST, **{**given, "folders": []})


def test_unit_sees_home_folders_only_when_it_uses_one():
    assert unit_settings(folders=[Path("/srv/a")], config=Path("/srv/c.toml"))["ProtectHome"] == "yes"
    assert unit_settings(folders=[Path("/home/ann/export")])["ProtectHome"] == "read-only"


def test_unit_takes_destination_folders_from_the_config(run_cli, tmp_path):
    (tmp_path / "c.toml").write_text('[destinations.x]\ntype = "folder"\npath = "/srv/export"')
    settings = parse_settings(print_unit(run_cli, tmp_path, "-c", "c.toml").read_text())
    assert settings["ReadWritePaths"] == "/srv/export"
    assert f"--config {tmp_path}/c.toml" in settings["ExecStart"]
