"""An agent that gives a number of no-op tasks to the processes that attach to it, as fast as they answer.

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
        await context.read()
        await context.write(
            wire.ToProcess(welcome=wire.Welcome(agent="a", slots=self._slots, max_output_bytes=1 << 20))
        )
        for _slot in range(self._slots):
            await self._give(context)
        while isinstance(await context.read(), wire.FromProcess):
            self._answered += 1
            if self._answered == WARM_UP:
                self._began = time.perf_counter()
            if self._answered == WARM_UP + self._tasks:
                self.done.set_result(time.perf_counter() - self._began)
            await self._give(context)

    async def _give(self, context: Any) -> None:
        if self._left > 0:
            self._left -= 1
            task = wire.Task(task_id=f"{self._left:036}", attempt=1, kind="noop", input=b"[1,2,3]")
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
