"""What is printed for an administrator to install: units for systemd, a dashboard, alert rules."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aluma_async.deploy.systemd_unit import Host, render_unit
from aluma_async.service.metrics import Metrics

HOST = Host(["/opt/aluma/bin/aluma-async"], "/bin/kill", 255)
analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on this machine")


def rendered(**options):
    given = {"template": False, "config": None, "folders": [], "drain_seconds": 60, **options}
    return render_unit(given.pop("host", HOST), **given)


def settings(text):
    """Values by key; the last one, where one comes twice."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def printed(run_cli, tmp_path, *options, name="aluma-async"):
    done = run_cli("systemd", *options)
    assert done.returncode == 0, done.stderr
    path = tmp_path / f"{name}.service"
    path.write_text(done.stdout)
    return path


# -- the unit


@analyze
@pytest.mark.parametrize(("options", "name"), [([], "aluma-async"), (["--template"], "aluma-async@one")])
def test_systemd_has_nothing_to_say_against_the_unit_and_finds_it_well_shut(options, name, run_cli, tmp_path):
    path = printed(run_cli, tmp_path, *options, name=name)
    said = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", path], capture_output=True, text=True, check=True
    )
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said.stdout)
    assert float(exposure[1]) <= 1.5


def test_the_unit_calls_this_installation_and_checks_a_config_before_it_is_read_again(run_cli, tmp_path):
    text = printed(run_cli, tmp_path).read_text()
    program = str(Path(sys.executable).with_name("aluma-async"))
    assert settings(text)["ExecStart"] == f"{program} --config %E/aluma-async/config.toml --no-progress"
    reload = re.findall(r"^ExecReload=(.*)$", text, re.MULTILINE)
    assert reload[0] == f"{program} check --config-only --config %E/aluma-async/config.toml"
    assert reload[1].endswith("kill -HUP $MAINPID")


def test_the_unit_keeps_the_promises_of_a_service():
    found = settings(rendered())
    assert found["Type"] == "notify"
    assert found["LoadCredential"] == "aluma-client-secret:%E/aluma-async/client-secret"
    assert (found["StateDirectory"], found["ConfigurationDirectory"]) == ("aluma-async", "aluma-async")
    assert found["Restart"] == "on-failure"
    assert found["RestartPreventExitStatus"] == "2 77 78"
    assert found["WatchdogSec"] == "2min"
    assert (found["RestartSteps"], found["RestartMaxDelaySec"]) == ("8", "10min")
    assert found["TimeoutStopSec"] == "150s"


def test_a_systemd_that_does_not_know_growing_delays_is_not_given_them():
    assert "RestartSteps" not in rendered(host=Host(HOST.program, HOST.kill, 252))


def test_instances_share_nothing():
    found = settings(rendered(template=True))
    for key in ("StateDirectory", "ConfigurationDirectory"):
        assert found[key] == "aluma-async/%i"
    assert "%E/aluma-async/%i/config.toml" in found["ExecStart"]
    assert found["LoadCredential"].endswith("%E/aluma-async/%i/client-secret")


def test_folders_that_files_go_to_can_be_written_and_what_lies_in_a_home_can_be_seen(run_cli, tmp_path):
    found = settings(rendered(folders=[Path("/srv/a b"), Path("relative")], config=Path("/srv/100%/c.toml")))
    assert found["ReadWritePaths"] == '"/srv/a b"'
    assert "--config /srv/100%%/c.toml" in found["ExecStart"]
    assert found["ProtectHome"] == "yes"
    assert settings(rendered(folders=[Path("/home/ann/export")]))["ProtectHome"] == "read-only"
    (tmp_path / "c.toml").write_text('[destinations.x]\ntype = "folder"\npath = "/srv/export"')
    found = settings(printed(run_cli, tmp_path, "-c", "c.toml").read_text())
    assert found["ReadWritePaths"] == "/srv/export"
    assert f"--config {tmp_path}/c.toml" in found["ExecStart"]


# -- what watches over it


def known():
    """Names of all series that there are."""
    page = Metrics(limit=1).page()[0].decode()
    families = re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE)
    return {name for name, _ in families} | {f"{name}_bucket" for name, kind in families if kind == "histogram"}


def test_the_dashboard_is_one_that_grafana_reads_and_asks_only_for_metrics_that_there_are(run_cli):
    board = json.loads(run_cli("monitoring", "dashboard").stdout)
    panels = board["panels"]
    assert "Oldest" in panels[0]["title"]
    assert len({panel["id"] for panel in panels}) == len({str(panel["gridPos"]) for panel in panels}) == len(panels)
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = set(re.findall(r"aluma_export_\w+", " ".join(queries)))
    assert asked <= known()
    assert {name for name in known() if name.startswith("aluma")} - asked <= {"aluma_export_task_duration_seconds"}


def test_the_alert_rules_are_yaml_ask_for_metrics_that_there_are_and_begin_with_the_oldest_task(run_cli):
    rules = yaml.safe_load(run_cli("monitoring", "alerts").stdout)["groups"][0]["rules"]
    assert "aluma_export_oldest_pending_task_age_seconds" in rules[0]["expr"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(re.findall(r"aluma_export_\w+", rule["expr"])) <= known()
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
