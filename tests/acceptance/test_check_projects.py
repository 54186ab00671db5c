"""``check`` names the configured projects without a pending task, because a wrong name exports nothing."""

from aluma_async.testing.sample_data import PROJECTS
from tests.support.server import aluma_server


def test_check_names_projects_without_a_pending_task(run_cli):
    """It is no failure: a project without a pending task looks the same."""
    right = PROJECTS[0][1]
    with aluma_server(40, malformed_row=False) as aluma:
        options = ("--base-url", aluma.base_url, "--allow-insecure", "--state", "state", "-o", "out")
        done = run_cli("check", *options, "--project", PROJECTS[1][1], "--project", right[:-1] + "!")
        assert done.returncode == 0
        assert done.stderr.count("no pending task is in project") == 1
        assert f"{right[:-1]}!" in done.stderr
        assert f"the nearest is {right!r}" in done.stderr
        assert "no pending task" not in run_cli("check", *options, "--project", right).stderr
        assert "no pending task" not in run_cli("check", *options).stderr
