"""A simulated Aluma that serves HTTP from a thread of the test's process, so that the test can change its tasks."""

import threading
import time
from contextlib import contextmanager

import anyio

from aluma_async.testing import Behaviour, SimulatedAluma, serve


class Aluma:
    """The server; ``simulated`` is its state, ``base_url`` its address."""

    def __init__(self, tasks, **behaviour):
        self._tasks, self._behaviour = tasks, Behaviour(**behaviour)
        self._commands = []
        self._started, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=anyio.run, args=(self._run,))
        self._thread.start()
        assert self._started.wait(30)

    async def _run(self):
        self.simulated = SimulatedAluma(self._tasks, profile="small", behaviour=self._behaviour, now=time.monotonic)
        async with serve(self.simulated) as self.base_url:
            self._started.set()
            while not self._stop.is_set():
                await anyio.sleep(0.01)
                while self._commands:
                    self._commands.pop()()

    def time_out(self):
        """Delete all tasks as overdue."""
        done = threading.Event()
        self._commands.append(lambda: (self.simulated.time_out(), done.set()))
        assert done.wait(30)

    def close(self):
        self._stop.set()
        self._thread.join()


@contextmanager
def aluma_server(tasks, **behaviour):
    """Serve a simulated Aluma."""
    aluma = Aluma(tasks, **behaviour)
    try:
        yield aluma
    finally:
        aluma.close()
