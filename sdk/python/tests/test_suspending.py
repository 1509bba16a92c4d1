"""Handlers that wait for subtasks without holding a slot."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from robeing import App, Context, SubtaskError
from robeing._worker.journal import MAX_BYTES, MAX_SUBTASKS
from robeing.worker.v1 import worker_pb2 as wire
from tests.fakes.agent import FakeAgent, Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = App()
begun: list[int] = []


@app.task("sum")
async def add(xs: list[int]) -> int:
    """Adds numbers."""
    return sum(xs)


@app.task("total")
async def total(parts: list[list[int]], context: Context) -> int:
    """Has parts added by others, and then their sums."""
    begun.append(context.attempt)
    sums = await context.subtasks(add, parts, priority=9, deadline=1.5, specialization="math")
    (whole,) = await context.subtasks(add, [sums])
    return whole


@app.task("careful")
async def careful(parts: list[list[int]], context: Context) -> str:
    """Handles the failure of a subtask."""
    try:
        await context.subtasks("sum", parts)
    except SubtaskError as error:
        return f"{error.index}: {error.reason}"
    return "none"


@app.task("fickle")
async def fickle(context: Context) -> None:
    """Asks for something else each time."""
    await context.subtasks("sum", [[context.attempt]])


@app.task("many")
async def many(count: int, context: Context) -> None:
    """Asks for many subtasks."""
    await context.subtasks("sum", range(count))


@app.task("large")
async def large(size: int, context: Context) -> None:
    """Asks for a large subtask."""
    await context.subtasks("sum", [bytes(size)])


@app.task("after")
async def after(context: Context) -> list[object]:
    """Reads what it depends on."""
    (whole,) = await context.subtasks("sum", [[1]])
    return [
        whole,
        *((given.task_id, given.succeeded, given.output.decode(), given.reason) for given in context.results),
    ]


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Process]:
    """Attaches the app to an agent."""
    begun.clear()
    async with FakeAgent() as agent:
        running = asyncio.ensure_future(app.serve(agent.address))
        try:
            yield await agent.attached()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def again(task: wire.Task, suspend: wire.Suspend, *results: wire.GivenResult) -> wire.Task:
    """Returns the next attempt at a task, when its subtasks have ended."""
    following = wire.Task()
    following.CopyFrom(task)
    following.attempt += 1
    following.carried = suspend.carried
    del following.results[:]
    following.results.extend([*(one for one in task.results if one.task_id), *results])
    return following


def done(output: str) -> wire.GivenResult:
    """Returns the result of a subtask."""
    return wire.GivenResult(output=output.encode())


async def answer(process: Process, task: wire.Task) -> wire.TaskResult:
    """Gives a process an attempt, and returns the result."""
    await process.outgoing.put(wire.ToProcess(task=task))
    return await process.result()


async def test_an_attempt_ends_with_its_subtasks_and_the_next_one_gets_their_outputs() -> None:
    async with serving() as process:
        task = await process.give("total", b"[[1,2],[3,4]]")
        first = (await process.result()).suspend
        assert [(one.kind, one.input) for one in first.subtasks] == [("sum", b"[1,2]"), ("sum", b"[3,4]")]
        assert {(one.priority, one.deadline_in_ms, one.required_specialization) for one in first.subtasks} == {
            (9, 1_500, "math")
        }
        task = again(task, first, done("3"), done("7"))
        result = await answer(process, task)
        assert result.attempt == 2
        assert [(one.kind, one.input) for one in result.suspend.subtasks] == [("sum", b"[3,7]")]
        # An attempt that was lost is repeated with the same results.
        task.attempt = 3
        assert (await answer(process, task)).suspend == result.suspend
        last = again(task, result.suspend, done("10"))
        assert (await answer(process, last)).output == b"10"
        assert begun == [1, 2, 3, 4]


async def test_a_handler_that_asks_for_no_subtasks_goes_on() -> None:
    async with serving() as process:
        task = await process.give("total", b"[]")
        suspend = (await process.result()).suspend
        assert [(one.kind, one.input) for one in suspend.subtasks] == [("sum", b"[]")], "its second request"
        assert (await answer(process, again(task, suspend, done("0")))).output == b"0"


async def test_a_subtask_that_did_not_succeed_is_an_error_of_the_handler() -> None:
    async with serving() as process:
        for kind in ("careful", "total"):
            task = await process.give(kind, b"[[1],[2]]")
            asked = (await process.result()).suspend
            failed = wire.GivenResult(state=wire.RESULT_STATE_FAILED, reason="bad luck")
            result = await answer(process, again(task, asked, done("1"), failed))
            if kind == "careful":
                assert result.output == b'"1: bad luck"'
            else:
                assert result.failure.message == "SubtaskError: subtask 1 did not succeed: bad luck"
                assert not result.failure.permanent


async def test_a_stored_output_of_a_subtask_is_an_error_of_the_handler_and_not_an_empty_output() -> None:
    async with serving() as process:
        task = await process.give("careful", b"[[1]]")
        asked = (await process.result()).suspend
        stored = wire.GivenResult(stored=wire.StoredOutput(sha256=bytes(32), bytes=5))
        result = await answer(process, again(task, asked, stored))
        assert result.output.startswith(b'"0: its output has 5 bytes and is in the object store')


async def test_a_handler_that_asks_for_others_fails_for_good() -> None:
    async with serving() as process:
        task = await process.give("fickle")
        asked = (await process.result()).suspend
        failure = (await answer(process, again(task, asked, done("1")))).failure
        assert failure.permanent
        assert "request 1 for subtasks is not that of an earlier attempt" in failure.message
        unreadable = wire.Suspend(carried=b"{}")
        failure = (await answer(process, again(task, unreadable))).failure
        assert "can't read" in failure.message


async def test_as_many_subtasks_as_allowed_can_be_asked_for_at_once() -> None:
    async with serving() as process:
        assert len((await process.run("many", str(MAX_SUBTASKS).encode())).suspend.subtasks) == MAX_SUBTASKS
        failure = (await process.run("many", str(MAX_SUBTASKS + 1).encode())).failure
        assert failure.permanent
        assert "1,001 subtasks are more than 1,000" in failure.message
        suspend = (await process.run("large", str(MAX_BYTES - 200).encode())).suspend
        room = MAX_BYTES - len(suspend.carried)
        assert (await process.run("large", str(room).encode())).HasField("suspend")
        failure = (await process.run("large", str(room + 1).encode())).failure
        assert "have 1,048,577 bytes of 1,048,576" in failure.message


async def test_the_results_of_tasks_on_which_one_depends_are_kept_apart_from_those_of_subtasks() -> None:
    async with serving() as process:
        task = wire.Task(task_id="t", attempt=1, kind="after")
        task.results.add(task_id="a", output=b"one")
        task.results.add(task_id="b", state=wire.RESULT_STATE_CANCELLED, reason="skipped")
        asked = (await answer(process, task)).suspend
        result = await answer(process, again(task, asked, done("1")))
        assert result.output == b'[1,["a",true,"one",""],["b",false,"","skipped"]]'
