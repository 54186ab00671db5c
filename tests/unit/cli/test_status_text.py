"""The text output of ``status``: complete, readable at 80 columns, and each id and each reason once."""

import pytest

from aluma_async.cli.status_text import status_lines
from aluma_async.models import ClaimState

NONE = {"in_hand": [], "cooling_down": [], "parked": [], "quarantined": []}


def hold(task, message, error="SchemaMismatch"):
    return {
        "task": task,
        "retry_in_seconds": 3600,
        "failures": 1,
        "error": error,
        "message": message,
        "age_seconds": 60,
        "seconds_left": None,
        "copy": None,
    }


def test_status_lines_group_tasks_by_reason():
    """The largest group comes first; the id of a task is not repeated in its reason."""
    rows = [hold("a", "task a, file 0: no column"), hold("b", "disk full"), hold("c", "task c, file 0: no column")]
    lines = list(status_lines({**NONE, "parked": rows}, None))
    assert [line.strip() for line in lines if "SchemaMismatch" in line] == [
        "SchemaMismatch: file 0: no column",
        "SchemaMismatch: disk full",
    ]
    assert [line.split()[0] for line in lines if "retry in 1 h" in line] == ["a", "c", "b"]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_status_lines_fit_into_the_terminal_and_break_no_word(columns):
    message = "table fields of sqlite:///ledger.db: the table fields has no column " * 3
    copy = {
        "folder": "/state/quarantine/one",
        "state": "failed",
        "complete": True,
        "missing": 0,
        "redelivered_at": None,
    }
    rows = {**NONE, "cooling_down": [hold("jnGa-0123456789abcdefg", message)]}
    rows["quarantined"] = [{"task": "x" * 22, "error": "E", "message": message, **copy}]
    words = " ".join(status_lines(rows, None)).split()
    lines = list(status_lines(rows, columns))
    assert max(map(len, lines)) <= columns
    assert " ".join(lines).split() == words


def test_status_lines_are_one_per_task_without_a_terminal():
    lines = list(status_lines({**NONE, "parked": [hold("a", "m" * 300)]}, None))
    assert [line for line in lines if line.strip().startswith("a ")] == [
        "    a  retry in 1 h, 1 failure  created 1 min ago, deadline not known  no copy"
    ]


@pytest.mark.parametrize("columns", [None, 80])
def test_status_lines_show_which_tasks_are_not_failed_any_more(columns):
    """And the commands that the administrator can choose from."""
    limit = {"error": "UnexportableTask", "project": "p1", "destinations": ["a", "b"], "failed": 3, "parked": 7}
    text = " ".join(" ".join(status_lines({**NONE, "failure_limits": [limit]}, columns)).split())
    assert "no more tasks are failed automatically: UnexportableTask project p1 to a, b 3 failed, 7 parked" in text
    assert "'aluma-async retry --all' or 'aluma-async fail --reason UnexportableTask'" in text


def test_status_lines_separate_orphaned_claims_from_tasks_in_progress():
    """A claim that no worker owns is not in progress."""
    claims = [
        {"task": "a", "step": str(ClaimState.CLAIMED), "seconds": 3},
        {"task": "b", "step": str(ClaimState.ORPHANED), "seconds": 9},
    ]
    lines = list(status_lines({**NONE, "in_hand": claims}, None))
    assert lines[:2] == ["in progress: 1", "  a  being exported, started 3 s ago"]
    assert lines[2].startswith("claims to be released, because a reply was lost")
    assert lines[3].split()[0] == "b"
    assert not [line for line in status_lines(NONE, None) if "to be released" in line]
