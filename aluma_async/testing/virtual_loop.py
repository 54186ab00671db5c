"""``VirtualTimeLoop``: an asyncio event loop in virtual time, and ``Process``, which can be killed.

The clock starts at 0 and jumps to the next timer, so that hours pass in moments. Executor calls run immediately, in the
loop's own thread. Sockets do not work. A program does the same things in the same order each time.
"""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

LIVELOCK_STEPS = 50_000
"""Number of loop steps at one point in time after which the loop raises ``LivelockError``."""

_OWNER: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("owner", default=None)


class DeadlockError(RuntimeError):
    """The program waits, and nothing is scheduled that could wake it."""


class LivelockError(RuntimeError):
    """The program runs without end, and no time passes."""


class Process:
    """Simulates an operating system process: a coroutine and everything that it starts."""

    def __init__(self) -> None:
        self.alive = True
        self.ended = asyncio.Event()
        """Set when the main coroutine has ended or the process was killed."""
        self.tasks: list[asyncio.Task[Any]] = []
        """All tasks of the process, because asyncio holds tasks weakly and dead ones must not be collected early."""

    def start(self, main: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start the process in the running loop."""
        context = contextvars.copy_context()
        context.run(_OWNER.set, self)
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualTimeLoop):
            loop.processes.append(self)
        task = loop.create_task(main, context=context)
        task.add_done_callback(lambda _: self.ended.set())
        return task

    @property
    def killed(self) -> bool:
        """Return whether ``kill`` was called."""
        return not self.alive

    def kill(self) -> None:
        """End the process as SIGKILL does: after this step none of its code runs, not even ``finally``."""
        self.alive = False
        self.ended.set()


class _Task(asyncio.Task[T]):
    """A task whose hash is a serial number, so that the order of tasks in a set is the same in each run."""

    owner: Process | None = None
    number: int

    def __hash__(self) -> int:
        try:
            return self.number
        except AttributeError:
            self.number = self.get_loop().next_number()  # type: ignore[attr-defined]
            return self.number


def _make_task(loop: Any, coro: Any, **options: Any) -> _Task[Any]:
    task = _Task(coro, loop=loop, **options)
    loop.created_tasks.append(task)
    context = options.get("context")
    owner = context.get(_OWNER) if context else _OWNER.get()
    if owner:
        task.owner = owner
        owner.tasks.append(task)
    return task


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop whose clock is a number.

    Simulations spend most of their time here, so ``_run_once`` avoids function calls where asyncio's own code has them.
    """

    _ready: deque["_Handle | _Timer"]  # Defined by asyncio: the handles of the next step,
    _scheduled: list["_Moment"]  # and a heap of timers.

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        """Number of steps so far."""
        self.processes: list[Process] = []
        self.created_tasks: list[_Task[Any]] = []
        """All tasks, including those that have ended."""
        self._moved_at = 0
        self._step_callbacks: dict[int, Callable[[], None]] = {}
        self.next_number = count().__next__
        super().__init__()
        self.asyncgens: Any = self._asyncgens  # type: ignore[attr-defined]
        self.set_task_factory(_make_task)

    def at_step(self, number: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` just before a step; steps are counted from the start of the loop."""
        self._step_callbacks[number] = callback

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def discard_scheduled(self) -> None:
        """Discard all scheduled callbacks."""
        self._ready.clear()
        self._scheduled.clear()

    def _run_once(self) -> None:
        """Run all callbacks that are ready; if there are none, first move the clock to the next timer."""
        self.steps += 1
        if self._step_callbacks and (callback := self._step_callbacks.pop(self.steps, None)):
            callback()
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0].timer._cancelled:  # noqa: SLF001
            heapq.heappop(scheduled)
        if not ready:
            if not scheduled:
                raise DeadlockError("all tasks wait, and nothing is scheduled")
            if scheduled[0] > self.now:
                self.now = scheduled[0].timer.when()
                self._moved_at = self.steps
        if self.steps - self._moved_at > LIVELOCK_STEPS:
            raise LivelockError(f"more than {LIVELOCK_STEPS} steps at {self.now:.6f} s")
        while scheduled and scheduled[0] <= self.now:
            ready.append(heapq.heappop(scheduled).timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:  # noqa: SLF001
                owner = handle._context.get(_OWNER)  # noqa: SLF001
                if owner is None or owner.alive:
                    try:
                        handle._context.run(handle._callback, *handle._args)  # noqa: SLF001
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:  # noqa: BLE001 - reported as asyncio does
                        self.call_exception_handler({"message": f"{handle} failed", "exception": error})

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Schedule a callback for the next step. It is skipped if its process is dead by then."""
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a callback after ``delay`` seconds, as ``call_at`` does."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a callback at a time. It is skipped if its process is dead by then."""
        moment = _Moment(when)
        moment.timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, moment)
        return moment.timer

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run a blocking call immediately; its result is set in the next step of the loop."""
        del executor
        future: asyncio.Future[T] = self.create_future()

        def set_if_pending(setter: Callable[[Any], None], value: object) -> None:
            if not future.done():
                setter(value)

        try:
            result = func(*args)
        except BaseException as error:  # noqa: BLE001 - passed to the future, as an executor does
            self.call_soon(set_if_pending, future.set_exception, error)
        else:
            self.call_soon(set_if_pending, future.set_result, result)
        return future


class _Handle(asyncio.Handle):
    """A handle without the data of asyncio's debug mode."""

    __slots__ = ()
    _callback: Any
    _context: contextvars.Context

    def __init__(self, callback: Any, args: Any, loop: VirtualTimeLoop, context: contextvars.Context | None) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False
        self._repr = self._source_traceback = None

    def cancel(self) -> None:
        self._cancelled = True
        self._callback, self._args = None, ()


class _Timer(_Handle, asyncio.TimerHandle):
    __slots__ = ()

    def __init__(
        self, when: float, callback: Any, args: Any, loop: VirtualTimeLoop, context: contextvars.Context | None
    ) -> None:
        _Handle.__init__(self, callback, args, loop, context)
        self._when = when


class _Moment(float):
    """The time of a timer in the heap. As a float it is compared without a call of a Python method."""

    __slots__ = ("timer",)
    timer: _Timer


UNOWNED_CONTEXT = contextvars.Context()
"""A context without a process: callbacks scheduled in it run even if the process that scheduled them is killed."""
