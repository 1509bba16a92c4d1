"""Submissions over one stream, each accepted once even if streams break.

Tasks that were not answered are sent again with the same id, perhaps to another coordinator. Accepted tasks are watched
until they finish and never sent again: if the result of one had expired meanwhile, it would be a new task.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from grpc import aio

from robeing._client.calls import ATTEMPT_TIMEOUT, Calls, Tries
from robeing._client.room import Room
from robeing._client.watching import Awaited, broken
from robeing.errors import FleetError, RefusedError, TaskExpiredError, UnavailableError
from robeing.v1 import fleet_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# The most tasks that are sent and not answered, and the most bytes of them; a larger task is sent alone.
WINDOW = 1_024
WINDOW_BYTES = 4 * 1024 * 1024
# The most tasks that are sent and not finished, of those whose results are awaited. A coordinator stops reading from a
# stream that has 16,384 of them.
UNFINISHED = 8_192
# The most tasks of one message, and their bytes.
BATCH_TASKS = 256
BATCH_BYTES = 1024 * 1024
# The pause before a task that the fleet could not accept for the moment is sent again, seconds.
RESUBMIT_PAUSE = 0.1
# The same, if the fleet has no room for it.
ROOM_PAUSE = 0.5
# A stream without tasks is closed after this time, seconds.
IDLE_FOR = 10.0
# How often a stream is looked at, seconds.
LOOK_EVERY = 0.25

_PASSING = frozenset(("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED"))
_NO_ROOM = "RESOURCE_EXHAUSTED"
# Such a refusal is about what the task asks for, and not about how many there are.
_INSUFFICIENT = "Insufficient resources"

_Stream = aio.StreamStreamCall[fleet_pb2.SubmitStreamRequest, fleet_pb2.SubmitStreamResponse]


class Submission:
    """A task that is being submitted.

    One at a time may wait for its acceptance, and one for its result.
    """

    __slots__ = (
        "_accepting",
        "_finishing",
        "error",
        "existing",
        "index",
        "is_accepted",
        "lost",
        "on_end",
        "room_until",
        "size",
        "spec",
        "tag",
        "task",
        "task_id",
        "wait",
    )

    def __init__(
        self,
        spec: types_pb2.TaskSpec,
        *,
        wait: bool,
        index: int = 0,
        on_end: Callable[[Submission], None] | None = None,
    ) -> None:
        """`wait`: also for its result. `on_end` is called once it is known what became of that; it must not raise."""
        self.spec = spec
        self.size = spec.ByteSize()
        self.wait = wait
        # Which it is of many.
        self.index = index
        self.on_end = on_end
        self.tag = 0
        self.room_until = 0.0
        self.task_id = spec.id
        self.is_accepted = False
        # There was such a task before.
        self.existing = False
        # The finished task, or why it was not accepted or its result can't be had.
        self.task: types_pb2.Task | None = None
        self.error: FleetError | None = None
        # Why nothing more is heard of it, which is also so of others: the fleet does not answer this client.
        self.lost: FleetError | None = None
        # Made if somebody waits: for most of many tasks nobody does.
        self._accepting: asyncio.Future[None] | None = None
        self._finishing: asyncio.Future[None] | None = None

    async def accepted(self) -> None:
        """Waits until the task is accepted.

        Raises:
            FleetError: it was refused, or the fleet does not answer.
        """
        if not self.is_accepted and self.error is None:
            self._accepting = asyncio.get_running_loop().create_future()
            await self._accepting
        if not self.is_accepted and self.error is not None:
            raise self.error

    async def result(self) -> types_pb2.Task:
        """Waits until the task has finished, if that was asked for.

        Raises:
            FleetError: it was refused, or its result can't be had.
        """
        if not self.wait:
            raise ValueError("its result is not waited for")
        if self.task is None and self.error is None:
            self._finishing = asyncio.get_running_loop().create_future()
            await self._finishing
        if self.task is None:
            raise self.error or FleetError(f"task {self.task_id} has no result")
        return self.task

    def accept(self, task_id: str, *, existing: bool) -> None:
        """Notes that the task is accepted."""
        self.task_id = task_id
        self.existing = existing
        self.is_accepted = True
        if self._accepting is not None:
            _wake(self._accepting)

    def end(self, task: types_pb2.Task | None, error: FleetError | None) -> None:
        """Notes what became of the task, unless that is known."""
        if self.task is not None or self.error is not None:
            return
        self.task, self.error = task, error
        if self._accepting is not None:
            _wake(self._accepting)
        if self._finishing is not None:
            _wake(self._finishing)
        if self.on_end is not None:
            self.on_end(self)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Submissions:
    """The stream of a client's submissions."""

    def __init__(self, calls: Calls, awaited: Awaited) -> None:
        self._calls = calls
        self._awaited = awaited
        self._tries = Tries(calls)
        self._next_tag = 0
        self._to_send: deque[int] = deque()
        self._unanswered: dict[int, Submission] = {}
        self._unanswered_bytes = 0
        # Accepted on the current stream, which reports their results.
        self._unfinished: dict[int, Submission] = {}
        self._window = Room(WINDOW)
        self._finishing = Room(UNFINISHED)
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._heard = 0.0
        self._running: asyncio.Task[None] | None = None
        self._watching: set[asyncio.Task[None]] = set()

    async def submit(self, submission: Submission, room_for: float) -> None:
        """Submits a task, once there is room for it.

        If the fleet has no room for it, it is tried for `room_for` seconds.
        """
        if not self.submit_now(submission, room_for):
            await self._room(wait=submission.wait)
            self._add(submission, room_for)

    def submit_now(self, submission: Submission, room_for: float) -> bool:
        """Submits a task as `submit` does if there is room for it now, and returns whether there is."""
        if self._unanswered_bytes >= WINDOW_BYTES or not self._window.take():
            return False
        if submission.wait and not self._finishing.take():
            self._window.give()
            return False
        self._add(submission, room_for)
        return True

    def _add(self, submission: Submission, room_for: float) -> None:
        now = time.monotonic()
        tag = submission.tag = self._next_tag
        self._next_tag += 1
        submission.room_until = now + room_for
        if not self._unanswered:
            self._tries.succeeded()
            self._heard = now
        self._unanswered[tag] = submission
        self._unanswered_bytes += submission.size
        self._to_send.append(tag)
        self._more.set()
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _room(self, *, wait: bool) -> None:
        """Waits for room, and takes it. It is given back when the task is answered, or has finished."""
        if wait:
            await self._finishing.wait()
        try:
            await self._window.wait()
            try:
                while self._unanswered_bytes >= WINDOW_BYTES:
                    self._less.clear()
                    await self._less.wait()
            except BaseException:
                self._window.give()
                raise
        except BaseException:
            if wait:
                self._finishing.give()
            raise

    async def close(self) -> None:
        """Ends the stream. What was not answered fails."""
        tasks = [task for task in (self._running, *self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_all(UnavailableError("the client was closed"))

    async def _run(self) -> None:
        try:
            await self._calls.contact()
            while self._unanswered or self._unfinished:
                target = self._calls.current
                error = await self._converse(target.stub.SubmitStream())
                if error is not None:
                    self._recover()
                    await self._tries.failed(target, error)
        except FleetError as error:
            self._fail_all(error)
        finally:
            self._running = None

    async def _converse(self, stream: _Stream) -> aio.AioRpcError | None:
        """Uses a stream until it breaks, or has been idle (`None`)."""
        loop = asyncio.get_running_loop()
        writing = loop.create_task(self._write(stream))
        ends: asyncio.Future[aio.AioRpcError | None] = loop.create_future()
        watching = loop.create_task(self._watch_over(ends))
        reading = loop.create_task(self._read(stream))
        try:
            either: list[asyncio.Future[Any]] = [reading, ends]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return ends.result() if ends.done() else reading.result()
        finally:
            for task in (writing, watching, reading):
                task.cancel()
            stream.cancel()
            await asyncio.gather(writing, watching, reading, return_exceptions=True)

    async def _read(self, stream: _Stream) -> aio.AioRpcError:
        try:
            while True:
                answers = await stream.read()
                if not isinstance(answers, fleet_pb2.SubmitStreamResponse):
                    return broken("the coordinator ended the stream")
                self._heard = time.monotonic()
                self._take(answers.answers)
        except aio.AioRpcError as error:
            return error

    async def _write(self, stream: _Stream) -> None:
        # Reading returns what goes wrong.
        with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                batch = self._next_batch()
                if batch is None:
                    self._more.clear()
                    await self._more.wait()
                else:
                    await stream.write(batch)
                    self._heard = time.monotonic()

    async def _watch_over(self, ends: asyncio.Future[aio.AioRpcError | None]) -> None:
        """Ends a stream whose coordinator owes answers and sends nothing, and one that nobody uses."""
        several = len(self._calls.targets) > 1
        patience = ATTEMPT_TIMEOUT if several else self._calls.request_timeout
        used = time.monotonic()
        while True:
            await asyncio.sleep(min(LOOK_EVERY, patience))
            now = time.monotonic()
            if self._unanswered or self._unfinished:
                used = now
            elif now - used >= IDLE_FOR:
                ends.set_result(None)
                return
            if self._unanswered and now - self._heard >= patience:
                ends.set_result(broken(f"{self._calls.current.name} did not answer in time"))
                return
            if self._unanswered and several and now - self._tries.began >= ATTEMPT_TIMEOUT:
                # It answers, but that it can't accept tasks.
                ends.set_result(broken("the coordinator can't accept tasks at present"))
                return

    def _next_batch(self) -> fleet_pb2.SubmitStreamRequest | None:
        batch = fleet_pb2.SubmitStreamRequest()
        tasks = batch.tasks
        count = size = 0
        while self._to_send and count < BATCH_TASKS:
            submission = self._unanswered.get(self._to_send[0])
            if submission is None:
                self._to_send.popleft()
                continue
            size += submission.size
            if count and size > BATCH_BYTES:
                break
            self._to_send.popleft()
            count += 1
            # One that is made with all its fields, and then put into the batch, is copied more often.
            task = tasks.add()
            task.tag = submission.tag
            task.wait = submission.wait
            task.task.CopyFrom(submission.spec)
        return batch if count else None

    def _take(self, answers: Iterable[fleet_pb2.StreamedAnswer]) -> None:
        accepted = finished = 0
        for answer in answers:
            tag, which = answer.tag, answer.WhichOneof("answer")
            if which == "submitted":
                submission = self._unanswered.get(tag)
                if submission is None:
                    continue
                result = answer.submitted
                if result.HasField("refusal"):
                    self._refused(submission, result.refusal)
                    continue
                if accepted == 0:
                    self._tries.succeeded()
                accepted += 1
                self._accept(submission, result.task_id, existing=result.existing)
            elif which == "finished":
                task = answer.finished
                submission = self._unanswered.get(tag)
                if submission is not None:
                    # A result alone counts as both.
                    accepted += 1
                    self._accept(submission, task.id, existing=False)
                submission = self._unfinished.pop(tag, None)
                if submission is not None:
                    finished += 1
                    submission.end(task, None)
            elif which == "expired":
                submission = self._unfinished.pop(tag, None)
                if submission is not None:
                    finished += 1
                    submission.end(None, TaskExpiredError(answer.expired))
        # Room is made for all of them at once, which costs less.
        if accepted:
            self._window.give(accepted)
            self._less.set()
        self._finishing.give(finished)

    def _accept(self, submission: Submission, task_id: str, *, existing: bool) -> None:
        self._remove(submission)
        if submission.wait:
            self._unfinished[submission.tag] = submission
        submission.accept(task_id, existing=existing)

    def _refused(self, submission: Submission, refusal: fleet_pb2.Refusal) -> None:
        now = time.monotonic()
        if refusal.code in _PASSING:
            if now + RESUBMIT_PAUSE < self._tries.ends:
                self._postpone(submission.tag, RESUBMIT_PAUSE)
                return
            error: FleetError = UnavailableError(f"the fleet could not accept the task: {refusal.message}")
        else:
            self._tries.succeeded()
            if _is_full(refusal) and now + ROOM_PAUSE < submission.room_until:
                self._postpone(submission.tag, ROOM_PAUSE)
                return
            error = RefusedError(refusal.code, refusal.message)
        self._give_up(submission, error)

    def _postpone(self, tag: int, seconds: float) -> None:
        # One that was answered meanwhile is not sent again.
        asyncio.get_running_loop().call_later(seconds, self._send, tag)

    def _send(self, tag: int) -> None:
        self._to_send.append(tag)
        self._more.set()

    def _remove(self, submission: Submission) -> None:
        del self._unanswered[submission.tag]
        self._unanswered_bytes -= submission.size

    def _give_up(self, submission: Submission, error: FleetError) -> None:
        """Ends a task that is not accepted."""
        self._remove(submission)
        self._less.set()
        self._window.give()
        self._settle(submission, None, error)

    def _settle(self, submission: Submission, task: types_pb2.Task | None, error: FleetError | None) -> None:
        """Tells what became of a task, and makes room for another one whose result is awaited."""
        submission.end(task, error)
        if submission.wait:
            self._finishing.give()

    def _recover(self) -> None:
        """Has everything unanswered sent again, and watches everything accepted, after a stream broke."""
        self._to_send = deque(self._unanswered)
        self._more.set()
        unfinished, self._unfinished = self._unfinished, {}
        for submission in unfinished.values():
            watching = asyncio.get_running_loop().create_task(self._await(submission))
            self._watching.add(watching)
            watching.add_done_callback(self._watching.discard)

    async def _await(self, submission: Submission) -> None:
        task: types_pb2.Task | None = None
        error: FleetError | None = UnavailableError("the client was closed")
        try:
            task, error = await self._awaited.finished(submission.task_id), None
        except FleetError as failure:
            error = failure
        finally:
            self._settle(submission, task, error)

    def _fail_all(self, error: FleetError) -> None:
        for submission in list(self._unanswered.values()):
            submission.lost = error
            self._give_up(submission, error)
        unfinished, self._unfinished = self._unfinished, {}
        for submission in unfinished.values():
            submission.lost = error
            self._settle(submission, None, error)
        self._to_send.clear()


def _is_full(refusal: Any) -> bool:
    return refusal.code == _NO_ROOM and not refusal.message.startswith(_INSUFFICIENT)
