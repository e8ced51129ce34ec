"""The event loop of all synchronous objects, in a thread of its own.

Rule 1: the loop starts with the first call, in a daemon thread. A forked child, and a program whose loop ended, start
    another; what was open in the old one raises a `ClosedError`.
Rule 2: a calling thread waits for its call, and meanwhile runs the plain callbacks of that call. So thread-locals,
    context variables and debuggers work in a callback, and it may block.
Rule 3: an exception that interrupts a wait, such as that of Ctrl-C, cancels the call.
Rule 4: no wait outlives the loop: when its thread ends, all calls fail.
Rule 5: the garbage collector may run in any thread, while any lock is held. What it calls only posts to the loop.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from functools import partial
from inspect import isawaitable
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, cast

import anyio
import anyio.to_thread
import attrs
from anyio.from_thread import BlockingPortal

from oxygent_client.errors import ClosedError, ConfigurationError

T = TypeVar("T")

WAKE_SECONDS: Final = 1.0
"""Windows delivers Ctrl-C only between two waits."""
INTERRUPT_SECONDS: Final = 5.0
"""How long an interrupted call may take to close its connection before the interruption is raised."""
EXIT_SECONDS: Final = 3.0
"""How long the interpreter's exit waits for open runs to be closed."""


@attrs.frozen
class _Result(Generic[T]):
    """The end of a call."""

    value: T | None = None
    error: BaseException | None = None


@attrs.frozen
class _Callback:
    """A callback of the call."""

    run: Callable[[], None]


class Waiter(Generic[T]):
    """A thread that waits for a result, and runs callbacks until it has it."""

    def __init__(self) -> None:
        self.is_over = False
        self._steps: queue.SimpleQueue[_Callback | _Result[T]] = queue.SimpleQueue()
        """Callbacks to run, then the result."""

    # --- in the event loop ---

    def finish(self, *, value: T | None = None, error: BaseException | None = None) -> None:
        """Hand the result to the thread, unless it has one."""
        if not self.is_over:
            self.is_over = True
            self._steps.put(_Result(value, error))

    def ask(self, callback: Callable[[], None]) -> None:
        """Let the thread run `callback`."""
        self._steps.put(_Callback(callback))

    # --- in the waiting thread ---

    def wait(self) -> _Result[T]:
        """Run the callbacks until there is a result."""
        while True:
            with suppress(queue.Empty):
                step = self._steps.get(timeout=WAKE_SECONDS)
                if not isinstance(step, _Callback):
                    return step
                step.run()

    def wait_until_over(self, seconds: float) -> None:
        """Wait for the end of a cancelled call, without running its callbacks."""
        with suppress(queue.Empty):
            while isinstance(self._steps.get(timeout=seconds), _Callback):
                pass


class Cancellation:
    """A cancel scope that can be cancelled before it is entered."""

    def __init__(self) -> None:
        self._scope: anyio.CancelScope | None = None
        self._is_cancelled = False

    def scope(self) -> anyio.CancelScope:
        """Return the scope, to be entered."""
        self._scope = anyio.CancelScope()
        if self._is_cancelled:
            self._scope.cancel()
        return self._scope

    def cancel(self) -> None:
        """Cancel the scope, now or once it is entered."""
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()


class Call(Waiter[T]):
    """One async function, for which a thread waits."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        super().__init__()
        self._function = function
        self._cancellation = Cancellation()
        self.cancel = self._cancellation.cancel

    async def execute(self) -> None:
        """Run the function, and hand its result to the waiting thread.

        A cancellation that is not of this call passes through; the canceller hands over an error.
        """
        token = _CALL.set(self)
        try:
            with self._cancellation.scope():
                self.finish(value=await self._function())
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001  (it is raised in the waiting thread)
            self.finish(error=error)
        finally:
            _CALL.reset(token)
        self.finish(error=ClosedError("the call was cancelled"))


_CALL: Final[contextvars.ContextVar[Waiter[Any]]] = contextvars.ContextVar("_CALL")
"""The call that a task of the loop works for."""


async def in_calling_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a plain function in the thread that waits for the present call; without one, in a worker thread."""
    call = _CALL.get(None)
    function = partial(function, *args, **kwargs)
    if call is None or call.is_over:
        returned = await anyio.to_thread.run_sync(function)
    else:
        loop, answered, results = asyncio.get_running_loop(), anyio.Event(), list[_Result[Any]]()

        def answer() -> None:
            try:
                results.append(_Result(function()))
            except Exception as error:  # noqa: BLE001  (raised in the task that called)
                results.append(_Result(error=error))
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(answered.set)

        call.ask(answer)
        await answered.wait()
        (result,) = results
        if result.error is not None:
            raise result.error
        returned = result.value
    return await returned if isawaitable(returned) else returned


class Portal:
    """An event loop in a daemon thread."""

    def __init__(self, make_thread: Callable[..., threading.Thread] = threading.Thread) -> None:
        self.is_over = False
        self._why = "the thread of the event loop has ended"
        self._cause: BaseException | None = None
        self._waiting: set[Waiter[Any]] = set()
        self._has_opened = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        # An empty context: the starting thread may run an event loop, and anyio notes that in a context variable.
        target = partial(contextvars.Context().run, self._main)
        self._thread = make_thread(target=target, name="oxygent_client.sync", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the interpreter is exiting, or the system has no thread left
            self._end(type(error), error, None)
        self._has_opened.wait()

    # --- in the thread of the loop ---

    def _main(self) -> None:
        with ExitStack() as stack:
            stack.push(self._end)
            anyio.run(self._serve)

    async def _serve(self) -> None:
        self._stop = anyio.Event()
        async with BlockingPortal() as self._tasks:
            self._loop = asyncio.get_running_loop()
            self._has_opened.set()
            await self._stop.wait()
            await self._tasks.stop(cancel_remaining=True)

    def _end(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """Fail all calls; an exception becomes their cause."""
        self._cause = error
        self.is_over = True
        self._has_opened.set()
        for waiter in [*self._waiting]:
            waiter.finish(error=self.closed_error())
        return True

    # --- in any other thread ---

    @property
    def is_own_thread(self) -> bool:
        """Whether this is the thread of the loop."""
        return threading.current_thread() is self._thread

    def run(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Run an async function in the loop, and wait for its result.

        Raises:
            ClosedError: the loop has ended.
            ConfigurationError: this is the thread of the loop.
        """
        call = Call(partial(function, *args, **kwargs))
        return self.perform(call, partial(self.start_task, call.execute), call.cancel)

    def perform(self, waiter: Waiter[T], start: Callable[[], object], cancel: Callable[[], object]) -> T:
        """Start what has a result for `waiter`, and wait for it; `cancel`, run in the loop, makes it end soon."""
        if self.is_own_thread:
            raise ConfigurationError(
                "a synchronous agent cannot be used in its own event loop (an async handler, or a function that must"
                " not block, such as event_filter); use a plain handler, or SSEOxyGent"
            )
        self._waiting.add(waiter)
        try:
            start()
            result = waiter.wait()
        except ClosedError:
            raise
        except BaseException:
            with suppress(ClosedError):
                self.post(cancel)
                waiter.wait_until_over(INTERRUPT_SECONDS)
            raise
        finally:
            self._waiting.discard(waiter)
        try:
            if result.error is not None:
                raise result.error
            return cast("T", result.value)
        finally:
            del result, waiter  # the traceback of the error refers to this frame: without a cycle, all goes at once

    def start_task(self, function: Callable[[], Awaitable[object]]) -> None:
        """Start a task in the loop, in the context of this thread.

        Raises:
            ClosedError: the loop has ended.
        """
        self._check()
        try:
            self._tasks.start_task_soon(function)
        except RuntimeError as error:
            raise self.closed_error() from error

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function soon in the loop. It does not wait, and may be used in any thread.

        Raises:
            ClosedError: the loop has ended.
        """
        self._check()
        assert self._loop is not None  # it has opened
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError as error:
            raise self.closed_error() from error

    def _check(self) -> None:
        if self.is_over:
            raise self.closed_error()

    def closed_error(self) -> ClosedError:
        """The error of a call after the end of the loop."""
        error = ClosedError(f"{self._why}; what was open in it is closed")
        error.__cause__ = self._cause
        return error

    def stop(self, why: str, seconds: float) -> None:
        """End the loop, and wait at most `seconds` for it: open runs are cancelled and closed."""
        self._why = why
        with suppress(ClosedError):
            self.post(self._stop.set)
            self._thread.join(seconds)

    def give_up(self, why: str) -> None:
        """Declare the loop ended without touching it: after a fork it belongs to the parent process."""
        self._why, self.is_over = why, True


class Block(Generic[T]):
    """An `async with` block in one task of the loop: entered, used and left from other threads.

    Its task refers to no object of the caller's, so that the block can be left when such an object is garbage.
    """

    def __init__(self, portal: Portal, manager: AbstractAsyncContextManager[T]) -> None:
        self.portal = portal
        self._manager = manager
        self._calls: asyncio.Queue[Call[Any] | None] = asyncio.Queue()
        """What to do in the block; None: leave it."""
        self._cancellation = Cancellation()
        self._cancel = self._cancellation.cancel
        self._current: Call[Any] | None = None
        """What is being done in the block."""
        self._users: set[int] = set()
        """The threads that wait for something to be done."""
        self._is_open = False
        self._leaving: list[Waiter[bool]] = []
        self._error: BaseException | None = None
        """The exception with which the block is left."""
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the block was left, or its loop has ended."""
        return self._is_over or self.portal.is_over

    def enter(self) -> T:
        """Enter the block and return its value."""
        opening: Waiter[T] = Waiter()
        start = partial(self.portal.start_task, partial(self._hold, opening))
        return self.portal.perform(opening, start, self._cancel)

    def do(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run an async function in the task of the block, and wait for its result.

        An interruption leaves the block.
        """
        this = threading.get_ident()
        if this in self._users:
            raise ConfigurationError("a callback cannot read the run that waits for it; return from it first")
        call: Call[Any] = Call(partial(function, *args))
        self._users.add(this)
        try:
            return self.portal.perform(call, partial(self.portal.post, self._put, call), self._cancel)
        finally:
            self._users.discard(this)

    def leave(self, error: BaseException | None = None) -> bool:
        """Leave the block and wait until that is done; return whether the block suppresses `error`."""
        if self.is_over:
            return False
        leaving: Waiter[bool] = Waiter()
        return self.portal.perform(leaving, partial(self.portal.post, self._leave, leaving, error), self._cancel)

    def leave_soon(self, seconds: float = 0.0) -> None:
        """Leave the block, and wait at most `seconds` for that. The garbage collector may call this."""
        if self.is_over:
            return
        leaving: Waiter[bool] = Waiter()
        with suppress(ClosedError):
            self.portal.post(self._leave, leaving, None)
            if seconds and not self.portal.is_own_thread:
                leaving.wait_until_over(seconds)

    # --- in the event loop ---

    def _put(self, call: Call[Any]) -> None:
        if self._is_over:
            call.finish(error=_left())
        else:
            self._calls.put_nowait(call)

    def _leave(self, leaving: Waiter[bool], error: BaseException | None) -> None:
        if self._is_over:
            leaving.finish(value=False)
            return
        self._leaving.append(leaving)
        self._error = error
        if self._current is not None or not self._is_open:
            self._cancel()
        self._calls.put_nowait(None)

    async def _hold(self, opening: Waiter[T]) -> None:
        """Be the task of the block."""
        failure: BaseException | None = None
        is_suppressed = False
        token = _CALL.set(opening)
        try:
            with self._cancellation.scope():
                async with self._manager as value:
                    self._is_open = True
                    opening.finish(value=value)
                    _CALL.reset(token)
                    await self._work()
                is_suppressed = self._error is not None
        except anyio.get_cancelled_exc_class():  # the loop ends, and with it all calls
            raise
        except BaseException as error:  # noqa: BLE001  (it is raised in the waiting thread)
            failure = error if error is not self._error else None
        self._is_over = True
        opening.finish(error=failure or _left())
        for leaving in self._leaving:
            leaving.finish(value=is_suppressed, error=failure)
        for call in (self._current, *self._calls_to_come()):
            if call is not None:
                call.finish(error=_left())

    async def _work(self) -> None:
        while True:
            self._current = await self._calls.get()
            if self._current is None:
                break
            await self._current.execute()
            self._current = None
        if self._error is not None:
            raise self._error

    def _calls_to_come(self) -> Iterator[Call[Any] | None]:
        while not self._calls.empty():
            yield self._calls.get_nowait()


def _left() -> ClosedError:
    return ClosedError("the block was left")


LEAVE_SECONDS: Final = 1.0
"""How long the end of a `for` waits until the block is left. The garbage collector may have caused it, while a lock is
held that the leaving needs; so it does not wait until that is done."""


class BlockOwner(ABC, Generic[T]):
    """An object with a block, which it enters once, by `with` or by its first use, and leaves when it is garbage."""

    _block: Block[T] | None = None

    def __init__(self, manager: AbstractAsyncContextManager[T], portal: Callable[[], Portal]) -> None:
        self._manager = manager
        self._portal = portal
        self._entering = threading.Lock()

    @abstractmethod
    def _entered_twice(self) -> ClosedError:
        """Return the error for a second `with`."""

    def __enter__(self) -> Self:
        if self._block is not None:
            raise self._entered_twice()
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._block is not None:
            self._block.leave(error)

    def close(self) -> None:
        """Cancel the work in progress, which makes the remote stop; another thread may be reading."""
        if self._block is not None:
            self._block.leave()

    def __del__(self) -> None:
        if self._block is not None:
            self._block.leave_soon()

    def _enter(self) -> Block[T]:
        with self._entering:  # threads may share the object
            is_first = self._block is None
            block = self._block = self._block or Block(self._portal(), self._manager)
        if is_first:
            self._on_enter(block.enter())
        return block

    def _on_enter(self, value: T, /) -> None:
        """Take the value of the block."""

    def _each(self, take: Callable[[], Any], end: object) -> Iterator[Any]:
        """Yield what `take` returns until that is `end`; the end of the iteration, whatever it is, leaves the block."""
        block = self._enter()
        try:
            while (item := take()) is not end:
                yield item
        except GeneratorExit:  # perhaps of the garbage collector
            block.leave_soon(LEAVE_SECONDS)
            raise
        except BaseException:
            self.close()
            raise
        self.close()


@attrs.define(eq=False)
class Process:
    """The portal of a process, if there is one."""

    _make_portal: Callable[[], Portal] = Portal
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _portal: Portal | None = attrs.field(default=None, init=False)
    _is_exiting: bool = attrs.field(default=False, init=False)

    def portal(self) -> Portal:
        """The portal of this process; the first call starts it.

        Raises:
            ClosedError: the interpreter is exiting, or no thread can be started.
        """
        with self._lock:
            if self._is_exiting:
                raise ClosedError("the interpreter is exiting")
            if self._portal is None or self._portal.is_over:
                portal = self._make_portal()
                if portal.is_over:
                    raise portal.closed_error()
                self._portal = portal
            return self._portal

    def forget(self) -> None:
        """Begin anew in a forked child, which has no other thread than the forking one."""
        self._lock = threading.Lock()  # another thread of the parent may have held it
        if self._portal is not None:
            self._portal.give_up("the process was forked, and the event loop is in the parent process")
            self._portal = None

    def exit(self) -> None:
        """Close open runs, and refuse to open more."""
        self._is_exiting = True
        if self._portal is not None:
            self._portal.stop("the interpreter is exiting", EXIT_SECONDS)


_PROCESS: Final = Process()
current_portal: Final = _PROCESS.portal
atexit.register(_PROCESS.exit)
if hasattr(os, "register_at_fork"):  # pragma: no branch  (absent on Windows)
    os.register_at_fork(after_in_child=_PROCESS.forget)
