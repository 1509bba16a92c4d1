"""An agent to which processes attach."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from grpc import aio

from robeing.worker.v1 import worker_pb2 as wire
from robeing.worker.v1.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server
from tests.fakes.waiting import SOON

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

MAX_OUTPUT = 1024 * 1024


class Process:
    """A process that is attached."""

    def __init__(self, hello: wire.Hello) -> None:
        self.hello = hello
        self.outgoing: asyncio.Queue[wire.ToProcess | None] = asyncio.Queue()
        self.results: asyncio.Queue[wire.TaskResult] = asyncio.Queue()
        self.reports: asyncio.Queue[wire.TaskProgress | wire.TaskLog] = asyncio.Queue()
        self.healths: asyncio.Queue[wire.Health] = asyncio.Queue()
        # All messages of it since Hello.
        self.said: list[wire.FromProcess] = []
        self.is_attached = True
        self._numbers = itertools.count(1)

    async def give(self, kind: str, data: bytes = b"", *, attempt: int = 1, **limits: Any) -> wire.Task:
        """Gives it a task."""
        task = wire.Task(task_id=f"task-{next(self._numbers)}", attempt=attempt, kind=kind, input=data, **limits)
        await self.outgoing.put(wire.ToProcess(task=task))
        return task

    async def give_all(self, *inputs: tuple[str, bytes]) -> list[wire.Task]:
        """Gives it tasks by one message."""
        tasks = [
            wire.Task(task_id=f"task-{next(self._numbers)}", attempt=1, kind=kind, input=data) for kind, data in inputs
        ]
        await self.outgoing.put(wire.ToProcess(batch=wire.ToProcessBatch(tasks=tasks)))
        return tasks

    async def stop(self, task: wire.Task) -> None:
        """Tells it to stop an attempt."""
        await self.outgoing.put(wire.ToProcess(stop=wire.Stop(task_id=task.task_id, attempt=task.attempt)))

    async def result(self) -> wire.TaskResult:
        """Returns its next result."""
        return await asyncio.wait_for(self.results.get(), SOON)

    async def run(self, kind: str, data: bytes = b"") -> wire.TaskResult:
        """Gives it a task, and returns the result."""
        await self.give(kind, data)
        return await self.result()

    async def health(self, seq: int = 1) -> wire.Health:
        """Asks how it is."""
        await self.outgoing.put(wire.ToProcess(health_check=wire.HealthCheck(seq=seq)))
        return await asyncio.wait_for(self.healths.get(), SOON)

    async def detach(self) -> None:
        """Ends its stream."""
        await self.outgoing.put(None)


class FakeAgent(WorkerServicer):
    """An agent that gives what a test says."""

    def __init__(self, slots: int = 8, port: int = 0, *, takes_batches: bool = True) -> None:
        self._welcome = wire.Welcome(
            agent="fake-0", slots=slots, max_output_bytes=MAX_OUTPUT, takes_batches=takes_batches
        )
        self._port = port
        self._attached: asyncio.Queue[Process] = asyncio.Queue()
        # As real agents do, it lets processes ping as often as they want to.
        self._server = aio.server(options=(("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0)))
        self.processes: list[Process] = []

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port."""
        return self._port

    async def __aenter__(self) -> Self:
        add_WorkerServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(self.address)
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(0)

    async def attached(self) -> Process:
        """Returns the next process that attaches."""
        return await asyncio.wait_for(self._attached.get(), SOON)

    async def Attach(self, _: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Serves a process."""
        first: wire.FromProcess = await context.read()
        assert first.HasField("hello"), "a process says Hello first"
        process = Process(first.hello)
        await context.write(wire.ToProcess(welcome=self._welcome))
        self.processes.append(process)
        await self._attached.put(process)
        reading = asyncio.ensure_future(_read(process, context))
        try:
            while (message := await process.outgoing.get()) is not None:
                await context.write(message)
        finally:
            process.is_attached = False
            reading.cancel()


async def _read(process: Process, context: Any) -> None:
    while isinstance(message := await context.read(), wire.FromProcess):
        process.said.append(message)
        for progress in message.batch.progress:
            await process.reports.put(progress)
        for lines in message.batch.logs:
            await process.reports.put(lines)
        for result in message.batch.results:
            await process.results.put(result)
        if message.HasField("result"):
            await process.results.put(message.result)
        elif message.HasField("health"):
            await process.healths.put(message.health)
        elif message.HasField("progress"):
            await process.reports.put(message.progress)
        elif message.HasField("log"):
            await process.reports.put(message.log)
    await process.detach()
