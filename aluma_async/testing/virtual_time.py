"""Virtual time: an event loop whose clock jumps to the next timer, so that hours pass in moments.

Executor calls run at once, in the loop's own thread. No socket works. Trap: aiohttp's pool of idle
connections reads ``time.monotonic``, which stands still here.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

LIVELOCK_STEPS = 50_000
"""Steps of the loop without time moving after which something spins."""


class SleepForeverError(RuntimeError):
    """Nothing is left that could ever wake the program: a deadlock."""


class LivelockError(RuntimeError):
    """The program goes on and on, and no time passes."""


class _Selector(selectors.BaseSelector):
    """Instead of waiting it moves the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self._steps = 0
        self._keys: dict[int, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise SleepForeverError("nothing is scheduled, and nothing can happen any more")
        if timeout > 0:
            self.now += timeout
            self._steps = 0
        self._steps += 1
        if self._steps > LIVELOCK_STEPS:
            raise LivelockError(f"{LIVELOCK_STEPS} steps at {self.now:.6f} s")
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return self._keys[fd]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that begins at 0 seconds."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._virtual.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run a blocking call now; its result comes with the next step of the loop."""
        del executor
        future: asyncio.Future[T] = self.create_future()

        def settle(set_it: Callable[[Any], None], value: object) -> None:
            if not future.done():
                set_it(value)

        try:
            result = func(*args)
        except BaseException as error:  # noqa: BLE001 - handed on, as an executor does
            self.call_soon(settle, future.set_exception, error)
        else:
            self.call_soon(settle, future.set_result, result)
        return future


def run_virtual(main: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
    """Run a coroutine function to its end in virtual time. Raises ``SleepForeverError``, ``LivelockError``."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main(*args))
