"""``status`` and ``retry`` read and change the journal of a running exporter."""

import asyncio
import json
from contextlib import closing

import anyio
import pytest

from aluma_async.clock import system_clock
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import ClaimRecord, ClaimState, HoldRecord, Timestamp


@pytest.mark.parametrize(
    ("since", "seconds", "text"),
    [
        (Timestamp("another boot", 0.0, 4e9), None, "?"),  # since then, the machine's clock was set back
        (Timestamp("another boot", 0.0, -1e308), None, "?"),
        (Timestamp(system_clock().boot, 1e308, 0.0), 0, "0 s"),
    ],
)
def test_status_shows_records_whose_times_are_impossible(since, seconds, text, run_cli, tmp_path):
    """A time that cannot be calculated is not known."""

    async def write(journal):
        await journal.load()
        await journal.write(
            ClaimRecord("one", ClaimState.COMMITTED, since),
            HoldRecord("two", system_clock(), 1e300, parked=True, error="SourceError", created_at=-1e308),
        )

    with closing(SqliteJournal(tmp_path / "state")) as journal:
        asyncio.run(write(journal))
    done = run_cli("status", "--state", "state")
    assert done.returncode == 0, done.stderr
    assert f"started {text} ago" in done.stdout
    assert "retry in ?" in done.stdout
    shown = json.loads(run_cli("status", "--state", "state", "--json").stdout)
    assert [row["seconds"] for row in shown["in_hand"]] == [seconds]
    assert [(row["retry_in_seconds"], row["age_seconds"]) for row in shown["parked"]] == [(None, None)]


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["history"], ["retry", "--all"]])
def test_command_reports_a_state_folder_that_does_not_exist(command, run_cli):
    """Empty output would look as if an exporter had nothing to report."""
    done = run_cli(*command, "--state", "nowhere")
    assert done.returncode == 1
    assert not done.stdout or json.loads(done.stdout)["parked"] == []
    assert "nowhere: does not exist" in done.stderr
    assert "/var/lib/aluma-async" in done.stderr


def test_status_and_retry_work_next_to_a_running_exporter(run_cli, tmp_path):
    def show():
        return json.loads(run_cli("status", "--json", "--state", "state").stdout)

    now = system_clock()
    parked = HoldRecord("-parked", now, 9999.0, failures=10, parked=True, error="InvalidResponse", message="cut short")
    cooling = HoldRecord("cooling", now, 600.0, failures=1, error="DestinationError", message="why")
    journal = SqliteJournal(tmp_path / "state")
    try:
        anyio.run(journal.load)
        anyio.run(journal.write, parked, cooling, ClaimRecord("open", ClaimState.STARTING, now))
        shown = show()
        assert [row["task"] for row in shown["in_hand"]] == ["open"]
        assert [row["task"] for row in shown["cooling_down"]] == ["cooling"]
        assert [(row["task"], row["message"]) for row in shown["parked"]] == [("-parked", "cut short")]
        assert "cut short" in run_cli("status", "--state", "state").stdout
        assert run_cli("retry", "--state", "state").returncode == 2
        done = run_cli("retry", "--state", "state", "--", "-parked")
        assert (done.returncode, done.stdout) == (0, "ended the hold of 1 task\n"), done.stderr
        assert run_cli("retry", "--state", "state", "unknown").returncode == 1
        assert anyio.run(journal.pop_released) == ["-parked"]
        assert run_cli("retry", "--all", "--state", "state").stdout == "ended the hold of 1 task\n"
    finally:
        journal.close()
    shown = show()
    assert not shown["parked"]
    assert not shown["cooling_down"]
