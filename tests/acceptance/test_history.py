"""``history``: lists what a run exported, and agrees with Aluma after faults."""

import json

from tests.support.processes import simulator

ROUTES = """
[[routes]]
project = "ACME Medical Records"
to = ["archive", "ledger"]
[destinations.archive]
type = "folder"
path = "archive"
[destinations.default]
type = "folder"
path = "default"
[destinations.ledger]
type = "folder"
path = "ledger"
"""


def test_history_lists_exported_tasks_with_time_and_destinations(run_cli, tmp_path):
    (tmp_path / "config.toml").write_text(ROUTES)
    with simulator("--tasks", "30", "--profile", "small") as aluma:
        pending = json.loads(run_cli("list", "--json", "--base-url", aluma.base_url).stdout)
        assert run_cli("--once", "--base-url", aluma.base_url, "--state", "state").returncode == 0
        done = run_cli("history", "--json", "--state", "state")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert "30 tasks exported" in done.stderr
    assert {row["task"] for row in rows} == {task["id"] for task in pending}
    assert set(rows[0]) == {"time", "task", "files", "bytes", "seconds", "destinations"}
    acme = {task["id"] for task in pending if task["project_name"] == "ACME Medical Records"}
    for row in rows:
        assert row["destinations"] == (["archive", "ledger"] if row["task"] in acme else ["default"])
        assert row["files"] > 0
    status = json.loads(run_cli("status", "--json", "--state", "state").stdout)
    assert status["exported_in_24_hours"] == 30
    assert status["seconds_since_last_export"] < 3600
    assert "exported in the last 24 h: 30, the last" in run_cli("status", "--state", "state").stdout
    assert json.loads(run_cli("status", "--json", "--state", "none").stdout)["seconds_since_last_export"] is None
    last = run_cli("history", "--json", "--state", "state", "--limit", "2").stdout.splitlines()
    assert [json.loads(line) for line in last] == rows[-2:], "the newest is last"
    task_id = rows[3]["task"]
    assert task_id in run_cli("history", "--state", "state", "--task", task_id, "--since", "10min").stdout
    assert run_cli("history", "--state", "state", "--since", "2020-01-01", "--task", "nobody").stdout == ""
    assert run_cli("history", "--state", "state", "--since", "tomorrow").returncode == 2
    assert not any(task["name"] in done.stdout for task in pending), "names of tasks are not recorded"


def test_history_agrees_with_aluma_after_faults(run_cli, tmp_path):
    """Also after lost replies, it contains every completed task once, and no other."""
    (tmp_path / "config.toml").write_text(
        "[retry]\ncooldown_initial_seconds = 0.2\ncooldown_max_seconds = 0.5\nwait_initial_seconds = 0.01\n"
        "[exporter]\npoll_wait_initial_seconds = 0.1\npoll_wait_max_seconds = 0.2\n"
    )
    faults = [f"--fault={kind}=0.05" for kind in ("drop-after", "error-after", "drop-before", "truncate")]
    with simulator("--tasks", "40", "--profile", "small", "--seed", "3", *faults) as aluma:
        for _ in range(20):
            done = run_cli("--once", "-q", "-o", "out", "--state", "state", "--base-url", aluma.base_url)
            if done.returncode == 0 and aluma.state()["tasks"] == {"completed": 40}:
                break
        rows = [
            json.loads(line)["task"] for line in run_cli("history", "--json", "--state", "state").stdout.splitlines()
        ]
        assert len(rows) == len(set(rows)) == aluma.state()["tasks"]["completed"] == 40


def test_history_shows_names_with_history_names(run_cli, tmp_path):
    """In the text and as keys of JSON; without the key, nothing of the state folder contains a name."""
    (tmp_path / "config.toml").write_text("[service]\nhistory_names = true\n")
    for state, file in (("named", "config.toml"), ("unnamed", "other.toml")):
        (tmp_path / "other.toml").touch()
        with simulator("--tasks", "5", "--profile", "small") as aluma:
            options = ("-c", file, "--base-url", aluma.base_url)
            pending = json.loads(run_cli("list", "--json", *options).stdout)
            assert run_cli("--once", "-o", state, "--state", f"{state}-state", *options).returncode == 0
        names = {task["id"]: (task["name"], task["project_name"]) for task in pending}
        text = run_cli("history", "--state", f"{state}-state").stdout
        rows = [
            json.loads(row) for row in run_cli("history", "--json", "--state", f"{state}-state").stdout.splitlines()
        ]
        journal = b"".join(path.read_bytes() for path in (tmp_path / f"{state}-state").glob("journal*"))
        for name, project in names.values():
            assert (name in text and project in text) == (state == "named")
            assert (name.encode() in journal) == (state == "named")
        shown = {row["task"]: (row["name"], row["project"]) for row in rows if "name" in row}
        assert shown == (names if state == "named" else {})
