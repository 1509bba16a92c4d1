"""A fleet: several coordinators that share the accepted tasks, and can each be made to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpc import StatusCode, aio

from robeing.v1 import fleet_pb2 as api
from robeing.v1 import types_pb2 as types
from robeing.v1.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import grpc
    from typing_extensions import Self


@dataclass
class State:
    """What all coordinators of a fleet share."""

    tasks: dict[str, types.Task] = field(default_factory=dict)
    specs: dict[str, types.TaskSpec] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    # How often each task was accepted as new.
    accepted: Counter[str] = field(default_factory=Counter)
    # The most tasks that were unanswered, or accepted and unfinished, at the same time.
    most_unanswered: int = 0
    most_unfinished: int = 0
    largest_batch: int = 0
    cancelled: list[str] = field(default_factory=list)
    watches: list[api.WatchTasksRequest] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    followed: list[api.TaskLogsRequest] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    revision: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    # What runs tasks: returns the output, or an exception with the failure; `None`: it does not finish.
    work: Callable[[types.TaskSpec], bytes | Exception | None] = field(default=lambda spec: spec.input)

    async def finish(self, task_id: str, state: types.TaskState.ValueType, **fields: Any) -> None:
        """Ends a task."""
        async with self.changed:
            self.revision += 1
            task = self.tasks[task_id]
            task.MergeFrom(types.Task(state=state, revision=self.revision, **fields))
            self.changed.notify_all()

    async def expire(self, task_id: str) -> None:
        """Forgets a task."""
        async with self.changed:
            del self.tasks[task_id]
            self.gone.add(task_id)
            self.changed.notify_all()


@dataclass
class Manners:
    """How a coordinator behaves."""

    # The number of first calls that are answered with UNAVAILABLE.
    unavailable: int = 0
    # Break a stream of submissions after so many answers, once.
    break_after: int | None = None
    # The number of first tasks that are refused: with UNAVAILABLE, and with RESOURCE_EXHAUSTED.
    refuse: int = 0
    full: int = 0
    # Read nothing more from a stream of submissions.
    deaf: bool = False
    # End each watch after its first answer.
    ends_watches: bool = False
    # Refuse every call with this code.
    forbids: StatusCode | None = None


class Coordinator(FleetServicer):
    """One coordinator."""

    def __init__(self, state: State, credentials: grpc.ServerCredentials | None = None) -> None:
        self.state = state
        self.manners = Manners()
        self.port = 0
        self.calls = 0
        self._credentials = credentials
        self._server = aio.server(options=(("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0)))

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        add_FleetServicer_to_server(self, self._server)
        if self._credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", self._credentials)
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Dies."""
        await self._server.stop(0)

    async def _begin(self, context: Any) -> None:
        self.calls += 1
        metadata = dict(context.invocation_metadata())
        self.state.authorizations.append(metadata.get("authorization"))
        if self.manners.unavailable > 0:
            self.manners.unavailable -= 1
            await context.abort(StatusCode.UNAVAILABLE, "no leader is known now")
        if self.manners.forbids is not None:
            await context.abort(self.manners.forbids, "you may not")

    def _accept(self, spec: types.TaskSpec) -> api.SubmitResult:
        state = self.state
        if self.manners.refuse > 0:
            self.manners.refuse -= 1
            return api.SubmitResult(refusal=api.Refusal(code="UNAVAILABLE", message="no leader"))
        if self.manners.full > 0:
            self.manners.full -= 1
            return api.SubmitResult(refusal=api.Refusal(code="RESOURCE_EXHAUSTED", message="the queue is full"))
        if spec.priority > 10:
            return api.SubmitResult(refusal=api.Refusal(code="INVALID_ARGUMENT", message="priority: 1 to 10"))
        known = state.keys.get(spec.idempotency_key) if spec.idempotency_key else None
        known = known or (spec.id if spec.id in state.tasks else None)
        if known is not None:
            return api.SubmitResult(task_id=known, existing=True)
        state.accepted[spec.id] += 1
        if spec.idempotency_key:
            state.keys[spec.idempotency_key] = spec.id
        state.revision += 1
        state.tasks[spec.id] = types.Task(
            id=spec.id, kind=spec.kind, state=types.TASK_STATE_QUEUED, submitter=spec.submitter, revision=state.revision
        )
        state.specs[spec.id] = spec
        return api.SubmitResult(task_id=spec.id)

    async def _work(self, task_id: str) -> None:
        done = self.state.work(self.state.specs[task_id])
        if isinstance(done, bytes):
            await self.state.finish(task_id, types.TASK_STATE_SUCCEEDED, output=done)
        elif done is not None:
            failure = types.Failure(message=str(done), stderr_tail="Traceback: …")
            await self.state.finish(task_id, types.TASK_STATE_FAILED, failure=failure, attempts_used=2)

    async def SubmitStream(self, _: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Accepts tasks."""
        await self._begin(context)
        answered = 0
        unfinished: set[int] = set()
        waiting: set[asyncio.Task[None]] = set()
        sending = asyncio.Lock()

        async def send(answer: api.StreamedAnswer) -> None:
            async with sending:
                await context.write(api.SubmitStreamResponse(answers=[answer]))

        async def wait_for(tag: int, task_id: str) -> None:
            async with self.state.changed:
                await self.state.changed.wait_for(lambda: task_id in self.state.gone or self._is_finished(task_id))
            unfinished.discard(tag)
            if task_id in self.state.gone:
                await send(api.StreamedAnswer(tag=tag, expired=task_id))
            else:
                await send(api.StreamedAnswer(tag=tag, finished=self.state.tasks[task_id]))

        try:
            while isinstance(batch := await context.read(), api.SubmitStreamRequest):
                while self.manners.deaf:
                    await asyncio.sleep(0.01)
                self.state.largest_batch = max(self.state.largest_batch, len(batch.tasks))
                self.state.most_unanswered = max(self.state.most_unanswered, len(batch.tasks))
                for task in batch.tasks:
                    if self.manners.break_after is not None and answered >= self.manners.break_after:
                        self.manners.break_after = None
                        await context.abort(StatusCode.UNAVAILABLE, "shutting down")
                    result = self._accept(task.task)
                    answered += 1
                    await send(api.StreamedAnswer(tag=task.tag, submitted=result))
                    if result.HasField("refusal"):
                        continue
                    if not result.existing:
                        await self._work(result.task_id)
                    if task.wait:
                        unfinished.add(task.tag)
                        self.state.most_unfinished = max(self.state.most_unfinished, len(unfinished))
                        one = asyncio.ensure_future(wait_for(task.tag, result.task_id))
                        waiting.add(one)
                        one.add_done_callback(waiting.discard)
            await asyncio.gather(*waiting)
        finally:
            for one in waiting:
                one.cancel()

    def _is_finished(self, task_id: str) -> bool:
        return self.state.tasks[task_id].state >= types.TASK_STATE_SUCCEEDED

    async def WatchTasks(self, request: api.WatchTasksRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Tells changes."""
        await self._begin(context)
        self.state.watches.append(request)
        revision = request.from_revision
        told_gone: set[str] = set()
        while True:
            async with self.state.changed:

                def news(after: int = revision) -> bool:
                    gone = {one for one in request.ids if one not in self.state.tasks} - told_gone
                    return self.state.revision > after or bool(gone)

                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.state.changed.wait_for(news), 0.05)
                ids = set(request.ids)
                tasks = [
                    task
                    for task in self.state.tasks.values()
                    if task.revision > revision and (not ids or task.id in ids)
                ]
                gone = [one for one in request.ids if one not in self.state.tasks and one not in told_gone]
                told_gone.update(gone)
                revision = self.state.revision
            if tasks or gone:
                progress = [
                    api.TaskProgress(task_id=task.id, progress=types.AttemptProgress(fraction=0.5, text="half"))
                    for task in tasks
                    if request.include_progress and not self._is_finished(task.id)
                ]
                await context.write(
                    api.WatchTasksResponse(tasks=tasks, revision=revision, gone_ids=gone, progress=progress)
                )
                if self.manners.ends_watches:
                    await context.abort(StatusCode.UNAVAILABLE, "the watch ends")

    async def GetTask(self, request: api.GetTaskRequest, context: Any) -> types.Task:  # noqa: N802
        """Returns a task."""
        await self._begin(context)
        if request.id not in self.state.tasks:
            await context.abort(StatusCode.NOT_FOUND, f"there is no task {request.id}")
        return self.state.tasks[request.id]

    async def ListTasks(self, request: api.ListTasksRequest, context: Any) -> api.ListTasksResponse:  # noqa: N802
        """Lists tasks, two on a page."""
        await self._begin(context)
        tasks = [task for task in self.state.tasks.values() if request.kind in ("", task.kind)]
        start = int(request.page_token or 0)
        token = str(start + 2) if start + 2 < len(tasks) else ""
        return api.ListTasksResponse(tasks=tasks[start : start + 2], next_page_token=token)

    async def CancelTasks(self, request: api.CancelTasksRequest, context: Any) -> api.CancelTasksResponse:  # noqa: N802
        """Cancels tasks."""
        await self._begin(context)
        results = []
        if request.HasField("wait"):
            await asyncio.sleep(request.wait.ToTimedelta().total_seconds())
        for task_id in request.ids:
            if task_id not in self.state.tasks:
                refusal = api.Refusal(code="NOT_FOUND", message="there is no such task")
                results.append(api.CancelResult(task_id=task_id, refusal=refusal))
                continue
            if not self._is_finished(task_id):
                self.state.cancelled.append(task_id)
                await self.state.finish(task_id, types.TASK_STATE_CANCELLED, cancel_reason=request.reason)
            results.append(api.CancelResult(task_id=task_id, state=self.state.tasks[task_id].state))
        return api.CancelTasksResponse(results=results)

    async def ListSubtasks(self, _: Any, context: Any) -> api.ListSubtasksResponse:  # noqa: N802
        """Lists no subtasks."""
        await self._begin(context)
        return api.ListSubtasksResponse()

    async def ListAgents(self, request: api.ListAgentsRequest, context: Any) -> api.ListAgentsResponse:  # noqa: N802
        """Lists agents, one on a page."""
        await self._begin(context)
        names = ["a", "b", "c"]
        rest = [name for name in names if name > request.page_token]
        token = rest[0] if len(rest) > 1 else ""
        return api.ListAgentsResponse(agents=[types.Agent(name=rest[0])], next_page_token=token)

    async def GetStatus(self, _: api.GetStatusRequest, context: Any) -> api.FleetStatus:  # noqa: N802
        """Returns the status."""
        await self._begin(context)
        return api.FleetStatus(cluster_id="fake", leader="fake-0")

    async def TaskLogs(self, request: api.TaskLogsRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Tells lines, two at a time, and breaks after each message if it ends watches."""
        await self._begin(context)
        self.state.followed.append(request)
        first = max((after.next for after in request.after), default=0)
        lines = self.state.lines
        while first < len(lines):
            told = [types.LogLine(text=text) for text in lines[first : first + 2]]
            await context.write(api.TaskLogsResponse(attempt=1, agent="a", first=first, lines=told))
            if self.manners.ends_watches:
                await context.abort(StatusCode.UNAVAILABLE, "the stream ends")
            first += 2
        if request.follow:
            await context.write(api.TaskLogsResponse(finished=True))

    async def Submit(self, request: api.SubmitRequest, context: Any) -> api.SubmitResponse:  # noqa: N802
        """Accepts tasks."""
        await self._begin(context)
        return api.SubmitResponse(results=[self._accept(task) for task in request.tasks])

    async def WatchStatus(self, _: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Tells nothing."""
        await self._begin(context)


@contextlib.asynccontextmanager
async def fleet_of(count: int = 1) -> Any:
    """Starts coordinators of one fleet."""
    state = State()
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Coordinator(state)) for _ in range(count)]
