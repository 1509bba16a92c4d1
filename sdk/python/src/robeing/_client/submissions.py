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
from robeing._client.watching import Awaited, broken
from robeing.errors import FleetError, RefusedError, TaskExpiredError, UnavailableError
from robeing.v1 import fleet_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    """A task that is being submitted."""

    __slots__ = ("accepted", "finished", "lost", "room_until", "size", "spec", "tag", "task_id")

    def __init__(self, spec: types_pb2.TaskSpec, tag: int, room_until: float, *, wait: bool) -> None:
        loop = asyncio.get_running_loop()
        self.spec = spec
        self.size = spec.ByteSize()
        self.tag = tag
        self.room_until = room_until
        self.task_id = spec.id
        # Why nothing more is heard of it, which is also so of others: the fleet does not answer this client.
        self.lost: FleetError | None = None
        self.accepted: asyncio.Future[fleet_pb2.SubmitResult] = loop.create_future()
        self.finished: asyncio.Future[types_pb2.Task] | None = loop.create_future() if wait else None

    async def result(self) -> types_pb2.Task:
        """Waits until the task has finished, if that was asked for.

        Raises:
            FleetError: it was refused, or its result can't be had.
        """
        if self.finished is None:
            raise ValueError("its result is not waited for")
        return await self.finished

    def fail(self, error: FleetError) -> None:
        """Ends it with an error, unless it has ended."""
        for future in (self.accepted, self.finished):
            if future is not None and not future.done():
                future.set_exception(error)
                # The submitter may not wait for it any more.
                future.exception()


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
        self._window = asyncio.Semaphore(WINDOW)
        self._finishing = asyncio.Semaphore(UNFINISHED)
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._heard = 0.0
        self._running: asyncio.Task[None] | None = None
        self._watching: set[asyncio.Task[None]] = set()

    async def submit(self, spec: types_pb2.TaskSpec, *, wait: bool, room_for: float = 0.0) -> Submission:
        """Submits a task, once there is room for it; `wait`: also for its result.

        If the fleet has no room for it, it is tried for `room_for` seconds.
        """
        await self._room(wait=wait)
        submission = Submission(spec, self._next_tag, time.monotonic() + room_for, wait=wait)
        self._next_tag += 1
        if not self._unanswered:
            self._tries.succeeded()
            self._heard = time.monotonic()
        self._unanswered[submission.tag] = submission
        self._unanswered_bytes += submission.size
        self._send((submission.tag,))
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
        return submission

    async def _room(self, *, wait: bool) -> None:
        async with contextlib.AsyncExitStack() as taken:
            if wait:
                await self._finishing.acquire()
                taken.callback(self._finishing.release)
            await self._window.acquire()
            taken.callback(self._window.release)
            while self._unanswered_bytes >= WINDOW_BYTES:
                self._less.clear()
                await self._less.wait()
            # They are released when the task is answered, or has finished.
            taken.pop_all()

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
                for answer in answers.answers:
                    self._take(answer)
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

    def _send(self, tags: Iterable[int]) -> None:
        self._to_send.extend(tags)
        self._more.set()

    def _next_batch(self) -> fleet_pb2.SubmitStreamRequest | None:
        tasks: list[fleet_pb2.StreamedTask] = []
        size = 0
        while self._to_send and len(tasks) < BATCH_TASKS:
            submission = self._unanswered.get(self._to_send[0])
            if submission is None:
                self._to_send.popleft()
                continue
            size += submission.size
            if tasks and size > BATCH_BYTES:
                break
            self._to_send.popleft()
            wait = submission.finished is not None
            tasks.append(fleet_pb2.StreamedTask(tag=submission.tag, task=submission.spec, wait=wait))
        return fleet_pb2.SubmitStreamRequest(tasks=tasks) if tasks else None

    def _take(self, answer: fleet_pb2.StreamedAnswer) -> None:
        which = answer.WhichOneof("answer")
        if which == "submitted":
            self._take_result(answer.tag, answer.submitted)
        elif which == "finished":
            if answer.tag in self._unanswered:
                # A result alone counts as both.
                self._take_result(answer.tag, fleet_pb2.SubmitResult(task_id=answer.finished.id))
            self._end(answer.tag, answer.finished)
        elif which == "expired":
            self._end(answer.tag, TaskExpiredError(answer.expired))

    def _take_result(self, tag: int, result: fleet_pb2.SubmitResult) -> None:
        submission = self._unanswered.get(tag)
        if submission is None:
            return
        refusal = result.refusal if result.HasField("refusal") else None
        now = time.monotonic()
        if refusal is not None and refusal.code in _PASSING:
            if now + RESUBMIT_PAUSE >= self._tries.ends:
                self._answered(submission)
                submission.fail(UnavailableError(f"the fleet could not accept the task: {refusal.message}"))
                self._settle(submission)
            else:
                self._postpone(tag, RESUBMIT_PAUSE)
            return
        self._tries.succeeded()
        if refusal is not None and _is_full(refusal) and now + ROOM_PAUSE < submission.room_until:
            self._postpone(tag, ROOM_PAUSE)
            return
        self._answered(submission)
        if refusal is not None:
            submission.fail(RefusedError(refusal.code, refusal.message))
            self._settle(submission)
            return
        submission.task_id = result.task_id
        if not submission.accepted.done():
            submission.accepted.set_result(result)
        if submission.finished is not None:
            self._unfinished[tag] = submission

    def _postpone(self, tag: int, seconds: float) -> None:
        # One that was answered meanwhile is not sent again.
        asyncio.get_running_loop().call_later(seconds, self._send, (tag,))

    def _answered(self, submission: Submission) -> None:
        del self._unanswered[submission.tag]
        self._unanswered_bytes -= submission.size
        self._less.set()
        self._window.release()

    def _end(self, tag: int, outcome: types_pb2.Task | FleetError) -> None:
        submission = self._unfinished.pop(tag, None)
        if submission is not None:
            self._finish(submission, outcome)

    def _finish(self, submission: Submission, outcome: types_pb2.Task | FleetError) -> None:
        if isinstance(outcome, FleetError):
            submission.fail(outcome)
        elif submission.finished is not None and not submission.finished.done():
            submission.finished.set_result(outcome)
        self._settle(submission)

    def _settle(self, submission: Submission) -> None:
        """Makes room for another task whose result is awaited."""
        if submission.finished is not None:
            self._finishing.release()

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
        outcome: types_pb2.Task | FleetError = UnavailableError("the client was closed")
        try:
            outcome = await self._awaited.finished(submission.task_id)
        except FleetError as error:
            outcome = error
        finally:
            self._finish(submission, outcome)

    def _fail_all(self, error: FleetError) -> None:
        for submission in list(self._unanswered.values()):
            self._answered(submission)
            submission.lost = error
            submission.fail(error)
            self._settle(submission)
        unfinished, self._unfinished = self._unfinished, {}
        for submission in unfinished.values():
            submission.lost = error
            self._finish(submission, error)
        self._to_send.clear()


def _is_full(refusal: Any) -> bool:
    return refusal.code == _NO_ROOM and not refusal.message.startswith(_INSUFFICIENT)
