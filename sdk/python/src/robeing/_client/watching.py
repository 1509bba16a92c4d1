"""Watches of tasks that outlive the coordinator that serves them, and waiting for tasks to finish."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from grpc import StatusCode, aio

from robeing._client.calls import Tries
from robeing.errors import FleetError, TaskExpiredError
from robeing.v1 import fleet_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robeing._client.calls import Calls

# A stream that stayed open for so long was well, seconds: the time limit and the retries restart.
HEALTHY_AFTER = 3.0
# The most ids of one watch, and the most watches at once. More tasks than both allow wait for a watch to end.
MAX_IDS = 1_000
MAX_WATCHES = 256
# How long the first task waits for others, to be watched together, seconds.
GATHER_FOR = 0.002

_FINISHED = frozenset(
    (
        types_pb2.TASK_STATE_SUCCEEDED,
        types_pb2.TASK_STATE_FAILED,
        types_pb2.TASK_STATE_CANCELLED,
        types_pb2.TASK_STATE_DEAD_LETTERED,
    )
)


def is_finished(task: types_pb2.Task) -> bool:
    """Returns whether a task has ended, and so never changes again."""
    return task.state in _FINISHED


def broken(why: str) -> aio.AioRpcError:
    """Returns the error of a stream that has ended, though it should not."""
    return aio.AioRpcError(StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), details=why)


async def changes(
    calls: Calls, request: fleet_pb2.WatchTasksRequest
) -> AsyncGenerator[fleet_pb2.WatchTasksResponse, None]:
    """Yields the changes of tasks, without an end, at another coordinator if one is gone.

    Raises:
        FleetError: the fleet refuses the watch, or does not answer for as long as calls may take.
    """
    await calls.contact()
    tries = Tries(calls)
    while True:
        target = calls.current
        opened = time.monotonic()
        stream = target.stub.WatchTasks(request)
        try:
            while True:
                change = await stream.read()
                if not isinstance(change, fleet_pb2.WatchTasksResponse):
                    raise broken("the coordinator ended the watch")
                tries.succeeded()
                request.from_revision = max(request.from_revision, change.revision)
                yield change
        except aio.AioRpcError as error:
            if time.monotonic() - opened >= HEALTHY_AFTER:
                tries.succeeded()
            await tries.failed(target, error)
        finally:
            stream.cancel()


class Awaited:
    """Tasks that are waited for, of which many share a watch."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._waiting: dict[str, list[asyncio.Future[types_pb2.Task]]] = {}
        self._fresh: list[str] = []
        self._watches: dict[str, _Watch] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MAX_WATCHES)

    async def finished(self, task_id: str) -> types_pb2.Task:
        """Waits until a task has finished, and returns it with its output.

        Raises:
            TaskExpiredError: it does not exist, or not any more.
            FleetError: the fleet refuses to tell, or does not answer.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[types_pb2.Task] = loop.create_future()
        waiting = self._waiting.setdefault(task_id, [])
        waiting.append(future)
        if len(waiting) == 1:
            if not self._fresh:
                loop.call_later(GATHER_FOR, self._start)
            self._fresh.append(task_id)
        try:
            return await future
        finally:
            self._forget(task_id, future)

    def close(self) -> None:
        """Ends all watches."""
        for watch in self._running:
            watch.cancel()

    def _start(self) -> None:
        fresh, self._fresh = [one for one in self._fresh if one in self._waiting], []
        for start in range(0, len(fresh), MAX_IDS):
            watch = _Watch(set(fresh[start : start + MAX_IDS]))
            for task_id in watch.left:
                self._watches[task_id] = watch
            watch.running = asyncio.get_running_loop().create_task(self._watch(watch))
            self._running.add(watch.running)
            watch.running.add_done_callback(self._running.discard)

    async def _watch(self, watch: _Watch) -> None:
        try:
            async with self._room:
                request = fleet_pb2.WatchTasksRequest(ids=sorted(watch.left), include_output=True)
                async with contextlib.aclosing(changes(self._calls, request)) as coming:
                    async for change in coming:
                        self._take(watch, change)
                        if not watch.left:
                            return
        except FleetError as error:
            for task_id in list(watch.left):
                self._tell(watch, task_id, error)

    def _take(self, watch: _Watch, change: fleet_pb2.WatchTasksResponse) -> None:
        for task in change.tasks:
            if is_finished(task):
                self._tell(watch, task.id, task)
        for task_id in change.gone_ids:
            self._tell(watch, task_id, TaskExpiredError(task_id))

    def _tell(self, watch: _Watch, task_id: str, outcome: types_pb2.Task | FleetError) -> None:
        watch.left.discard(task_id)
        self._watches.pop(task_id, None)
        for future in self._waiting.pop(task_id, ()):
            if future.done():
                continue
            if isinstance(outcome, FleetError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _forget(self, task_id: str, future: asyncio.Future[types_pb2.Task]) -> None:
        """Ends a watch that nobody needs any more."""
        waiting = self._waiting.get(task_id)
        if waiting is None or future not in waiting:
            return
        waiting.remove(future)
        if waiting:
            return
        del self._waiting[task_id]
        watch = self._watches.pop(task_id, None)
        if watch is not None:
            watch.left.discard(task_id)
            if not watch.left and watch.running is not None:
                watch.running.cancel()


class _Watch:
    """The tasks of one watch that have not finished."""

    def __init__(self, left: set[str]) -> None:
        self.left = left
        self.running: asyncio.Task[None] | None = None
