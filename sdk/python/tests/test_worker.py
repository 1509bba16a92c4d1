"""Handlers that run what an agent gives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from robeing import App, Context, PermanentError, TaskError, current
from robeing._worker.outcome import MAX_DETAILS_BYTES, MAX_MESSAGE_BYTES
from robeing._worker.reports import MAX_LINE_BYTES, MAX_LINES, MAX_LINES_BYTES, MAX_TEXT_BYTES, pass_on_logs
from robeing.worker.v1 import worker_pb2 as wire
from tests.fakes.agent import MAX_OUTPUT, FakeAgent, Process
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def serving(
    app: App, *, drain: float = 0.0, takes_batches: bool = True
) -> AsyncIterator[tuple[FakeAgent, Process]]:
    """Attaches an app to an agent."""
    async with FakeAgent(takes_batches=takes_batches) as agent:
        running = asyncio.ensure_future(app.serve(agent.address, drain=drain))
        try:
            yield agent, await agent.attached()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def outcome_of(result: wire.TaskResult) -> str:
    """Returns which outcome a result has."""
    return result.WhichOneof("outcome") or "none"


async def test_a_coroutine_gets_the_input_and_its_return_value_is_the_output() -> None:
    app = App()

    @app.task("sum", slots=8)
    async def add(xs: list[int]) -> int:
        return sum(xs)

    async with serving(app) as (_, process):
        assert process.hello.answers_health_checks
        task = await process.give("sum", b"[1, 2, 3]")
        result = await process.result()
        assert (result.task_id, result.attempt, result.output) == (task.task_id, 1, b"6")
    assert await add([4, 5]) == 9, "it can still be called"


async def test_tasks_run_at_once_and_are_answered_as_they_end() -> None:
    app = App()
    gates = {name: asyncio.Event() for name in ("first", "second")}

    @app.task()
    async def wait(name: str) -> str:
        await gates[name].wait()
        return name

    async with serving(app) as (_, process):
        await process.give("wait", b'"first"')
        await process.give("wait", b'"second"')
        gates["second"].set()
        assert (await process.result()).output == b'"second"'
        gates["first"].set()
        assert (await process.result()).output == b'"first"'


async def test_no_more_tasks_of_a_kind_run_at_once_than_it_has_slots() -> None:
    app = App()
    running, most = 0, 0
    gate = asyncio.Event()

    @app.task("narrow", slots=2)
    async def narrow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    async with serving(app) as (_, process):
        tasks = [await process.give("narrow") for _ in range(5)]
        await until("two run", lambda: running == 2)
        # One that waits for a slot is stopped without having run.
        await process.stop(tasks[4])
        assert outcome_of(await process.result()) == "stopped"
        gate.set()
        for _ in range(4):
            assert outcome_of(await process.result()) == "output"
    assert most == 2


async def test_a_function_runs_in_a_thread() -> None:
    app = App()

    @app.task("where")
    def where() -> bool:
        assert current().kind == "where"
        return threading.current_thread() is threading.main_thread()

    async with serving(app) as (_, process):
        assert (await process.run("where")).output == b"false"


async def test_the_attempt_is_known_to_the_handler_and_to_what_it_calls() -> None:
    app = App()

    def somewhere_else() -> int:
        return current().attempt

    @app.task("know")
    async def know(number: int, context: Context) -> list[object]:
        remaining = context.remaining
        assert remaining is not None
        assert 50 < remaining <= 60
        return [number, str(context.fence), context.fence.attempt, somewhere_else(), context.cancelled]

    async with serving(app) as (_, process):
        task = await process.give("know", b"7", attempt=3, deadline_in_ms=60_000, time_limit_ms=90_000)
        assert (await process.result()).output == f'[7,"{task.task_id}/3",3,3,false]'.encode()


async def test_an_exception_is_a_failure_with_its_traceback() -> None:
    app = App()

    @app.task("divide")
    async def divide(by: int) -> float:
        return 1 / by

    async with serving(app) as (_, process):
        failure = (await process.run("divide", b"0")).failure
    assert failure.message == "ZeroDivisionError: division by zero"
    assert failure.name == "ZeroDivisionError"
    assert "return 1 / by" in failure.details
    assert "definition.py" not in failure.details, "frames of the SDK say nothing"
    assert not failure.permanent
    assert not failure.HasField("code")


async def test_what_another_attempt_would_repeat_is_permanent() -> None:
    app = App()

    @app.task("fail", permanent=(KeyError,))
    def fail(how: str) -> None:
        if how == "key":
            raise KeyError(how)
        if how == "permanent":
            raise PermanentError("no such file", code=2)
        raise TaskError("busy", code=11)

    async with serving(app) as (_, process):
        assert (await process.run("fail", b'"key"')).failure.permanent
        failure = (await process.run("fail", b'"permanent"')).failure
        assert (failure.message, failure.code, failure.permanent) == ("no such file", 2, True)
        failure = (await process.run("fail", b'"other"')).failure
        assert (failure.message, failure.code, failure.permanent) == ("busy", 11, False)
        assert failure.name == "TaskError"


async def test_an_input_of_another_type_fails_for_good_and_says_where() -> None:
    app = App()

    @app.task("sum")
    async def add(xs: list[int]) -> int:
        raise AssertionError("it must not be called")

    async with serving(app) as (_, process):
        failure = (await process.run("sum", b'[1, "2"]')).failure
    assert failure.permanent
    assert failure.message == "the input of 'sum' is wrong: [1] must be an integer, but is a string"


async def test_texts_of_failures_are_bounded() -> None:
    app = App()

    @app.task("long")
    async def long() -> None:
        raise ValueError("ä" * 100_000)

    async with serving(app) as (_, process):
        failure = (await process.run("long")).failure
    assert MAX_MESSAGE_BYTES - 4 < len(failure.message.encode()) <= MAX_MESSAGE_BYTES
    assert MAX_DETAILS_BYTES - 4 < len(failure.details.encode()) <= MAX_DETAILS_BYTES


async def test_an_exception_without_a_text_and_one_that_ends_processes_are_failures_too() -> None:
    app = App()

    class Mute(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError

    @app.task("odd")
    async def odd(how: str) -> None:
        raise {"exit": SystemExit(3), "mute": Mute()}[how]

    async with serving(app) as (_, process):
        assert (await process.run("odd", b'"exit"')).failure.message == "SystemExit: 3"
        assert "can't be had" in (await process.run("odd", b'"mute"')).failure.message


async def test_an_output_that_is_too_large_fails_for_good() -> None:
    app = App()

    @app.task("large")
    async def large(size: int) -> bytes:
        return bytes(size)

    async with serving(app) as (_, process):
        assert len((await process.run("large", str(MAX_OUTPUT).encode())).output) == MAX_OUTPUT
        failure = (await process.run("large", str(MAX_OUTPUT + 1).encode())).failure
    assert failure.permanent
    assert failure.message.startswith("the output has 1,048,577 bytes, of which 1,048,576 are allowed")


async def test_a_kind_without_a_handler_fails_unless_there_is_one_for_all() -> None:
    app = App()
    app.task("known")(_nothing)
    async with serving(app) as (_, process):
        failure = (await process.run("unknown")).failure
        assert "no handler for tasks of the kind 'unknown'; it has known" in failure.message
        assert not failure.permanent, "a process of another version may have one"

    @app.task("*")
    async def whatever(context: Context) -> str:
        return context.kind

    async with serving(app) as (_, process):
        assert (await process.run("unknown")).output == b'"unknown"'


async def test_a_coroutine_that_is_stopped_gets_cancelled_error() -> None:
    app = App()
    seen: list[str] = []
    begun = asyncio.Event()

    @app.task("sleep")
    async def sleep(context: Context) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(f"cancelled {context.cancelled}")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    async with serving(app) as (_, process):
        task = await process.give("sleep")
        await begun.wait()
        await process.stop(task)
        assert outcome_of(await process.result()) == "stopped"
    assert seen == ["cancelled True", "cleaned up"]


async def test_one_that_cancels_itself_has_failed() -> None:
    app = App()

    @app.task("self")
    async def itself() -> None:
        raise asyncio.CancelledError

    async with serving(app) as (_, process):
        assert "not by the fleet" in (await process.run("self")).failure.message


async def test_a_thread_that_is_stopped_is_told_and_waited_for() -> None:
    app = App()
    begun, ended = threading.Event(), threading.Event()

    @app.task("spin")
    def spin(context: Context) -> None:
        begun.set()
        while not context.wait_cancelled(0.01):
            pass
        ended.set()
        context.raise_if_cancelled()

    async with serving(app) as (_, process):
        task = await process.give("spin")
        await until("it runs", begun.is_set)
        await process.stop(task)
        assert outcome_of(await process.result()) == "stopped"
        assert ended.is_set()


def _nothing() -> None:
    """Does nothing."""


async def test_health_is_answered_while_tasks_run() -> None:
    app = App()
    reason: list[str | None] = [None]
    app.task("wait")(_forever)

    @app.health
    async def check() -> str | None:
        if reason == ["broken"]:
            raise OSError("the check is broken")
        return reason[0]

    async with serving(app) as (_, process):
        await process.give("wait")
        health = await process.health(7)
        assert (health.seq, health.unhealthy) == (7, "")
        reason[0] = "no disk" + "!" * 500
        assert (await process.health(8)).unhealthy == ("no disk" + "!" * 500)[:256]
        reason[0] = "broken"
        assert "OSError: the check is broken" in (await process.health(9)).unhealthy


async def _forever() -> None:
    await asyncio.Event().wait()


async def test_a_process_attaches_again_and_what_it_ran_is_stopped() -> None:
    app = App()
    ended: list[str] = []

    @app.task("wait")
    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async with FakeAgent() as agent:
        running = asyncio.ensure_future(app.serve(agent.address))
        process = await agent.attached()
        await process.give("wait", b'"a"')
        await process.health()
        await process.detach()
        again = await agent.attached()
        assert ended == ["a"]
        await again.give("wait", b'"b"')
        await again.health()
        port = agent.port
    async with FakeAgent(port=port) as agent:
        await agent.attached()
        assert ended == ["a", "b"]
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_one_process_serves_several_agents() -> None:
    app = App()

    @app.task("echo")
    async def echo(value: object) -> object:
        return value

    async with FakeAgent() as one, FakeAgent() as other:
        running = asyncio.ensure_future(app.serve(one.address, other.address))
        for agent in (one, other):
            process = await agent.attached()
            assert (await process.run("echo", b'{"a":[1]}')).output == b'{"a":[1]}'
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_what_runs_comes_to_its_end_when_the_process_is_to_stop() -> None:
    app = App()
    gate = asyncio.Event()

    @app.task("wait")
    async def wait() -> str:
        await gate.wait()
        return "done"

    async with FakeAgent() as agent:
        running = asyncio.ensure_future(app.serve(agent.address, drain=20))
        process = await agent.attached()
        await process.give("wait")
        await process.health()
        running.cancel()
        await until("it is draining", lambda: app._runner.draining)
        assert (await process.health()).unhealthy == "the process is stopping"
        await process.give("wait")
        await process.health()
        gate.set()
        assert (await process.result()).output == b'"done"'
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await until("it has left", lambda: not process.is_attached)
        assert process.results.empty(), "what came later was not begun"


async def test_the_same_attempt_is_not_begun_twice() -> None:
    app = App()
    runs = 0
    gate = asyncio.Event()

    @app.task("count")
    async def count() -> int:
        nonlocal runs
        runs += 1
        await gate.wait()
        return runs

    async with serving(app) as (_, process):
        task = await process.give("count")
        await process.outgoing.put(wire.ToProcess(task=task))
        await process.health()
        gate.set()
        assert (await process.result()).output == b"1"
        await process.health()
        assert process.results.empty()


async def test_progress_and_lines_reach_the_agent_before_the_result_and_the_last_progress_counts() -> None:
    app = App()

    @app.task("tell")
    async def tell(context: Context) -> None:
        for percent in range(101):
            context.progress(percent / 100, f"{percent} of 100")
        context.progress(text="nearly done")
        context.log("one\ntwo")
        logging.getLogger("user").warning("by %s", "logging")
        with contextlib.suppress(ValueError):
            context.progress(1.5)

    pass_on_logs()
    async with serving(app) as (_, process):
        task = await process.give("tell")
        assert outcome_of(await process.result()) == "output"
        progress, lines = await process.reports.get(), await process.reports.get()
        assert process.reports.empty()
    assert isinstance(progress, wire.TaskProgress)
    assert isinstance(lines, wire.TaskLog)
    assert (progress.task_id, progress.attempt) == (task.task_id, 1)
    assert (progress.progress.fraction, progress.progress.text) == (1.0, "nearly done")
    assert list(lines.lines) == ["one", "two", "WARNING user: by logging"]


async def test_what_threads_say_is_sent_while_they_run_and_bounded() -> None:
    app = App()
    gate = threading.Event()

    @app.task("much")
    def much(context: Context) -> None:
        context.progress(0.1, "ä" * 1_000)
        context.log("x" * 10_000)
        for number in range(5_000):
            context.log(str(number))
        gate.wait()
        context.log("y" * 4_000 + "\n" + "\n".join(["z" * 4_000] * 100))

    async with serving(app) as (_, process):
        await process.give("much")
        progress = await process.reports.get()
        assert isinstance(progress, wire.TaskProgress)
        assert len(progress.progress.text.encode()) == MAX_TEXT_BYTES
        seen: list[str] = []
        while not seen or seen[-1] != "4999":
            lines = await asyncio.wait_for(process.reports.get(), 20)
            assert isinstance(lines, wire.TaskLog)
            assert len(lines.lines) <= MAX_LINES
            assert all(len(line) <= MAX_LINE_BYTES for line in lines.lines)
            seen += lines.lines
        gate.set()
        assert outcome_of(await process.result()) == "output"
        lines = await process.reports.get()
        assert isinstance(lines, wire.TaskLog)
        assert MAX_LINES_BYTES - 4_000 < sum(map(len, lines.lines)) <= MAX_LINES_BYTES, "the newest ones"
