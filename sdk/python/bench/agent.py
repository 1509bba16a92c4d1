"""An agent that gives a number of no-op tasks to the processes that attach to it, as fast as they answer.

To a process that takes batches it gives as many tasks in one message as it was sent results.

`python -m bench.agent TASKS SLOTS` prints its address, and when all tasks are answered, how many seconds they took.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from grpc import aio

from robeing.worker.v1 import worker_pb2 as wire
from robeing.worker.v1.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server

# Tasks that are not counted: a process is slower at first.
WARM_UP = 500


class Agent(WorkerServicer):
    """Gives tasks, of which at most `slots` are unanswered."""

    def __init__(self, tasks: int, slots: int) -> None:
        self._left = tasks + WARM_UP
        self._answered = 0
        self._tasks = tasks
        self._slots = slots
        self._began = 0.0
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def Attach(self, _: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Serves a process."""
        first: wire.FromProcess = await context.read()
        welcome = wire.Welcome(agent="a", slots=self._slots, max_output_bytes=1 << 20, takes_batches=True)
        await context.write(wire.ToProcess(welcome=welcome))
        await self._give(context, self._slots, first.hello.takes_batches)
        while isinstance(message := await context.read(), wire.FromProcess):
            for _result in message.batch.results or (message.result,):
                self._answered += 1
                if self._answered == WARM_UP:
                    self._began = time.perf_counter()
                if self._answered == WARM_UP + self._tasks:
                    self.done.set_result(time.perf_counter() - self._began)
            await self._give(context, len(message.batch.results) or 1, first.hello.takes_batches)

    async def _give(self, context: Any, count: int, takes_batches: bool) -> None:
        numbers = range(self._left, max(self._left - count, 0), -1)
        self._left -= len(numbers)
        tasks = [wire.Task(task_id=f"{number:036}", attempt=1, kind="noop", input=b"[1,2,3]") for number in numbers]
        if takes_batches and len(tasks) > 1:
            await context.write(wire.ToProcess(batch=wire.ToProcessBatch(tasks=tasks)))
            return
        for task in tasks:
            await context.write(wire.ToProcess(task=task))


async def main(tasks: int, slots: int) -> None:
    """Serves until all tasks are answered."""
    server = aio.server()
    agent = Agent(tasks, slots)
    add_WorkerServicer_to_server(agent, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    print(await agent.done, flush=True)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
