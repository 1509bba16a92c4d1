"""A no-op handler over the raw stubs: what a user would write without the SDK. It takes and sends no batches.

`python -m bench.raw` attaches to ROBEING_WORKER_ADDRESS until SIGTERM, and then prints the seconds of processor time
that it took.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

from grpc import aio

from robeing.worker.v1 import worker_pb2 as wire
from robeing.worker.v1.worker_pb2_grpc import WorkerStub


async def noop(_: list[int]) -> object:
    """Does nothing."""
    return None


async def main(address: str) -> None:
    """Runs tasks, each at the same time as others."""
    async with aio.insecure_channel(address) as channel:
        stream: aio.StreamStreamCall[wire.FromProcess, wire.ToProcess] = WorkerStub(channel).Attach()
        writing = asyncio.Lock()
        running: set[asyncio.Task[None]] = set()

        async def run(task: wire.Task) -> None:
            returned: object = await noop(json.loads(task.input))
            output = json.dumps(returned).encode()
            result = wire.TaskResult(task_id=task.task_id, attempt=task.attempt, output=output)
            async with writing:
                await stream.write(wire.FromProcess(result=result))

        await stream.write(wire.FromProcess(hello=wire.Hello(name="raw")))
        while isinstance(message := await stream.read(), wire.ToProcess):
            if message.HasField("task"):
                one = asyncio.create_task(run(message.task))
                running.add(one)
                one.add_done_callback(running.discard)


async def until_terminated() -> None:
    """Runs tasks until SIGTERM."""
    running = asyncio.ensure_future(main(os.environ["ROBEING_WORKER_ADDRESS"]))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await asyncio.wait([running])


if __name__ == "__main__":
    began = time.process_time()
    asyncio.run(until_terminated())
    print(time.process_time() - began, flush=True)
