"""Threads that may hang for ever."""

import subprocess
import sys
import textwrap
import threading
import time

import pytest

from aluma_async.concurrency.daemon_threads import END_SECONDS, DaemonThreads


def test_threads_run_each_step_with_its_result_or_error():
    with DaemonThreads(3, "test") as threads:
        futures = [threads.submit(divmod, 10, number) for number in range(50)]
        assert [future.result(5) for future in futures[1:]] == [divmod(10, number) for number in range(1, 50)]
        with pytest.raises(ZeroDivisionError):
            futures[0].result(5)
    with pytest.raises(RuntimeError):
        threads.submit(divmod, 1, 1)


def test_threads_are_started_up_to_their_limit():
    may_end, running = threading.Event(), []
    with DaemonThreads(3, "test") as threads:
        futures = [threads.submit(lambda: (running.append(1), may_end.wait(5))) for _ in range(10)]
        time.sleep(0.2)
        assert len(running) == 3
        may_end.set()
        assert all(future.result(5) for future in futures)


def test_shutdown_does_not_wait_for_a_hanging_step():
    may_end = threading.Event()
    threads = DaemonThreads(2, "test")
    threads.submit(may_end.wait, 20)
    waiting = [threads.submit(may_end.wait, 20) for _ in range(2)][-1]
    started_at = time.monotonic()
    threads.shutdown(cancel_futures=True)
    assert time.monotonic() - started_at < END_SECONDS + 1
    assert waiting.cancelled()
    may_end.set()


def test_process_ends_although_a_step_hangs():
    program = """
        import time
        from aluma_async.concurrency.daemon_threads import DaemonThreads
        with DaemonThreads(1, "test") as threads:
            threads.submit(time.sleep, 60)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=30, check=True)


def test_hanging_steps_leave_the_other_threads_to_the_next_ones():
    """Steps that run one after the other share a thread."""
    may_end = threading.Event()
    with DaemonThreads(4, "share") as threads:
        for _ in range(200):
            threads.submit(int).result(5)
        assert sum(thread.name.startswith("share") for thread in threading.enumerate()) == 1
        for hanging in range(3):
            threads.submit(may_end.wait, 20)
            assert threads.submit(int).result(5) == 0, hanging
        may_end.set()


def test_step_shares_a_thread_if_no_other_can_be_started(monkeypatch):
    """The first step needs one; none runs after ``submit`` has raised."""
    ran = []
    with DaemonThreads(4, "test") as threads:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", raise_no_room)
            with pytest.raises(RuntimeError, match="new thread"):
                threads.submit(ran.append, 1)
        may_end = threading.Event()
        first = threads.submit(may_end.wait, 20)
        monkeypatch.setattr(threading.Thread, "start", raise_no_room)
        second = threads.submit(ran.append, 2)
        may_end.set()
        first.result(5)
        second.result(5)
    assert ran == [2]


def raise_no_room(_):
    raise RuntimeError("can't start new thread")
