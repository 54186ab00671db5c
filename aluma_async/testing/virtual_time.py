"""Virtual time: an event loop whose clock jumps to the next timer, so that hours pass in moments.

Executor calls run at once, in the loop's own thread. No socket works. The same program does the same things in
the same order each time. A ``Process`` can be killed: nothing that it began runs any more, as after SIGKILL.
Trap: aiohttp's pool of idle connections reads ``time.monotonic``, which stands still here.
"""

import asyncio
import contextvars
import gc
import heapq
import sys
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count, islice
from typing import Any, TypeVar

from anyio._backends import _asyncio as anyio_backend

T = TypeVar("T")

LIVELOCK_STEPS = 50_000
"""Steps of the loop without time moving after which something spins."""

_OWNER: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("owner", default=None)


class DeadlockError(RuntimeError):
    """Nothing is left that could ever wake the program: a deadlock."""


class LivelockError(RuntimeError):
    """The program goes on and on, and no time passes."""


class Process:
    """What would be a process of its own: a coroutine, and all that it begins."""

    def __init__(self) -> None:
        self.alive = True
        self.ended = asyncio.Event()
        """Set when its main coroutine has ended, or it was killed."""
        self.tasks: list[asyncio.Task[Any]] = []
        """All it began: the loop holds tasks weakly, and one that is dead must not be taken apart before the end."""

    def start(self, main: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start it in the running virtual loop."""
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
        """Whether it was ended, instead of having come to its end."""
        return not self.alive

    def kill(self) -> None:
        """End it between two steps of the loop: no handler, no ``finally`` and no shield of it runs any more."""
        self.alive = False
        self.ended.set()


class _Task(asyncio.Task[T]):
    """Hashed by number: tasks in a set come out in the same order in each run, as addresses would not let them."""

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
    """A loop that begins at 0 seconds.

    Simulations spend their time here: what is called at each step is written out, instead of calling asyncio's own.
    """

    _ready: deque["_Handle | _Timer"]  # of asyncio's base class: what runs in the next step,
    _scheduled: list["_Moment"]  # and what has its time, as a heap

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        """Steps made so far."""
        self.processes: list[Process] = []
        self.created_tasks: list[_Task[Any]] = []
        """All tasks, also those that have ended."""
        self._moved_at = 0
        self._step_callbacks: dict[int, Callable[[], None]] = {}
        self.next_number = count().__next__
        super().__init__()
        self.asyncgens: Any = self._asyncgens  # type: ignore[attr-defined]
        self.set_task_factory(_make_task)

    def at_step(self, number: int, act: Callable[[], None]) -> None:
        """Do something just before a step, counted from the loop's beginning."""
        self._step_callbacks[number] = act

    def time(self) -> float:
        """The virtual time in seconds."""
        return self.now

    def discard_scheduled(self) -> None:
        """Drop all that is scheduled."""
        self._ready.clear()
        self._scheduled.clear()

    def _run_once(self) -> None:
        """Make a step: all that is ready, or else the clock moves to the next that has its time."""
        self.steps += 1
        if self._step_callbacks and (callback := self._step_callbacks.pop(self.steps, None)):
            callback()
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0].timer._cancelled:  # noqa: SLF001
            heapq.heappop(scheduled)
        if not ready:
            if not scheduled:
                raise DeadlockError("nothing is scheduled, and nothing can happen any more")
            if scheduled[0] > self.now:
                self.now = scheduled[0].timer.when()
                self._moved_at = self.steps
        if self.steps - self._moved_at > LIVELOCK_STEPS:
            raise LivelockError(f"{LIVELOCK_STEPS} steps at {self.now:.6f} s")
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
                    except BaseException as error:  # noqa: BLE001 - told as asyncio tells it
                        self.call_exception_handler({"message": f"{handle} failed", "exception": error})

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Schedule a step, unless the process that wants it is dead by then."""
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As ``call_at``."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a step for later; it is left out if its process is dead by then."""
        moment = _Moment(when)
        moment.timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, moment)
        return moment.timer

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


class _Handle(asyncio.Handle):
    """Without what asyncio keeps for its debug mode."""

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
    """A time in the loop's heap: compared as the number it is, not by a call of Python as a timer would be."""

    __slots__ = ("timer",)
    timer: _Timer


UNOWNED_CONTEXT = contextvars.Context()
"""A context that belongs to no process: what is scheduled in it happens whoever is killed."""


def run_virtual(main: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
    """Run a coroutine function to its end in virtual time. Raises ``DeadlockError``, ``LivelockError``."""
    scope = anyio_backend.CancelScope
    before = scope.__hash__
    scope.__hash__ = lambda _: 0  # type: ignore[assignment,method-assign]  # as for tasks; there are few
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(main(*args))
    finally:
        _shut_down(loop)
        scope.__hash__ = before  # type: ignore[method-assign]


def _shut_down(loop: VirtualTimeLoop) -> None:
    """Cancel what is left, and take the tasks of dead processes apart, which nothing may wake any more."""
    unfinished = [task for task in loop.created_tasks if not task.done()]
    alive = [task for task in unfinished if not (task.owner and task.owner.killed)]
    some_are_dead = len(alive) < len(unfinished)
    del unfinished
    try:
        for task in alive:
            task.cancel()
        if alive:
            loop.run_until_complete(asyncio.gather(*alive, return_exceptions=True))
        if some_are_dead:
            _close_dead_tasks(loop)
        else:
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.created_tasks.clear()
        loop.close()


def _close_dead_tasks(loop: VirtualTimeLoop) -> None:
    """Close coroutines whose handlers have nobody any more to hear what they raise."""
    loop.asyncgens.clear()
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    asyncio._set_running_loop(loop)  # noqa: SLF001 - handlers ask for it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task in islice(loop.created_tasks, 100_000):  # it grows on the way: one may begin another
                if not task.done():
                    _close_coroutine(task)
            for process in loop.processes:
                process.tasks.clear()
            loop.created_tasks.clear()
            loop.discard_scheduled()
            task = None  # type: ignore[assignment]
            if gc.isenabled():
                gc.collect()  # what hangs in circles is taken apart now, too, while nobody hears it
    finally:
        sys.unraisablehook = hook
        asyncio._set_running_loop(None)  # noqa: SLF001


def _close_coroutine(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - dead on purpose
    anyio_backend._task_states.pop(task, None)  # noqa: SLF001 - it keeps the task alive through its scopes
    coroutine = task.get_coro()
    for _ in range(50):  # a handler that awaits once more does not end at the first time
        try:
            coroutine.close()
        except BaseException:  # noqa: BLE001, S112
            continue
        break
