"""``DaemonThreads``: an executor whose threads may hang for ever, because a file server may never answer a call."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar

from aluma_async.clock import thread_time

P = ParamSpec("P")
T = TypeVar("T")

END_SECONDS = 2.0
"""Seconds for which ``shutdown`` waits for threads."""


class DaemonThreads(Executor):
    """At most ``limit`` threads. Unlike ``ThreadPoolExecutor``, the end of the process does not wait for them."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._steps: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._lock = Lock()
        self._unfinished = 0  # steps that wait or run; there are as many threads, up to the limit
        self._is_shut_down = False

    def submit(self, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Run a step in one of the threads. Raises ``RuntimeError`` after ``shutdown``."""
        future: Future[T] = Future()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("the threads have been shut down")
            if len(self._threads) < min(self._unfinished + 1, self._limit):
                thread = Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no room for another one at present
                    if not self._threads:
                        raise
                else:
                    self._threads.append(thread)
            self._unfinished += 1
            self._steps.put((future, partial(step, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no further step, and wait for the threads, but not for those that hang."""
        with self._lock:
            self._is_shut_down = True
            while cancel_futures:
                try:
                    step = self._steps.get_nowait()
                except Empty:
                    break
                if step:
                    step[0].cancel()
                    self._unfinished -= 1
            for _ in self._threads:
                self._steps.put(None)
        ends_at = thread_time() + END_SECONDS
        for thread in self._threads if wait else ():
            thread.join(max(0.0, ends_at - thread_time()))

    def _run(self) -> None:
        while step := self._steps.get():
            future, call = step
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - raised to whoever waits for the future
                    self._finish()
                    future.set_exception(error)
                else:
                    self._finish()
                    future.set_result(result)
                    del result
            else:
                self._finish()
            del step, future, call  # an idle thread must not keep what they refer to

    def _finish(self) -> None:
        with self._lock:
            self._unfinished -= 1
