"""Fail is sent only while a certain copy is in the quarantine, also if it is repeated."""

import shutil
import time

from aluma_async.testing import SimulatedAluma
from tests.acceptance.test_fail import CONFIG, check_copies
from tests.support.holds import end_holds
from tests.support.processes import MAX_SECONDS, PENDING, environment, start_program, wait_until
from tests.support.proxy import proxy_for
from tests.support.server import aluma_server

FOLDER = '[destinations.default]\ntype = "folder"\npath = "out"\n'
CUT = {"documents": [{"files": [{"folder": "", "filename": "a.txt", "source": "content", "content": "cut \ud83d"}]}]}
"""An Export Specification whose text a proxy has cut inside an emoji."""
TABLE = (
    '[destinations.db]\ntype = "sql"\nurl = "sqlite:///x.db"\ntable = "rows"\ncreate = true\n[[routes]]\nto = ["db"]\n'
)
REAL, BUSY = "the only real content", (503, "text/plain", "busy")
PROXY_TEXT = (200, "application/octet-stream", "upstream connect error or disconnect/reset before headers")


def with_a_download(specification):
    """Replace all files by one whose kind cannot be checked."""
    return {
        "documents": [
            {"files": [{"folder": "", "filename": "data.bin", "source": "url", "content": None, "url": "/f/data"}]}
        ]
    }


def test_fail_keeps_the_task_when_its_file_differs_from_the_confirmed_copy(run_cli, tmp_path):
    """One of the two answers is a proxy's. The task stays at Aluma, and the quarantine has both."""
    (tmp_path / "config.toml").write_text(CONFIG + TABLE)
    with aluma_server(1) as aluma, proxy_for(aluma.base_url) as proxy:
        proxy.change = with_a_download
        proxy.answer = lambda verb: (200, "application/octet-stream", REAL) if verb == "file" else None
        done = run_cli("--once", "--base-url", proxy.base_url, "-q")
        assert done.returncode == 1, done.stderr
        proxy.answer = lambda verb: PROXY_TEXT if verb == "file" else None
        (task_id,) = aluma.simulated.ids()
        for _ in range(2):
            done = run_cli("fail", "--yes", "--base-url", proxy.base_url, "-q", "--", task_id)
            assert done.returncode == 1
            assert "file 0 was fetched twice with different content" in done.stderr
        assert not proxy.count("fail")
        assert aluma.simulated.ids(PENDING) == [task_id]
    contents = {path.read_text() for path in (tmp_path / "state/quarantine").rglob("data.bin")}
    assert contents == {REAL, PROXY_TEXT[2]}


def test_fail_is_not_repeated_when_the_copy_is_gone(run_cli, tmp_path):
    """An unconfirmed Fail is repeated only while its copy is there; otherwise the claim is released."""
    (tmp_path / "config.toml").write_text(CONFIG + FOLDER)
    quarantine = tmp_path / "state/quarantine"
    with aluma_server(1, impossible_tasks=(0,)) as aluma, proxy_for(aluma.base_url) as proxy:
        proxy.answer = lambda verb: BUSY if verb == "fail" else None
        arguments = ("--base-url", proxy.base_url, "-q")
        env = environment(tmp_path, SimulatedAluma.client_secret, {})
        assert run_cli("--once", *arguments).returncode == 1, "the first attempt parks the task"
        end_holds(tmp_path / "state")
        with start_program(*arguments, cwd=tmp_path, env=env):
            wait_until(lambda: proxy.count("fail"))
            time.sleep(0.3)
            shutil.rmtree(quarantine)
            proxy.answer = lambda verb: None
            wait_until(lambda: proxy.count("cancel") or aluma.simulated.ids("failed"))
        check_copies(tmp_path / "state", aluma)
        assert proxy.count("cancel")


def test_text_that_a_proxy_has_cut_is_exported_when_it_is_whole_again(run_cli, tmp_path):
    """The reply to one Start is no reason for Fail, whatever else is exported meanwhile."""
    (tmp_path / "config.toml").write_text(CONFIG + FOLDER)
    with aluma_server(12) as aluma, proxy_for(aluma.base_url) as proxy:
        cut = set()

        def change(specification):
            first = specification["documents"][0]["files"][0]["filename"]
            is_cut = first not in cut and len(cut) < 6
            cut.add(first)
            return CUT if is_cut else specification

        proxy.change = change
        arguments = ("--once", "--base-url", proxy.base_url, "-q")
        assert run_cli(*arguments).returncode == 1
        assert (proxy.count("fail"), len(aluma.simulated.ids(PENDING))) == (0, 6)
        end_holds(tmp_path / "state")
        run_cli(*arguments)
        assert len(aluma.simulated.ids("completed")) == 12
        assert not proxy.count("fail")


def test_exporter_ends_when_its_journal_is_removed(tmp_path):
    """Otherwise commands such as 'quarantine delete' could not see what it is doing."""
    (tmp_path / "config.toml").write_text(CONFIG + FOLDER)
    with aluma_server(1) as aluma:
        env = environment(tmp_path, SimulatedAluma.client_secret, {})
        with start_program("--base-url", aluma.base_url, cwd=tmp_path, env=env) as program:
            wait_until(lambda: aluma.simulated.ids("completed"))
            for path in (tmp_path / "state").glob("journal*"):
                path.unlink()
            _, errors = program.communicate(timeout=MAX_SECONDS)
            assert program.returncode == 1, errors
            assert "was removed or replaced while the exporter runs" in errors
