"""``quarantine list | show | export | delete`` and the exit codes and messages of ``redeliver``."""

import json
import os
import pty
import subprocess

import anyio
import pytest

from aluma_async.exceptions import SourceError
from aluma_async.journal.lock import lock_folder
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import ClaimRecord, ClaimState, ExportRecord, ExportTask, Timestamp
from aluma_async.quarantine.locking import locked_copy
from aluma_async.quarantine.records import CopyState
from aluma_async.testing import SimulatedAluma
from tests.support.processes import MAX_SECONDS, PROGRAM, environment, expect_error
from tests.support.quarantine import Files, Store, claim_for, make_copy, specification
from tests.unit.quarantine.test_folder import FIXTURE

SPEC = specification(("in", "a.csv", "x,y\n"), ("in", "a.pdf"))
CONTENT = {"/files/1": b"%PDF one"}
STATE = ("--state", "state")


@pytest.fixture
def quarantine(tmp_path):
    """A state folder with complete copies of ``t1`` (parked) and ``t2`` (failed), and an incomplete one of ``t3``."""

    async def store():
        for task_id, state, content in (("t1", "parked", CONTENT), ("t2", "failed", CONTENT), ("t3", "parked", {})):
            store = Store(tmp_path / "state" / "quarantine", Files(content))
            claim = claim_for(SPEC, ExportTask(task_id, f"{task_id}.pdf", "p1", "Invoices"))
            await store.quarantine.store(claim, SourceError("the\x1b[2Jreason"), CopyState(state))
        return store.folder

    return anyio.run(store)


def test_list_shows_state_and_completeness(run_cli, quarantine):
    done = run_cli("quarantine", "list", *STATE)
    assert [line.split("  ")[0].strip() for line in done.stdout.splitlines()] == ["t1", "t2", "t3"]
    assert "\x1b" not in done.stdout
    assert "parked  complete copy" in done.stdout
    assert "failed  complete copy" in done.stdout
    assert "incomplete copy: 1 file missing" in done.stdout
    assert "3 tasks in the quarantine, " in done.stderr
    rows = json.loads(run_cli("quarantine", "list", "--json", *STATE).stdout)
    assert [(row["task"], row["state"], row["complete"]) for row in rows] == [
        ("t1", "parked", True),
        ("t2", "failed", True),
        ("t3", "parked", False),
    ]


def test_list_and_status_show_all_copies_of_a_task(run_cli, quarantine):
    """Of two versions of a task. Delete removes the one that show describes, and keeps the other."""
    anyio.run(_store_new_copy, quarantine, specification(("in", "b.csv", "new")))
    rows = json.loads(run_cli("quarantine", "list", "--json", *STATE).stdout)
    assert sorted((row["task"], row["state"]) for row in rows)[:2] == [("t1", "failed"), ("t1", "parked")]
    assert "3 tasks in the quarantine, " in run_cli("quarantine", "list", *STATE).stderr
    assert json.loads(run_cli("status", "--json", *STATE).stdout)["quarantined"] == sorted(
        rows, key=lambda row: row["folder"]
    )
    for left in (1, 0):
        shown = json.loads(run_cli("quarantine", "show", "--json", "t1", *STATE).stdout)
        assert run_cli("quarantine", "delete", "--yes", "t1", *STATE).returncode == 0
        copies = quarantine.find("t1")
        assert len(copies) == left
        assert shown["folder"] not in [str(copy.folder) for copy in copies]


def test_list_and_show_read_copies_of_an_earlier_version(run_cli, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/quarantine").symlink_to(FIXTURE)
    assert "failed  incomplete copy: 1 file missing" in run_cli("quarantine", "list", *STATE).stdout
    done = run_cli("quarantine", "show", "DT17Eihksyl29g63namsOw", *STATE)
    assert (done.returncode, "unknown source 'fax'" in done.stdout) == (1, True)


def test_show_checks_each_file(run_cli, quarantine):
    done = run_cli("quarantine", "show", "t1", *STATE)
    assert done.returncode == 0, done.stdout
    assert "in/a.pdf  8 B" in done.stdout
    (quarantine.path / "t1/files/in/a.pdf").write_bytes(b"%PDF 0ne")
    done = run_cli("quarantine", "show", "t1", "--json", *STATE)
    shown = json.loads(done.stdout)
    assert (done.returncode, shown["complete"], shown["missing"]) == (1, False, 1)
    assert "has changed" in shown["files"][1]["problem"]
    expect_error(run_cli("quarantine", "show", "t9", *STATE), 1, "t9: no copy in the quarantine")


def test_export_writes_the_files_into_a_new_folder(run_cli, quarantine, tmp_path):
    done = run_cli("quarantine", "export", "t1", "here", *STATE)
    assert (done.returncode, done.stdout) == (0, "exported 3 files of task t1 to here\n")
    written = {str(path.relative_to(tmp_path / "here")): path.read_bytes() for path in tmp_path.glob("here/**/*.*")}
    assert written == {"in/a.csv": b"x,y\n", "in/a.pdf": b"%PDF one", "specification.json": SPEC}
    expect_error(run_cli("quarantine", "export", "t1", "here", *STATE), 2, "not empty")
    expect_error(run_cli("quarantine", "export", "t1", "state/quarantine/x", *STATE), 2, "in the state folder")
    done = run_cli("quarantine", "export", "t3", "there", *STATE)
    assert (done.returncode, done.stdout) == (1, "exported 2 files of task t3 to there\n")
    assert "file 1" in done.stderr


def test_export_cannot_leave_its_folder(run_cli, tmp_path):
    files = [
        {"number": 0, "folder": "../..", "filename": "../up.txt", "missing": "", "path": "files/up"},
        {"number": 1, "folder": "", "filename": "specification.json", "missing": "", "path": "files/s"},
    ]
    record = {"task": {"id": "t1"}, "error": "", "message": "", "files": files}
    make_copy(tmp_path / "state/quarantine/t1", record, {"files/up": b"up", "files/s": b"s"})
    assert run_cli("quarantine", "export", "t1", "here", *STATE).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "state"]
    assert len([path for path in (tmp_path / "here").rglob("*") if path.is_file()]) == 3


def test_delete_removes_copies_after_confirmation(run_cli, quarantine, tmp_path):
    expect_error(run_cli("quarantine", "delete", "t1", *STATE), 2, "use --yes")
    keyboard, terminal = pty.openpty()
    command = [*PROGRAM, "quarantine", "delete", *STATE, "t1", "t2"]
    env = environment(tmp_path, SimulatedAluma.client_secret, {})
    with subprocess.Popen(command, stdin=terminal, stderr=subprocess.PIPE, env=env, cwd=tmp_path) as process:
        os.write(keyboard, b"n\n")
        output = process.stderr.read().decode()
        assert process.wait(MAX_SECONDS) == 1
    assert "Aluma has deleted 1 of them" in output
    assert len(quarantine.copies()[0]) == 3
    done = run_cli("quarantine", "delete", "--yes", "t1", "t2", "t9", *STATE)
    assert (done.returncode, done.stdout) == (1, "deleted 2 tasks from the quarantine\n")
    assert "t9: no copy" in done.stderr
    assert [copy.task_id for copy in quarantine.copies()[0]] == ["t3"]


def test_delete_refuses_the_copy_of_a_task_that_is_being_failed(run_cli, quarantine, tmp_path):
    async def record_failing():
        journal = SqliteJournal(tmp_path / "state")
        await journal.load()
        await journal.write(ClaimRecord("t2", ClaimState.FAILING, Timestamp("boot", 0.0, 0.0)))
        journal.close()

    anyio.run(record_failing)
    done = run_cli("quarantine", "delete", "--yes", "t2", *STATE)
    expect_error(done, 1, "t2: not deleted: the exporter is working on this task")
    assert len(quarantine.copies()[0]) == 3


def test_delete_refuses_a_task_that_a_running_exporter_has_claimed(run_cli, quarantine, tmp_path):
    """It may store the copy anew at this moment. A claim that a crash has left protects no copy."""

    async def record_claim():
        journal = SqliteJournal(tmp_path / "state")
        await journal.load()
        await journal.write(ClaimRecord("t1", ClaimState.CLAIMED, Timestamp("boot", 0.0, 0.0)))
        journal.close()

    anyio.run(record_claim)
    with lock_folder(tmp_path / "state"):
        done = run_cli("quarantine", "delete", "--yes", "t1", "t2", *STATE)
    expect_error(done, 1, "t1: not deleted: the exporter is working on this task")
    assert [copy.task_id for copy in quarantine.copies()[0]] == ["t1", "t3"]
    assert run_cli("quarantine", "delete", "--yes", "t1", *STATE).returncode == 0


def test_delete_refuses_a_copy_that_is_locked(run_cli, quarantine):
    (copy,) = quarantine.find("t1")
    with locked_copy(quarantine, copy, shared=True):
        done = run_cli("quarantine", "delete", "--yes", "t1", *STATE)
    expect_error(done, 1, "t1: not deleted: the exporter is working on this task")
    assert quarantine.find("t1") == [copy]


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_delete_removes_only_the_copy_that_was_shown(change, quarantine, tmp_path):
    """While it waits for an answer, the exporter stores another copy, or removes this one."""
    keyboard, terminal = pty.openpty()
    command = [*PROGRAM, "quarantine", "delete", *STATE, "t1"]
    env = environment(tmp_path, SimulatedAluma.client_secret, {})
    (shown,) = quarantine.find("t1")
    with subprocess.Popen(command, stdin=terminal, stderr=subprocess.PIPE, env=env, cwd=tmp_path) as process:
        output = b""
        while b"?" not in output:
            output += os.read(process.stderr.fileno(), 1000)
        quarantine.remove(shown)
        if change == "replaced":
            anyio.run(_store_new_copy, quarantine)
        os.write(keyboard, b"y\n")
        output += process.stderr.read()
        assert process.wait(MAX_SECONDS) == 1
    assert b"t1: not deleted: its copy has changed meanwhile" in output
    assert len(quarantine.find("t1")) == (change == "replaced")


async def _store_new_copy(quarantine, spec=SPEC):
    """Store a copy of ``t1`` in the same folder as before."""
    task = ExportTask("t1", "t1.pdf", "p1", "Invoices")
    store = Store(quarantine.path, Files(CONTENT))
    await store.quarantine.store(claim_for(spec, task), SourceError("another reason"), CopyState.FAILED)


def test_redeliver_delivers_parked_and_failed_tasks_and_refuses_incomplete_ones(run_cli, quarantine, tmp_path):
    done = run_cli("redeliver", "--all", "-o", "out", *STATE, "-q")
    assert (done.returncode, done.stdout) == (1, "redelivered 2 tasks: 4 files, 24 B\n")
    assert "t3: not redelivered: incomplete copy: 1 file missing; --incomplete delivers the others" in done.stderr
    assert len(list((tmp_path / "out/in").iterdir())) == 4
    done = run_cli("redeliver", "t3", "--incomplete", "-o", "out", *STATE, "-q")
    assert (done.returncode, done.stdout) == (0, "redelivered 1 task: 1 file, 4 B\n")
    assert len(list((tmp_path / "out/in").iterdir())) == 5
    assert all(copy.record.redelivered_at for copy in quarantine.copies()[0])


def test_redeliver_names_what_it_did_not_deliver(run_cli, quarantine):
    (quarantine.path / "t1/files/in/a.pdf").write_bytes(b"%PDF 0ne")
    done = run_cli("redeliver", "t1", "t2", "t9", "-o", "out", *STATE, "-q")
    assert (done.returncode, done.stdout) == (1, "redelivered 1 task: 2 files, 12 B\n")
    assert "t9: no copy in the quarantine" in done.stderr
    assert "t1: not redelivered: SourceError: task t1: file 1 in the quarantine: it has changed" in done.stderr


def test_redeliver_ends_with_69_if_the_destination_is_unavailable(run_cli, quarantine, tmp_path):
    (tmp_path / "file").touch()
    done = run_cli("redeliver", "--all", "-o", "file/out", *STATE, "-q")
    assert done.returncode == 69, done.stderr
    assert not any(copy.record.redelivered_at for copy in quarantine.copies()[0])


def test_redeliver_needs_tasks_or_all_and_a_destination(run_cli, quarantine):
    expect_error(run_cli("redeliver", "-o", "out"), 2, "name the tasks to deliver, or use --all")
    expect_error(run_cli("redeliver", "t1", "--all", "-o", "out"), 2, "name the tasks to deliver, or use --all")
    expect_error(run_cli("redeliver", "--all", *STATE), 78, "no destination")


def test_unreadable_copies_are_reported_and_hide_no_other(run_cli, quarantine):
    make_copy(quarantine.path / "bad\x1b", b"{")
    done = run_cli("redeliver", "t1", "-o", "out", *STATE, "-q")
    assert (done.returncode, done.stdout) == (0, "redelivered 1 task: 2 files, 12 B\n")
    assert "bad?: not readable" in done.stderr


def unreadable_record(folder):
    record = folder / "quarantine.json"
    record.write_bytes(record.read_bytes()[:50])


def replaced_by_a_link(folder):
    folder.rename(folder.parent.parent / "moved")
    folder.symlink_to(folder.parent.parent / "moved")


@pytest.mark.parametrize("damage", [unreadable_record, replaced_by_a_link])
def test_unreadable_copy_is_reported_with_exit_code_1(run_cli, quarantine, tmp_path, damage):
    """The other copies are delivered and listed; a named task is not affected by the copy of another one."""
    damage(quarantine.path / "t2")
    done = run_cli("redeliver", "--all", "--incomplete", "-o", "out", "-q", *STATE)
    assert (done.returncode, "t2: not readable: " in done.stderr) == (1, True)
    assert "redelivered 2 tasks" in done.stdout
    done = run_cli("quarantine", "list", *STATE)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)
    assert run_cli("redeliver", "t1", "-o", "out", "-q", *STATE).returncode == 0
    assert run_cli("quarantine", "export", "t1", "new", *STATE).returncode == 0
    anyio.run(_store_new_copy, quarantine, specification(("in", "b.csv", "new")))
    damage(quarantine.find("t1")[-1].folder) if damage is unreadable_record else None
    if damage is unreadable_record:
        assert run_cli("redeliver", "t1", "-o", "out2", "-q", *STATE).returncode == 1
        assert run_cli("quarantine", "export", "t1", "newer", *STATE).returncode == 1
        assert run_cli("quarantine", "show", "t1", *STATE).returncode == 1


@pytest.mark.parametrize("command", [["redeliver", "--all", "-o", "out"], ["quarantine", "list"]])
def test_missing_state_folder_or_quarantine_is_an_error(run_cli, tmp_path, command):
    """Otherwise a mistyped folder would look like an empty quarantine."""
    done = run_cli(*command, "--state", "typo")
    expect_error(done, 1, "state folder typo: does not exist", "/var/lib/aluma-async")
    (tmp_path / "state").mkdir()
    done = run_cli(*command, *STATE)
    expect_error(done, 1, "quarantine state/quarantine: does not exist", "no copy was ever stored")


def test_redeliver_all_leaves_out_tasks_that_were_exported_meanwhile(run_cli, quarantine, tmp_path):
    """A restored backup of the quarantine must not deliver again what a consumer has already processed."""

    async def export(task_id, at):
        journal = SqliteJournal(tmp_path / "state")
        await journal.load()
        journal.put_export(ExportRecord(task_id, at, 1, 1, 1.0))
        await journal.flush()
        journal.close()

    stored_at = quarantine.find("t1")[0].record.stored_at
    anyio.run(export, "t1", stored_at + 60)
    anyio.run(export, "t2", stored_at - 60)
    done = run_cli("redeliver", "--all", "--incomplete", "-o", "out", "-q", *STATE)
    assert (done.returncode, "redelivered 2 tasks" in done.stdout) == (1, True), done.stderr
    assert "t1: not redelivered: it was exported at " in done.stderr
    done = run_cli("redeliver", "t1", "-o", "out", "-q", *STATE)
    assert (done.returncode, "redelivered 1 task" in done.stdout) == (0, True), done.stderr
    (tmp_path / "state" / "journal.sqlite3").write_bytes(b"damaged" * 1000)
    done = run_cli("redeliver", "--all", "--again", "--incomplete", "-o", "out", "-q", *STATE)
    assert (done.returncode, "redelivered 3 tasks" in done.stdout) == (0, True), done.stderr
    assert "not known which tasks were exported" in done.stderr
