"""The first export of a careful user: ``--dry-run``, ``--limit``, ``--task``."""

import pytest

from tests.support.processes import PENDING, expect_error, simulator

TASKS = 6
ROUTES = """
[destinations.tables]
type = "folder"
path = "tables"
[destinations.archive]
type = "folder"
path = "archive"
[[routes]]
filename = "*.csv"
to = ["tables"]
[[routes]]
to = ["archive"]
"""


@pytest.fixture
def aluma():
    with simulator("--tasks", str(TASKS), "--profile", "small") as running:
        yield running


@pytest.fixture
def export(run_cli, aluma):
    def run(*options):
        return run_cli(*options, "--base-url", aluma.base_url)

    return run


@pytest.fixture
def task_ids(export):
    return [line.split()[0] for line in export("list").stdout.splitlines()]


def test_dry_run_prints_where_tasks_would_go_and_changes_nothing(export, aluma, tmp_path):
    (tmp_path / "c.toml").write_text(ROUTES)
    done = export("-c", "c.toml", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == TASKS
    assert all(line.endswith("-> tables, archive") for line in lines)
    assert f"{TASKS} tasks would be claimed now" in done.stderr
    assert all(text in done.stderr for text in (str(tmp_path / "archive"), "first route", "known only after Start"))
    assert aluma.state()["tasks"] == {PENDING: TASKS}
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


def test_tasks_on_hold_are_marked_by_a_dry_run_and_skipped_by_a_limit(run_cli, export, aluma, task_ids, tmp_path):
    (tmp_path / "c.toml").write_text('[destinations.x]\ntype = "folder"\npath = "out"\non_conflict = "fail"')
    with simulator("--tasks", "1", "--profile", "small", "--seed", "1") as other:  # a file with the same name
        assert run_cli("-c", "c.toml", "--once", "--base-url", other.base_url).returncode == 0
    assert export("-c", "c.toml", "--task", task_ids[0]).returncode == 1
    done = export("-c", "c.toml", "--dry-run")
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith("on hold")] == task_ids[:1]
    assert "5 tasks would be claimed now; 1 task on hold" in done.stderr
    limited = export("-c", "c.toml", "--limit", "2")
    assert limited.returncode == 0, limited.stderr
    assert "Exported  2 tasks" in limited.stderr
    assert "1 task on hold skipped" in limited.stderr
    assert aluma.state()["tasks"] == {PENDING: TASKS - 2, "completed": 2}


def test_limit_exports_that_many_tasks(export, aluma):
    done = export("--limit", "2", "-o", "out", "-w", "16")
    assert done.returncode == 0, done.stderr
    assert aluma.state()["tasks"] == {PENDING: TASKS - 2, "completed": 2}
    assert aluma.state()["requests"]["start"] == 2


def test_named_tasks_are_the_only_ones_that_are_exported(export, aluma, task_ids):
    done = export("--task", task_ids[4], "--task", task_ids[1], "-o", "out")
    assert done.returncode == 0, done.stderr
    assert aluma.state()["tasks"] == {PENDING: TASKS - 2, "completed": 2}
    assert task_ids[1] not in export("list").stdout
    again = export("--task", task_ids[4], "--task", task_ids[0], "-o", "out")
    assert again.returncode == 1
    assert f"task {task_ids[4]}: not pending at Aluma" in again.stderr
    assert aluma.state()["tasks"]["completed"] == 3


@pytest.mark.parametrize("option", [("--dry-run",), ("--limit", "1"), ("--task", "a")])
def test_restriction_of_a_run_is_refused_where_it_has_no_effect(run_cli, option):
    """Whoever writes it before another command relies on it."""
    expect_error(run_cli(*option, "redeliver", "--all"), 2, option[0], "no effect on redeliver")
