"""Many tasks of one kind: submitted as there is room, and their results as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from robeing._client.results import error_of
from robeing.errors import FleetError
from robeing.v1 import fleet_pb2, types_pb2

if TYPE_CHECKING:
    from robeing._client.connection import Open
    from robeing._client.submissions import Submission

R = TypeVar("R")

# The most tasks of one `map` that are submitted and whose results were not taken.
MAP_WINDOW = 8_192

Inputs = Iterable[Any] | AsyncIterable[Any]


@dataclass(frozen=True)
class Result(Generic[R]):
    """The result of one of many tasks."""

    index: int
    """Which of the inputs it is of, from 0."""
    task_id: str
    """The id of the task; empty if it was not accepted."""
    task: types_pb2.Task | None
    """The task; `None` if it was not accepted, or its result expired."""
    error: FleetError | None
    """Why there is no output."""
    existing: bool
    """The task was there already, by its key."""
    spec: types_pb2.TaskSpec = field(repr=False)
    """The task as it was submitted."""
    _decode: Callable[[bytes], Any] = field(repr=False)

    @property
    def value(self) -> R:
        """The output.

        Raises:
            FleetError: there is none.
            BadValueError: it is not of the declared type.
        """
        if self.error is not None or self.task is None:
            raise self.error or FleetError(f"task {self.task_id} has no result")
        output: R = self._decode(self.task.output)
        return output


async def each(inputs: Inputs) -> AsyncIterator[Any]:
    """Yields inputs, wherever they come from."""
    if isinstance(inputs, AsyncIterable):
        async for value in inputs:
            yield value
    else:
        for value in inputs:
            yield value


class Results(Generic[R]):
    """The results of many tasks, in the order in which they finish."""

    def __init__(
        self,
        opened: Open,
        specs: AsyncIterator[types_pb2.TaskSpec],
        decode: Callable[[bytes], Any],
        room_for: float,
    ) -> None:
        self._opened = opened
        self._specs = specs
        self._decode = decode
        self._room_for = room_for
        self._window = asyncio.Semaphore(MAP_WINDOW)
        self._ready: deque[Result[R]] = deque()
        self._news = asyncio.Event()
        self._submitted = 0
        self._lost: FleetError | None = None
        self._taken = 0
        self._unfinished: dict[int, Submission] = {}

    async def unfinished(self) -> list[str]:
        """Returns the ids of the accepted tasks whose results did not come yet."""
        submissions = list(self._unfinished.values())
        # Those that are on their way can't be cancelled before they are accepted.
        unanswered = [submission.accepted for submission in submissions if not submission.accepted.done()]
        if unanswered:
            await asyncio.wait(unanswered)
        return [one.task_id for one in submissions if isinstance(_outcome(one.accepted), fleet_pb2.SubmitResult)]

    async def each(self) -> AsyncGenerator[Result[R], None]:
        """Submits the tasks, and yields their results."""
        submitting = asyncio.get_running_loop().create_task(self._submit())
        submitting.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                while self._ready:
                    self._taken += 1
                    self._window.release()
                    yield self._ready.popleft()
                if submitting.done():
                    submitting.result()
                    if self._taken == self._submitted:
                        return
                self._news.clear()
                if not self._ready and not (submitting.done() and self._taken == self._submitted):
                    await self._news.wait()
        finally:
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)

    async def _submit(self) -> None:
        async for spec in self._specs:
            await self._window.acquire()
            if self._lost is not None:
                raise self._lost
            submission = await self._opened.submissions.submit(spec, wait=True, room_for=self._room_for)
            index, self._submitted = self._submitted, self._submitted + 1
            self._unfinished[index] = submission
            if submission.finished is not None:
                submission.finished.add_done_callback(partial(self._finished, index, submission))

    def _finished(self, index: int, submission: Submission, _: asyncio.Future[types_pb2.Task]) -> None:
        self._unfinished.pop(index, None)
        self._lost = self._lost or submission.lost
        accepted = _outcome(submission.accepted)
        finished = _outcome(submission.finished)
        is_accepted = isinstance(accepted, fleet_pb2.SubmitResult)
        task = finished if isinstance(finished, types_pb2.Task) else None
        self._ready.append(
            Result(
                index,
                submission.task_id if is_accepted else "",
                task,
                error_of(task) if task is not None else _error(finished),
                is_accepted and accepted.existing,
                submission.spec,
                self._decode,
            )
        )
        self._news.set()


def _outcome(future: asyncio.Future[Any] | None) -> Any:
    if future is None or not future.done() or future.cancelled():
        return None
    return future.exception() or future.result()


def _error(outcome: object) -> FleetError:
    return outcome if isinstance(outcome, FleetError) else FleetError("it was not waited for")
