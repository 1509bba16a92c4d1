"""What the attempts of a task say, at whichever coordinator: it goes on after the last line if one is gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from grpc import aio

from robeing._client.calls import Tries
from robeing._client.watching import HEALTHY_AFTER, broken
from robeing.v1 import fleet_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robeing._client.calls import Calls

# The most places of a request from which lines are wanted; those of the newest attempts count.
MAX_POSITIONS = 16


async def logs(calls: Calls, request: fleet_pb2.TaskLogsRequest) -> AsyncGenerator[fleet_pb2.TaskLogsResponse, None]:
    """Yields what the attempts of a task say, until the task has finished, or else what is kept now.

    Raises:
        FleetError: the fleet refuses the call, or does not answer for as long as calls may take.
    """
    await calls.contact()
    tries = Tries(calls)
    positions: dict[tuple[int, str], int] = {}
    while True:
        target = calls.current
        opened = time.monotonic()
        del request.after[:]
        for (attempt, agent), first in positions.items():
            request.after.add(attempt=attempt, agent=agent, next=first)
        stream = target.stub.TaskLogs(request)
        try:
            while True:
                said = await stream.read()
                if not isinstance(said, fleet_pb2.TaskLogsResponse):
                    if request.follow:
                        raise broken("the coordinator ended the stream")
                    return
                tries.succeeded()
                yield said
                if said.finished:
                    return
                positions[said.attempt, said.agent] = said.first + len(said.lines)
                if len(positions) > MAX_POSITIONS:
                    del positions[min(positions)]
        except aio.AioRpcError as error:
            if time.monotonic() - opened >= HEALTHY_AFTER:
                tries.succeeded()
            await tries.failed(target, error)
        finally:
            stream.cancel()
