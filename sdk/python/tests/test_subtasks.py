"""Handlers that submit subtasks and wait for them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from robeing import App, Context, Fleet, RefusedError
from tests.fakes.agent import FakeAgent, Process
from tests.fakes.fleet import Coordinator, fleet_of
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from robeing.v1 import types_pb2 as types


@contextlib.asynccontextmanager
async def parent() -> AsyncIterator[tuple[Process, Coordinator]]:
    """Attaches an app whose handler has its input's parts added by others, and then those sums."""
    async with fleet_of() as [coordinator], FakeAgent() as agent:
        app = App(fleet=lambda: Fleet.connect(coordinator.endpoint))

        @app.task("total")
        async def total(parts: list[list[int]], context: Context) -> int:
            sums = await context.gather("sum", parts)
            (whole,) = await context.gather("sum", [sums])
            assert isinstance(whole, int)
            return whole

        @app.task("local")
        def local(context: Context) -> None:
            _ = context.fleet

        running = asyncio.ensure_future(app.serve(agent.address))
        try:
            yield await agent.attached(), coordinator
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def add(spec: types.TaskSpec) -> bytes:
    """Does a subtask."""
    return str(sum(int(number) for number in spec.input.decode().strip("[]").split(","))).encode()


async def test_the_outputs_of_subtasks_come_in_their_order() -> None:
    async with parent() as (process, coordinator):
        coordinator.state.work = add
        task = await process.give("total", b"[[1,2],[3,4]]", time_limit_ms=60_000)
        assert (await process.result()).output == b"10"
        specs = list(coordinator.state.specs.values())
        assert [spec.input for spec in specs] == [b"[1,2]", b"[3,4]", b"[3,7]"]
        assert [spec.idempotency_key for spec in specs] == [f"{task.task_id}/{part}" for part in ("1/0", "1/1", "2/0")]
        assert all(50 < spec.deadline_in.seconds < 60 for spec in specs), "they end with the attempt"


async def test_another_attempt_finds_the_subtasks_that_succeeded_and_repeats_those_that_failed() -> None:
    async with parent() as (process, coordinator):
        coordinator.state.work = lambda spec: ValueError("bad luck") if spec.input == b"[3,4]" else add(spec)
        task = await process.give("total", b"[[1,2],[3,4]]")
        failure = (await process.result()).failure
        assert failure.message.endswith("(sum) failed after 2 attempts: bad luck\nTraceback: …")
        assert not failure.permanent
        coordinator.state.work = add
        task.attempt = 2
        from robeing.worker.v1 import worker_pb2  # noqa: PLC0415

        await process.outgoing.put(worker_pb2.ToProcess(task=task))
        result = await process.result()
        assert (result.attempt, result.output) == (2, b"10")
        keys = [spec.idempotency_key for spec in coordinator.state.specs.values()]
        assert keys == [f"{task.task_id}/{part}" for part in ("1/0", "1/1", "1/1/2", "2/0")]


async def test_a_task_that_is_stopped_stops_waiting_for_its_subtasks() -> None:
    async with parent() as (process, coordinator):
        coordinator.state.work = lambda _: None
        task = await process.give("total", b"[[1]]")
        await until("it waits", lambda: coordinator.state.tasks)
        await process.stop(task)
        assert (await process.result()).HasField("stopped")
        assert not coordinator.state.cancelled, "another attempt may find them"


async def test_threads_have_no_client() -> None:
    async with parent() as (process, _):
        assert "a function in a thread" in (await process.run("local")).failure.message


async def test_a_refused_subtask_is_an_error_of_the_handler() -> None:
    async with fleet_of() as [coordinator]:
        async with Fleet.connect(coordinator.endpoint) as fleet:
            coordinator.manners.full = 1
            with pytest.raises(RefusedError, match="RESOURCE_EXHAUSTED"):
                await fleet.gather("sum", [1], room_for=0)
