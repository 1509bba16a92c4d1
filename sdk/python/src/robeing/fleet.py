"""A client of a fleet: submits tasks, waits for them, follows and cancels them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from robeing._client import following, watching
from robeing._client.calls import REQUEST_TIMEOUT, Calls
from robeing._client.connection import Connection
from robeing._client.credentials import Files
from robeing._client.find import Place
from robeing._client.kubernetes import Location
from robeing._client.many import Inputs, Result, Results
from robeing._client.parts import Part, specs_of
from robeing._client.results import output_of
from robeing._client.specs import Form, TaskOptions, duration
from robeing._client.submissions import WINDOW, Submission
from robeing.errors import FleetError, RobeingError, SubmitError, TaskExpiredError
from robeing.v1 import fleet_pb2, types_pb2

if TYPE_CHECKING:
    import os
    from collections.abc import Generator
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from robeing._client.many import ToSpec
    from robeing._client.specs import Loose, Seconds

__all__ = ["Fleet", "Result", "TaskHandle", "TaskOptions"]

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
_Coroutine = Coroutine[Any, Any, R]

# The most ids of one call that cancels, and the most tasks of a page of a list.
MAX_CANCELLED = 1_000
MAX_PAGE = 1_000
# How long submissions of many tasks wait for room in the fleet's queue, seconds, unless `room_for` is given.
ROOM_FOR_MANY = 300.0


class TaskHandle(Generic[R]):
    """A task that was accepted. Awaiting it waits for its output."""

    def __init__(self, fleet: Fleet, task_id: str, decode: Callable[[bytes], Any], *, existing: bool = False) -> None:
        self._fleet = fleet
        self._decode = decode
        self.id = task_id
        """The id of the task, a UUID."""
        self.existing = existing
        """An earlier submission had the same id or key: this is the task of that one."""

    def __repr__(self) -> str:
        return f"TaskHandle({self.id!r})"

    def __await__(self) -> Generator[Any, Any, R]:
        return self.result().__await__()

    async def result(self) -> R:
        """Waits until the task has finished, and returns its output.

        Raises:
            TaskFailedError: it has none, because the task failed or was cancelled.
            TaskExpiredError: its result has expired.
            FleetError: it is in the object store, or the fleet does not answer.
        """
        output: R = output_of(await self.finished(), self._decode)
        return output

    async def finished(self) -> types_pb2.Task:
        """Waits until the task has finished, however it did, and returns it."""
        opened = await self._fleet._connection.open()
        return await opened.awaited.finished(self.id)

    async def get(self, *, include_input: bool = False) -> types_pb2.Task:
        """Returns the task as it is now."""
        return await self._fleet.get(self.id, include_input=include_input)

    def watch(self) -> AsyncIterator[types_pb2.Task]:
        """Yields the task whenever it has changed, until it has finished."""
        return self._fleet._until_finished(self.id)

    async def logs(self, *, follow: bool = True) -> AsyncIterator[str]:
        """Yields the recent lines of the task's newest attempt, and with `follow` what comes until it has finished."""
        async for said in self._fleet.logs(self.id, follow=follow):
            for line in said.lines:
                yield line.text

    async def progress(self) -> AsyncIterator[types_pb2.AttemptProgress]:
        """Yields how far the task is, as its attempts say, until it has finished."""
        opened = await self._fleet._connection.open()
        request = fleet_pb2.WatchTasksRequest(ids=[self.id], include_progress=True)
        async with contextlib.aclosing(watching.changes(opened.calls, request)) as changes:
            async for change in changes:
                for said in change.progress:
                    yield said.progress
                if self.id in change.gone_ids or any(map(watching.is_finished, change.tasks)):
                    return

    async def cancel(self, reason: str = "", *, wait: Seconds | None = None) -> fleet_pb2.CancelResult:
        """Cancels the task, as `Fleet.cancel` does."""
        (result,) = await self._fleet.cancel(self.id, reason=reason, wait=wait)
        return result


class Fleet:
    """A client of a fleet, for one event loop.

    It connects when it is first used, outlives coordinators, and is closed by `close` or `async with`.
    """

    def __init__(self, place: Place, request_timeout: float) -> None:
        """Use `Fleet.connect`."""
        self._connection = Connection(place, request_timeout)

    @classmethod
    def connect(
        cls,
        *endpoints: str,
        dev: str | None = None,
        cluster: str | None = None,
        namespace: str | None = None,
        context: str | None = None,
        kubeconfig: str | os.PathLike[str] | None = None,
        service_account: str | None = None,
        trust: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        private_key: str | os.PathLike[str] | None = None,
        token_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        request_timeout: float = REQUEST_TIMEOUT,
    ) -> Self:
        """Returns a client of the fleet that is meant.

        That is, in this order: the coordinators at `endpoints` (host:port, any of them will do); the fleet that
        `robeing dev` runs under the name `dev`; the RobeingCluster `cluster` on Kubernetes, or the only one in
        `namespace`; the coordinators in ROBEING_ENDPOINT; the newest fleet of `robeing dev`; 127.0.0.1:8080.

        Args:
            endpoints: addresses of coordinators.
            dev: the name of a fleet of `robeing dev`.
            cluster: the name of a RobeingCluster. It is reached through kubectl.
            namespace: its namespace; the kubeconfig's current one unless given.
            context: the context of the kubeconfig; its current one unless given.
            kubeconfig: the kubeconfig file; as kubectl has it unless given.
            service_account: the ServiceAccount whose token is asked for; NAME.user of the cluster NAME unless given.
            trust: a file with the authorities that must have certified the coordinators, PEM; or ROBEING_TRUST.
            certificate: a file with the client's certificate, PEM; or ROBEING_CERTIFICATE.
            private_key: a file with its private key, PEM; or ROBEING_PRIVATE_KEY.
            token_file: a file with a token of the audience `robeing`, read for each call; or ROBEING_TOKEN_FILE.
            token: the token itself.
            request_timeout: how long a call is tried while the fleet does not answer, seconds.
        """
        kubernetes = None
        if any(given is not None for given in (cluster, namespace, context, kubeconfig, service_account)):
            file = None if kubeconfig is None else str(kubeconfig)
            kubernetes = Location(cluster, namespace, context, file, service_account)
        if sum((bool(endpoints), dev is not None, kubernetes is not None)) > 1:
            raise TypeError("name the fleet by endpoints, by dev, or by what it is called on Kubernetes: one of them")
        files = Files(trust, certificate, private_key, token_file)
        return cls(Place(endpoints, dev, kubernetes, files, token), request_timeout)

    async def __aenter__(self) -> Self:
        await self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Tasks that were accepted go on."""
        await self._connection.close()

    @overload
    async def submit(
        self, task: Callable[[I], _Coroutine[R]], input: I, /, **options: Unpack[TaskOptions]
    ) -> TaskHandle[R]: ...
    @overload
    async def submit(self, task: Callable[[I], R], input: I, /, **options: Unpack[TaskOptions]) -> TaskHandle[R]: ...
    @overload
    async def submit(self, task: Loose, input: object = None, /, **options: Unpack[TaskOptions]) -> TaskHandle[Any]: ...
    async def submit(
        self, task: str | Callable[..., Any], input: object = None, /, **options: Unpack[TaskOptions]
    ) -> TaskHandle[Any]:
        """Submits a task, and returns once it is accepted: it is not lost any more, whatever dies.

        Args:
            task: a handler, or the kind of the task. The types of a handler say how input and output are written;
                with a kind, bytes are passed as they are, and anything else as JSON.
            input: the input of the task.
            options: see `TaskOptions`.

        Raises:
            RefusedError: the fleet does not accept it.
            FleetError: the fleet does not answer.
        """
        form = Form(task, options)
        opened = await self._connection.open()
        submission = Submission(form.spec(input), wait=False)
        await opened.submissions.submit(submission, form.room_for(0))
        return await self._accepted(submission, form)

    @overload
    async def run(self, task: Callable[[I], _Coroutine[R]], input: I, /, **options: Unpack[TaskOptions]) -> R: ...
    @overload
    async def run(self, task: Callable[[I], R], input: I, /, **options: Unpack[TaskOptions]) -> R: ...
    @overload
    async def run(self, task: Loose, input: object = None, /, **options: Unpack[TaskOptions]) -> Any: ...
    async def run(self, task: str | Callable[..., Any], input: object = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Submits a task as `submit` does, waits until it has finished, and returns its output.

        If this is cancelled, the task goes on; cancel it by its id, which can be given as an option.

        Raises:
            TaskFailedError: it has none, because the task failed or was cancelled.
            FleetError: it is in the object store, or the fleet refuses the task, or does not answer.
        """
        form = Form(task, options)
        opened = await self._connection.open()
        submission = Submission(form.spec(input), wait=True)
        await opened.submissions.submit(submission, form.room_for(0))
        return output_of(await submission.result(), form.decode)

    @overload
    async def submit_many(
        self, task: Callable[[I], _Coroutine[R]], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> list[TaskHandle[R]]: ...
    @overload
    async def submit_many(
        self, task: Callable[[I], R], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> list[TaskHandle[R]]: ...
    @overload
    async def submit_many(
        self, task: Loose, inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> list[TaskHandle[Any]]: ...
    async def submit_many(
        self, task: str | Callable[..., Any], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> list[TaskHandle[Any]]:
        """Submits a task for each input, and returns once all are accepted, in their order.

        They go over one stream, as fast as the fleet accepts them; inputs are taken as there is room.

        Raises:
            SubmitError: some were not accepted.
            FleetError: the fleet does not answer.
        """
        form = Form(task, options, is_many=True)
        opened = await self._connection.open()
        room_for = form.room_for(ROOM_FOR_MANY)
        submissions: list[Submission] = []

        async def submit(value: object) -> None:
            submission = Submission(form.spec(value), wait=False)
            await opened.submissions.submit(submission, room_for)
            submissions.append(submission)
            # This one was answered before there was room for the newest.
            answered = submissions[-WINDOW - 1] if len(submissions) > WINDOW else None
            if answered is not None and answered.lost is not None:
                raise answered.lost

        if isinstance(inputs, AsyncIterable):
            async for value in inputs:
                await submit(value)
        else:
            for value in inputs:
                await submit(value)
        handles: dict[int, TaskHandle[Any]] = {}
        failures: list[tuple[int, FleetError]] = []
        for index, submission in enumerate(submissions):
            try:
                handles[index] = await self._accepted(submission, form)
            except FleetError as error:
                failures.append((index, error))
        if failures:
            raise SubmitError(failures, {index: handle.id for index, handle in handles.items()})
        return list(handles.values())

    @overload
    def map(
        self, task: Callable[[I], _Coroutine[R]], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> AsyncIterator[Result[R]]: ...
    @overload
    def map(
        self, task: Callable[[I], R], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> AsyncIterator[Result[R]]: ...
    @overload
    def map(self, task: Loose, inputs: Inputs, /, **options: Unpack[TaskOptions]) -> AsyncIterator[Result[Any]]: ...
    async def map(
        self, task: str | Callable[..., Any], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> AsyncIterator[Result[Any]]:
        """Submits a task for each input, and yields their results as they come, in the order in which tasks finish.

        Inputs are taken as there is room: at most 8,192 tasks are submitted whose results were not taken.

        Raises:
            FleetError: the fleet does not answer. What becomes of a single task is in its result.
        """
        form = Form(task, options, is_many=True)
        opened = await self._connection.open()
        results: Results[Any] = Results(opened, inputs, specs_of(form), form.decode, form.room_for(ROOM_FOR_MANY))
        async with results:
            while await results.come():
                while (result := results.take()) is not None:
                    yield result

    @overload
    async def gather(
        self, task: Callable[[I], _Coroutine[R]], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> list[R]: ...
    @overload
    async def gather(self, task: Callable[[I], R], inputs: Inputs, /, **options: Unpack[TaskOptions]) -> list[R]: ...
    @overload
    async def gather(self, task: Loose, inputs: Inputs, /, **options: Unpack[TaskOptions]) -> list[Any]: ...
    async def gather(
        self, task: str | Callable[..., Any], inputs: Inputs, /, **options: Unpack[TaskOptions]
    ) -> list[Any]:
        """Submits a task for each input, waits for all of them, and returns their outputs in the order of the inputs.

        If one fails, the others are cancelled.

        Raises:
            TaskFailedError: one of them failed.
            FleetError: one of them was refused, or the fleet does not answer.
        """
        return await self._gather(Form(task, options, is_many=True), inputs, None)

    async def cancel(
        self, *task_ids: str, reason: str = "", wait: Seconds | None = None
    ) -> list[fleet_pb2.CancelResult]:
        """Cancels tasks, and returns the result of each, in their order.

        Each has the state of the task now: cancelled, or that in which it had finished before; or a refusal. With
        `wait` (at most ten minutes), it also says whether nothing of the task runs any more: the call waits for that.
        """
        request = fleet_pb2.CancelTasksRequest(reason=reason)
        if wait is not None:
            request.wait.CopyFrom(duration(wait))
        opened = await self._connection.open()
        results: list[fleet_pb2.CancelResult] = []
        for start in range(0, len(task_ids), MAX_CANCELLED):
            request.ids[:] = task_ids[start : start + MAX_CANCELLED]
            results.extend(await _cancelled(opened.calls, request))
        return results

    async def get(self, task_id: str, *, include_input: bool = False) -> types_pb2.Task:
        """Returns a task as it is now.

        Raises:
            NotFoundError: it does not exist, or not any more.
        """
        opened = await self._connection.open()
        request = fleet_pb2.GetTaskRequest(id=task_id, include_input=include_input)
        return await opened.calls.call(lambda stub, within: stub.GetTask(request, timeout=within))

    async def tasks(
        self,
        *,
        states: Iterable[types_pb2.TaskState.ValueType] = (),
        kind: str = "",
        submitter: str = "",
        agent: str = "",
    ) -> AsyncIterator[types_pb2.Task]:
        """Yields the tasks of the fleet, oldest first, without their inputs and outputs."""
        opened = await self._connection.open()
        request = fleet_pb2.ListTasksRequest(
            states=states, kind=kind, submitter=submitter, agent=agent, page_size=MAX_PAGE
        )
        while True:
            page = await opened.calls.call(lambda stub, within: stub.ListTasks(request, timeout=within))
            for task in page.tasks:
                yield task
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch(
        self,
        *task_ids: str,
        states: Iterable[types_pb2.TaskState.ValueType] = (),
        kind: str = "",
        submitter: str = "",
        include_output: bool = False,
        from_revision: int = 0,
    ) -> AsyncIterator[types_pb2.Task]:
        """Yields tasks as they are now, and then each that changes, in its latest state, without an end.

        It goes on at another coordinator if one is gone. With the `revision` of the last task, a later watch goes on
        where this one ended. At most 1,000 ids can be watched at once.
        """
        opened = await self._connection.open()
        request = fleet_pb2.WatchTasksRequest(
            ids=task_ids,
            states=states,
            kind=kind,
            submitter=submitter,
            include_output=include_output,
            from_revision=from_revision,
        )
        async with contextlib.aclosing(watching.changes(opened.calls, request)) as changes:
            async for change in changes:
                for task in change.tasks:
                    yield task

    async def logs(
        self, task_id: str, *, follow: bool = False, attempt: int = 0
    ) -> AsyncIterator[fleet_pb2.TaskLogsResponse]:
        """Yields the recent lines and the progress of a task's newest attempt, or of the one with this number.

        With `follow`, also what comes of it, and of later attempts, until the task has finished. Lines are kept by
        agents for a while: some may be missing, and then it says so.
        """
        opened = await self._connection.open()
        request = fleet_pb2.TaskLogsRequest(id=task_id, follow=follow, attempt=attempt)
        async with contextlib.aclosing(following.logs(opened.calls, request)) as coming:
            async for said in coming:
                yield said

    async def agents(self, *, include_lost: bool = False) -> list[types_pb2.Agent]:
        """Returns the agents of the fleet, in the order of their names."""
        opened = await self._connection.open()
        request = fleet_pb2.ListAgentsRequest(include_lost=include_lost)
        agents: list[types_pb2.Agent] = []
        while True:
            page = await opened.calls.call(lambda stub, within: stub.ListAgents(request, timeout=within))
            agents.extend(page.agents)
            if page.next_page_token <= request.page_token:
                return agents
            request.page_token = page.next_page_token

    async def status(self) -> fleet_pb2.FleetStatus:
        """Returns the status of the fleet."""
        opened = await self._connection.open()
        request = fleet_pb2.GetStatusRequest()
        return await opened.calls.call(lambda stub, within: stub.GetStatus(request, timeout=within))

    async def _accepted(self, submission: Submission, form: Form) -> TaskHandle[Any]:
        if not submission.is_accepted:
            await submission.accepted()
        return TaskHandle(self, submission.task_id, form.decode, existing=submission.existing)

    async def _until_finished(self, task_id: str) -> AsyncIterator[types_pb2.Task]:
        opened = await self._connection.open()
        request = fleet_pb2.WatchTasksRequest(ids=[task_id], include_output=True)
        async with contextlib.aclosing(watching.changes(opened.calls, request)) as changes:
            async for change in changes:
                for task in change.tasks:
                    yield task
                    if watching.is_finished(task):
                        return
                if task_id in change.gone_ids:
                    raise TaskExpiredError(task_id)

    async def _gather(self, form: Form, inputs: Inputs, part: Part | None) -> list[Any]:
        outputs: dict[int, Any] = {}
        failed: list[Result[Any]] = []

        def take(result: Result[Any]) -> None:
            if part is not None and result.existing and result.error is not None:
                # It failed for an earlier attempt, which this one would only repeat.
                failed.append(result)
            else:
                outputs[result.index] = result.value

        await self._collect(form, inputs, specs_of(form, part), take)
        if part is not None and failed:

            def take_again(result: Result[Any]) -> None:
                outputs[failed[result.index].index] = result.value

            await self._collect(form, failed, lambda result, _: part.again(result.spec), take_again)
        return [outputs[index] for index in sorted(outputs)]

    async def _collect(self, form: Form, inputs: Inputs, to_spec: ToSpec, take: Callable[[Result[Any]], None]) -> None:
        """Submits tasks, and takes their results. If one can't be taken, the others are cancelled."""
        opened = await self._connection.open()
        results: Results[Any] = Results(opened, inputs, to_spec, form.decode, form.room_for(ROOM_FOR_MANY))
        try:
            # Left before the others are cancelled, so that no more are submitted.
            async with results:
                while await results.come():
                    while (result := results.take()) is not None:
                        take(result)
        except RobeingError:
            with contextlib.suppress(FleetError):
                await self.cancel(*await results.unfinished(), reason="another one of the same tasks failed")
            raise


async def _cancelled(calls: Calls, request: fleet_pb2.CancelTasksRequest) -> Iterable[fleet_pb2.CancelResult]:
    extra = request.wait.ToTimedelta().total_seconds()
    answer = await calls.call(lambda stub, within: stub.CancelTasks(request, timeout=within), extra)
    return answer.results
