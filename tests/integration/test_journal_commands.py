"""``status`` and ``retry`` read and change the journal of a running exporter."""

import json

import anyio

from aluma_async.clock import system_clock
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import ClaimRecord, ClaimState, HoldRecord


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
