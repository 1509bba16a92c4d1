"""What a handler knows of the attempt that it runs, and what it can ask of it."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from typing_extensions import Unpack

    from robeing._client.many import Inputs
    from robeing._client.specs import Loose, Seconds, TaskOptions
    from robeing._worker.journal import Journal
    from robeing.fleet import Fleet
    from robeing.worker.v1.worker_pb2 import GivenResult

__all__ = ["Context", "Fence", "Given", "SubtaskOptions", "current"]

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


class Fence(NamedTuple):
    """The fencing token of an attempt, for side effects in systems that refuse those of earlier attempts.

    `attempt` grows with each attempt of the task. A system that remembers the largest one that it has seen of a
    `task_id`, and refuses smaller ones, takes nothing of an attempt that was given up, however late it comes.
    """

    task_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.task_id}/{self.attempt}"


class Progress(NamedTuple):
    """How far an attempt is."""

    fraction: float
    text: str


class Lines(NamedTuple):
    """Lines for those who follow an attempt."""

    lines: tuple[str, ...]


Report = Progress | Lines


class Given(NamedTuple):
    """The result of a task on which this one depends."""

    task_id: str
    """Its id."""
    succeeded: bool
    """Whether it succeeded."""
    output: bytes
    """Its output, if it succeeded."""
    reason: str
    """Why it did not succeed."""
    stored_bytes: int = 0
    """How many bytes its output has if that is in the object store, and so not in `output`."""


class SubtaskOptions(TypedDict, total=False):
    """The options of subtasks that a task waits for without holding a slot. Times are seconds or `timedelta`."""

    priority: int
    """1 (last) to 10 (first); that of the task unless given."""
    deadline: Seconds
    """A subtask fails if it has not ended after this time."""
    delay: Seconds
    """It is not started before this time has passed."""
    attempt_timeout: Seconds
    """How long one attempt at it may take."""
    max_attempts: int
    """How often it is tried, with the first attempt."""
    specialization: str
    """Only agents with this specialization run it."""


class Context:
    """The attempt that a handler runs.

    A handler gets it by a parameter that is annotated with this class, or from `current()`. The methods can be called
    from any thread.
    """

    def __init__(
        self,
        task_id: str,
        attempt: int,
        kind: str,
        *,
        ends: float | None = None,
        report: Callable[[Context, Report], None] | None = None,
        fleet: Callable[[], Fleet] | None = None,
    ) -> None:
        """Creates the context of an attempt that `ends` at a time of `time.monotonic()`."""
        self.task_id = task_id
        """The id of the task, a UUID."""
        self.attempt = attempt
        """The number of the attempt: 1 for the first."""
        self.kind = kind
        """The kind of the task."""
        self._ends = ends
        self._report = report
        self._fleet = fleet
        self._parts = 0
        self._fraction = 0.0
        # What earlier attempts have left, and the results of other tasks.
        self._given: tuple[bytes, Sequence[GivenResult]] = (b"", ())
        self._journal: Journal | None = None
        self._is_stopped = False
        # Made when a thread waits, which few do.
        self._stopped: threading.Event | None = None

    def __repr__(self) -> str:
        return f"Context({self.kind!r}, {self.fence})"

    @property
    def fence(self) -> Fence:
        """The fencing token of this attempt, for side effects."""
        return Fence(self.task_id, self.attempt)

    @property
    def remaining(self) -> float | None:
        """Seconds until the attempt's time limit or the task's deadline; `None` if it has neither."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether the attempt was stopped: its result is not wanted any more.

        Coroutines, and functions in processes, get `asyncio.CancelledError` by themselves; functions in threads ask.
        """
        return self._is_stopped

    def raise_if_cancelled(self) -> None:
        """Raises `asyncio.CancelledError` if the attempt was stopped."""
        if self.cancelled:
            raise asyncio.CancelledError(f"attempt {self.fence} was stopped")

    def wait_cancelled(self, timeout: float) -> bool:
        """Waits in a thread until the attempt is stopped, for `timeout` seconds at most; returns whether it was."""
        stopped = self._stopped = self._stopped or threading.Event()
        # Checked only now: a stop that comes meanwhile sees the event, or is seen here.
        return self._is_stopped or stopped.wait(timeout)

    def progress(self, fraction: float | None = None, text: str = "") -> None:
        """Tells those who follow the task how far it is: a fraction from 0 to 1, and a short text.

        Without a fraction it stays as it was. Of several calls within a tenth of a second, the last one counts.
        """
        if fraction is not None:
            if not 0 <= fraction <= 1:
                raise ValueError(f"the fraction must be from 0 to 1, but is {fraction}")
            self._fraction = fraction
        self._tell(Progress(self._fraction, text))

    def log(self, text: str) -> None:
        """Writes lines for those who follow the task. What a handler logs by `logging` is written by itself."""
        self._tell(Lines(tuple(text.splitlines())))

    @property
    def fleet(self) -> Fleet:
        """A client of the fleet, which all handlers of the process share; see `App(fleet=…)`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("only coroutines have a client; a function in a thread or process has none") from None
        if self._fleet is None:
            raise RuntimeError("this context has no client of a fleet")
        return self._fleet()

    @overload
    async def gather(
        self, task: Callable[[I], Coroutine[Any, Any, R]], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> list[R]: ...
    @overload
    async def gather(self, task: Callable[[I], R], inputs: Inputs, /, **options: Unpack[TaskOptions]) -> list[R]: ...
    @overload
    async def gather(self, task: Loose, inputs: Inputs, /, **options: Unpack[TaskOptions]) -> list[Any]: ...
    async def gather(
        self, task: str | Callable[..., Any], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> list[Any]:
        """Submits subtasks, waits for all of them, and returns their outputs in the order of `inputs`.

        As `Fleet.gather`, but another attempt of this task finds the subtasks of this one that succeeded instead of
        submitting them again, as long as the handler asks for the same ones in the same order. Subtasks end with the
        deadline of this attempt, unless `deadline` is given.
        """
        from robeing._client.parts import Part  # noqa: PLC0415
        from robeing._client.specs import Form  # noqa: PLC0415

        self._parts += 1
        part = Part(self.fence, self._parts, self.remaining)
        return await self.fleet._gather(Form(task, options, is_many=True), inputs, part)

    @overload
    async def subtasks(
        self, task: Callable[[I], Coroutine[Any, Any, R]], inputs: Iterable[Any], /, **options: Unpack[SubtaskOptions]
    ) -> list[R]: ...
    @overload
    async def subtasks(
        self, task: Callable[[I], R], inputs: Iterable[Any], /, **options: Unpack[SubtaskOptions]
    ) -> list[R]: ...
    @overload
    async def subtasks(self, task: Loose, inputs: Iterable[Any], /, **options: Unpack[SubtaskOptions]) -> list[Any]: ...
    async def subtasks(
        self, task: str | Callable[..., Any], inputs: Iterable[Any], /, **options: Unpack[SubtaskOptions]
    ) -> list[Any]:
        """Returns the outputs of subtasks, for which the task waits without holding a slot.

        The attempt ends here. When all subtasks have ended, the task is run again, by any agent: the handler begins
        anew, and this returns the outputs. So what the handler does before is done again, and it must ask for the same
        subtasks in the same order each time. Subtasks are cancelled with the task. There may be 1,000 of them, with
        1 MiB of inputs and of outputs of those before.

        Raises:
            SubtaskError: one of them did not succeed.
            PermanentError: an earlier attempt has asked for others.
        """
        from robeing._client.specs import Form  # noqa: PLC0415
        from robeing._worker.subtasks import outputs, subtasks  # noqa: PLC0415

        form = Form(task, {})
        return outputs(self._journaled().ask(subtasks(form, inputs, options)), form)

    @property
    def results(self) -> list[Given]:
        """The results of the tasks on which the task depends, in the order in which it names them."""
        return [
            Given(one.task_id, one.state == 0, one.output, one.reason, one.stored.bytes)
            for one in self._journaled().dependencies
        ]

    def _journaled(self) -> Journal:
        from robeing._worker.journal import Journal  # noqa: PLC0415

        if self._journal is None:
            self._journal = Journal(*self._given)
        return self._journal

    def _tell(self, report: Report) -> None:
        if self._report is not None:
            self._report(self, report)

    def _stop(self) -> None:
        self._is_stopped = True
        if self._stopped is not None:
            self._stopped.set()


_current: ContextVar[Context] = ContextVar("robeing_context")


def current() -> Context:
    """Returns the attempt that runs here.

    Raises:
        RuntimeError: this is no handler of a task.
    """
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError("no task runs here: current() is for handlers, and what they call") from None
