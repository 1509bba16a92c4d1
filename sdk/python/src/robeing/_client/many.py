"""Many tasks of one kind: submitted as there is room, and their results as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from robeing._client.results import error_of
from robeing._client.room import Room
from robeing._client.submissions import Submission
from robeing.errors import FleetError
from robeing.v1 import types_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from robeing._client.connection import Open

R = TypeVar("R")

# The most tasks of one `map` that are submitted and whose results were not taken.
MAP_WINDOW = 8_192

Inputs = Iterable[Any] | AsyncIterable[Any]
# Makes a task of an input, with the number of the input, from 0.
ToSpec = Callable[[Any, int], types_pb2.TaskSpec]


# `__init__` is as the dataclass would have it, but takes half the time: that one would set each field by a call.
@dataclass(frozen=True, init=False)
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

    def __init__(  # noqa: PLR0917 - as the dataclass would have it.
        self,
        index: int,
        task_id: str,
        task: types_pb2.Task | None,
        error: FleetError | None,
        existing: bool,
        spec: types_pb2.TaskSpec,
        _decode: Callable[[bytes], Any],
    ) -> None:
        fields = self.__dict__
        fields["index"] = index
        fields["task_id"] = task_id
        fields["task"] = task
        fields["error"] = error
        fields["existing"] = existing
        fields["spec"] = spec
        fields["_decode"] = _decode

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


class Results(Generic[R]):
    """The results of many tasks, in the order in which they finish. Tasks are submitted while it is entered."""

    def __init__(
        self, opened: Open, inputs: Inputs, to_spec: ToSpec, decode: Callable[[bytes], Any], room_for: float
    ) -> None:
        self._submissions = opened.submissions
        self._inputs = inputs
        self._to_spec = to_spec
        self._decode = decode
        self._room_for = room_for
        self._window = Room(MAP_WINDOW)
        self._ready: deque[Submission] = deque()
        self._news = asyncio.Event()
        self._submitting: asyncio.Task[None] | None = None
        self._submitted = 0
        self._lost: FleetError | None = None
        self._taken = 0
        self._unfinished: dict[int, Submission] = {}

    async def __aenter__(self) -> Self:
        self._submitting = asyncio.get_running_loop().create_task(self._submit())
        self._submitting.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._submitting is not None:
            self._submitting.cancel()
            await asyncio.gather(self._submitting, return_exceptions=True)

    async def unfinished(self) -> list[str]:
        """Returns the ids of the accepted tasks whose results did not come yet."""
        submissions = list(self._unfinished.values())
        for submission in submissions:
            # Those that are on their way can't be cancelled before they are accepted.
            with contextlib.suppress(FleetError):
                await submission.accepted()
        return [submission.task_id for submission in submissions if submission.is_accepted]

    async def come(self) -> bool:
        """Waits until there is a result to take, and returns whether there is one: not if all were taken.

        Raises:
            FleetError: the fleet does not answer.
            BadValueError: an input can't be written.
        """
        while not self._ready:
            if self._submitting is not None and self._submitting.done():
                self._submitting.result()
                if self._taken == self._submitted:
                    return False
            self._news.clear()
            await self._news.wait()
        return True

    def take(self) -> Result[R] | None:
        """Takes the next result, if one has come. This makes room for another task."""
        if not self._ready:
            return None
        submission = self._ready.popleft()
        self._taken += 1
        self._window.give()
        task = submission.task
        return Result(
            submission.index,
            submission.task_id if submission.is_accepted else "",
            task,
            submission.error if task is None else error_of(task),
            submission.existing,
            submission.spec,
            self._decode,
        )

    async def _submit(self) -> None:
        if isinstance(self._inputs, AsyncIterable):
            async for value in self._inputs:
                submission = self._next(value)
                if not self._submit_now(submission):
                    await self._submit_later(submission)
        else:
            for value in self._inputs:
                submission = self._next(value)
                if not self._submit_now(submission):
                    await self._submit_later(submission)

    def _next(self, value: object) -> Submission:
        index = self._submitted
        return Submission(self._to_spec(value, index), wait=True, index=index, on_end=self._ended)

    def _submit_now(self, submission: Submission) -> bool:
        if not self._window.take():
            return False
        if self._lost is not None:
            raise self._lost
        if not self._submissions.submit_now(submission, self._room_for):
            self._window.give()
            return False
        self._count(submission)
        return True

    async def _submit_later(self, submission: Submission) -> None:
        """Submits a task once there is room for it."""
        await self._window.wait()
        if self._lost is not None:
            raise self._lost
        await self._submissions.submit(submission, self._room_for)
        self._count(submission)

    def _count(self, submission: Submission) -> None:
        self._submitted += 1
        self._unfinished[submission.index] = submission

    def _ended(self, submission: Submission) -> None:
        self._unfinished.pop(submission.index, None)
        self._lost = self._lost or submission.lost
        self._ready.append(submission)
        self._news.set()
